"""Pictures that steer a drawing: lines to follow, and a mask that says where a picture is drawn anew."""

from __future__ import annotations

from typing import Annotated

from pydantic import AliasChoices, Field, model_validator

from studio.core.fields import About
from studio.core.specs.base import ControlKind, ControlMode, MaskArea, Reference, Spec


class ControlSpec(Spec):
    """A drawing that steers the picture (ControlNet, 2302.05543)."""

    image: Annotated[
        str,
        Field(
            title="Drawing",
            description="The drawing, or a picture to take the lines of.",
            min_length=1,
            max_length=1024,
        ),
        About(file="picture"),
    ]  # content id in the store, or a file on the command line
    kind: Annotated[
        ControlKind,
        Field(
            title="Lines",
            description="lines follows every stroke as one line, whatever its width: right for drawings. canny takes "
            "the edges: right for photos and finished pictures.",
        ),
        About(names={"lines": "As drawn", "canny": "Edges"}, option="--control"),
    ] = "lines"
    low: Annotated[
        int | None,
        Field(title="Lower threshold", description="Lower Canny threshold.", ge=0, le=255),
        About(blank="automatic", step=5),
    ] = None
    high: Annotated[
        int | None,
        Field(title="Upper threshold", description="Upper Canny threshold.", ge=0, le=255),
        About(blank="automatic", step=5),
    ] = None
    weight: Annotated[
        float,
        Field(
            title="Control weight",
            description="1 follows the lines, 0.5 takes them as a hint. With the 4-step fast path 0.8 is often enough.",
            ge=0,
            le=2,
            allow_inf_nan=False,
        ),
        About(step=0.05),
    ] = 1.0
    start: Annotated[
        float,
        Field(title="From", description="The share of the steps at which it sets in.", ge=0, le=1),
        About(step=0.05),
    ] = 0.0
    end: Annotated[
        float,
        Field(
            title="To",
            description="The share of the steps at which it stops. Ending early leaves details to the model.",
            ge=0,
            le=1,
        ),
        About(step=0.05),
    ] = 1.0
    control_mode: Annotated[
        ControlMode,
        Field(
            title="Where they disagree",
            description="What matters more where drawing and words disagree.",
            validation_alias=AliasChoices("control_mode", "favour"),
        ),
        About(
            names={"both": "Both count", "sketch": "The sketch matters more", "prompt": "The prompt matters more"},
            option=("--control-mode", "--favour"),
            key_name="favour",
        ),
    ] = "both"
    model: Annotated[
        Reference | None,
        Field(
            title="ControlNet",
            description="What reads the drawing: a Hugging Face id, a folder in diffusers format, or a .safetensors "
            "file that fits the model. For Stable Diffusion 1.5 for instance lllyasviel/control_v11p_sd15_canny, "
            "lllyasviel/control_v11p_sd15_scribble or lllyasviel/control_v11p_sd15s2_lineart_anime, for SDXL "
            "xinsir/controlnet-union-sdxl-1.0 or xinsir/controlnet-canny-sdxl-1.0.",
        ),
        About(blank="the model's own", option="--controlnet"),
    ] = None  # None: the family's own for this kind

    always_in_key = frozenset(("image", "kind", "low", "high", "weight", "start", "end", "control_mode", "model"))

    @model_validator(mode="after")
    def _order(self) -> ControlSpec:
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("the low Canny threshold must be below the high one")
        if self.start >= self.end:
            raise ValueError("control must end after it starts")
        return self


class MaskSpec(Spec):
    """Where a picture is drawn anew, and how what is new meets what stays.

    What lies outside of the mask, after it has grown, stays as it is in every bit.
    """

    image: Annotated[
        str,
        Field(
            title="Mask",
            description="A picture of the same size: white is drawn anew, black stays, grey changes less.",
            min_length=1,
            max_length=1024,
        ),
        About(file="picture", option="--mask"),
    ]
    area: Annotated[
        MaskArea,
        Field(
            title="What the model sees",
            description="The whole picture, or the masked part of it alone, enlarged to the size that the model draws "
            "best: more detail, and the way for pictures that are too large for the model.",
        ),
        About(
            names={"auto": "As it fits the model", "whole": "The whole picture", "masked": "Only the masked area"},
        ),
    ] = "auto"
    padding: Annotated[
        int,
        Field(
            title="Padding",
            description="What the model sees around the masked area, when it sees only that.",
            ge=0,
            le=512,
        ),
        About(unit="px", step=8),
    ] = 32
    grow: Annotated[
        int,
        Field(title="Grow", description="Make the mask larger on all sides; below 0 smaller.", ge=-128, le=128),
        About(unit="px"),
    ] = 0
    feather: Annotated[
        int | None,
        Field(
            title="Feather",
            description="How far inside its edge what is new passes into what stays.",
            ge=0,
            le=128,
        ),
        About(unit="px", blank="2 for each 256 of the picture's shorter side"),
    ] = None

    always_in_key = frozenset(("image", "area", "padding", "grow", "feather"))
