"""A trainer's state on disk: written whole or not at all, found again, the oldest forgotten last.

A checkpoint is a folder under `checkpoints/` with one safetensors file per group of tensors and `meta.json`, which
holds the SHA-256 of each. It is written as `<name>.tmp/`, synced, renamed, and only then are old ones pruned: whatever
moment the process dies at, the last good one is there. Knows tensors and optimisers, not models, losses or schedules.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from studio.core.errors import DiskFull
from studio.runs.rundir import RunDir, epoch_and_step

Tensors = Mapping[str, torch.Tensor]
_SPARE = 2**16  # bytes beyond the tensors, for headers and JSON
_RATES = {"lr", "peak"}  # of an optimiser's group: set from the request and the step, never from a checkpoint


@dataclass(frozen=True)
class Checkpoint:
    """One complete checkpoint, verified when it was found. `groups` maps a group's name to its tensors on the CPU."""

    path: Path
    step: int  # optimiser steps done
    epoch: int  # epochs done
    meta: dict[str, Any]
    groups: dict[str, dict[str, torch.Tensor]]

    @property
    def name(self) -> str:
        return self.path.name


def name_of(epoch: int, step: int, at_epoch_end: bool) -> str:
    """`epoch-0005` at the end of an epoch, `step-00001234` in the middle of one."""
    return f"epoch-{epoch:04d}" if at_epoch_end else f"step-{step:08d}"


def save(
    run: RunDir,
    name: str,
    step: int,
    epoch: int,
    groups: Mapping[str, Tensors],
    meta: Mapping[str, Any],
    keep: int = 10,
) -> Path:
    """Write `groups` and `meta` (JSON) as the checkpoint `name`, then forget all but the newest `keep`.

    Any that lie beyond this moment are forgotten too: the run went back, or its epochs got shorter, and they are of a
    course that it left.

    Raises DiskFull, with nothing half-written left behind and every older checkpoint intact, and FileNotFoundError when
    the run's folder is gone (it isn't made anew: somebody deleted it).
    """
    if not run.path.exists():
        raise FileNotFoundError(errno.ENOENT, "the run's folder is gone", str(run.path))
    run.checkpoints.mkdir(exist_ok=True)
    fresh = run.checkpoints / f"{name}.tmp"
    shutil.rmtree(fresh, ignore_errors=True)  # an earlier process died while writing it
    size = sum(t.numel() * t.element_size() for tensors in groups.values() for t in tensors.values()) + _SPARE
    free = shutil.disk_usage(run.checkpoints).free
    if free < size:
        raise _disk_full(run, size, free)
    try:
        fresh.mkdir()
        digests = {}
        for group, tensors in groups.items():
            file = fresh / f"{group}.safetensors"
            save_file({key: t.detach().cpu().contiguous().clone() for key, t in tensors.items()}, file)
            sync(file)
            digests[file.name] = _sha256(file)
        complete = {**meta, "step": step, "epoch": epoch, "files": digests}
        (fresh / "meta.json").write_text(json.dumps(complete, indent=1), encoding="utf-8")
        sync(fresh / "meta.json")
        sync(fresh)
    except Exception as error:  # safetensors has its own class for a failed write
        shutil.rmtree(fresh, ignore_errors=True)
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise _disk_full(run, size, shutil.disk_usage(run.path).free) from error
        raise
    final = run.checkpoints / name
    if final.exists():  # from before a fall-back to an older one
        old = run.checkpoints / f"{name}.old"
        shutil.rmtree(old, ignore_errors=True)
        os.rename(final, old)
    os.rename(fresh, final)
    sync(run.checkpoints)
    _prune(run, keep, final)
    return final


def _disk_full(run: RunDir, size: int, free: int) -> DiskFull:
    return DiskFull(
        f"The disk is full: a checkpoint needs {size / 1e6:.0f} MB and {run.path.parent} has {free / 1e6:.0f} MB left. "
        "Everything saved before is intact: make room and resume the run."
    )


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, survive a power cut."""
    try:
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows syncs only what it may write
    except PermissionError:
        if path.is_dir():  # Windows opens no folder; NTFS keeps a journal of the names in it
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prune(run: RunDir, keep: int, newest: Path) -> None:
    # Mid-epoch ones are only for resuming, so one beside the newest is enough; epoch ones are also the grid's rows.
    now = epoch_and_step(newest)
    newest_first = [name for name in names(run)[::-1] if epoch_and_step(run.checkpoints / name) <= now]
    epochs = [name for name in newest_first if name.startswith("epoch-")]
    wanted = set(epochs[:keep]) | set(newest_first[:2])
    for path in run.checkpoints.iterdir():
        if path.name not in wanted:
            shutil.rmtree(path, ignore_errors=True)


def names(run: RunDir) -> list[str]:
    """Complete checkpoints by name, oldest first; not verified."""
    return run.checkpoint_names()


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint. Raises ValueError where a file is damaged, missing or not what was written."""
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        groups = {}
        for file_name, digest in meta["files"].items():
            if _sha256(path / file_name) != digest:
                raise ValueError(f"{file_name} was changed after it was written")
            groups[Path(file_name).stem] = load_file(path / file_name)
        return Checkpoint(path, int(meta["step"]), int(meta["epoch"]), meta, groups)
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} can't be read ({error})") from error


