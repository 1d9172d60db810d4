"""A drawing turned into the character."""

from __future__ import annotations

from typing import Literal

from studio.core.specs import ControlSpec, GenerateSpec, Request


class SketchSpec(Request):
    """A drawing turned into the character."""

    kind: Literal["sketch"] = "sketch"
    base: GenerateSpec = GenerateSpec()
    control: ControlSpec
