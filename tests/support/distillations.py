"""A tiny teacher and small runs to distil it, for the tests of distillation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from support.checkpoints import tiny_sd

from studio.core.specs import EMOTIONS, STYLES, LcmSpec
from studio.evaluation.judge import Judge, JudgeNetwork
from studio.runs.rundir import RunDir

SMALL = {
    "epochs": 3,
    "steps_per_epoch": 2,
    "batch_size": 2,
    "latents": 20,
    "checkpoint_epochs": 1,
    "rank": 4,
    "learning_rate": 1e-3,
    "curve_pictures": 2,
}


def judged_teacher(folder: Path) -> Path:
    """A tiny model with a judge, whose weights are random: its verdicts mean nothing, but they are made."""
    tiny_sd(folder, studio={"steps": 3, "judge": "judge", "distill": {"w_min": 1.0, "w_max": 2.0}})
    values = {"emotion": list(EMOTIONS), "style": list(STYLES)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Judge(JudgeNetwork({name: len(words) for name, words in values.items()}), values).save(folder / "judge")
    return folder


def run_of(folder: Path, **changes: Any) -> RunDir:
    run = RunDir(folder)
    run.path.mkdir(parents=True)
    run.write_spec(LcmSpec(**{**SMALL, **changes}))
    return run


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{f.stem}.{k}": t for f in sorted(folder.glob("*.safetensors")) for k, t in load_file(f).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