def latest_good(run: RunDir) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and one sentence for each newer one that isn't.

    A kill between the two renames of `save` leaves the replaced one under `.old`; it counts.
    """
    notes: list[str] = []
    if not run.checkpoints.exists():
        return None, notes
    folders = [p for p in run.checkpoints.iterdir() if p.suffix != ".tmp" and (p / "meta.json").exists()]
    # One whose moment can't be read may be the newest: it comes first, so that its damage is said.
    folders.sort(key=lambda p: (epoch_and_step(p)[0] < 0, epoch_and_step(p), p.suffix != ".old", p.name), reverse=True)
    for path in folders:
        try:
            return load(path), notes
        except ValueError as error:
            notes.append(f"The checkpoint {path.name} is damaged ({error}); the one before it is used.")
    return None, notes


# --- what a checkpoint holds ---------------------------------------------------------------------------------------


@dataclass
class TrainingState:
    """Everything of a run that goes on: named tensors by group, and optimisers. Restored in place.

    The first group is what is trained; a group `ema` that an older checkpoint lacks begins as that. A name of
    `optimizers` is that of its group of tensors and of its entry in `meta.json`.
    """

    tensors: dict[str, Tensors]
    optimizers: dict[str, Any]  # torch's, bare or prepared by accelerate
    scaler: torch.amp.GradScaler | None = None

    def save(self, run: RunDir, name: str, step: int, epoch: int, meta: Mapping[str, Any], keep: int) -> Path:
        """Write a checkpoint with further `meta`; see `save`."""
        groups = dict(self.tensors)
        described: dict[str, Any] = {"scaler": self.scaler.state_dict() if self.scaler is not None else {}}
        for each, optimizer in self.optimizers.items():
            groups[each], described[each] = optimizer_state(optimizer)
        return save(run, name, step, epoch, groups, {**described, **meta}, keep)

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over what a checkpoint holds."""
        first = next(iter(self.tensors))
        for group, tensors in self.tensors.items():
            saved = checkpoint.groups.get(group) if group == "ema" else checkpoint.groups[group]
            for name, tensor in tensors.items():
                tensor.copy_((saved or checkpoint.groups[first])[name])
        for each, optimizer in self.optimizers.items():
            restore_optimizer(optimizer, checkpoint.groups[each], checkpoint.meta[each])
        if self.scaler is not None:
            restore_scaler(self.scaler, checkpoint.meta["scaler"])


def optimizer_state(optimizer: Any) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Everything an optimiser remembers, for `save`: (`<parameter>.<slot>` tensors, its groups as JSON data).

    Holds for any optimiser whose state is tensors and numbers (AdamW, Prodigy), also where it keeps some of them in
    further dictionaries (bitsandbytes' 8-bit ones): `<parameter>.<slot>/<inner>`.
    """
    state = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, slots in state["state"].items():
        for slot, value in _flat(slots).items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{slot}"] = value
            else:
                numbers[f"{index}.{slot}"] = value
    groups = [{key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]]
    plain = [
        {key: value.item() if isinstance(value, torch.Tensor) else value for key, value in group.items()}
        for group in groups
    ]
    return tensors, [*plain, {"numbers": numbers}]


def _flat(slots: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for slot, value in slots.items():
        flat |= _flat(value, f"{prefix}{slot}/") if isinstance(value, Mapping) else {f"{prefix}{slot}": value}
    return flat


def restore_optimizer(optimizer: Any, tensors: Tensors, groups: list[dict[str, Any]]) -> None:
    """Inverse of `optimizer_state`; the parameters must come in the order in which they were saved.

    Rates stay what `optimizer` was made with: they are the request's, which may have changed since.
    """
    state = optimizer.state_dict()
    restored: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *groups[-1]["numbers"].items()]:
        index, path = key.split(".", 1)
        *outer, slot = path.split("/")
        slots = restored.setdefault(int(index), {})
        for part in outer:
            slots = slots.setdefault(part, {})
        slots[slot] = value
    state["state"] = restored
    for group, saved in zip(state["param_groups"], groups[:-1], strict=True):
        for key, value in saved.items():
            if key in _RATES:
                continue
            # JSON knows no tuples, and Adam's betas are one
            group[key] = tuple(value) if isinstance(group.get(key), tuple) else value
    optimizer.load_state_dict(state)


def by_epoch(run: RunDir) -> tuple[dict[str, dict[str, dict[str, torch.Tensor]]], list[str]]:
    """Groups of tensors of every checkpoint at an epoch's end, by name, and a sentence for each damaged one."""
    groups, damaged = {}, []
    for name in [name for name in names(run) if name.startswith("epoch-")]:
        try:
            groups[name] = load(run.checkpoints / name).groups
        except ValueError as error:
            damaged.append(f"The checkpoint {name} is damaged ({error}); its epoch is left out.")
    return groups, damaged


def restore_scaler(scaler: torch.amp.GradScaler, saved: Mapping[str, Any]) -> None:
    """Take over a loss scale, where the run that saved it had one: in bf16 or fp32 there is none."""
    if saved:
        scaler.load_state_dict(dict(saved))
