"""What a distillation leaves: a few-step LoRA in all formats. The same at a run's end and from its last checkpoint.

Knows weights by name and files, not how they were trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.core.errors import BadInput, StudioError
from studio.core.settings import Settings
from studio.core.specs import LcmSpec
from studio.engine.models.catalogue import ModelInfo, find_lora
from studio.engine.models.components import Components
from studio.runs.rundir import RunDir, write_json
from studio.training.distill import curve, model_folder
from studio.training.distill.student import FullStudent
from studio.training.export import adapter_files

# what each objective's student is drawn with
SAMPLERS: dict[str, str] = {"lcm": "lcm", "tcd": "tcd", "pcm": "ddim", "dmd": "lcm"}


def guidance_range(spec: LcmSpec, info: ModelInfo) -> tuple[float, float]:
    """w_min, w_max in the paper's form (guidance_scale - 1): asked for, else the model's own, else around its guidance.

    Raises BadInput when the range is empty.
    """
    usual = max(0.0, info.guidance - 1)
    w_min = spec.w_min if spec.w_min is not None else info.distill.get("w_min", 0.6 * usual)
    w_max = spec.w_max if spec.w_max is not None else info.distill.get("w_max", 1.4 * usual)
    if w_min > w_max:
        raise BadInput(f"The guidance range is empty: w_min {w_min:g} is above w_max {w_max:g}.")
    return w_min, w_max


def teacher_loras(spec: LcmSpec, hashes: Sequence[str], settings: Settings) -> list[dict[str, Any]]:
    """The LoRAs that were part of the teacher, which a student's LoRA is used beside: title, weight and hash of each.

    `hashes` are those of the files that were merged; where one isn't there any more its file's name is its title.
    """
    named = []
    for ref, digest in zip(spec.loras, hashes, strict=True):
        try:
            title = find_lora(ref.path, settings).title
        except StudioError:
            title = Path(ref.path).stem
        named.append({"title": title, "weight": ref.weight, "hash": digest})
    return named


def write_lora(
    run: RunDir, spec: LcmSpec, info: ModelInfo, unet_config: Mapping[str, Any], weights: Mapping[str, Tensor],
    best: str, loras: Sequence[Mapping[str, Any]],
) -> Path:  # fmt: skip
    """`weights` (by the UNet's names) as a LoRA in all formats in the run's `adapter/`; the path of the kohya file.

    `best` is the name of the checkpoint that they are of, "" where none was measured; `loras`: see `beside`.
    """
    w_min, w_max = guidance_range(spec, info)
    card = adapter_files.Card(
        title=spec.name,
        base=info.public_name,
        hub_id=info.hub_id,
        base_version=adapter_files.base_version(info.title, unet_config),
        kind=f"few-step LoRA ({spec.objective.upper()}, {curve.FAST_STEPS} steps, guidance 1)",
        settings={**spec.model_dump(mode="json"), "w_min": w_min, "w_max": w_max, "best": best},
        license=info.license,
        pictures=[p for count in curve.STEPS if (p := run.samples / f"{best}-{count}.png").exists()],
    )
    named = {f"unet.{name}": tensor for name, tensor in weights.items()}
    adapter = adapter_files.from_parameters(named, spec.rank, float(spec.rank), info.family.lcm_lora_targets)
    path = adapter_files.write(run.adapter, adapter, card)
    # How Generate should draw with it: beside what every LoRA says of itself.
    facts = json.loads((run.adapter / "studio.json").read_text(encoding="utf-8"))
    facts["fast"] = {"steps": curve.FAST_STEPS, "guidance": 1.0, "sampler": SAMPLERS[spec.objective]}
    if loras:
        facts["with"] = list(loras)
    write_json(run.adapter / "studio.json", facts)
    return path


@torch.no_grad()
def write_model(
    run: RunDir, spec: LcmSpec, model: Components, student: FullStudent, weights: Mapping[str, Tensor], sampler: str,
    guidance: float,
) -> Path:  # fmt: skip
    """The whole model with `weights` as its UNet in the run's `adapter/`, to be opened anywhere; its folder.

    The LoRAs that were part of the teacher are inside.
    """
    with student.drawing() as unet:
        for name, parameter in unet.named_parameters():
            parameter.copy_(weights[name])
        return model_folder.write(run.adapter, model, unet, spec.name, sampler, guidance)
