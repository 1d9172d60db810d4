"""Animations and sprites in the worker.

`JobView.result`: see `features.frames`; sprites give {"frames", "emotions", "sprites": id of the ZIP}.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from studio.core.specs import EMOTIONS, Recipe
from studio.engine.media import output
from studio.engine.motion import timing
from studio.features.animate.spec import AnimateSpec, SpritesSpec
from studio.features.characters import character, default_method, fitting_method, in_place
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
from studio.jobs.job import Job
from studio.store.layout import grid_picture


def animate(engine: Any, job: Job, spec: AnimateSpec) -> Iterator[None]:
    """The source if there is none, then frames of rising strength from it, then the file of them."""
    stills = timing.stills(
        spec.emotions, spec.frames, spec.strength_from, spec.strength_to, spec.keyframes, spec.easing
    )
    emotions = tuple(dict.fromkeys(e for still in stills for e in (still.mix.source, still.mix.target)))
    base = character(engine, job, spec.base, spec.image).base
    source = spec.image
    if source is None:
        yield from draw_source(engine, job, recipes_for(job, base, emotions[:1], None)[0], "source")
        source = job.result["source"]
    recipes = dict(zip(emotions, recipes_for(job, base, emotions, source), strict=True))
    frames = []
    for index, still in enumerate(stills):
        plan = {
            "animate": [still.mix.source, still.mix.target, round(still.mix.amount, 6)],
            "first": stills[0].mix.source,
            "prompts": {emotion: recipe.prompt for emotion, recipe in recipes.items()},
        } | ({} if spec.consistent else {"frame": index})  # fmt: skip
        frames.append(frame_recipe(recipes[still.mix.emotion].model_copy(update={"strength": still.strength}), plan))
    # The first frame is the picture itself, unless a keyframe asks for a change of it.
    given = not any(mark.frame == 0 and mark.strength is not None for mark in spec.keyframes)
    if given:
        frames[0] = _as_given(frames[0], job.picture(source).recipe, source)
    missing = missing_frames(job, frames)
    if missing:
        image = job.image(source)
        first = recipes[emotions[0]]
        from studio.engine.diffusion.pixels import fit
        from studio.engine.motion import animation

        if given and missing[0] == 0:
            missing = missing[1:]
            whole = fit(image, first.width, first.height)
            job.save(finished(engine, first, whole), frames[0], 0, kind="frame", details={"strength": 0.0})
    if missing:
        drawing = FrameDrawing(engine, job, first)
        drawing.begin(sum(animation.steps_of(first, stills[index]) for index in missing))
        make = partial(
            animation.Animation, recipes=recipes, stills=stills, source=image, consistent=spec.consistent,
            on_step=drawing.did,
        )  # fmt: skip
        made = drawing.make(make)
        for chunk in batches(made, missing):
            with drawing.borrowed(made):
                for index, picture in made.draw(chunk):
                    drawing.note = TEXT["frame"].format(index + 1, len(frames))
                    picture = finished(engine, first, picture)
                    job.save(picture, frames[index], index, kind="frame", details={"strength": stills[index].strength})
            yield
    holds = [still.hold for still in stills]
    yield from write_animation(
        job, frames[0], len(frames), spec.fps, spec.format, pingpong=spec.pingpong, holds=holds,
        inbetweens=spec.inbetweens,
    )  # fmt: skip


def _as_given(frame: Recipe, of: Recipe | None, source: str) -> Recipe:
    """The recipe of a frame that is the picture itself: it is called by what that shows, as far as that is known."""
    plan = json.loads(frame.frame) | {"given": source}
    return frame_recipe(frame.model_copy(update={"labels": of.labels if of is not None else {}}), plan)


def sprites(engine: Any, job: Job, spec: SpritesSpec) -> Iterator[None]:
    """One picture per emotion of one character, and the ZIP with the file names of chat front ends."""
    emotions = spec.emotions
    who = character(engine, job, spec.base, spec.image)
    method = fitting_method(job, who, spec.method or default_method(spec.image), note_uploads=False)
    base = in_place(engine, job, who.base) if method == "picture" else who.base
    chain = emotions
    if method == "picture":  # it is first inverted with what it shows now
        now = who.shown or base.emotion
        chain = (now, *(emotion for emotion in emotions if emotion != now))
    if len(chain) == 1:
        chain = (*chain, *(e for e in EMOTIONS if e != chain[0]))[:2]
    recipes = recipes_for(job, base, chain, spec.image if method == "picture" else None)
    plan: dict[str, Any] = {"morph": method, "prompts": [recipe.prompt for recipe in recipes], "sprites": True}
    frames = [frame_recipe(recipes[chain.index(emotion)], plan | {"emotion": emotion}) for emotion in emotions]
    missing = missing_frames(job, frames)
    if missing:
        image = job.image(spec.image) if method == "picture" and spec.image else None
        from studio.engine.motion import morph as morphs

        drawing = FrameDrawing(engine, job, recipes[0])
        drawing.begin((len(missing) + 1) * recipes[0].steps)
        made = drawing.make(partial(morphs.make, method, recipes=recipes, image=image, on_step=drawing.did))
        yield
        for some in batches(made, missing):
            positions = [chain.index(emotions[index]) / (len(chain) - 1) for index in some]
            with drawing.borrowed(made):
                for index, picture in zip(some, made.draw(positions), strict=True):
                    picture = finished(engine, recipes[0], picture)
                    job.save(picture, frames[index], index, kind="frame", title=emotions[index])
            yield
    ids = [job.ids[index] for index in range(len(frames))]
    with tempfile.TemporaryDirectory() as folder:
        pictures = {emotion: job.files(id) for emotion, id in zip(emotions, ids, strict=True)}
        path = output.sprites(pictures, Path(folder) / "sprites.zip")
        packed = job.save_file(
            path.read_bytes(), ".zip", job.image(ids[0]).size, len(ids), kind="frame", recipe=recipes[0]
        )
    # In the gallery the set is one sheet: found, shown and deleted there, and its files with it.
    shown = grid_picture([job.image(id) for id in ids], emotions)
    layout = {"tiles": ids, "columns": list(emotions), "rows": []}
    job.save(shown, recipes[0], len(ids) + 1, id=job.key("sprites", *ids), kind="sheet", details=layout)
    job.result |= {"frames": ids, "emotions": list(emotions), "sprites": packed}
