"""Does the picture follow the drawing, and does it still show what the words ask for.

Held-out characters are painted and drawn as a hand would; the embedded model draws them from their words alone and
with the control image, from the same seeds. Figures: Chamfer distance in pixels, with and without control, from the
control lines to the picture's edges (`chamfer_pixels`), from the picture's edges to the lines
(`chamfer_result_to_drawing_pixels`) and the mean of both (`chamfer_symmetric_pixels`); emotion, hair and clothes as the
judge reads them; time of four steps with the model's own sampler, and on its fast path where it has one.

The first direction alone rewards a noisy picture: it has an edge near every line. The second one punishes it, and with
it every detail that the drawing leaves to the model, so it is to be read against the same figure without control.
`python -m benchmarks.sketch --out DIR` leaves the sheets to look at.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from studio.core.errors import BadInput
from studio.core.settings import EMBEDDED_MODEL, Settings
from studio.core.specs import EMOTIONS, ControlSpec, Recipe
from studio.engine.engine import Engine
from studio.engine.media import control_images
from studio.engine.models.catalogue import resolve
from studio.evaluation.judge import Judge
from studio.evaluation.metrics import wilson_interval
from studio.pretraining.painter import hand_lines, line_art, paint, sample_spec, tags

SEED = 900_000  # far from every shard's
WEIGHT = 1.0
FOUR = 4  # steps of the time ratio that holds for every model, with or without a fast path
CANNY = ControlSpec(image="picture", kind="canny")
LINES = ControlSpec(image="drawing", kind="lines")


def held_out(count: int, side: int) -> list[dict[str, Any]]:
    """Characters that were never trained on: labels, prompt, and both control images."""
    rng = random.Random(SEED)
    found: list[dict[str, Any]] = []
    while len(found) < count:
        number = len(found)
        spec = sample_spec(rng, emotion=EMOTIONS[number % len(EMOTIONS)])
        picture = paint(spec, side, SEED + number)
        drawn = hand_lines(line_art(spec, side, SEED + number), rng)
        try:
            images = {
                "canny": control_images.control_image(picture, CANNY),
                "lines": control_images.control_image(drawn, LINES),
            }
        except BadInput:
            continue
        found.append({"labels": asdict(spec), "prompt": ", ".join(tags(spec)), "drawn": drawn, "picture": picture}
                     | {"control": images})  # fmt: skip
    return found


def chamfer(lines: Image.Image, picture: Image.Image) -> tuple[float, float]:
    """Mean distances in pixels: from each control line's point to the picture's nearest edge, and from each edge's
    point to the nearest line. The longer side where there is no edge.

    Edges are found as those of a control image are, so that a picture lies nowhere off its own.
    """
    points = np.asarray(lines.convert("L")) > 100
    try:
        edges = np.asarray(control_images.control_image(picture, CANNY).convert("L")) > 0
    except BadInput:  # nothing in it is sharp enough
        return float(max(picture.size)), float(max(picture.size))
    return _away(points, edges), _away(edges, points)


def _away(points: np.ndarray, marks: np.ndarray) -> float:
    """Mean distance in pixels from each of `points` to the nearest of `marks`, both (height, width) bool."""
    distance = cv2.distanceTransform(np.where(marks, 0, 255).astype(np.uint8), cv2.DIST_L2, 5)
    return float(distance[points].mean())


def distances(lines: list[Image.Image], pictures: list[Image.Image], name: str = "") -> dict[str, float]:
    """Means of `chamfer` over the pairs, each direction and both: `chamfer{name}_pixels` is from drawing to result."""
    there, back = np.mean([chamfer(a, b) for a, b in zip(lines, pictures, strict=True)], axis=0)
    return {
        f"chamfer{name}_pixels": float(there),
        f"chamfer{name}_result_to_drawing_pixels": float(back),
        f"chamfer{name}_symmetric_pixels": float((there + back) / 2),
    }


def closer(lines: list[Image.Image], steered: list[Image.Image], plain: list[Image.Image]) -> dict[str, float]:
    """Distances with and without control, and how many times closer the drawing brings them."""
    near, far = distances(lines, steered), distances(lines, plain, "_without")
    return near | far | {
        "times_closer": far["chamfer_without_pixels"] / max(1e-6, near["chamfer_pixels"]),
        "times_closer_symmetric": far["chamfer_without_symmetric_pixels"]
        / max(1e-6, near["chamfer_symmetric_pixels"]),
    }  # fmt: skip


def draw(
    engine: Engine,
    asked: list[dict[str, Any]],
    kind: str | None,
    folder: Path,
    fast: bool = False,
    steps: int | None = None,
) -> tuple[list[Image.Image], float]:
    """One picture for each character, and seconds per picture. `steps`: None for as many as the model takes itself."""
    info = resolve("embedded", engine.settings)
    way = info.fast if fast and info.fast is not None else info
    found, started = [], 0.0
    for seed, each in enumerate(asked):
        spec = None
        if kind is not None:
            path = folder / f"{kind}-{seed}.png"
            each["picture" if kind == "canny" else "drawn"].convert("RGB").save(path)
            spec = ControlSpec(image=str(path), kind=kind, weight=WEIGHT)
        recipe = Recipe(
            model="embedded", model_hash=info.hash, prompt=each["prompt"], seed=seed, steps=steps or way.steps,
            guidance=way.guidance, sampler=way.sampler, width=info.native_size, height=info.native_size, fast=fast,
            control=spec,
        )  # fmt: skip
        if seed == 1:
            started = time.perf_counter()  # the first one loads
        found += [picture for _, picture in engine.draw([recipe])]
    return found, (time.perf_counter() - started) / max(1, len(asked) - 1)


def agreement(judge: Judge, pictures: list[Image.Image], asked: list[dict[str, Any]]) -> dict[str, Any]:
    """Share of pictures in which the judge reads the label that was asked for, per factor that both know."""
    verdict, found = judge(pictures), {}
    for factor, said in verdict.labels.items():
        if factor not in asked[0]["labels"]:
            continue
        pairs = [(a, each["labels"][factor]) for a, each in zip(said, asked, strict=True) if a != "hidden"]
        hits = sum(a == b for a, b in pairs)
        found[factor] = {"accuracy": hits / max(1, len(pairs)), "interval": wilson_interval(hits, len(pairs))}
    return found


def sheet(asked: list[dict[str, Any]], rows: dict[str, list[Image.Image]], side: int = 160) -> Image.Image:
    """A column per character: its two control images, then what was drawn from each row's."""
    shown = [[each["control"][kind] for each in asked] for kind in ("canny", "lines")] + list(rows.values())
    whole = Image.new("RGB", (side * len(asked), side * len(shown)))
    for y, pictures in enumerate(shown):
        for x, picture in enumerate(pictures[: len(asked)]):
            whole.paste(picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), (x * side, y * side))
    return whole


