"""Which pictures a sheet, a grid and a batch mean."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from studio.core.errors import BadInput, explain
from studio.core.specs import EMOTIONS, MAX_SEED, STYLES, GenerateSpec
from studio.features.characters import one_character
from studio.features.feature import Planned, Planning
from studio.features.sheets.spec import Axis, BatchSpec, GridSpec, SheetSpec
from studio.jobs.job import Wording


def plan_sheet(spec: SheetSpec, planning: Planning) -> Planned:
    """One picture for each emotion, style by style."""
    request = planning.seeded(spec.base).model_copy(update={"count": 1})
    base = one_character(request, planning)
    requests = [
        planning.wording.prompted(base, emotion, style)
        for style in spec.styles or (base.style,)
        for emotion in spec.emotions
    ]
    return Planned(spec.model_copy(update={"base": request}), requests, alike=requests)


def plan_grid(spec: GridSpec, planning: Planning) -> Planned:
    """One picture for each pair of values, row by row."""
    base = request = planning.seeded(spec.base).model_copy(update={"count": 1})
    if {"emotion", "style"} & {axis.name for axis in (spec.x, spec.y) if axis is not None}:
        base = one_character(base, planning)
    requests = []
    for y in spec.y.values if spec.y else (None,):
        for x in spec.x.values:
            cell = _set(base, spec.x, x, planning.wording)
            requests.append(_set(cell, spec.y, y, planning.wording) if spec.y and y is not None else cell)
    return Planned(spec.model_copy(update={"base": request}), requests, alike=requests)


def plan_batch(spec: BatchSpec, planning: Planning) -> Planned:
    """`count` pictures for each row."""
    base = planning.seeded(spec.base)
    requests = [_row(base, spec, number) for number in range(len(spec.rows))]
    return Planned(spec.model_copy(update={"base": base}), requests, title=f"{len(spec.rows)} prompts")


def _row(base: GenerateSpec, spec: BatchSpec, number: int) -> GenerateSpec:
    row = spec.rows[number]
    assert base.seed is not None
    seed = row.seed if row.seed is not None else (base.seed + number * base.count) % (MAX_SEED + 1)
    own = row.model_dump(exclude={"prompt", "emotion"}, exclude_none=True) | {"seed": seed}
    if row.emotion is None:
        return base.model_copy(update=own | {"prompt": row.prompt})
    return base.model_copy(update=own | {"prompt": None, "text": row.prompt, "emotion": row.emotion})


def _set(base: GenerateSpec, axis: Axis, value: str, wording: Wording) -> GenerateSpec:
    """The request with one value of a grid's axis. Raises `BadInput` that names the axis and the value."""
    value = value.strip()
    if axis.name == "emotion" and value in EMOTIONS:
        return wording.prompted(base, value, base.style)
    if axis.name == "style" and value in STYLES:
        return wording.prompted(base, base.emotion, value)
    if axis.name == "lora_weight":
        if not base.loras:
            raise BadInput("A grid over the LoRA's weight needs a LoRA; choose one first.")
        change: dict[str, Any] = {"loras": [{"path": ref.path, "weight": value} for ref in base.loras]}
    elif axis.name == "lora":
        weight = {"weight": base.loras[0].weight} if base.loras else {}  # else the weight that each has of its own
        change = {"loras": [{"path": value} | weight, *base.loras[1:]]}
    else:
        change = {axis.name: value}
    try:
        return GenerateSpec.model_validate(base.model_dump() | change)
    except ValidationError as error:
        raise BadInput(f"{axis.name} can't be {value[:40]!r} in a grid: {explain(error)}") from error
