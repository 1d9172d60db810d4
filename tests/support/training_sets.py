"""Small data sets and runs for the tests of training."""

from __future__ import annotations

import itertools
import multiprocessing
import multiprocessing.process
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from studio.core.specs import LoraSpec
from studio.runs.rundir import RunDir


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


# --- trainers as processes that can be killed ---
# One server imports the libraries once and forks each trainer, so that a kill costs a tenth of a second and not ten.

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["studio.training.lora.train"])


def _train(path: Path, environment: dict[str, str], die_at: tuple[str, int] | None, patch: str | None) -> None:
    os.environ.update(environment)
    import torch

    from studio.core.settings import settings
    from studio.training.lora import train as lora

    settings.cache_clear()
    torch.set_num_threads(1)
    log = os.open(path / "log.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if die_at is not None:
        _die_in(*die_at)
    if patch == "nan":
        _nan_at_call(8)
    if patch == "infinite":
        _infinite_at_step(4)
    if patch == "audit":
        _audit(path / "held.txt")
    if patch == "memory":
        _memory_for(1)
    lora.main(path)


def _nan_at_call(call: int) -> None:
    """The loss of the `call`-th forward pass is NaN, as after a bad gradient."""
    import torch

    from studio.engine.diffusion import parameterization

    real, calls = parameterization.from_x0_and_epsilon, itertools.count(1)

    def poisoned(*args: Any) -> torch.Tensor:
        return real(*args) * (float("nan") if next(calls) == call else 1.0)

    parameterization.from_x0_and_epsilon = poisoned


def _infinite_at_step(step: int) -> None:
    """One number of the gradient is infinite at `step`, while the loss is finite."""
    import torch

    real, calls = torch.nn.utils.clip_grad_norm_, itertools.count(1)

    def poisoned(parameters: Any, max_norm: float) -> Any:
        if next(calls) == step:
            parameters[0].grad.flatten()[0] = float("inf")
        return real(parameters, max_norm)

    torch.nn.utils.clip_grad_norm_ = poisoned


def _audit(report: Path) -> None:
    """Write which networks are in memory when the first loss is computed."""
    import gc

    import torch

    from studio.engine.diffusion import parameterization

    real = parameterization.from_x0_and_epsilon

    def seen(*args: Any) -> torch.Tensor:
        gc.collect()
        names = {type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, torch.nn.Module)}
        kept = names & {"UNet2DConditionModel", "AutoencoderKL", "Encoder", "Decoder", "CLIPTextModel", "CLIPEncoder"}
        report.write_text(" ".join(sorted(kept)))
        return real(*args)

    parameterization.from_x0_and_epsilon = seen


def _memory_for(pictures: int) -> None:
    """A device on which a UNet can train on no more than `pictures` at a time."""
    import torch
    from diffusers import UNet2DConditionModel

    real = UNet2DConditionModel.forward

    def limited(self: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() and len(sample) > pictures:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return real(self, sample, *args, **kwargs)

    UNet2DConditionModel.forward = limited  # type: ignore[method-assign]


def _die_in(function: str, call: int) -> None:
    """SIGKILL this process in place of the `call`-th call of `os.<function>`."""
    real, calls = getattr(os, function), itertools.count(1)

    def dying(*args: object, **kwargs: object) -> object:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(os, function, dying)


def trainer(
    run: RunDir, die_at: tuple[str, int] | None = None, patch: str | None = None, **environment: str
) -> multiprocessing.process.BaseProcess:
    """Start `studio.training.lora.train` on `run` in a process of its own. Its settings: CPU, home two levels up."""
    base = {"STUDIO_HOME": str(run.path.parent.parent), "STUDIO_DEVICE": "cpu", "ACCELERATE_USE_CPU": "1"}
    process = _processes.Process(target=_train, args=(run.path, base | environment, die_at, patch))
    process.start()
    return process


def finish(process: multiprocessing.process.BaseProcess, timeout: float = 120) -> int | None:
    """Wait for a trainer; its exit code."""
    process.join(timeout)
    assert process.exitcode is not None, "the trainer hangs"
    return process.exitcode


def train(
    run: RunDir, die_at: tuple[str, int] | None = None, patch: str | None = None, **environment: str
) -> int | None:
    """Run a trainer to its end; its exit code."""
    return finish(trainer(run, die_at, patch, **environment))


def kill_at_step(run: RunDir, step: int) -> None:
    """Start a trainer and SIGKILL it as soon as it has said that `step` is done."""
    process = trainer(run)
    while process.is_alive() and len(run.metrics()) < step:
        time.sleep(0.002)
    assert process.is_alive(), f"over before step {step}: {run.tail()}"
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    finish(process)


def outputs(run: RunDir) -> dict[str, bytes]:
    """Every weight file that a run leaves: exports and the last checkpoint, with its optimiser."""
    last = sorted(run.checkpoints.glob("epoch-*"))[-1]
    found = [*run.adapter.rglob("*.safetensors"), *last.glob("*.safetensors")]
    return {str(path.relative_to(run.path)): path.read_bytes() for path in found}
