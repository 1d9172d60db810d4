"""Every figure of `docs/articles`, made anew: `python -m benchmarks.articles`, one article's with `--only ddpm`.

Pictures are drawn by the embedded model that ships now, so after another one was made this has to run once; each
article's part takes a minute or two of two cores, that about speed longer, because it compiles. What a figure shows is
printed as JSON. `--tables` only brings the articles' tables up to date with the pages that they are quoted from
(`benchmarks.article_text`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks import article_text
from benchmarks.article_drawing import bars, lines, sheet
from benchmarks.article_text import IMAGES
from studio.core.settings import ASSETS, EMBEDDED_MODEL, Settings
from studio.core.specs import EMOTIONS, Emotion, LoraRef, LoraSpec, Recipe
from studio.engine.diffusion import latents, sampling, schedulers, text
from studio.engine.diffusion.denoiser import Denoiser
from studio.engine.diffusion.parameterization import NoiseSchedule, add_noise
from studio.engine.diffusion.pixels import to_images, to_tensor
from studio.engine.engine import Engine
from studio.engine.models.adapters import attached
from studio.engine.models.catalogue import find_lora, resolve
from studio.engine.motion import morph

CHARACTER = "1girl, long hair, pink hair, blue eyes"
SHOWN_STEPS = (1, 3, 6, 10, 15, 20)
LEVELS = (0, 100, 250, 500, 750, 999)  # of noise, as timesteps
COMPILING_AT_MOST = 900  # seconds; a quiet machine takes two or three minutes
KILLED_AT, EPOCHS = 37, 12  # the step in which a run is killed; its epochs of eight steps
STEPS_SAVED = 16  # steps between two checkpoints
LEARNING_RATE = 2e-3  # four times the preset's, so that something is seen after so few of them


def recipe(engine: Engine, prompt: str, seed: int, negative: str = "", **changes: Any) -> Recipe:
    """A picture of the embedded model at its best, or with `changes`."""
    info = resolve("embedded", engine.settings)
    plain: dict[str, Any] = {
        "steps": info.steps, "guidance": info.guidance, "sampler": info.sampler, "width": info.native_size,
        "height": info.native_size,
    }  # fmt: skip
    return Recipe(
        model="embedded", model_hash=info.hash, prompt=prompt, negative=negative, seed=seed, **(plain | changes)
    )


def fast(engine: Engine) -> dict[str, Any]:
    """What a recipe says for the model's few-step path."""
    path = resolve("embedded", engine.settings).fast
    assert path is not None, "the embedded model has no few-step adapter"
    return {"steps": path.steps, "guidance": path.guidance, "sampler": path.sampler, "fast": True}


def drawn(engine: Engine, recipes: Sequence[Recipe]) -> list[Image.Image]:
    made = dict(engine.draw(recipes))
    return [made[k] for k in range(len(recipes))]


# --- 1 ----------------------------------------------------------------------------------------------------------------


def ddpm(engine: Engine) -> dict[str, Any]:
    """Noise added in pixels, in latents, and taken away again."""
    components = engine.components("embedded")
    schedule = NoiseSchedule.from_config(components.scheduler_config)
    side = components.info.native_size
    positive, negative = text.encode_pair(components, [f"{CHARACTER}, happy, casual style"], [""], (side, side))
    scheduler = schedulers.make_scheduler(components.info.sampler, components.scheduler_config)
    timesteps = schedulers.set_timesteps(scheduler, SHOWN_STEPS[-1], components.device)
    each = sampling.generators([7])
    start = schedulers.start_latents(scheduler, sampling.noise(components, each, side, side), timesteps)
    estimates: dict[int, Image.Image] = {}

    def keep(done: int, of: int, clean: Callable[[], torch.Tensor]) -> None:
        if done in SHOWN_STEPS:
            estimates[done] = latents.decode(components, clean())[0]

    denoiser = Denoiser(components.unet, positive, negative, components.info.guidance)
    clean = sampling.sample(denoiser, scheduler, start, timesteps, each, keep)
    picture = latents.decode(components, clean)[0]
    generator = torch.Generator().manual_seed(0)
    pixels, t = to_tensor([picture]), torch.tensor(LEVELS)
    alpha, sigma = schedule.at(t)
    in_pixels = add_noise(pixels, torch.randn(pixels.shape, generator=generator), alpha, sigma)
    in_latents = add_noise(clean, torch.randn(clean.shape, generator=generator), alpha, sigma)
    rows = [
        to_images(in_pixels.clamp(-1, 1)),
        [latents.decode(components, one)[0] for one in in_latents.split(1)],
        [estimates[step] for step in SHOWN_STEPS],
    ]
    sheet(rows, IMAGES / "ddpm.png")
    every = [*range(0, len(schedule), 20), len(schedule) - 1]
    series = {
        "alpha": [(float(k), float(schedule.alpha[k])) for k in every],
        "sigma": [(float(k), float(schedule.sigma[k])) for k in every],
    }
    lines(series, IMAGES / "schedule.svg", "t", "")
    return {"levels": {k: round(float(schedule.snr(torch.tensor([k]))[0]), 4) for k in LEVELS}}


