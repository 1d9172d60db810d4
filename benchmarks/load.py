"""A server under load: is every request answered, with its own picture, how soon, and what does the way there cost?

Clients in threads ask `python -m studio serve` for pictures of the embedded model in four steps, a share of them again.
They do so in rounds; after each, recipes of its pictures are drawn in a bare loop over the engine, and compared bit for
bit. What else the machine does meets both alike: the ratio of a round is right where its times are not.

    python -m benchmarks.load --clients 50 --requests 500
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image

from studio.client import Client, done
from studio.core.settings import Settings
from studio.core.specs import GenerateSpec, Recipe
from studio.jobs.queue import WORKER_NICE

REPOSITORY = Path(__file__).resolve().parent.parent
HAIR = ("red", "blue", "green", "pink", "black", "blonde", "purple", "brown")
KEYS = 10  # owners, among whom the clients are shared out
STEPS = 4
PATIENCE = 300.0  # seconds until the server has to answer


@dataclass(frozen=True)
class Answer:
    """One request as its client saw it: seconds from sending it to having its picture."""

    spec: GenerateSpec
    seconds: float
    repeated: bool
    png: bytes = b""
    recipe: Recipe | None = None
    problem: str = ""
    finished: float = 0.0  # when the server had it, in seconds since 1970


@contextmanager
def serving(home: Path, keys: Sequence[str]) -> Iterator[tuple[psutil.Process, str]]:
    """A server over `home`: its process and address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"STUDIO_HOME": str(home), "STUDIO_API_KEY": ",".join(keys), "STUDIO_QUEUE_LIMIT": "256"}
    with open(home / "server.log", "w", encoding="utf-8") as log:
        child = subprocess.Popen([sys.executable, "-m", "studio", "serve", "--port", str(port)], env=environment,
                                 cwd=REPOSITORY, stdout=log, stderr=log)  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200:
                    break
            if child.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(
                    f"The server doesn't answer: {(home / 'server.log').read_text(encoding='utf-8')[-2000:]}"
                )
            time.sleep(0.2)
        yield psutil.Process(child.pid), f"http://127.0.0.1:{port}"
    finally:
        child.terminate()
        child.wait(30)


def asked(clients: int, requests: int, repeats: float) -> list[list[tuple[GenerateSpec, bool]]]:
    """What each client asks for, in order: a request, and whether it asked for the same before."""
    rng = random.Random(0)
    rows: list[list[tuple[GenerateSpec, bool]]] = [[] for _ in range(clients)]
    for number in range(requests):
        row = rows[number % clients]
        again = bool(row) and rng.random() < repeats * requests / max(1, requests - clients)
        spec = GenerateSpec(prompt=f"1girl, {rng.choice(HAIR)} hair, smile", seed=number, steps=STEPS)
        row.append((rng.choice(row)[0] if again else spec, again))
    return rows


def client(url: str, key: str, rows: list[tuple[GenerateSpec, bool]]) -> list[Answer]:
    answers = []
    with Client(url, key, httpx.Client(base_url=url, timeout=PATIENCE)) as studio:
        for spec, repeated in rows:
            started = time.monotonic()
            try:
                job = studio.wait(studio.submit(spec).id)
                [id] = done(job)
                png, seconds = studio.image(id), time.monotonic() - started
                info = studio.ask("GET", f"/v1/images/{id}/info", lambda answer: answer.json()["recipe"])
                recipe = Recipe.model_validate(info)
                answers.append(Answer(spec, seconds, repeated, png, recipe, finished=job.finished or time.time()))
            except Exception as error:  # counted, whatever it was
                answers.append(Answer(spec, time.monotonic() - started, repeated, problem=repr(error)))
    return answers


def right(answer: Answer) -> bool:
    """Whether the picture's recipe is what was asked for."""
    recipe, spec = answer.recipe, answer.spec
    same = recipe is not None and (recipe.prompt, recipe.seed, recipe.steps) == (spec.prompt, spec.seed, spec.steps)
    return same and f"Seed: {spec.seed}," in str(Image.open(BytesIO(answer.png)).info.get("parameters"))


def watch(process: psutil.Process, over: threading.Event) -> list[int]:
    """Bytes of the server's memory, twice a second."""
    seen = []
    while not over.wait(0.5):
        seen.append(process.memory_info().rss)
    return seen


def bare(engine: Any, recipes: Sequence[Recipe]) -> tuple[list[bytes], float, float]:
    """The same pictures from the engine alone: their pixels, seconds, processor seconds."""
    started, used, pixels = time.monotonic(), time.process_time(), []
    for recipe in recipes:
        for _, image in engine.draw([recipe]):
            image.save(BytesIO(), "PNG")
            pixels.append(image.convert("RGB").tobytes())
    return pixels, time.monotonic() - started, time.process_time() - used


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else list(seconds) * 99
    return {name: round(cuts[at - 1], 2) for name, at in (("p50", 50), ("p95", 95), ("p99", 99))}


