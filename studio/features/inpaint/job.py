"""A part of a picture drawn anew, in the worker. `JobView.result`: {"source": id, "seams": {id of a picture: figure}}.

The figure of a seam is how visible the edge of what is new is (see `engine.media.retouch.seam`): 1 is as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from studio.core.specs import GenerateSpec
from studio.engine.models.catalogue import resolve
from studio.features.drawing import draw
from studio.features.inpaint.plan import TEXT
from studio.features.inpaint.spec import InpaintSpec
from studio.jobs.job import Job

READ = "The rest of the picture was read as: {}."


def inpaint(engine: Any, job: Job, spec: InpaintSpec) -> Iterator[None]:
    """`count` versions of the picture, each a picture of its own whose recipe says what it came from."""
    recipes = job.recipes
    if job.picture(spec.image).recipe is None and spec.base.prompt is None:
        told = _told(engine, job, spec)
        if told is not None:
            recipes = job.resolve(told)
    yield from draw(engine, job, recipes)
    shown = [job.picture(id) for id in job.ids.values()]
    seams = {picture.id: float(picture.recipe.labels.get("seam", 1)) for picture in shown if picture.recipe}
    job.result |= {"source": spec.image, "seams": seams}


def _told(engine: Any, job: Job, spec: InpaintSpec) -> GenerateSpec | None:
    """The request with words for what the model's judge sees beside the mask; None where it has no judge."""
    from studio.engine import judging

    info = resolve(spec.base.model, engine.settings, with_hash=False)
    if info.judge is None:
        return None
    seen = judging.describe(info.judge, job.image(spec.image))
    words, gone = job.wording.with_words(", ".join(seen.tags), spec.base.text)
    job.note(READ.format(", ".join(seen.tags)))
    if gone:
        job.note(TEXT["instead"].format(", ".join(gone)))
    return spec.base.model_copy(
        update={
            "text": words, "emotion": seen.emotion, "style": seen.style, "source": spec.image, "mask": spec.mask,
            "strength": spec.strength, "redraw": False,
        }
    )  # fmt: skip
