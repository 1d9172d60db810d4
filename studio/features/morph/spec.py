"""From one emotion to another with the same character."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasChoices, Field, model_validator

from studio.core.fields import About, listed
from studio.core.specs import Emotion, GenerateSpec, MorphMethod, Request
from studio.features.motion import EasingField, Format, FramesASecond, PingPong

METHODS = {"prompt": "Redraw", "direction": "Direction", "picture": "Keep my picture", "latent": "Cross-fade"}


class MorphSpec(Request):
    """From one emotion to another with the same character."""

    kind: Literal["morph"] = "morph"
    base: GenerateSpec = GenerateSpec()
    emotions: Annotated[
        tuple[Emotion, ...],
        Field(
            title="Emotions, in order",
            description="Two or more, in order, as often as you like: happy,sad,happy.",
            min_length=2,
            max_length=8,
        ),
        About(parse=listed),
    ] = ("happy", "sad")
    frames: Annotated[int, Field(title="Frames", ge=3, le=33)] = 5
    method: Annotated[
        MorphMethod | None,
        Field(title="Method", description=f"On the page: {', '.join(f'{k} ({name})' for k, name in METHODS.items())}."),
        About(names=METHODS, blank="picture where one is given, else prompt"),
    ] = None
    image: Annotated[
        str | None, Field(title="The character", description="Start from this picture."), About(file="picture")
    ] = None  # content id or file; needed by method "picture"
    attention: Annotated[
        bool,
        Field(
            title="Mix attention too",
            description="Redraw only: frames in between look at both ends while they are drawn. Smoother, and takes "
            "twice the time.",
        ),
        About(advanced=True),
    ] = False  # AID, fused outer
    amount: Annotated[
        float,
        Field(
            title="How far",
            description="1 is the last emotion as asked for; above 1 goes beyond it.",
            gt=0,
            le=2,
        ),
        About(step=0.05, advanced=True),
    ] = 1.0  # the slider of method "direction"
    shared_steps: Annotated[
        float | None,
        Field(
            title="Shared steps",
            description="Redraw only: the share of the steps that all frames have in common. More keeps the character, "
            "less lets the face move.",
            ge=0,
            le=0.9,
            validation_alias=AliasChoices("shared_steps", "held"),
        ),
        About(step=0.05, blank="automatic", option=("--shared-steps", "--held"), advanced=True),
    ] = None  # None: the method's
    spherical: Annotated[
        bool,
        Field(
            title="Spherical interpolation",
            description="Cross-fade only: slerp instead of a straight line keeps the contrast of the frames in the "
            "middle.",
        ),
        About(advanced=True),
    ] = False
    retime: Annotated[
        bool,
        Field(
            title="Even changes",
            description="Draws more frames than it shows and keeps those that look equally far apart.",
        ),
    ] = False
    easing: EasingField = "linear"
    pingpong: PingPong = True
    fps: FramesASecond = 8
    format: Format = "gif"

    @model_validator(mode="after")
    def _change(self) -> MorphSpec:
        if any(a == b for a, b in zip(self.emotions, self.emotions[1:], strict=False)):
            raise ValueError("a morph needs another emotion to go to; choose two different ones in a row")
        if self.frames < len(self.emotions):
            raise ValueError(f"a chain of {len(self.emotions)} emotions needs at least as many frames")
        return self
