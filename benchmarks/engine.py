"""How soon there is a page and a first picture, how fast the engine is, what it adds to a bare diffusers call of the
same work, and how much memory it takes.

Times are medians of wall-clock seconds; on a busy machine look at `cpu_seconds`, which others don't change. The cold
start and the full-size model are measured in processes of their own. Knows nothing of what the pictures show.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
PROMPT = "1girl, happy, smile, red hair, casual style"
NEGATIVE = "blurry"
WANTED_OVERHEAD = 5  # percent over the bare call, at most
PATIENCE = 180  # seconds until a page has to answer


def measure(runs: int, *works: Callable[[], Any]) -> list[dict[str, float]]:
    """Medians of several runs of each of `works`, taken in turns so that a slow minute hits all of them."""
    wall: list[list[float]] = [[] for _ in works]
    cpu: list[list[float]] = [[] for _ in works]
    for work in works:
        work()
    for _ in range(runs):
        for index, work in enumerate(works):
            started, used = time.perf_counter(), time.process_time()
            work()
            wall[index].append(time.perf_counter() - started)
            cpu[index].append(time.process_time() - used)
    return [
        {
            "seconds": round(statistics.median(a), 3),
            "fastest_seconds": round(min(a), 3),
            "cpu_seconds": round(statistics.median(b), 3),
        }
        for a, b in zip(wall, cpu, strict=True)
    ]


def warm(model: str, runs: int) -> dict[str, Any]:
    """A picture of the model's own size, everything loaded: 20 steps with guidance, 4 without, and bare diffusers."""
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    from studio.core.settings import Settings
    from studio.core.specs import Recipe
    from studio.engine.diffusion import schedulers
    from studio.engine.engine import Engine

    engine = Engine(Settings(preview_every=0))
    shown = Engine(Settings(preview_every=2))
    parts = engine.components(model)
    shown._components = parts
    size, fast = parts.info.native_size, parts.info.fast
    base = Recipe(
        model=model, model_hash=parts.info.hash, prompt=PROMPT, negative=NEGATIVE, seed=1, steps=20,
        guidance=max(1.5, parts.info.guidance), sampler="dpmpp_2m", width=size, height=size,
    )  # fmt: skip
    few = base.model_copy(update={"steps": 4, "guidance": 1.0, "sampler": "lcm", "fast": fast is not None})
    bare = StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    bare.set_progress_bar_config(disable=True)

    def diffusers_call() -> None:
        bare.scheduler = schedulers.make_scheduler("dpmpp_2m", parts.scheduler_config)
        bare(
            PROMPT, negative_prompt=NEGATIVE, num_inference_steps=20, guidance_scale=base.guidance, width=size,
            height=size, generator=torch.Generator().manual_seed(1),
        )  # fmt: skip

    def ours(recipe: Recipe, with_previews: bool = False) -> None:
        list((shown if with_previews else engine).draw([recipe], lambda step: None))

    twenty, diffusers, previewed, four = measure(
        runs, lambda: ours(base), diffusers_call, lambda: ours(base, True), lambda: ours(few)
    )
    return {
        "model": parts.info.title,
        "pixels": size,
        "unet_parameters": sum(parameter.numel() for parameter in parts.unet.parameters()),
        "twenty_steps": twenty,
        "twenty_steps_with_previews": previewed,
        "four_steps": four | {"with_adapter": fast is not None},
        "bare_diffusers": diffusers,
        "overhead_percent": round(100 * (twenty["cpu_seconds"] / diffusers["cpu_seconds"] - 1), 1),
        "overhead_wanted_percent": WANTED_OVERHEAD,
        "overhead_with_previews_percent": round(100 * (previewed["cpu_seconds"] / diffusers["cpu_seconds"] - 1), 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "threads": torch.get_num_threads(),
    }


def make_run() -> dict[str, float]:
    """What `make run` starts in an empty home until its first page answers, then a first picture by the command line.

    The picture is drawn by a process of its own, which imports and loads everything as the server's worker would.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("STUDIO_", "STREAMLIT_"))}
        environment = clean | {"STUDIO_HOME": home, "STUDIO_HOST": "127.0.0.1", "STUDIO_PORT": str(port)}
        started = time.perf_counter()
        app = subprocess.Popen(
            [sys.executable, "-m", "studio.interfaces.web.start", "--server.headless=true"],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            for path in ("/_stcore/health", "/"):
                _wait_for(f"http://127.0.0.1:{port}{path}", app)
            page = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "studio", "generate", "--emotion", "happy", "--seed", "1", "--out", home],
                cwd=REPOSITORY,
                env=environment,
                check=True,
                capture_output=True,
            )
            drawn = time.perf_counter()
        finally:
            app.terminate()
            app.wait(timeout=30)
    return {
        "page_seconds": round(page - started, 2),
        "first_picture_seconds": round(drawn - page, 2),
        "total_seconds": round(drawn - started, 2),
    }


def _wait_for(address: str, app: subprocess.Popen[bytes]) -> None:
    """Ask until the answer is 200. Raises RuntimeError when the server ends or takes too long."""
    deadline = time.perf_counter() + PATIENCE
    while app.poll() is None and time.perf_counter() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{address} did not answer.")


def cold(model: str) -> dict[str, float]:
    """From nothing: a new process imports, loads and draws one picture of four steps."""
    started = time.perf_counter()

    from studio.core.settings import Settings
    from studio.core.specs import Recipe
    from studio.engine.engine import Engine

    imported = time.perf_counter()
    engine = Engine(Settings(preview_every=0))
    info = engine.components(model).info
    loaded = time.perf_counter()
    recipe = Recipe(
        model=model, model_hash=info.hash, prompt=PROMPT, seed=1, steps=4, guidance=1.0,
        sampler="lcm" if info.fast else "dpmpp_2m", width=info.native_size, height=info.native_size,
        fast=info.fast is not None,
    )  # fmt: skip
    list(engine.draw([recipe]))
    drawn = time.perf_counter()
    return {
        "import_seconds": round(imported - started, 2),
        "load_seconds": round(loaded - imported, 2),
        "first_picture_seconds": round(drawn - loaded, 2),
        "total_seconds": round(drawn - started, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def full_size(model: str) -> dict[str, Any]:
    """Stable Diffusion 1.5 of real size: a 512 px picture of one step with guidance, estimated and real peak memory."""
    from studio.core.settings import Settings
    from studio.core.specs import Recipe
    from studio.engine import memory
    from studio.engine.engine import Engine

    engine = Engine(Settings(preview_every=0, offline=True))
    started = time.perf_counter()
    parts = engine.components(model)
    loaded = time.perf_counter()
    recipe = Recipe(
        model=model, model_hash=parts.info.hash, prompt=PROMPT, seed=1, steps=1, guidance=7.0, sampler="dpmpp_2m",
        width=512, height=512,
    )  # fmt: skip
    list(engine.draw([recipe]))
    activations = max(memory.step_bytes(parts, 512, 512, True), memory.decode_bytes(parts, 512, 512))
    return {
        "unet_parameters": sum(parameter.numel() for parameter in parts.unet.parameters()),
        "load_seconds": round(loaded - started, 1),
        "picture_of_one_step_seconds": round(time.perf_counter() - loaded, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "estimated_mb": round((memory.parameters(parts) + activations) / 2**20),
    }


def _in_a_process(part: str, model: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--part", part, "--model", model]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def run(quick: bool = False, model: str = "embedded") -> dict[str, Any]:
    """Every figure of this module, as plain data. `quick` leaves out the full-size model (10 GB of disk, minutes)."""
    found: dict[str, Any] = {"make_run": make_run()}
    found |= {part: _in_a_process(part, model) for part in ("cold", "warm")}
    if not quick:
        sys.path.insert(0, str(REPOSITORY / "tests"))
        from support.checkpoints import full_sd15

        with tempfile.TemporaryDirectory() as folder:
            found["full_size"] = _in_a_process("full_size", str(full_sd15(Path(folder) / "sd15")))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--part", choices=("make_run", "cold", "warm", "full_size"))
    chosen = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY))
    parts = {
        "make_run": lambda model: make_run(),
        "cold": cold,
        "warm": lambda model: warm(model, 5),
        "full_size": full_size,
    }
    result = parts[chosen.part](chosen.model) if chosen.part else run(chosen.quick, chosen.model)
    print(json.dumps(result, indent=None if chosen.part else 1))