# --- 2 ----------------------------------------------------------------------------------------------------------------


def prompts(engine: Engine) -> dict[str, Any]:
    """The same seeds with a clean prompt, a misspelt one, misspelt layers, and those hardened."""
    from studio.features.experiment.report import arms
    from studio.prompting.writers import PromptRequest

    words = ("1girl, red hair, green eyes", "1girl, blonde hair, blue eyes", "1boy, black hair, red eyes",
             "1girl, blue hair, purple eyes", "1girl, pink hair, brown eyes")  # fmt: skip
    few = fast(engine)
    requests = [PromptRequest(emotion=e, style="casual", text=w) for e, w in zip(EMOTIONS, words, strict=True)]
    sides = [arms(request, "mixed", 0.4, index) for index, request in enumerate(requests)]
    names = ("clean", "attacked", "attacked_layered", "attacked_layered_hardened")
    rows = [
        drawn(engine, [recipe(engine, s[name].prompt, 40 + k, s[name].negative, **few) for k, s in enumerate(sides)])
        for name in names
    ]
    sheet(rows, IMAGES / "prompts.png", heads=EMOTIONS)
    return {name: sides[0][name].prompt for name in names}


# --- 3 ----------------------------------------------------------------------------------------------------------------


def speed(engine: Engine) -> dict[str, Any]:
    """Processor seconds of a picture, of a UNet call before and after torch.compile, and memory by size of picture."""
    from benchmarks.engine import warm
    from studio.engine import memory
    from studio.training.classes import to_draw

    times = warm("embedded", 3)
    seconds = {
        "20 steps, guidance": times["twenty_steps"]["cpu_seconds"],
        "20 steps, diffusers": times["bare_diffusers"]["cpu_seconds"],
        "4 steps, adapter": times["four_steps"]["cpu_seconds"],
    }
    bars(seconds, IMAGES / "speed.svg", "s")
    try:
        with tempfile.TemporaryDirectory() as cache:  # or what was compiled before would be found
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.articles", "--compile"], capture_output=True, text=True,
                check=True, timeout=COMPILING_AT_MOST, env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache},
            )  # fmt: skip
        compiled = json.loads(done.stdout.strip().splitlines()[-1])
        kinds = ("eager", "compiled")
        bars({f"UNet, {kind}": 1000 * compiled[kind] for kind in kinds}, IMAGES / "compile.svg", "ms")
    except subprocess.TimeoutExpired:
        compiled = {"longer_than": COMPILING_AT_MOST}
    whole, _ = to_draw("sd15")
    sides = (256, 512, 768, 1024, 1280, 1536)
    curves = {
        "UNet": [(float(s), memory.step_bytes(whole, s, s, True) / 1e9) for s in sides],
        "VAE": [(float(s), memory.decode_bytes(whole, s, s) / 1e9) for s in sides],
        "VAE, 512 px": [(float(s), memory.decode_bytes(whole, min(s, 512), min(s, 512)) / 1e9) for s in sides],
    }
    lines(curves, IMAGES / "memory.svg", "px", "GB")
    return {"cpu_seconds": seconds, "compile": compiled, "gigabytes": curves, "activations": activations()}


def activations() -> dict[str, float]:
    """GB that a LoRA step of SD 1.5 at 512 px in 32 bits keeps for its backward pass, as it is and with the studio's
    way. Counted by PyTorch itself, on its device without numbers."""
    from studio.engine.diffusion.conditioning import blank
    from studio.engine.models.families import SD15
    from studio.training.classes import kept, networks
    from studio.training.lora.network import add_lora
    from studio.training.runtime.saved_activations import save_fewer_activations

    found = {}
    for name in ("plain", "fewer"):
        parts = networks(SD15, torch.float32)
        words = blank(parts.unet.config, 77).to("meta")
        with torch.device("meta"):
            unet = add_lora(parts, LoraSpec(data="x", model="x", rank=32))["unet"]
            if name == "fewer":
                save_fewer_activations(unet)
        x, t = torch.empty(1, 4, 64, 64, device="meta"), torch.zeros(1, dtype=torch.long, device="meta")
        numbers, _ = kept(lambda u=unet, w=words, a=x, b=t: Denoiser(u, w)(a, b), [], [unet])  # type: ignore[misc]
        found[name] = 4 * numbers / 1e9
    return found


