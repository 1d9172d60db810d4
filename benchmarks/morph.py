"""Morphs and animations of the embedded model, measured by its judge: emotion, identity, smoothness, ghosts, speed.

Every character is morphed by every method from the same recipes, as the page would do it. `run(quick)` gives the
figures of the README; `python -m benchmarks.morph --out DIR` also leaves strips of frames to look at.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from studio.core.errors import StudioError
from studio.core.settings import Settings
from studio.core.specs import EMOTIONS, STYLES, Emotion, Recipe
from studio.engine import judging, memory
from studio.engine.diffusion.pixels import to_tensor
from studio.engine.diffusion.schedulers import make_scheduler
from studio.engine.engine import Engine
from studio.engine.media import output
from studio.engine.models.adapters import attached
from studio.engine.models.catalogue import resolve
from studio.engine.models.components import Components
from studio.engine.motion import animation, morph, timing
from studio.evaluation.judge import Judge
from studio.evaluation.metrics import gini, sharpness, spearman, wilson_interval
from studio.pretraining.painter.picture import paint
from studio.pretraining.painter.spec import CharacterSpec
from studio.prompting.writers import OfflineWriter, PromptRequest

FRAMES = 9
HAIR = ("black", "brown", "blonde", "red", "orange", "pink", "purple", "blue", "aqua", "green", "grey", "white")
EYES = ("blue", "green", "red", "brown", "purple", "yellow")
IDENTITY = ("hair_color", "eye_color", "style")
PAIRS: list[tuple[Emotion, Emotion]] = [(a, b) for a in EMOTIONS for b in EMOTIONS if a != b]
METHODS: dict[str, dict[str, Any]] = {
    "a_latent": {"method": "latent"},
    "b_prompt": {"method": "prompt"},
    "b_prompt_attention": {"method": "prompt", "attention": True},
    "c_picture": {"method": "picture"},
    "d_direction": {"method": "direction"},
}


class Bench:
    """One model with its judge, and the recipes that the studio's writer gives for random characters.

    As in the pages, pictures come by the few-step path where the model has one; `best` asks for all its steps.
    """

    def __init__(self, model: str, out: Path | None = None, best: bool = False) -> None:
        settings = Settings(preview_every=0)
        self.info = resolve(model, settings)
        if self.info.judge is None:
            raise StudioError(f"{self.info.title} has no judge, so its morphs can't be measured.")
        self.engine = Engine(settings)
        self.components: Components = self.engine.components(model)
        self.judge = Judge.load(self.info.judge)
        self.out = out
        self.fast = None if best else self.info.fast
        self.writer = OfflineWriter()
        adapter = self.fast.adapter if self.fast is not None else None
        weights = sorted(adapter.glob("*.safetensors")) if adapter is not None and adapter.is_dir() else [adapter]
        digests = [hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in weights if file is not None]
        self.key = [self.info.hash, *digests, FRAMES, *METHODS]  # what a kept measurement has to be of

    def recipes(
        self, number: int, emotions: Sequence[Emotion], words: str = "", style: str = "", fast: bool = True
    ) -> list[Recipe]:
        """One recipe per emotion of random character `number` (or of the one that `words` say)."""
        rng = random.Random(number)
        if not words:
            who = rng.choice(("1girl", "1girl", "1boy"))
            words = f"{who}, {rng.choice(('short', 'long'))} hair, {rng.choice(HAIR)} hair, {rng.choice(EYES)} eyes"
        style = style or STYLES[number % len(STYLES)]
        size, how = self.info.native_size, (self.fast if fast else None) or self.info
        found: list[Recipe] = []
        for emotion in emotions:
            said = self.writer.write(PromptRequest(emotion=emotion, style=style, text=words))
            found.append(
                Recipe(
                    model=self.info.reference,
                    model_hash=self.info.hash,
                    prompt=said.positive_prompt,
                    negative=found[0].negative if found else said.negative_prompt,
                    seed=1000 + number,
                    steps=how.steps,
                    guidance=how.guidance,
                    sampler=how.sampler,
                    fast=how is self.fast,
                    width=size,
                    height=size,
                )
            )
        return found

    @contextmanager
    def ready(self, recipe: Recipe) -> Iterator[Components]:
        """The model with what `recipe` needs attached."""
        with attached(self.components, fast=self.info.fast.adapter if recipe.fast and self.info.fast else None):
            yield self.components

    def drawn(self, recipe: Recipe) -> Image.Image:
        return next(image for _, image in self.engine.draw([recipe]))

    def keep(self, name: str, images: Sequence[Image.Image]) -> None:
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            output.filmstrip(images, 160).convert("RGB").save(self.out / f"{name}.png")

    # --- what is measured of one strip of frames --------------------------------------------------------------------

    def emotion_of(self, images: Sequence[Image.Image], emotion: Emotion) -> torch.Tensor:
        return self.judge(images).probabilities["emotion"][:, self.judge.values["emotion"].index(emotion)]

    def measure(self, images: Sequence[Image.Image], pair: tuple[Emotion, Emotion]) -> dict[str, float]:
        """Figures of one morph. A frame with closed eyes keeps its eye colour: there is none to see."""
        seen = self.judge(images)
        kept = {}
        for factor in IDENTITY:
            labels = seen.labels[factor]
            first = next((label for label in labels if label != "hidden"), labels[0])
            kept[factor] = sum(label in (first, "hidden") for label in labels) / len(labels)
        steps = self.judge.distance(images[:-1], images[1:])
        crisp = sharpness(to_tensor(images))
        shown = seen.labels["emotion"]
        return {
            "spearman": spearman(self.emotion_of(images, pair[1]), torch.arange(len(images))),
            **{f"kept_{factor}": share for factor, share in kept.items()},
            "smoothness": 1 - gini(steps),
            "distance": float(steps.mean()),
            "middle_sharpness": float(crisp[len(images) // 2] / ((crisp[0] + crisp[-1]) / 2)),
            "first_shown": float(shown[0] == pair[0]),
            "last_shown": float(shown[-1] == pair[1]),
        }


def mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} | {"n": len(rows)}


def morphs(bench: Bench, count: int) -> dict[str, Any]:
    """All methods over the same characters, at equal steps of the interpolation and re-timed.

    With a folder, what was measured of a character is kept there: a measurement that was broken off goes on behind it.
    """
    rows = []
    for number in range(count):
        file = bench.out / f"{number:02d}.json" if bench.out is not None else None
        held = json.loads(file.read_text(encoding="utf-8")) if file is not None and file.exists() else {}
        if held.get("of") != bench.key:
            held = {"of": bench.key, "figures": one_morph(bench, number)}
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                fresh = file.with_suffix(".tmp")
                fresh.write_text(json.dumps(held))
                fresh.replace(file)
        rows.append(held["figures"])
    return {name: mean([row[name] for row in rows]) for name in rows[0]}


def one_morph(bench: Bench, number: int) -> dict[str, dict[str, float]]:
    """Figures of every method for one character."""
    row: dict[str, dict[str, float]] = {}
    pair = PAIRS[number % len(PAIRS)]
    source = bench.drawn(bench.recipes(number, pair)[0])
    for name, options in METHODS.items():
        kept = options["method"] in ("picture", "direction")  # inverted in small steps, as the page does
        asked = bench.recipes(number, pair, fast=not kept)
        with bench.ready(asked[0]) as components:
            made = morph.make(components=components, recipes=asked, image=source if kept else None, **options)
            strips = {name: [picture for _, picture in morph.strip(made, FRAMES)]}
            if name in ("b_prompt", "c_picture"):
                again = morph.strip(made, FRAMES, bench.judge.distance)
                strips[f"{name}_retimed"] = [picture for _, picture in again]
        for which, images in strips.items():
            row[which] = bench.measure(images, pair)
            bench.keep(f"{number:02d}-{pair[0]}-{pair[1]}-{which}", images)
    return row


def uploaded(bench: Bench, count: int) -> dict[str, Any]:
    """Pictures that the model did not make: painted ones, with what they show read by the judge.

    Half of them show another emotion than the first one asked for: frame 1 has to show what was asked all the same.
    """
    kept: dict[str, int] = dict.fromkeys((*IDENTITY, "all"), 0)
    begun = {"as_shown": [0, 0], "other": [0, 0]}  # frames 1 with the first emotion, out of how many
    reached = 0
    for number in range(count):
        rng = random.Random(5000 + number)
        pair = PAIRS[number % len(PAIRS)]
        now = rng.choice([e for e in EMOTIONS if e not in pair]) if number % 2 else pair[0]
        spec = CharacterSpec(
            gender=rng.choice(("girl", "boy")), emotion=now, style=STYLES[number % len(STYLES)],
            hair_color=rng.choice(HAIR), eye_color=rng.choice(EYES),
            background_color=rng.choice(("aqua", "pink", "green")),
        )  # fmt: skip
        picture = paint(spec, bench.info.native_size, number)
        assert bench.info.judge is not None
        seen = judging.describe(bench.info.judge, picture)
        emotion: Any = seen.emotion
        words = ", ".join(seen.tags)
        shown, *recipes = bench.recipes(number, (emotion, *pair), words, seen.style, fast=False)
        made = morph.make("picture", bench.components, recipes, picture, shown=shown)
        images = list(made.draw(timing.positions(5)))
        bench.keep(f"uploaded-{number:02d}-{now}-{pair[0]}-{pair[1]}", [picture, *images])
        before, first, after = (bench.judge([image]) for image in (picture, images[0], images[-1]))
        same = {}
        for factor in IDENTITY:
            was, is_ = before.labels[factor][0], after.labels[factor][0]
            same[factor] = was == is_ or "hidden" in (was, is_)
        for factor, yes in same.items():
            kept[factor] += yes
        kept["all"] += all(same.values())
        tally = begun["other" if now != pair[0] else "as_shown"]
        tally[0] += first.labels["emotion"][0] == pair[0]
        tally[1] += 1
        reached += after.labels["emotion"][0] == pair[1]
    figures: dict[str, Any] = {f"kept_{factor}": hits / count for factor, hits in kept.items()}
    figures |= {f"first_right_{name}": hits / of for name, (hits, of) in begun.items() if of}
    return figures | {"emotion_reached": reached / count, "interval": wilson_interval(reached, count), "n": count}


def animations(bench: Bench, count: int) -> dict[str, Any]:
    """One picture through two emotions with strength 0.3 to 0.7, against frames that are drawn independently."""
    rows = []
    for number in range(count):
        pair = PAIRS[number % len(PAIRS)]
        recipes = dict(zip(pair, bench.recipes(number, pair), strict=True))
        source = bench.drawn(recipes[pair[0]])
        stills = timing.stills(pair, 12, 0.3, 0.7)
        strips = {}
        for consistent in (True, False):
            with bench.ready(recipes[pair[0]]) as components:
                made = animation.Animation(components, recipes, stills, source, consistent)
                strips[consistent] = [image for _, image in made.draw(range(len(stills)))]
            bench.keep(f"animation-{number:02d}-{pair[0]}-{pair[1]}-{consistent}", [source, *strips[consistent]])
        steps = {k: float(bench.judge.distance(s[:-1], s[1:]).mean()) for k, s in strips.items()}
        other = bench.drawn(bench.recipes(number + 500, pair[:1])[0])
        away = bench.judge.distance([source, source], [strips[True][0], other]).tolist()
        rows.append(
            {
                "distance_consistent": steps[True],
                "distance_independent": steps[False],
                "order": float(bench.emotion_of(strips[True], pair[1]).diff().sum() > 0),
                "spearman": spearman(bench.emotion_of(strips[True], pair[1]), torch.arange(12)),
                "first_nearer_to_source_than_a_stranger": float(away[0] < 0.5 * away[1]),
            }
        )
    figures = mean(rows)
    return figures | {"ratio": figures["distance_independent"] / figures["distance_consistent"]}


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """Wall and processor seconds: on a busy machine the second says more."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def speed(bench: Bench, frames: int = 16) -> dict[str, Any]:
    """16 frames as one animation, against as many calls of diffusers' own pipeline with the same strengths."""
    pair: tuple[Emotion, Emotion] = ("happy", "sad")
    recipes = dict(zip(pair, bench.recipes(0, pair), strict=True))
    first = recipes[pair[0]]
    source = bench.drawn(first)
    stills = timing.stills(pair, frames, 0.3, 0.7)
    c = bench.components
    pipeline = StableDiffusionImg2ImgPipeline(
        vae=c.vae, text_encoder=c.text_encoder, tokenizer=c.tokenizer, unet=c.unet,
        scheduler=make_scheduler(first.sampler, c.scheduler_config), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)

    def single() -> None:
        for still in stills:
            pipeline(
                recipes[still.mix.emotion].prompt, source, strength=still.strength, negative_prompt=first.negative,
                num_inference_steps=first.steps, guidance_scale=first.guidance,
                generator=torch.Generator().manual_seed(first.seed),
            )  # fmt: skip

    def ours() -> None:
        for _ in animation.Animation(bench.components, recipes, stills, source).draw(range(frames)):
            pass

    with bench.ready(first):
        ours()  # warm
        together, alone = timed(ours), timed(single)
    return {
        "together": together,
        "single_calls": alone,
        "ratio": together["seconds"] / alone["seconds"],
        "cpu_ratio": together["cpu_seconds"] / alone["cpu_seconds"],
    }


