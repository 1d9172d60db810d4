"""Which pictures a retouched one means, and in whose words."""

from __future__ import annotations

from typing import Any

from studio.core.errors import StudioError
from studio.core.fields import of_model
from studio.core.specs import GenerateSpec, Recipe
from studio.engine.models.catalogue import resolve
from studio.features.feature import Planned, Planning
from studio.features.inpaint.spec import InpaintSpec
from studio.store.metadata import request_of

TEXT = {
    "own": "Drawn with the picture's own model ({}), not with the default.",
    "instead": "In the picture's words “{}” gave way to yours.",
}


def plan(spec: InpaintSpec, planning: Planning) -> Planned:
    """`count` versions of the picture. Without words of its own it is read by the job, where the model has a judge."""
    picture = planning.picture(spec.image)
    base = planning.seeded(spec.base)
    changes = {"source": spec.image, "mask": spec.mask, "strength": spec.strength, "redraw": False}
    request = base.model_copy(update=changes)
    if picture.recipe is not None:
        request = _in_its_words(request, picture.recipe, planning)
    unread = picture.recipe is None and base.prompt is None
    spec = spec.model_copy(update={"base": base})
    return Planned(spec, [request], complete=not unread, title=" ".join(base.text.split())[:60])


def _in_its_words(request: GenerateSpec, recipe: Recipe, planning: Planning) -> GenerateSpec:
    """The request with the picture's words for all that isn't asked for, and its model where none was chosen."""
    known = request_of(recipe)
    changes: dict[str, Any] = {}
    if request.model in (planning.settings.model, known.model) and not request.loras:
        try:
            info = resolve(known.model, planning.settings, with_hash=False)
            if known.model != request.model:
                planning.note(TEXT["own"].format(info.title))
            changes |= {"model": known.model, "loras": known.loras}
            changes |= {field.name: getattr(known, field.name) for field in of_model(GenerateSpec)}
        except StudioError:
            pass  # it isn't here any more
    if request.prompt is None:
        assert known.prompt is not None
        prompt, gone = planning.wording.with_words(known.prompt, request.text)
        if gone:
            planning.note(TEXT["instead"].format(", ".join(gone)))
        changes |= {"prompt": prompt, "emotion": known.emotion, "style": known.style, "quality": known.quality}
    if request.negative is None:
        changes["negative"] = known.negative
    return request.model_copy(update=changes)
