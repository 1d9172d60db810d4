"""What the embedded model draws, measured: does it follow the prompt, is it clean, does it repeat itself.

Prompts are written by the studio's own writer for random characters, seeds are fixed. `run(quick)` returns the figures
of the model card; `python -m benchmarks.embedded --out DIR` also leaves the sheets to look at.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from studio.core.settings import EMBEDDED_MODEL, Settings
from studio.core.specs import EMOTIONS, STYLES, LoraRef, Recipe
from studio.engine.engine import Engine
from studio.engine.models.catalogue import resolve
from studio.evaluation.judge import Judge
from studio.evaluation.metrics import frechet_distance, wilson_interval
from studio.pretraining import HELD_OUT
from studio.pretraining.vae import to_tensor
from studio.prompting.writers import OfflineWriter, PromptRequest

# The same colours as the painter's, by the words of the lexicon
HAIR = ("black", "brown", "light brown", "blonde", "red", "orange", "pink", "purple", "blue", "aqua", "green", "grey",
        "white")  # fmt: skip
EYES = ("blue", "green", "red", "brown", "purple", "yellow", "aqua", "pink", "orange", "grey")
LENGTHS = ("short", "medium", "long")
LIGHT = ("pale skin", "fair skin")


def characters(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Random characters: every emotion and style equally often."""
    rng = random.Random(seed)
    return [
        {
            "emotion": EMOTIONS[i % len(EMOTIONS)],
            "style": STYLES[i // len(EMOTIONS) % len(STYLES)],
            "hair_color": rng.choice(HAIR),
            "eye_color": rng.choice(EYES),
            "hair_length": rng.choice(LENGTHS),
            "gender": rng.choice(("girl", "girl", "boy")),
        }
        for i in range(count)
    ]


def prompt(character: dict[str, str]) -> tuple[str, str]:
    """Positive and negative prompt for a character, as the Generate page writes them."""
    words = [f"1{character['gender']}", f"{character['hair_length']} hair", f"{character['hair_color']} hair",
             f"{character['eye_color']} eyes"]  # fmt: skip
    result = OfflineWriter().write(
        PromptRequest(emotion=character["emotion"], style=character["style"], text=", ".join(words))
    )
    return result.positive_prompt, result.negative_prompt


def draw(
    engine: Engine, prompts: Sequence[tuple[str, str]], fast: bool = False, steps: int | None = None,
    loras: Sequence[tuple[LoraRef, str]] = (), model: str | Path = "embedded",
) -> tuple[list[Image.Image], float]:  # fmt: skip
    """One picture for each (positive, negative) prompt, seed k for the k-th, and the seconds per picture.

    `fast` takes the model's few-step path, where it has one; `steps` replaces its own number of steps; `loras` come
    with their hashes; `model` may be another model's folder.
    """
    info = resolve(str(model), engine.settings)
    path = info.fast if fast and info.fast is not None else info
    recipes = [
        Recipe(
            model=str(model), model_hash=info.hash, prompt=positive, negative=negative, seed=seed,
            steps=steps or path.steps, guidance=path.guidance, sampler=path.sampler, width=info.native_size,
            height=info.native_size, fast=path is info.fast,
            loras=tuple(ref for ref, _ in loras), lora_hashes=tuple(digest for _, digest in loras),
        )
        for seed, (positive, negative) in enumerate(prompts)
    ]  # fmt: skip
    started = time.perf_counter()
    drawn = dict(engine.draw(recipes))
    return [drawn[k] for k in range(len(recipes))], (time.perf_counter() - started) / len(recipes)


def accuracies(judge: Judge, pictures: list[Image.Image], asked: list[dict[str, str]]) -> dict[str, Any]:
    """Share of pictures that show what was asked, with its 95 % interval, per factor."""
    verdict, found = judge(pictures), {}
    for factor in asked[0]:
        said = verdict.labels[factor]
        # eyes that are closed show no colour
        pairs = [(a, row[factor]) for a, row in zip(said, asked, strict=True) if a != "hidden"]
        hits = sum(a == b for a, b in pairs)
        found[factor] = {"accuracy": hits / max(1, len(pairs)), "interval": wilson_interval(hits, len(pairs)),
                         "n": len(pairs)}  # fmt: skip
    confusion: dict[str, dict[str, int]] = {e: dict.fromkeys(EMOTIONS, 0) for e in EMOTIONS}
    for row, seen in zip(asked, verdict.labels["emotion"], strict=True):
        confusion[row["emotion"]][seen] += 1
    return {"factors": found, "emotions": confusion}


def nearest(judge: Judge, pictures: list[Image.Image]) -> float:
    """Smallest perceptual distance between any two pictures: 0 means that two seeds gave the same drawing."""
    features = judge(pictures).features
    distances = torch.cdist(features, features) + torch.eye(len(features)) * 1e9
    i = int(distances.min(1).values.argmin())
    j = int(distances[i].argmin())
    return float(judge.distance([pictures[i]], [pictures[j]]))


def nearest_training(judge: Judge, pictures: list[Image.Image], data: Path) -> dict[str, float]:
    """How near the pictures come to drawings of the training set `data` (painted shards), in the judge's features.

    Beside it the same of drawings that were held out, which nobody can have memorised: a model that repeats what it has
    seen comes nearer than they do.
    """
    trained, held = [], []
    for path in sorted(data.glob("p*.npy")):
        painted = np.load(path, mmap_mode="r")
        found = torch.cat([judge(to_tensor(painted[i : i + 100])).features for i in range(0, len(painted), 100)])
        trained.append(found[:-HELD_OUT])
        held.append(found[-HELD_OUT:][: -(-len(pictures) // len(list(data.glob("p*.npy"))))])
    seen = torch.cat(trained)
    figures: dict[str, float] = {"training_drawings": len(seen)}
    for name, features in (("drawn", judge(pictures).features), ("held_out", torch.cat(held))):
        near = torch.cdist(features, seen).min(1).values
        figures |= {f"{name}_smallest": float(near.min()), f"{name}_median": float(near.median())}
    return figures


def sheet(pictures: list[Image.Image], columns: int, side: int = 128) -> Image.Image:
    """A contact sheet."""
    rows = -(-len(pictures) // columns)
    found = Image.new("RGB", (columns * side, rows * side), "white")
    for i, picture in enumerate(pictures):
        found.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (i % columns * side, i // columns * side))
    return found


def run(quick: bool = True, out: Path | None = None, data: Path | None = None) -> dict[str, Any]:
    """Figures of the embedded model on 60 (quick) or 500 pictures; `data` is the folder of its painted shards."""
    judge = Judge.load(EMBEDDED_MODEL / "judge")
    engine = Engine(Settings())
    asked = characters(60 if quick else 500)
    found: dict[str, Any] = {"pictures": len(asked)}
    prompts = [prompt(character) for character in asked]
    pictures, seconds = draw(engine, prompts)
    found |= {"best": accuracies(judge, pictures, asked) | {"seconds": seconds}}
    found["nearest_two"] = nearest(judge, pictures[:100])
    if data:
        found["nearest_training"] = nearest_training(judge, pictures, data)
    sets = {"best": pictures}
    if resolve("embedded", engine.settings).fast is not None:
        quickly, seconds = draw(engine, prompts, fast=True)
        found |= {"fast": accuracies(judge, quickly, asked) | {"seconds": seconds}}
        found["fast_to_best"] = frechet_distance(judge(quickly).features, judge(pictures).features)
        sets["fast"] = quickly
    for name, drawn in sets.items() if out else ():
        assert out is not None
        sheet(drawn[:100], 10).save(out / f"{name}.png")
        (out / name).mkdir(parents=True, exist_ok=True)
        skins = judge(drawn).labels["skin"]
        for k, (picture, skin) in enumerate(zip(drawn, skins, strict=True)):  # for `benchmarks.faces`
            picture.save(out / name / f"{'light' if skin in LIGHT else 'other'}-{k:03d}.png")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="leave sheets and the pictures there")
    parser.add_argument("--data", type=Path, help="painted shards: how near do pictures come to what was trained on")
    args = parser.parse_args()
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(run(args.quick, args.out, args.data), indent=1))
