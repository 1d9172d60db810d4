"""Several one-threaded processes that average their gradients: on CPUs faster than one process with several threads.

`launch` starts a function of this package so, `train_run` a trainer of `studio.training` on its run folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from studio.core.specs import RunSpec
from studio.runs.rundir import TRAINERS, RunDir


def _enter(rank: int, world: int, port: int, job: Callable[..., None], args: Any) -> None:
    torch.set_num_threads(1)
    if world > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        dist.init_process_group("gloo", rank=rank, world_size=world)
    job(rank, world, args)
    if world > 1:
        dist.destroy_process_group()


def launch(job: Callable[..., None], args: Any, world: int, port: int = 29533) -> None:
    """Run `job(rank, world, args)` in `world` processes (in this one when `world` is 1)."""
    if world == 1:
        _enter(0, 1, port, job, args)
    else:
        mp.spawn(_enter, (world, port, job, args), nprocs=world)


def average_gradients(parameters: list[torch.nn.Parameter], world: int) -> None:
    """Mean of the gradients over all processes, in one message; missing gradients count as zero."""
    if world == 1:
        return
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.reshape(-1) for g in grads])
    dist.all_reduce(flat)
    flat /= world
    offset = 0
    for p in parameters:
        p.grad = flat[offset : offset + p.numel()].view_as(p).clone()
        offset += p.numel()


def agree(value: float, world: int) -> float:
    """The first process's value, everywhere: clocks differ, and all must stop at the same step."""
    if world == 1:
        return value
    box = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(box, 0)
    return float(box.item())


def train_run(folder: Path, spec: RunSpec, world: int, port: int) -> int:
    """Begin the run in `folder`, or go on with it, with `world` processes of a trainer of people; its exit code."""
    run = RunDir(folder.resolve())
    run.path.mkdir(parents=True, exist_ok=True)
    run.clear_stop()
    run.write_spec(spec)
    command = [sys.executable, "-u", "-m"]
    if world > 1:
        command += ["torch.distributed.run", "--master-port", f"{port}", "--nproc-per-node", f"{world}", "-m"]
    command += [TRAINERS[spec.kind], str(run.path)]
    threads = {"OMP_NUM_THREADS": "1"} if world > 1 else {}
    return subprocess.run(command, env=os.environ | threads).returncode
