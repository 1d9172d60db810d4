"""A server under load: is every request answered, with its own picture, how soon, and what does the way there cost?

Clients in threads ask `python -m studio serve` for pictures of the embedded model in four steps, a share of them again.
The same recipes are then drawn in a bare loop over the engine, and compared bit for bit. On a busy machine look at the
processor seconds, which others don't change.

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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image

from studio.client import Client, done
from studio.core.settings import Settings
from studio.core.specs import GenerateSpec, Recipe

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
                [id] = done(studio.wait(studio.submit(spec).id))
                png, seconds = studio.image(id), time.monotonic() - started
                info = studio.ask("GET", f"/v1/images/{id}/info", lambda answer: answer.json()["recipe"])
                answers.append(Answer(spec, seconds, repeated, png, Recipe.model_validate(info)))
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


def bare(recipes: Sequence[Recipe], home: Path) -> tuple[list[bytes], float, float]:
    """The same pictures from the engine alone: their pixels, seconds, processor seconds; the model is loaded before."""
    from studio.engine.engine import Engine

    engine = Engine(Settings(home=home, _env_file=None))
    list(engine.draw(recipes[:1]))
    started, used, pixels = time.monotonic(), time.process_time(), []
    for recipe in recipes:
        for _, image in engine.draw([recipe]):
            image.save(BytesIO(), "PNG")
            pixels.append(image.convert("RGB").tobytes())
    return pixels, time.monotonic() - started, time.process_time() - used


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else list(seconds) * 99
    return {name: round(cuts[at - 1], 2) for name, at in (("p50", 50), ("p95", 95), ("p99", 99))}


def run(clients: int, requests: int, repeats: float, compared: int) -> dict[str, Any]:
    """All figures of one load."""
    keys = [secrets.token_hex(16) for _ in range(KEYS)]
    rows = asked(clients, requests, repeats)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), keys) as (process, url):
        client(url, keys[0], [(GenerateSpec(prompt="warm", steps=STEPS), False)])
        over, before = threading.Event(), process.cpu_times()
        with ThreadPoolExecutor(clients + 1) as pool:
            memory = pool.submit(watch, process, over)
            started = time.monotonic()
            work = [pool.submit(client, url, keys[number % KEYS], row) for number, row in enumerate(rows)]
            answers = [answer for one in work for answer in one.result()]
            seconds = time.monotonic() - started
            over.set()
            used = sum(process.cpu_times()[:2]) - sum(before[:2])
            seen = memory.result()
    drawn = {answer.spec.seed: answer for answer in answers if answer.recipe is not None and not answer.repeated}
    sample = list(drawn.values())[:compared]
    pixels, bare_seconds, bare_cpu = bare([answer.recipe for answer in sample if answer.recipe], REPOSITORY / "data")
    served = [Image.open(BytesIO(answer.png)).convert("RGB").tobytes() for answer in sample]
    rate, bare_rate = len(drawn) / seconds, len(sample) / bare_seconds
    cpu, loop_cpu = used / len(drawn), bare_cpu / len(sample)
    tail = seen[len(seen) // 5 :]
    return {
        "clients": clients,
        "requests": requests,
        "repeats": sum(answer.repeated for answer in answers),
        "lost": requests - sum(not answer.problem for answer in answers),
        "problems": sorted({answer.problem for answer in answers if answer.problem})[:5],
        "wrong": sum(not right(answer) for answer in answers if not answer.problem),
        "pixels_compared": len(sample),
        "pixels_other": sum(one != other for one, other in zip(served, pixels, strict=True)),
        "seconds": round(seconds, 1),
        "drawn": percentiles([answer.seconds for answer in answers if not answer.repeated]),
        "repeated": percentiles([answer.seconds for answer in answers if answer.repeated]),
        "pictures_per_second": round(rate, 3),
        "bare_pictures_per_second": round(bare_rate, 3),
        "cpu_seconds_per_picture": round(cpu, 3),
        "bare_cpu_seconds_per_picture": round(loop_cpu, 3),
        "memory_mb": {"begin": tail[0] >> 20, "end": tail[-1] >> 20, "most": max(seen) >> 20},
        "load_average": round(os.getloadavg()[1], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--repeats", type=float, default=0.3, help="share of requests that were sent before")
    parser.add_argument("--compared", type=int, default=50, help="pictures that the bare loop draws too")
    given = parser.parse_args()
    print(json.dumps(run(given.clients, given.requests, given.repeats, given.compared), indent=1))


if __name__ == "__main__":
    main()
