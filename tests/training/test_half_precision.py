"""Frozen networks in half precision, trained weights in full, under autocast: on the CPU, and on a card where one is.

Every trainer makes some steps, draws, saves, and goes on from there; every loss is a number, and every weight that is
to learn has a gradient.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from support.distillations import judged_teacher, run_of
from support.training_sets import write_run, write_set

from studio.core.settings import settings
from studio.core.specs import ControlRunSpec, LoraSpec
from studio.runs.rundir import RunDir
from studio.training.controlnet import train as control
from studio.training.distill import curve
from studio.training.distill import train as lcm
from studio.training.lora import train as lora

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judged_teacher(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(params=["bf16", pytest.param("fp16", marks=pytest.mark.gpu)])
def precision(request: pytest.FixtureRequest) -> str:
    """bf16 on the CPU; fp16, with its loss scaling, on a card."""
    if request.param == "fp16" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return str(request.param)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> Iterator[Path]:
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path))
    monkeypatch.setenv("STUDIO_DEVICE", "cpu" if precision == "bf16" else "cuda")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(curve, "STEPS", (1, 4))
    settings.cache_clear()
    AcceleratorState._reset_state(True)  # one precision for each process, accelerate thinks
    yield tmp_path
    AcceleratorState._reset_state(True)
    settings.cache_clear()


def resumed(run: RunDir, trainer: Any) -> None:
    """Train; then forget the end of the run, as a kill does, and go on."""
    trainer.main(run.path)
    assert run.status()["state"] == "done", run.status()
    straight = [line["loss"] for line in run.metrics()]
    names = run.checkpoint_names()
    shutil.rmtree(run.checkpoints / names[-1])
    shutil.rmtree(run.adapter)
    trainer.main(run.path)
    assert run.status()["state"] == "done"
    losses = torch.tensor([line["loss"] for line in run.metrics()])
    assert losses.isfinite().all()
    exact = getattr(run.spec(), "precision", "") == "bf16"  # on the CPU
    assert losses.tolist() == (straight if exact else pytest.approx(straight, rel=1e-2))
    assert run.checkpoint_names() == names
    assert run.status()["adapter"]
    assert list(run.samples.glob("*.png"))


def every_weight_learnt(run: RunDir, group: str, optimizer: str = "optimizer") -> None:
    """Adam has met a gradient of each: its second moment is above zero, and the weights are in full precision."""
    last = run.checkpoints / run.checkpoint_names()[-1]
    weights = load_file(last / f"{group}.safetensors")
    moments = load_file(last / f"{optimizer}.safetensors")
    squares = [tensor for name, tensor in moments.items() if name.endswith("exp_avg_sq")]
    assert len(squares) == len(weights)
    assert min(float(tensor.max()) for tensor in squares) > 0
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_lora(home: Path, model: Path, precision: str) -> None:
    data = write_set(home / "data", 4)
    spec = LoraSpec(
        data=str(data), model=str(model), rank=2, repeats=1, batch_size=2, epochs=2, checkpoint_epochs=1,
        text_encoder_lr=1e-4, precision=precision, ema=True, sample_prompts=("1girl",),
    )  # fmt: skip
    run = write_run(home, "lora", spec)
    resumed(run, lora)
    every_weight_learnt(run, "lora")


@pytest.mark.parametrize(
    ("form", "objective"),
    [
        ("lora", "lcm"), ("lora", "dmd"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("lora", "tcd"), ("lora", "pcm"), ("full", "lcm"))),
    ],
)  # fmt: skip
def test_distillation(home: Path, model: Path, form: str, objective: str, precision: str) -> None:
    asked = {"form": form, "objective": objective, "precision": precision, "steps_per_epoch": 2, "latents": 8}
    shares = {"exact_target_share": 0.25, "dmd_share": 0.5}
    run = run_of(home / "runs" / "lcm", model=str(model), **asked, **shares)
    resumed(run, lcm)
    every_weight_learnt(run, "unet" if form == "full" else "lora")
    if objective == "dmd":
        every_weight_learnt(run, "critic", "critic_optimizer")


def test_controlnet(home: Path, model: Path, precision: str) -> None:
    data = write_set(home / "data", 6)
    run = RunDir(home / "runs" / "control")
    run.path.mkdir(parents=True)
    run.write_spec(
        ControlRunSpec(
            data=str(data),
            model=str(model),
            init=None,
            precision=precision,
            epochs=2,
            steps_per_epoch=2,
            batch_size=2,
            held_out=1,
            control_dropout=0.0,
        )
    )  # fmt: skip
    resumed(run, control)
    every_weight_learnt(run, "controlnet")
    assert run.status()["held_out"] > 0
