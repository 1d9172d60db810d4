"""What decides the bytes of a run's result, kept in each checkpoint, and what of it has changed on resuming, in words.

The same for every kind of run. Knows requests and sentences, no tensors.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from pydantic import ValidationError

from studio.core.errors import BadInput
from studio.core.specs import RUN_KINDS, RunSpec

_LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "pillow", "safetensors")
# Fields that only say when to save, what to show or where things lie: changing them changes no byte of the result.
_HARMLESS = {
    "kind", "name", "data", "model", "checkpoint_epochs", "checkpoint_minutes", "keep_checkpoints",
    "time_limit_minutes", "sample_prompts", "samples", "license", "loras", "init",
}  # fmt: skip


def resume_fingerprint(
    spec: RunSpec, model: str, data: str, per_epoch: int, device: torch.device, precision: str, processes: int,
    loras: Sequence[Any] = (),
) -> dict[str, Any]:  # fmt: skip
    """Everything that decides the bytes of a result, as JSON.

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


def diff(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One sentence per difference. Raises BadInput for one with which the checkpoint can't be used at all.

    `before` is empty for checkpoints of ControlNets from before they had a fingerprint: nothing is said then.
    """
    if not before:
        return []
    old, new = _spec_of(before), now["spec"]
    if before["model"] != now["model"]:
        raise BadInput("The base model is another one than the run was started with: start a new run.")
    if before.get("loras", []) != now["loras"]:
        raise BadInput("The LoRAs of the teacher, or their weights, are others than at the start: start a new run.")
    for field in ("rank", "optimizer", "form", "objective"):  # not every kind of run has each
        if old.get(field) != new.get(field):
            raise BadInput(f"The run was started with {field} {old[field]}, not {new[field]}: start a new run.")
    if bool(old.get("text_encoder_lr")) != bool(new.get("text_encoder_lr")):
        raise BadInput("The text encoder can't be added to a run or left out of it later: start a new run.")
    changed = [
        f"Changed since the checkpoint: {field} was {old[field]}, is {new[field]}."
        for field in new
        if field not in _HARMLESS and old[field] != new[field]
    ]
    if before["data"] != now["data"]:
        changed.append("The data set has changed since the checkpoint; the run goes on with the new one.")
    if before["per_epoch"] != now["per_epoch"]:
        changed.append(
            f"An epoch has {now['per_epoch']} steps now, and had {before['per_epoch']}: this one starts again."
        )
    for name, number in now["versions"].items():
        if before["versions"].get(name, number) != number:  # not every version of the studio kept each
            changed.append(
                f"{name} was {before['versions'][name]} and is {number}: the result may differ in the last bits."
            )
    for field in ("threads", "device", "precision", "processes"):
        was = before.get(field, now[field])
        if was != now[field]:
            changed.append(f"{field.capitalize()}: {was} before, {now[field]} now; the last bits may differ.")
    return changed


def _spec_of(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """The request in it, in today's names; what an older version's didn't have was as its default is."""
    try:
        return RUN_KINDS[fingerprint["spec"]["kind"]].spec.model_validate(fingerprint["spec"]).model_dump(mode="json")
    except (ValidationError, KeyError) as error:
        raise BadInput(
            "The last checkpoint was made by another version of the studio, whose request can't be read: start a new "
            "run, or resume it with that version."
        ) from error