@dataclass(frozen=True)
class Round:
    """Some requests of every client, and their pictures drawn again by the engine alone."""

    answers: list[Answer]
    seconds: float  # from the first request until the server had the last new picture
    cpu: float  # processor seconds of the server
    compared: int
    other: int  # pictures that are not the engine's in every bit
    bare_seconds: float
    bare_cpu: float

    @property
    def drawn(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.recipe is not None and not answer.repeated]

    @property
    def ratio(self) -> float:
        """Pictures in a second, against the bare loop."""
        return (len(self.drawn) / self.seconds) / (self.compared / self.bare_seconds)


def give_way() -> None:
    """As the studio's worker does, with the threads that this one begins: else the bare loop would be favoured."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), WORKER_NICE)


def loaded(engine: Any, process: psutil.Process, ask: Sequence[Callable[[], list[Answer]]], compared: int) -> Round:
    """One round: every client of `ask` in a thread of its own, then `compared` of the new pictures bare."""
    before, began = sum(process.cpu_times()[:2]), time.time()
    with ThreadPoolExecutor(len(ask)) as pool:
        answers = [answer for one in [pool.submit(client) for client in ask] for answer in one.result()]
    used = sum(process.cpu_times()[:2]) - before
    drawn = [answer for answer in answers if answer.recipe is not None and not answer.repeated]
    sample = drawn[:compared]
    with ThreadPoolExecutor(1, initializer=give_way) as worker:
        recipes = [answer.recipe for answer in sample if answer.recipe]
        pixels, bare_seconds, bare_cpu = worker.submit(bare, engine, recipes).result()
    served = [Image.open(BytesIO(answer.png)).convert("RGB").tobytes() for answer in sample]
    other = sum(one != two for one, two in zip(served, pixels, strict=True))
    last = max(answer.finished for answer in drawn)
    return Round(answers, last - began, used, len(sample), other, bare_seconds, bare_cpu)


def run(clients: int, requests: int, repeats: float, rounds: int, compared: int) -> dict[str, Any]:
    """All figures of one load."""
    from studio.engine.engine import Engine

    keys = [secrets.token_hex(16) for _ in range(KEYS)]
    rows = asked(clients, requests, repeats)
    engine = Engine(Settings(home=REPOSITORY / "data", _env_file=None))
    results: list[Round] = []
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), keys) as (process, url):
        [warm] = client(url, keys[0], [(GenerateSpec(prompt="warm", steps=STEPS), False)])
        bare(engine, [warm.recipe] if warm.recipe else [])
        over = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            memory = pool.submit(watch, process, over)
            for number in range(rounds):
                parts = [row[len(row) * number // rounds : len(row) * (number + 1) // rounds] for row in rows]
                ask = [partial(client, url, keys[at % KEYS], part) for at, part in enumerate(parts) if part]
                results.append(loaded(engine, process, ask, compared))
                print(f"round {number + 1}: {results[-1].ratio:.2f} of the bare loop", file=sys.stderr)
            over.set()
            seen = memory.result()
    answers = [answer for one in results for answer in one.answers]
    drawn, sample = sum(len(one.drawn) for one in results), sum(one.compared for one in results)
    tail = seen[len(seen) // 5 :]
    return {
        "clients": clients,
        "requests": len(answers),
        "repeats": sum(answer.repeated for answer in answers),
        "lost": requests - sum(not answer.problem for answer in answers),
        "problems": sorted({answer.problem for answer in answers if answer.problem})[:5],
        "wrong": sum(not right(answer) for answer in answers if not answer.problem),
        "pixels_compared": sample,
        "pixels_other": sum(one.other for one in results),
        "drawn": percentiles([answer.seconds for answer in answers if not answer.repeated]),
        "repeated": percentiles([answer.seconds for answer in answers if answer.repeated]),
        "ratio": {
            "median": round(statistics.median(one.ratio for one in results), 3),
            "rounds": sorted(round(one.ratio, 2) for one in results),
        },
        "pictures_per_second": round(drawn / sum(one.seconds for one in results), 3),
        "bare_pictures_per_second": round(sample / sum(one.bare_seconds for one in results), 3),
        "cpu_seconds_per_picture": round(sum(one.cpu for one in results) / drawn, 3),
        "bare_cpu_seconds_per_picture": round(sum(one.bare_cpu for one in results) / sample, 3),
        "memory_mb": {"begin": tail[0] >> 20, "end": tail[-1] >> 20, "most": max(seen) >> 20},
        "load_average": round(os.getloadavg()[1], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--repeats", type=float, default=0.3, help="share of requests that were sent before")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--compared", type=int, default=20, help="pictures of a round that the bare loop draws too")
    given = parser.parse_args()
    print(json.dumps(run(given.clients, given.requests, given.repeats, given.rounds, given.compared), indent=1))


if __name__ == "__main__":
    main()
