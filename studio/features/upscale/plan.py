"""What is enlarged, and whether it can be, before it is queued."""

from __future__ import annotations

from contextlib import suppress

from studio.core.errors import BadInput, StudioError
from studio.engine.models import upscalers
from studio.engine.models.catalogue import resolve
from studio.features.feature import Planned, Planning
from studio.features.upscale.spec import UpscaleSpec

MOST_SIDE = 8192  # pixels of a result
TEXT = {
    "moving": "Only single pictures are enlarged; make the animation again with its frames enlarged (--upscale).",
    "large": "{width} x {height} pixels {scale:g} times as large are more than {most} on a side; choose less.",
}


def plan(spec: UpscaleSpec, planning: Planning) -> Planned:
    """Raises NotFound and BadInput for a picture or an upscaler that isn't here, and for what would be too large."""
    picture = planning.picture(spec.image)
    if not picture.drawable or "frames" in picture.details:
        raise BadInput(TEXT["moving"])
    if max(picture.width, picture.height) * spec.scale > MOST_SIDE:
        raise BadInput(
            TEXT["large"].format(width=picture.width, height=picture.height, scale=spec.scale, most=MOST_SIDE)
        )
    info = upscalers.find(spec.upscaler, planning.settings)
    title = ""
    if picture.recipe is not None:
        with suppress(StudioError):  # it isn't here any more
            title = resolve(picture.recipe.model, planning.settings, with_hash=False).title
    for sentence in picture.details.get("notes", ()):
        planning.note(sentence)
    return Planned(
        spec.model_copy(update={"upscaler": info.reference}),
        complete=False,
        title=picture.title,
        model_title=title,
        result={"source": spec.image},
    )
