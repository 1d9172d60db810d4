"""Training state as safetensors plus JSON, replaced atomically. Knows tensors and optimisers, nothing else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def save_state(folder: Path, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
    """Write `folder/state.safetensors` and `folder/meta.json` so that a reader sees the old pair or the new one."""
    fresh = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file({name: t.detach().contiguous().clone() for name, t in tensors.items()}, fresh / "state.safetensors")
    (fresh / "meta.json").write_text(json.dumps(meta))
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """The last complete pair, or None. A crash between the two renames leaves it under `.old`."""
    for candidate in (folder, folder.with_name(folder.name + ".old")):
        if (candidate / "meta.json").exists():
            return load_file(candidate / "state.safetensors"), json.loads(
                (candidate / "meta.json").read_text(encoding="utf-8")
            )
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Adam's moments and step counts, one entry per parameter and slot: `optimizer.<index>.<slot>`."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{slot}": torch.as_tensor(value)
        for index, slots in state.items()
        for slot, value in slots.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Inverse of `optimizer_tensors`; parameters must be in the same order as when they were saved."""
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, slot = name.split(".")
            slots.setdefault(int(index), {})[slot] = value
    state = optimizer.state_dict()
    state["state"] = slots
    optimizer.load_state_dict(state)
