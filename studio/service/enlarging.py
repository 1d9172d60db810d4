"""Pictures larger than their model draws: the size that is drawn, the second pass, and what is said about it."""

from __future__ import annotations

from typing import Any

from studio.core.specs import GenerateSpec
from studio.core.specs.picture import HIRES_STRENGTH
from studio.engine.models.catalogue import ModelInfo
from studio.engine.models.upscalers import UpscalerInfo
from studio.service import sizes
from studio.service.wording import once

ENLARGED = (
    "{width} x {height} pixels are more than {title} draws well: drawn in {small} and enlarged "
    "{times:.3g} times{result}."
)
SECOND_PASS = (
    "The second pass draws {width} x {height} pixels, and {title} was made for {native} x {native}: figures may stand "
    "twice in it, or melt. Enlarge without a second pass to be sure."
)
TOO_LARGE = (
    "{width} x {height} pixels are more than this model was made for ({native} x {native}): things stand twice in such "
    "pictures, or melt."
)
# What a recipe says where nothing is enlarged.
NOT_LARGER: dict[str, Any] = {"upscaler": "embedded", "hires_steps": None, "hires_strength": None}


def drawn_size(spec: GenerateSpec, size: tuple[int, int], info: ModelInfo, notes: list[str]) -> tuple[int, int, float]:
    """Width and height that are drawn for a picture of `size`, and how many times the upscaler enlarges that.

    They are `size` and the request's factor, but for a size that the model can't draw: that is drawn smaller, and a
    note says so. Where the request enlarges by itself its size is that of the drawing, whatever the model is for.
    """
    width, height = size
    second = (round(width * spec.hires), round(height * spec.hires))
    if spec.hires > 1 and not sizes.fits(*second, info.native_size):
        facts = {"width": second[0], "height": second[1], "title": info.title, "native": info.native_size}
        once(notes, SECOND_PASS.format(**facts))
    if sizes.fits(width, height, info.native_size):
        return width, height, spec.upscale
    able = spec.times == 1 and spec.mask is None
    smaller = sizes.enlarged(width, height, info.native_size) if able else None
    if smaller is None:
        once(notes, TOO_LARGE.format(width=width, height=height, native=info.native_size))
        return width, height, spec.upscale
    made = (round(smaller[0] * smaller[2]), round(smaller[1] * smaller[2]))
    result = "" if made == size else f", which gives {made[0]} x {made[1]}"
    once(
        notes,
        ENLARGED.format(
            width=width, height=height, title=info.title, small=f"{smaller[0]} x {smaller[1]}", times=smaller[2],
            result=result,
        ),
    )  # fmt: skip
    return smaller


def larger(spec: GenerateSpec, upscaler: UpscalerInfo, steps: int) -> dict[str, Any]:
    """What a recipe says of the upscaler and of the second pass, which has `steps` where nothing else is said."""
    changes: dict[str, Any] = NOT_LARGER | {"upscaler": upscaler.reference, "upscaler_hash": upscaler.hash}
    if spec.hires > 1:
        strength = HIRES_STRENGTH if spec.hires_strength is None else spec.hires_strength
        changes |= {"hires_steps": steps, "hires_strength": strength}
    return changes
