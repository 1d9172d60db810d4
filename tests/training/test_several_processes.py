"""Two processes that share a training, started as the documents say, and resumed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import tiny_sd
from support.training_sets import outputs, write_set

from studio.core.specs import ControlRunSpec, LcmSpec, LoraSpec
from studio.runs.rundir import TRAINERS, RunDir, RunSpec

REPOSITORY = Path(__file__).resolve().parents[2]


def launch(run: RunDir, home: Path) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"STUDIO_HOME": str(home), "STUDIO_DEVICE": "cpu", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [*command, "-m", TRAINERS[run.spec().kind], str(run.path)], env=environment, cwd=home, capture_output=True,
        text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]


@pytest.mark.parametrize(
    "kind", ["lora", pytest.param("lcm", marks=pytest.mark.slow), pytest.param("control", marks=pytest.mark.slow)]
)
def test_accelerate_launch_trains_in_two_processes_and_resumes(tmp_path: Path, kind: str) -> None:
    model, data = tiny_sd(tmp_path / "models" / "tiny"), write_set(tmp_path / "data", 6)
    common: dict[str, Any] = {"model": str(model), "data": str(data), "epochs": 2, "checkpoint_epochs": 1}
    spec: RunSpec = {
        "lora": LoraSpec(rank=2, repeats=1, batch_size=2, samples=False, ema=True, **common),
        "lcm": LcmSpec(rank=2, steps_per_epoch=2, batch_size=4, curve_pictures=0, **common),
        "control": ControlRunSpec(init=None, batch_size=2, held_out=1, samples=False, **common),
    }[kind]
    run = RunDir(tmp_path / "runs" / kind)
    run.path.mkdir(parents=True)
    run.write_spec(spec)
    launch(run, tmp_path)
    assert run.status()["state"] == "done"
    straight, losses = outputs(run), [line["loss"] for line in run.metrics()]
    meta = json.loads((run.checkpoints / "epoch-0002" / "meta.json").read_text())
    assert meta["fingerprint"]["processes"] == 2
    assert not list(run.samples.glob("step-*.png"))  # they are switched off

    shutil.rmtree(run.checkpoints / "epoch-0002")  # as if it had been killed
    shutil.rmtree(run.adapter)
    launch(run, tmp_path)
    assert [note for note in run.status()["notes"] if note.startswith("Resumed from epoch-0001: step ")]
    assert [line["loss"] for line in run.metrics()] == losses
    resumed = outputs(run)
    assert [name for name in straight if resumed[name] != straight[name]] == []
