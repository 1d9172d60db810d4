"""Drawing recipes as part of a job, as every feature that makes single pictures does it.

A job's function gets the engine, the job (see `jobs.job.Job`) and its request. As a generator it says with each `yield`
"others may go first now"; nothing may be attached to the engine at that point. Doesn't load models and doesn't write
files: that is the engine's and the store's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from studio.core.specs import Recipe
from studio.engine.models.catalogue import resolve
from studio.engine.progress import Step
from studio.jobs.job import Job
from studio.jobs.queue import Work


def draw(engine: Any, job: Job, recipes: Sequence[Recipe]) -> Iterator[None]:
    """Draw and save what isn't there yet, each at its place.

    Yields after every batch: on a CPU after each picture, so that nobody waits for sixteen slow ones of somebody else.
    """
    todo: list[tuple[int, Recipe]] = []
    for index, recipe in enumerate(recipes):
        if index in job.cached:
            continue
        picture = job.claim_cached(recipe)  # drawn since it was submitted, by an earlier job
        if picture is not None:
            job.cached[index] = picture
            job.show(picture.id, index)
        else:
            todo.append((index, recipe))
    job.begin(sum(recipe.all_steps for _, recipe in todo))
    # Equal recipes in one request (a grid that names a value twice) are one picture.
    first: dict[str, int] = {}
    again = {index: first[recipe.key] for index, recipe in todo if first.setdefault(recipe.key, index) != index}
    todo = [(index, recipe) for index, recipe in todo if index not in again]
    groups: dict[str, list[tuple[int, Recipe]]] = {}
    for index, recipe in todo:
        groups.setdefault(_together(recipe), []).append((index, recipe))
    drawn = 0
    for members in groups.values():
        while members:
            wanted = [recipe for _, recipe in members]
            wanted = wanted[: engine.at_once(wanted, job.say)]
            on_step = _numbered(job.stage(sum(recipe.all_steps for recipe in wanted)), drawn, len(wanted), len(todo))
            for number, image in engine.draw(wanted, on_step, job.files):
                index, recipe = members[number]
                job.save(image, recipe, index)
            drawn += len(wanted)
            members = members[len(wanted) :]
            yield
    for index, same in again.items():
        job.show(job.ids[same], index)


def _together(recipe: Recipe) -> str:
    # What the engine requires to be equal among pictures that it draws together.
    return recipe.model_copy(update={"prompt": "", "negative": "", "seed": 0}).key


def _numbered(tell: Callable[[Step], None], before: int, count: int, total: int) -> Callable[[Step], None]:
    """Progress of `count` pictures that says which of all the job's they are; the engine knows only these."""
    note = f"picture {before + 1} of {total}" if count == 1 else f"pictures {before + 1} to {before + count} of {total}"
    return lambda step: tell(replace(step, note=note if total > 1 else "") if step.done else step)


def with_models(work: Work) -> Work:
    """The same work, but models that aren't here yet are downloaded first, and others go on meanwhile."""

    def run(engine: Any, job: Job, spec: Any) -> Iterator[None]:
        for recipe in {(recipe.model, recipe.control): recipe for recipe in job.recipes}.values():
            if resolve(recipe.model, engine.settings, with_hash=False).path is None:
                yield from engine.fetched(recipe.model, job.say)
            if recipe.control is not None and recipe.control.weight:
                yield from engine.fetched_control(recipe.model, _follows(engine, job, recipe), job.say)
        for path in dict.fromkeys(ref.path for recipe in job.recipes for ref in recipe.loras):
            yield from engine.fetched_lora(path, job.say)
        yield from work(engine, job, spec) or ()

    return run


def _follows(engine: Any, job: Job, recipe: Recipe) -> str:
    """The kind or the name of the ControlNet that this recipe will be drawn with."""
    from studio.engine.media import control_images  # OpenCV: only where something follows a drawing

    assert recipe.control is not None
    known = resolve(recipe.model, engine.settings, with_hash=False).controlnets
    size = (recipe.width, recipe.height)
    if recipe.mask is not None and recipe.source is not None:
        picture = job.picture(recipe.source)
        size = (picture.width, picture.height)
    return recipe.control.model or control_images.controlnet_kind(
        job.files(recipe.control.image), recipe.control, size, known
    )
