"""Every kind of job, listed once: what a request may be, and what it leads to."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from pydantic import TypeAdapter

from studio.core.specs import GenerateSpec, Request, by_kind
from studio.features.animate.spec import AnimateSpec, SpritesSpec
from studio.features.caption.spec import CaptionSpec
from studio.features.experiment.spec import ExperimentSpec
from studio.features.morph.spec import MorphSpec
from studio.features.sheets.spec import BatchSpec, GridSpec, SheetSpec
from studio.features.sketch.spec import SketchSpec

SPECS: tuple[type[Request], ...] = (
    GenerateSpec,
    SheetSpec,
    GridSpec,
    BatchSpec,
    MorphSpec,
    AnimateSpec,
    SpritesSpec,
    SketchSpec,
    ExperimentSpec,
    CaptionSpec,
)
if TYPE_CHECKING:
    AnyRequest: TypeAlias = Request
else:
    AnyRequest = by_kind("job", SPECS)
REQUEST: TypeAdapter[Request] = TypeAdapter(AnyRequest)
