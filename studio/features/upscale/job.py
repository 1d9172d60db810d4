"""A picture made larger, in the worker. `JobView.result`: {"source": id of the picture}.

A picture with a recipe gets the recipe that draws it in this size, and so is the same picture as one that was drawn
with `upscale`. Others (uploads, sheets, frames, and what was enlarged before by another upscaler) have none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from studio.core.specs import Recipe
from studio.core.views import Picture
from studio.engine.models import upscalers
from studio.engine.models.upscalers import UpscalerInfo
from studio.engine.progress import Step
from studio.features.upscale.spec import UpscaleSpec
from studio.jobs.job import Job

TEXT = {"there": "This picture was there already: same recipe, same picture."}
MOST = 4  # times as large as it was drawn: as far as a recipe says it


def upscale(engine: Any, job: Job, spec: UpscaleSpec) -> Iterator[None]:
    """The picture once more, larger."""
    picture = job.picture(spec.image)
    info = upscalers.find(spec.upscaler, engine.settings)
    recipe = larger(picture, spec, info)
    if recipe is not None and (there := job.claim_cached(recipe)) is not None:
        job.note(TEXT["there"])
        job.show(there.id)
        return
    job.say("Enlarging")
    job.begin(1)
    on_step = job.stage(1)
    made = engine.enlarge(
        job.image(spec.image), info.reference, spec.scale, lambda done, of: on_step(Step(done, of, "Enlarging"))
    )
    id = None if recipe else job.key("upscale", picture.id, f"{spec.scale:g}", info.hash or info.reference)
    details = {"source": picture.id, "upscale": spec.scale, "upscaler": info.title}
    job.save(made, recipe, id=id, title=picture.title, details=None if recipe else details)
    yield


def larger(picture: Picture, spec: UpscaleSpec, info: UpscalerInfo) -> Recipe | None:
    """The recipe of the enlarged picture; None where that can't be said as a recipe."""
    recipe = picture.recipe
    if recipe is None or recipe.frame or picture.kind != "picture":  # what an upload says of itself is only claimed
        return None
    if recipe.times > 1 and recipe.upscaler_hash != info.hash:
        return None  # one recipe names one upscaler
    if recipe.upscale > 1 and not (recipe.upscale == spec.scale == 2):
        return None  # twice by two is four times, pass by pass; other factors are reduced in between
    if recipe.upscale * spec.scale > MOST:
        return None
    changes = {
        "upscale": float(recipe.upscale * spec.scale), "upscaler": info.reference, "upscaler_hash": info.hash,
    }  # fmt: skip
    return recipe.model_copy(update=changes)
