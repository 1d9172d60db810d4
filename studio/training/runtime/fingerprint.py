"""What a resumed run finds changed since its checkpoint, in words. Knows facts and sentences, no tensors."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch

from studio.core.errors import BadInput
from studio.core.specs import LcmSpec, LoraSpec, bounds

_LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "pillow", "safetensors")
# Fields that only say when to save, what to show or where things lie: changing them changes no byte of the result.
_HARMLESS = {
    "kind", "name", "data", "model", "checkpoint_epochs", "checkpoint_minutes", "keep_checkpoints",
    "time_limit_minutes", "sample_prompts", "license", "loras",
}  # fmt: skip


def facts_of(
    spec: LoraSpec | LcmSpec, model: str, data: str, per_epoch: int, device: torch.device, precision: str,
    processes: int, loras: Sequence[Any] = (),
) -> dict[str, Any]:  # fmt: skip
    """Everything that decides the bytes of a result, as JSON; kept in each checkpoint.

    `model` and `data` are fingerprints of what is in the files, `loras` those and the weights of what is added to the
    model first; `per_epoch` counts optimiser steps; `precision` is what was chosen.
    """
    return {
        "spec": spec.model_dump(mode="json"),
        "model": model,
        "loras": list(loras),
        "data": data,
        "per_epoch": per_epoch,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "precision": precision,
        "versions": {name: version(name) for name in _LIBRARIES},
    }


def what_changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One sentence per difference. Raises BadInput for one with which the checkpoint can't be used at all."""
    # What the request of an older version didn't have was as its default is: a new option changes nothing by itself.
    kind = LcmSpec if now["spec"]["kind"] == "lcm" else LoraSpec
    absent = {name: bounds(kind, name)["default"] for name in now["spec"] if name not in before["spec"]}
    old, new = absent | before["spec"], now["spec"]
    if before["model"] != now["model"]:
        raise BadInput("The base model is another one than the run was started with: start a new run.")
    if before.get("loras", []) != now.get("loras", []):
        raise BadInput("The LoRAs of the teacher, or their weights, are others than at the start: start a new run.")
    for field in ("rank", "optimizer", "form", "objective"):  # not every kind of run has each
        if old.get(field) != new.get(field):
            raise BadInput(f"The run was started with {field} {old[field]}, not {new[field]}: start a new run.")
    if bool(old.get("text_encoder_lr")) != bool(new.get("text_encoder_lr")):
        raise BadInput("The text encoder can't be added to a run or left out of it later: start a new run.")
    found = [
        f"Changed since the checkpoint: {field} was {old[field]}, is {new[field]}."
        for field in new
        if field not in _HARMLESS and old[field] != new[field]
    ]
    if before["data"] != now["data"]:
        found.append("The data set has changed since the checkpoint; the run goes on with the new one.")
    if before["per_epoch"] != now["per_epoch"]:
        found.append(
            f"An epoch has {now['per_epoch']} steps now, and had {before['per_epoch']}: this one starts again."
        )
    for name, number in now["versions"].items():
        if before["versions"].get(name, number) != number:  # not every version of the studio kept each
            found.append(
                f"{name} was {before['versions'][name]} and is {number}: the result may differ in the last bits."
            )
    for field in ("threads", "device", "precision", "processes"):
        was = before.get(field, now[field])
        if was != now[field]:
            found.append(f"{field.capitalize()}: {was} before, {now[field]} now; the last bits may differ.")
    return found
