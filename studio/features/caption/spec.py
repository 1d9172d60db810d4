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
        BeforeValidator(no_nul),
        Field(
            title="Pictures", description="A folder of pictures, or a ZIP of one.", min_length=1, max_length=MAX_PATH
        ),
        About(file="dataset"),
    ]
    captioner: Annotated[
        str,
        BeforeValidator(no_nul),
        Field(
            title="Captioner", description="judge, a hub id, or the folder of a tagger.", min_length=1, max_length=1024
        ),
    ] = "judge"
    every: Annotated[
        bool, Field(title="All pictures", description="Replace the captions that are there."), About(option="--all")
    ] = False
    threshold: Annotated[
        float | None,
        Field(title="Threshold", description="What is less sure is left out.", gt=0, le=1),
        About(step=0.05, blank="the captioner's"),
    ] = None
    style: Annotated[
        bool,
        Field(
            title="Name the style",
            description="Name the style too (judge). A LoRA that is to learn it wants it left out.",
        ),
        About(option="--name-style"),
    ] = False
