"""A morph in the worker. `JobView.result`: see `features.frames`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from studio.core.specs import GenerateSpec, Recipe
from studio.engine.models.catalogue import resolve
from studio.engine.motion import timing
from studio.features.characters import Character, character, default_method, fitting_method, in_place
from studio.features.frames import (
    TEXT,
    FrameDrawing,
    batches,
    draw_source,
    finished,
    frame_recipe,
    missing_frames,
    recipes_for,
    write_animation,
)
from studio.features.morph.spec import MorphSpec
from studio.jobs.job import Job


def morph(engine: Any, job: Job, spec: MorphSpec) -> Iterator[None]:
    """Frames from emotion to emotion, then the file of them."""
    who = character(engine, job, spec.base, spec.image)
    method = fitting_method(job, who, spec.method or default_method(spec.image))
    source = spec.image if method in ("picture", "direction") else None
    base = in_place(engine, job, who.base) if method == "picture" else who.base
    recipes = recipes_for(job, base, spec.emotions, source)
    shown = None
    if source is not None and who.shown not in (None, spec.emotions[0]):
        shown = _as_shown(job, base, who, recipes[0])
    plan: dict[str, Any] = {
        "morph": method, "prompts": [recipe.prompt for recipe in recipes], "amount": spec.amount, "easing": spec.easing,
    }  # fmt: skip
    if method == "prompt":
        plan |= {"held": spec.shared_steps, "attention": spec.attention}
    if method == "latent" and spec.image is not None:
        plan |= {"first": spec.image}
    if method == "latent" and spec.spherical:
        plan |= {"spherical": True}
    if shown is not None:
        plan |= {"shown": shown.prompt}
    start = None  # what is drawn to begin with
    if method == "picture" and spec.image is None:
        start = recipes_for(job, who.base, spec.emotions[:1], None)[0]
        plan |= {"source": start.key}
    by_emotion = dict(zip(spec.emotions, recipes, strict=True))
    from studio.engine.motion import morph as morphs

    first = recipes[0]
    drawing = FrameDrawing(engine, job, first)
    made: Any = None
    ids: dict[float, str] = {}  # of every position drawn so far

    def known() -> dict[float, Any]:
        return {position: job.image(id) for position, id in ids.items()}

    def distance() -> morphs.Distance:
        job.say(TEXT["even"])
        return morphs.distance_of(resolve(first.model, engine.settings, with_hash=False))

    for positions in morphs.retiming_rounds(spec.frames, len(recipes) - 1, known, distance if spec.retime else None):
        shows = [timing.along(spec.emotions, position, spec.easing).emotion for position in positions]
        frames = [
            frame_recipe(by_emotion[emotion], plan | {"place": round(position, 6)})
            for emotion, position in zip(shows, positions, strict=True)
        ]
        missing = missing_frames(job, frames, set(ids.values()))
        yield
        if missing and made is None:
            if start is not None:
                yield from draw_source(engine, job, start, "source")
            picked = job.result.get("source", spec.image)
            image = job.image(picked) if picked else None
            before = morphs.MEAN_OF * len(recipes) if method == "direction" else 1
            each = first.steps * morphs.INVERTED if method == "picture" else first.steps
            rounds = morphs.ROUNDS + 1 if spec.retime else 1
            drawing.begin(round((len(missing) * rounds + before) * each))
            make = partial(
                morphs.make, method, recipes=recipes, image=image, easing=spec.easing, amount=spec.amount,
                shared_steps=spec.shared_steps, attention=spec.attention, on_step=drawing.did, shown=shown,
                spherical=spec.spherical,
            )  # fmt: skip
            made = drawing.make(make)
            yield
        for some in batches(made, missing):
            with drawing.borrowed(made):
                for index, picture in zip(some, made.draw([positions[index] for index in some]), strict=True):
                    drawing.note = TEXT["even"] if spec.retime else TEXT["frame"].format(index + 1, spec.frames)
                    picture = finished(engine, first, picture)
                    job.save(picture, frames[index], index, kind="frame", details={"place": positions[index]})
            yield
        ids |= {position: frame.key for position, frame in zip(positions, frames, strict=True)}
    drawn = tuple(ids.values())
    yield from write_animation(job, first, spec.frames, spec.fps, spec.format, pingpong=spec.pingpong, drawn=drawn)


def _as_shown(job: Job, base: GenerateSpec, who: Character, like: Recipe) -> Recipe:
    """The recipe that describes the picture with the emotion that it shows now; all else is that of `like`."""
    assert who.shown is not None
    (recipe,) = recipes_for(job, base, [who.shown], like.source)
    return like.model_copy(update={"prompt": recipe.prompt, "labels": recipe.labels})
