"""A part of a picture drawn anew."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from studio.core.fields import About
from studio.core.specs import GenerateSpec, MaskSpec, Request


class InpaintSpec(Request):
    """What a mask covers in a picture, drawn anew as `base` says; every other pixel stays.

    `base.text` are the words for what is new there. Where the picture's own words are known they go on describing the
    rest, but for what the new ones contradict; `base.prompt` is a whole prompt instead.
    """

    kind: Literal["inpaint"] = "inpaint"
    base: GenerateSpec = GenerateSpec()
    image: Annotated[
        str,
        Field(title="The picture", description="The picture to change.", min_length=1, max_length=1024),
        About(file="picture"),
    ]
    mask: Annotated[MaskSpec, Field(title="What is drawn anew")]
    strength: Annotated[
        float,
        Field(
            title="How much may change",
            description="1 draws what is masked from nothing; below, its colours and shapes shine through.",
            gt=0,
            le=1,
        ),
        About(step=0.05),
    ] = 1.0
