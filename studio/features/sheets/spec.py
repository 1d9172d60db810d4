"""Many pictures of one request: sheets, X/Y grids, lists of prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, cast

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from studio.core.fields import About, SpecField, describe, fields
from studio.core.specs import EMOTIONS, BatchRow, Emotion, GenerateSpec, LoraRef, Request, Spec, Style

# What a grid may have on an axis, and the field that its values are for: every field with values to begin with, the
# weight of the LoRAs, and the file of the first of them.
AXES: Mapping[str, SpecField] = {
    **{name: field for name, field in fields(GenerateSpec).items() if field.about.axis},
    "lora_weight": describe(LoraRef, "weight"),
    "lora": describe(LoraRef, "path"),
}


def _axis(name: str) -> str:
    if name not in AXES:
        *first, last = map(repr, AXES)
        raise PydanticCustomError("axis", "{said}", {"said": f"Input should be {', '.join(first)} or {last}"})
    return name


AxisName = Annotated[str, AfterValidator(_axis), WithJsonSchema({"type": "string", "enum": list(AXES)})]


class SheetSpec(Request):
    """One character, every emotion (x every style): a labelled sheet and its tiles."""

    kind: Literal["sheet"] = "sheet"
    base: GenerateSpec = GenerateSpec()
    emotions: Annotated[tuple[Emotion, ...], Field(title="Emotions", min_length=1, max_length=5)] = EMOTIONS
    styles: Annotated[
        tuple[Style, ...],
        Field(title="Styles", description="A row for each; none: the picture's own style only.", max_length=4),
    ] = ()


class Axis(Spec):
    """One axis of an X/Y grid: a parameter and its values, as text so that one type holds all."""

    name: AxisName
    values: tuple[str, ...] = Field(min_length=1, max_length=16)

    def value(self, text: str) -> object:
        """What one of the values means: "1" and "1.0" are the same guidance. Raises ValueError for what can't be."""
        spec = LoraRef if self.name in ("lora", "lora_weight") else GenerateSpec
        field = AXES[self.name].name
        needed = {"path": "-"} if self.name == "lora_weight" else {}
        return cast(object, getattr(spec.model_validate(needed | {field: text.strip()}), field))


class GridSpec(Request):
    """An X/Y grid over any two parameters."""

    kind: Literal["grid"] = "grid"
    base: GenerateSpec = GenerateSpec()
    x: Annotated[Axis, Field(title="Across")]
    y: Annotated[Axis | None, Field(title="Down"), About(blank="one row")] = None

    @model_validator(mode="after")
    def _two_axes(self) -> GridSpec:
        if self.y is not None and self.x.name == self.y.name:
            raise ValueError("the two axes of a grid must differ")
        return self


class BatchSpec(Request):
    """Many prompts as one job; finished rows are found again, so a batch can be resumed."""

    kind: Literal["batch"] = "batch"
    base: GenerateSpec = GenerateSpec()
    rows: tuple[BatchRow, ...] = Field(min_length=1, max_length=1000)
