"""Paint the training corpus: numbered shards of labelled drawings.

Shard NNN is `pNNN.npy`, uint8 (drawings, 256, 256, 3), and `mNNN.json`, a list with each drawing's factors, `tags` and
`paint_seed`. A shard depends only on its number and variety, so shards can be painted anywhere and in any order. The
labels are written last: where they are there for every drawing, the shard is complete and is skipped.

The small variety keeps the head still and the background simple, for a first model that learns fast; the full one is
all that the painter can do; the bent one, for the ControlNet, is the full one with proportions as wrong as a hand gets
them, so that a picture learns to follow lines that are off (`bent`: drift and seed, see `painter.bend`). Styles and
emotions are balanced in all.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .painter import CharacterSpec, bend, paint, sample_spec, tags
from .painter.spec import EMOTIONS, STYLES

PIXELS = 256
FIRST = {"small": 0, "full": 100, "bent": 200, "plain": 300}  # shards are numbered by variety
DRIFT = 3.0  # pixels, at most: as far as `hand_lines` drift from a painting
STILL: dict[str, Any] = {
    "dx": 0.0, "dy": 0.0, "tilt": 0.0, "turn": 0.0, "scale": 1.0, "gaze": "viewer", "tip_color": "",
}  # fmt: skip
POSES: tuple[dict[str, float], ...] = (  # of the plain variety: upright, or as far off as the tags say it
    {"tilt": 0.0, "turn": 0.0}, {"tilt": -8.0, "turn": 0.0}, {"tilt": 8.0, "turn": 0.0},
    {"tilt": 0.0, "turn": -0.6}, {"tilt": 0.0, "turn": 0.6},
)  # fmt: skip
SHARES = (80, 4, 4, 6, 6)


def specs(shard: int, size: int, variety: str) -> list[CharacterSpec]:
    """The characters of a shard; a shorter shard is the beginning of a longer one."""
    rng = random.Random(1000 + shard)
    drawn = []
    for i in range(size):
        fixed: dict[str, Any] = {
            "style": STYLES[i % len(STYLES)],
            "emotion": EMOTIONS[i // len(STYLES) % len(EMOTIONS)],
        }
        if variety == "small":
            fixed |= STILL | {"background": rng.choice(("plain", "gradient"))}
            if rng.random() > 0.1:
                fixed["accessories"] = ()
        if variety == "plain":
            fixed |= {"dx": 0.0, "dy": 0.0, "scale": 1.0} | POSES[rng.choices(range(len(POSES)), SHARES)[0]]
        drawn.append(sample_spec(rng, **fixed))
    return drawn


def paint_shard(out: Path, shard: int, size: int, variety: str) -> bool:
    """Paint one shard unless it is complete. Returns whether there was anything to do."""
    labels, pictures = out / f"m{shard:03d}.json", out / f"p{shard:03d}.npy"
    if labels.exists() and len(json.loads(labels.read_text(encoding="utf-8"))) == size:
        return False
    pixels, rows = np.empty((size, PIXELS, PIXELS, 3), np.uint8), []
    hand = random.Random(f"bent {shard}")
    for i, spec in enumerate(specs(shard, size, variety)):
        seed = shard * 100_000 + i
        pixels[i] = np.asarray(paint(spec, PIXELS, seed))
        rows.append(asdict(spec) | {"tags": tags(spec), "paint_seed": seed})
        if variety == "bent":
            drift = hand.uniform(0, DRIFT)
            pixels[i] = bend(pixels[i], drift, seed)
            rows[-1]["bent"] = [drift, seed]
    with open(out / f"{pictures.name}.part", "wb") as file:
        np.save(file, pixels)
    os.replace(file.name, pictures)
    part = out / f"{labels.name}.part"
    part.write_text(json.dumps(rows))
    os.replace(part, labels)
    return True


def _job(args: tuple[Path, int, int, str]) -> tuple[int, bool, float]:
    started = time.monotonic()
    return args[1], paint_shard(*args), time.monotonic() - started


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--variety", choices=tuple(FIRST), default="full")
    parser.add_argument("--shards", type=int, default=8, help="how many (default 8)")
    parser.add_argument("--size", type=int, default=1000, help="drawings in a shard (default 1000)")
    parser.add_argument(
        "--first", type=int, default=None, help="number of the first shard (default 0 small, 100 full, 200 bent)"
    )
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args(argv)
    if min(args.shards, args.size, args.processes) < 1 or (args.first is not None and args.first < 0):
        parser.error("--shards, --size and --processes must be at least 1, --first at least 0")
    args.out.mkdir(parents=True, exist_ok=True)
    first = FIRST[args.variety] if args.first is None else args.first
    jobs = [(args.out, shard, args.size, args.variety) for shard in range(first, first + args.shards)]
    with multiprocessing.get_context("spawn").Pool(min(args.processes, len(jobs))) as pool:
        for shard, painted, seconds in pool.imap_unordered(_job, jobs):
            print(
                f"shard {shard:03d}: " + (f"painted in {seconds:.0f} s" if painted else "complete already"), flush=True
            )


if __name__ == "__main__":
    main()