def memory_use(bench: Bench) -> dict[str, float]:
    """Growth of the process while 16 and 64 frames are made, in MB, as a job does: frames leave as they are made."""
    pair: tuple[Emotion, Emotion] = ("happy", "sad")
    recipes = dict(zip(pair, bench.recipes(0, pair), strict=True))
    recipes = {emotion: recipe.model_copy(update={"steps": 4}) for emotion, recipe in recipes.items()}
    source = bench.drawn(recipes[pair[0]])
    figures = {}
    for frames in (16, 16, 64):  # the first round fills the allocator's pools
        gc.collect()
        before = peak = memory.resident()
        stills = timing.stills(pair, frames, 0.3, 0.7)
        with bench.ready(recipes[pair[0]]) as components:
            for _ in animation.Animation(components, recipes, stills, source).draw(range(frames)):
                peak = max(peak, memory.resident())
        figures[f"frames_{frames}_mb"] = (peak - before) / 1e6
    return figures


def run(quick: bool = False, model: str = "embedded", out: Path | None = None, best: bool = False) -> dict[str, Any]:
    """Every figure of this module, as plain data."""
    bench = Bench(model, out, best)
    count = 4 if quick else 40
    fast, all_steps = speed(bench), speed(Bench(model, best=True))
    return {
        "morph": morphs(bench, count),
        "uploaded": uploaded(bench, count),
        "animation": animations(bench, max(2, count // 2)),
        "speed": fast,
        "speed_best": all_steps,
        "speed_against_best_calls": fast["together"]["seconds"] / all_steps["single_calls"]["seconds"],
        "memory": memory_use(bench),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--best", action="store_true", help="all steps of the model, not its few-step path")
    chosen = parser.parse_args()
    print(json.dumps(run(chosen.quick, chosen.model, chosen.out, chosen.best), indent=1))
