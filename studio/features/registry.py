"""Every kind of job, listed once. JSON, queue, planning, command line and HTTP read it here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import TypeAdapter, ValidationError

from studio.core.errors import BadInput, explain
from studio.core.specs import Request, by_kind
from studio.features.animate import ANIMATE, SPRITES
from studio.features.caption import CAPTION
from studio.features.drawing import with_models
from studio.features.experiment import EXPERIMENT
from studio.features.feature import Feature
from studio.features.generate import GENERATE
from studio.features.inpaint import INPAINT
from studio.features.morph import MORPH
from studio.features.sheets import BATCH, GRID, SHEET
from studio.features.sketch import SKETCH
from studio.features.upscale import UPSCALE

FEATURES: dict[str, Feature] = {
    feature.kind: feature
    for feature in (
        GENERATE,
        SHEET,
        GRID,
        BATCH,
        MORPH,
        ANIMATE,
        SPRITES,
        SKETCH,
        INPAINT,
        UPSCALE,
        EXPERIMENT,
        CAPTION,
    )
}
WORK = {kind: with_models(feature.work) for kind, feature in FEATURES.items()}
if TYPE_CHECKING:
    AnyRequest: TypeAlias = Request
else:
    AnyRequest = by_kind("job", [feature.spec for feature in FEATURES.values()])
_REQUEST: TypeAdapter[Request] = TypeAdapter(AnyRequest)


def parse_spec(data: str | bytes | dict[str, Any]) -> Request:
    """A request from JSON (or what JSON was read into); `kind` says which, default "generate".

    Raises `BadInput` with one sentence about the first mistake.
    """
    try:
        return _REQUEST.validate_python(data) if isinstance(data, dict) else _REQUEST.validate_json(data)
    except ValidationError as error:
        raise BadInput(explain(error)) from error
