"""A picture made larger."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from studio.core.fields import About
from studio.core.specs import Request
from studio.core.specs.base import Reference


class UpscaleSpec(Request):
    """A picture `scale` times as large on each side. Nothing is drawn anew."""

    kind: Literal["upscale"] = "upscale"
    image: Annotated[
        str,
        Field(title="The picture", description="The picture to enlarge.", min_length=1, max_length=1024),
        About(file="picture"),
    ]
    scale: Annotated[
        float,
        Field(
            title="Times as large",
            description="How many times as large on each side.",
            ge=1,
            le=4,
            allow_inf_nan=False,
        ),
        About(step=0.5),
    ] = 2.0
    upscaler: Annotated[
        Reference,
        Field(
            title="Upscaler",
            description="What enlarges: embedded (the studio's own), lanczos, or a .safetensors file in "
            "models/upscalers.",
        ),
    ] = "embedded"
