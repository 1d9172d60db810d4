"""What a resumed run finds changed since its checkpoint, in words. Knows facts and sentences, no tensors."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch

from studio.errors import BadInput
from studio.specs import LoraSpec

_LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate")
# Fields that only say when to save, what to show or where things lie: changing them changes no byte of the result.
_HARMLESS = {
    "kind", "name", "data", "model", "checkpoint_epochs", "checkpoint_minutes", "keep_checkpoints",
    "time_limit_minutes", "sample_prompts", "license",
}  # fmt: skip


def facts_of(spec: LoraSpec, model: str, data: str, per_epoch: int, processes: int) -> dict[str, Any]:
    """Everything that decides the bytes of a result, as JSON; kept in each checkpoint.

    `model` and `data` are fingerprints of what is in the files; `per_epoch` counts optimiser steps.
    """
    return {
        "spec": spec.model_dump(mode="json"),
        "model": model,
        "data": data,
        "per_epoch": per_epoch,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "versions": {name: version(name) for name in _LIBRARIES},
    }


def what_changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One sentence per difference. Raises BadInput for one with which the checkpoint can't be used at all."""
    old, new = before["spec"], now["spec"]
    if before["model"] != now["model"]:
        raise BadInput("The base model is another one than the run was started with: start a new run.")
    for field in ("rank", "optimizer"):
        if old[field] != new[field]:
            raise BadInput(f"The run was started with {field} {old[field]}, not {new[field]}: start a new run.")
    if bool(old["text_encoder_rate"]) != bool(new["text_encoder_rate"]):
        raise BadInput("The text encoder can't be added to a run or left out of it later: start a new run.")
    found = [
        f"Changed since the checkpoint: {field} was {old[field]}, is {new[field]}."
        for field in new
        if field not in _HARMLESS and old.get(field) != new[field]
    ]
    if before["data"] != now["data"]:
        found.append("The data set has changed since the checkpoint; the run goes on with the new one.")
    if before["per_epoch"] != now["per_epoch"]:
        found.append(
            f"An epoch has {now['per_epoch']} steps now, and had {before['per_epoch']}: this one starts again."
        )
    for name, number in now["versions"].items():
        if before["versions"].get(name) != number:
            found.append(
                f"{name} was {before['versions'].get(name)} and is {number}: the result may differ in the last bits."
            )
    for field, word in (("threads", "threads"), ("device", "device"), ("processes", "processes")):
        if before[field] != now[field]:
            found.append(f"{word.capitalize()}: {before[field]} before, {now[field]} now; the last bits may differ.")
    return found
