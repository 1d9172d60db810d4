"""One character through a sequence of emotions, as an animation or as a set of sprites."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from studio.core.errors import BadInput
from studio.core.fields import About, listed
from studio.core.specs import EMOTIONS, Emotion, GenerateSpec, Keyframe, Request
from studio.features.motion import EasingField, Format, FramesASecond, PingPong


def keyframe(text: str) -> dict[str, Any]:
    """`FRAME:EMOTION[:STRENGTH[:HOLD]]`, frames from 1, as a `Keyframe`'s fields. Raises `BadInput`."""
    frame, *rest = text.split(":")
    if not (1 <= len(rest) <= 3 and re.fullmatch(r"\s*0*[1-9]\d{0,5}\s*", frame)):
        raise BadInput(
            f"The keyframe {text[:40]!r} isn't FRAME:EMOTION[:STRENGTH[:HOLD]] like 12:sad or 12:sad:0.6:4; "
            "frames count from 1."
        )
    values = zip(("emotion", "strength", "hold"), map(str.strip, rest), strict=False)
    return {"frame": int(frame) - 1} | {name: value for name, value in values if value}


class AnimateSpec(Request):
    """img2img animation of one character through a sequence of emotions."""

    kind: Literal["animate"] = "animate"
    base: GenerateSpec = GenerateSpec()
    image: Annotated[
        str | None,
        Field(title="The character", description="The character; drawn first when blank."),
        About(file="picture"),
    ] = None  # content id or file
    emotions: Annotated[
        tuple[Emotion, ...],
        Field(
            title="Emotions, in order",
            description="One or more, in order, as often as you like: happy,sad,happy.",
            min_length=1,
            max_length=16,
        ),
        About(parse=listed),
    ] = ("happy", "sad")
    frames: Annotated[int, Field(title="Frames", ge=2, le=64)] = 12
    strength_from: Annotated[
        float,
        Field(
            title="Strength, from",
            description="How much of the picture may change at first. The first frame is the picture itself.",
            gt=0,
            le=1,
        ),
        About(step=0.05),
    ] = 0.3
    strength_to: Annotated[
        float,
        Field(title="Strength, to", description="How much of the picture the last frame may change.", gt=0, le=1),
        About(step=0.05),
    ] = 0.7
    consistent: Annotated[
        bool,
        Field(
            title="Same character in all frames",
            description="All frames share their noise and look at the picture. Off: each is drawn on its own, and the "
            "animation flickers.",
        ),
        About(option="--consistent/--alone", advanced=True),
    ] = True
    keyframes: Annotated[
        tuple[Keyframe, ...],
        Field(
            title="Keyframes",
            description="FRAME:EMOTION[:STRENGTH[:HOLD]], like 12:sad, 12:sad:0.6 or 12:sad::4 (stays for 4 frames' "
            "time); frames count from 1. May be repeated; replaces the sequence of emotions.",
            max_length=64,
        ),
        About(option="--keyframe", parse=keyframe, advanced=True),
    ] = ()
    easing: EasingField = "linear"
    inbetweens: Annotated[
        int,
        Field(
            title="Pictures in between",
            description="Put between two frames by following what moves (optical flow); they need no drawing. A GIF "
            "has as many as fit into 50 frames a second.",
            ge=0,
            le=3,
        ),
        About(advanced=True),
    ] = 0
    pingpong: PingPong = False
    fps: FramesASecond = 8
    format: Format = "gif"

    @model_validator(mode="after")
    def _marks(self) -> AnimateSpec:
        taken: set[int] = set()
        for mark in self.keyframes:
            if mark.frame >= self.frames:
                raise ValueError(
                    f"the keyframe at frame {mark.frame + 1} is past the end, there are {self.frames} frames"
                )
            if mark.frame in taken:
                raise ValueError(f"two keyframes stand on frame {mark.frame + 1}; move one of them")
            taken.add(mark.frame)
        return self


class SpritesSpec(Request):
    """One character in every emotion, as the files that chat front ends look for."""

    kind: Literal["sprites"] = "sprites"
    base: GenerateSpec = GenerateSpec()
    image: Annotated[
        str | None,
        Field(title="The character", description="Keep this character; drawn first when blank."),
        About(file="picture"),
    ] = None
    emotions: Annotated[
        tuple[Emotion, ...],
        Field(title="Emotions", description="Which of them, with commas in between.", min_length=1, max_length=5),
        About(parse=listed),
    ] = EMOTIONS
    method: Annotated[
        Literal["prompt", "picture"] | None,
        Field(
            title="Method",
            description="picture keeps the picture and draws only the expression anew, prompt redraws the character "
            "from the same noise.",
        ),
        About(
            names={"prompt": "Redraw", "picture": "Keep my picture"}, blank="picture where one is given, else prompt"
        ),
    ] = None