def compiling() -> dict[str, float]:
    """Processor seconds of a call of the embedded UNet with guidance, as it is and compiled as the engine does it, and
    of the first compiled call, with those of the C++ compiler that it starts."""
    from benchmarks.engine import measure

    components = Engine(Settings()).components("embedded")
    side = components.info.native_size
    positive, negative = text.encode_pair(components, [CHARACTER], [""], (side, side))
    x, t = sampling.noise(components, sampling.generators([0]), side, side), torch.tensor(500)
    eager = Denoiser(components.unet, positive, negative, 3.0)
    compiled = Denoiser(torch.compile(components.unet, dynamic=True), positive, negative, 3.0)
    with torch.no_grad():
        began, used = time.perf_counter(), sum(os.times()[:4])
        compiled(x, t)
        first = {"first_call": time.perf_counter() - began, "first_call_cpu": sum(os.times()[:4]) - used}
        times = measure(40, lambda: eager(x, t), lambda: compiled(x, t))  # in turns
    return {name: each["cpu_seconds"] for name, each in zip(("eager", "compiled"), times, strict=True)} | first


# --- 4 ----------------------------------------------------------------------------------------------------------------


def lora(engine: Engine) -> dict[str, Any]:
    """A run, the same run killed and resumed, byte by byte; and what was learnt."""
    from studio.core.presets import EMBEDDED, LORA
    from studio.runs.rundir import RunDir

    data = ASSETS / "examples" / "style_1"
    with tempfile.TemporaryDirectory() as home:
        losses, files, notes, before = {}, {}, [], []
        for name in ("straight", "killed"):
            run = RunDir(Path(home) / "runs" / name)
            run.path.mkdir(parents=True)
            changes = {
                "epochs": EPOCHS, "repeats": 1, "checkpoint_epochs": STEPS_SAVED // 8, "samples": False,
                "learning_rate": LEARNING_RATE,
            }  # fmt: skip
            run.write_spec(LoraSpec(data=str(data), name="look", **(LORA[EMBEDDED] | changes)))
            if name == "killed":
                process = trainer(run.path)
                while process.poll() is None and len(run.metrics()) < KILLED_AT:
                    time.sleep(0.02)
                process.send_signal(signal.SIGKILL)
                process.wait()
                before = [(float(line["step"]), float(line["loss"])) for line in run.metrics()]
            if trainer(run.path).wait():
                raise RuntimeError(run.tail())
            losses[name] = [(float(line["step"]), float(line["loss"])) for line in run.metrics()]
            notes = run.status()["notes"]
            files[name] = {p.name: p.read_bytes() for p in sorted(run.adapter.rglob("*.safetensors"))}
        assert losses["straight"] == losses["killed"], "the losses differ"
        assert files["straight"] == files["killed"], "the results differ"
        resumed = losses["killed"][STEPS_SAVED * (KILLED_AT // STEPS_SAVED) :]
        series = {"straight": losses["straight"], "killed": before, "resumed": resumed}
        lines(series, IMAGES / "lora.svg", "step", "loss", [float(KILLED_AT)], below="straight")
        adapter = Path(run.status()["adapter"])
        captions = [path.read_text(encoding="utf-8").strip() for path in sorted(data.glob("*.txt"))[:6]]
        digest = find_lora(str(adapter), engine.settings).hash
        learnt: dict[str, Any] = {"loras": (LoraRef(path=str(adapter), weight=1.0),), "lora_hashes": (digest,)}
        rows: list[list[Image.Image]] = [
            [Image.open(path) for path in sorted(data.glob("*.jpg"))[:6]],
            drawn(engine, [recipe(engine, caption, k) for k, caption in enumerate(captions)]),
            drawn(engine, [recipe(engine, caption, k, **learnt) for k, caption in enumerate(captions)]),
        ]
        sheet(rows, IMAGES / "lora.png")
    steps = len(losses["straight"])
    return {"steps": steps, "equal_files": len(files["killed"]), "notes": [n for n in notes if "Resumed" in n]}


def trainer(run: Path) -> subprocess.Popen[bytes]:
    """The process of a LoRA run, as a page starts it."""
    alone = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return subprocess.Popen(
        [sys.executable, "-m", "studio.training.lora.train", str(run)], env=alone, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


# --- 5 ----------------------------------------------------------------------------------------------------------------


def steps(engine: Engine) -> dict[str, Any]:
    """One noise, six ways to a picture: the teacher, its solvers in few steps, and the student."""
    few = fast(engine)
    ways: list[dict[str, Any]] = [
        {},
        {"steps": 4, "sampler": "dpmpp_2m"},
        {"steps": 4, "sampler": "ddim"},
        few | {"fast": False},  # the teacher, asked as the student is
        few,
        few | {"steps": 2},
    ]
    asked = [f"{CHARACTER.replace('pink', hair)}, {emotion}, casual style"
             for hair, emotion in zip(("pink", "black", "blonde", "green", "red"), EMOTIONS, strict=True)]  # fmt: skip
    seconds, rows = [], []
    for way in ways:
        began = time.process_time()
        rows.append(drawn(engine, [recipe(engine, prompt, 60 + k, **way) for k, prompt in enumerate(asked)]))
        seconds.append((time.process_time() - began) / len(asked))
    sheet(rows, IMAGES / "steps.png", side=104)
    return {"cpu_seconds_a_picture": dict(zip("abcdef", seconds, strict=True))}


# --- 6 ----------------------------------------------------------------------------------------------------------------


def latent(engine: Engine) -> dict[str, Any]:
    """Three morphs of one character, and one picture drawn over at rising strengths."""
    pair: tuple[Emotion, Emotion] = ("happy", "angry")
    frames = 6
    said = {emotion: f"{CHARACTER}, {emotion}, casual style" for emotion in pair}
    few = fast(engine)
    quick = [recipe(engine, said[emotion], 11, **few) for emotion in pair]
    slow = [recipe(engine, said[emotion], 11) for emotion in pair]
    source = drawn(engine, quick[:1])[0]
    components = engine.components("embedded")
    rows = []
    for method, recipes in (("latent", quick), ("prompt", quick), ("picture", slow)):
        given = source if method == "picture" else None
        path = components.info.fast.adapter if recipes is quick and components.info.fast else None
        with attached(components, fast=path):
            made = morph.make(method, components, recipes, given)  # type: ignore[arg-type]
            rows.append([picture for _, picture in morph.strip(made, frames)])
    side = components.info.native_size
    anew = [source]
    for strength in (0.2, 0.4, 0.6, 0.8, 1.0):
        clean = sampling.sample_latents(
            components, [said[pair[1]]], [99], sampler=components.info.sampler, steps=components.info.steps,
            guidance=components.info.guidance, size=(side, side), source=source, strength=strength,
        )  # fmt: skip
        anew += latents.decode(components, clean)
    sheet([*rows, anew], IMAGES / "latent.png")
    far = morph.distance_of(components.info)
    moved = [[float(d) for d in far(row[:-1], row[1:])] for row in rows]
    return {"steps_between_frames": dict(zip("abc", moved, strict=True))}


# What an article shows, by the name of its file
FIGURES: dict[str, tuple[Callable[[Engine], dict[str, Any]], tuple[str, ...]]] = {
    "ddpm": (ddpm, ("ddpm.png", "schedule.svg")),
    "prompts": (prompts, ("prompts.png",)),
    "speed": (speed, ("speed.svg", "compile.svg", "memory.svg")),
    "lora": (lora, ("lora.png", "lora.svg")),
    "steps": (steps, ("steps.png",)),
    "latent": (latent, ("latent.png",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(FIGURES), help="one article")
    parser.add_argument("--tables", action="store_true", help="the articles' tables alone")
    parser.add_argument("--compile", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compile:
        print(json.dumps(compiling()))
        return
    for page in itertools.chain.from_iterable(article_text.pages().values()):
        page.write_text(article_text.with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
    if options.tables:
        return
    assert EMBEDDED_MODEL.is_dir()
    IMAGES.mkdir(parents=True, exist_ok=True)
    engine = Engine(Settings(preview_every=0))
    for name in [options.only] if options.only else FIGURES:
        print(json.dumps({name: FIGURES[name][0](engine)}, indent=1, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
