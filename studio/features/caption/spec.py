"""First captions for a training set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from studio.core.fields import About
from studio.core.specs import MAX_PATH, Request
from studio.core.specs.base import no_nul


class CaptionSpec(Request):
    """First captions for a training set, written beside its pictures; see `engine.captioning`."""

    kind: Literal["caption"] = "caption"
    data: Annotated[
        str,
        Field(
            title="Pictures", description="A folder of pictures, or a ZIP of one.", min_length=1, max_length=MAX_PATH
        ),
        BeforeValidator(no_nul),
        About(file="dataset"),
    ]
    captioner: Annotated[
        str,
        Field(
            title="Captioner", description="judge, a hub id, or the folder of a tagger.", min_length=1, max_length=1024
        ),
        BeforeValidator(no_nul),
    ] = "judge"
    every: Annotated[
        bool,
        Field(title="Replace captions", description="Caption every picture: what stands beside it already is lost."),
        About(option="--all"),
    ] = False
    threshold: Annotated[
        float | None,
        Field(
            title="Least confidence",
            description="What is less sure than this (0 to 1) is left out. Empty: what suits the captioner.",
            gt=0,
            le=1,
        ),
        About(step=0.05, blank="automatic"),
    ] = None
    style: Annotated[
        bool,
        Field(
            title="Name the style",
            description="Name the style too (judge). Leave it off when the LoRA is to learn the style: what is named "
            "isn't learnt.",
        ),
        About(option="--name-style"),
    ] = False
