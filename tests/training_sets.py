"""Small data sets and runs for the tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from studio.runs.rundir import RunDir
from studio.specs import LoraSpec


def picture(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Coarse random blocks: distinct to the eye and to a perceptual hash."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)


def write_set(folder: Path, count: int = 4, size: tuple[int, int] = (64, 64), style: str = "style_1") -> Path:
    """`count` captioned pictures in `folder/style/`; returns `folder`."""
    (folder / style).mkdir(parents=True, exist_ok=True)
    for k in range(count):
        picture(1000 + k, size).save(folder / style / f"{k}.png")
        (folder / style / f"{k}.txt").write_text(f"1girl, {'happy' if k % 2 else 'sad'}, red hair, long hair, {k}")
    return folder


def write_run(home: Path, name: str, spec: LoraSpec) -> RunDir:
    """A run folder as the supervisor would leave it for the trainer."""
    run = RunDir(home / "runs" / name)
    run.path.mkdir(parents=True)
    run.write_spec(spec)
    return run