def run(quick: bool = True, out: Path | None = None, count: int | None = None) -> dict[str, Any]:
    """Figures on 20 (quick) or 200 held-out characters. Raises BadInput when the model has no ControlNet."""
    import tempfile

    engine = Engine(Settings(preview_every=0))
    info = resolve("embedded", engine.settings)
    if not {"lines", "canny"} <= set(info.controlnets):
        raise BadInput("The embedded model has no ControlNet.")
    judge = Judge.load(EMBEDDED_MODEL / "judge")
    asked = held_out(count or (20 if quick else 200), info.native_size)
    found: dict[str, Any] = {"pictures": len(asked)}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        plain, plain_seconds = draw(engine, asked, None, folder)
        without = agreement(judge, plain, asked)
        rows = {"plain": plain}
        found["without"] = {"seconds": plain_seconds, "agreement": without}
        for kind in ("canny", "lines"):
            pictures, seconds = draw(engine, asked, kind, folder)
            rows[kind] = pictures
            lines = [each["control"][kind] for each in asked]
            follows = agreement(judge, pictures, asked)
            # how far the hand was off: what a picture reaches that is as the drawing meant and not as it is
            painting = distances(lines, [each["picture"] for each in asked], "_of_painting")
            found[kind] = closer(lines, pictures, plain) | painting | {
                "emotion_kept": follows["emotion"]["accuracy"] / max(1e-6, without["emotion"]["accuracy"]),
                "agreement": follows, "seconds": seconds, "time_ratio": seconds / plain_seconds,
            }  # fmt: skip
        few = asked[:20]
        lines = [each["control"]["lines"] for each in few]
        ways: dict[str, dict[str, Any]] = {"four_steps": {"steps": FOUR}}
        if info.fast is not None:
            ways["fast"] = {"fast": True}
        for name, way in ways.items():
            alone, alone_seconds = draw(engine, few, None, folder, **way)
            rows[name], seconds = draw(engine, few, "lines", folder, **way)
            found[name] = {"seconds": seconds, "seconds_without": alone_seconds,
                           "time_ratio": seconds / alone_seconds} | closer(lines, rows[name], alone)  # fmt: skip
    if out:
        out.mkdir(parents=True, exist_ok=True)
        sheet(asked[:12], rows).save(out / "sketch.png")
    return found


def cli() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    print(json.dumps(run(args.quick, args.out, args.count), indent=1))


if __name__ == "__main__":
    cli()
