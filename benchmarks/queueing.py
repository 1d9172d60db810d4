"""How long requests wait, worked out and simulated: one worker, many, and workers that draw several pictures at once.

`docs/scaling.md` has the figures. Rates are pictures a second, times seconds. Knows no model and no store: what a
picture takes is given, as `benchmarks.load` or `python -m studio bench` has measured it.

    python -m benchmarks.queueing --service 0.38 --workers 1 2 4
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy

LOADS = (0.5, 0.7, 0.8, 0.9, 0.95)  # share of the time that workers draw


@dataclass(frozen=True)
class Seen:
    """What requests of a simulation met: mean and percentiles of the time until the picture is there, and the rate."""

    mean: float
    p50: float
    p95: float
    p99: float
    rate: float


def waiting_share(workers: int, offered: float) -> float:
    """Erlang C: the share of requests that have to wait. `offered`: rate times service time, below `workers`."""
    if not 0 <= offered < workers:
        raise ValueError("more is asked for than the workers can draw: the queue grows for ever")
    blocked = 1.0  # Erlang B, by its recursion
    for number in range(1, workers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1 - offered / workers * (1 - blocked))


def mean_wait(workers: int, rate: float, service: float, variation: float = 0.0) -> float:
    """Seconds before the first step, of requests that come at random (Allen and Cunneen's approximation).

    `variation`: the service time's squared coefficient of variation; 0: always the same, as steps and size are. Exact
    for one worker (Pollaczek and Khinchine).
    """
    offered = rate * service
    return waiting_share(workers, offered) * service / (workers - offered) * (1 + variation) / 2


def busy(rate: float, service: float) -> float:
    """Little's law: pictures that are being drawn at a time, and so the workers that are needed at least."""
    return rate * service


def workers_for(rate: float, service: float, most_wait: float) -> int:
    """The fewest workers with which requests wait at most `most_wait` seconds on average."""
    number = math.floor(busy(rate, service)) + 1
    while mean_wait(number, rate, service) > most_wait:
        number += 1
    return number


def simulate(
    workers: int,
    rate: float,
    service: float,
    *,
    each: float = 0.0,
    batch: int = 1,
    shared: bool = True,
    requests: int = 20_000,
    seed: int = 0,
) -> Seen:
    """Requests come at random to workers, which draw up to `batch` at once in `service + each * (size - 1)` seconds.

    `shared`: one queue for all; else each worker has its own, and a request goes to the shorter one of two that are
    drawn by lot, as Ray Serve does it.
    """
    rng, environment = random.Random(seed), simpy.Environment()
    queues = [simpy.Store(environment) for _ in range(1 if shared else workers)]
    working = [0] * workers
    seen: list[float] = []

    def arrive() -> Generator[Any, Any, None]:
        for _ in range(requests):
            yield environment.timeout(rng.expovariate(rate))
            choice = rng.sample(range(len(queues)), min(2, len(queues)))
            least = min(choice, key=lambda index: len(queues[index].items) + (0 if shared else working[index]))
            queues[least].put(environment.now)

    def work(index: int) -> Generator[Any, Any, None]:
        queue = queues[0 if shared else index]
        while True:
            taken = [(yield queue.get())]
            while len(taken) < batch and queue.items:
                taken.append((yield queue.get()))
            working[index] = len(taken)
            yield environment.timeout(service + each * (len(taken) - 1))
            working[index] = 0
            seen.extend(environment.now - came for came in taken)

    environment.process(arrive())
    for index in range(workers):
        environment.process(work(index))
    while len(seen) < requests and environment.peek() < math.inf:
        environment.step()
    cuts = statistics.quantiles(seen[requests // 10 :], n=100)  # without the time in which the queue fills
    return Seen(statistics.fmean(seen[requests // 10 :]), cuts[49], cuts[94], cuts[98], len(seen) / environment.now)


def table(service: float, workers: list[int]) -> list[str]:
    """Rows of Markdown: what is worked out beside what was simulated."""
    rows = ["| workers | load | pictures/s | mean, worked out | mean, simulated | p95 | p99 | p95, a queue each |",
            "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for number in workers:
        for load in LOADS:
            rate = load * number / service
            found, apart = simulate(number, rate, service), simulate(number, rate, service, shared=False)
            told = mean_wait(number, rate, service) + service
            rows.append(f"| {number} | {load:.0%} | {rate:.1f} | {told:.2f} s | {found.mean:.2f} s | {found.p95:.2f} s "
                        f"| {found.p99:.2f} s | {apart.p95:.2f} s |")  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--service", type=float, default=0.38, help="seconds that a picture takes")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 8])
    given = parser.parse_args()
    print("\n".join(table(given.service, given.workers)))


if __name__ == "__main__":
    main()
