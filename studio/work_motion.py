"""The kinds of jobs whose pictures move: morph, animate and sprites.

Every frame has a recipe of its own, the plan in `Recipe.frame` included, and is found by it: a request that was
cancelled or failed goes on where it stopped. `JobView.result`: {"frames": [ids], "animation": id of the file in the
format that was asked for, "preview": id of one that a browser shows as a picture}; with a source that was drawn for the
job also "source"; sprites give {"frames", "emotions", "sprites": id of the ZIP}. Loads models and torch only through
the engine, inside the worker.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from studio.engine import output, timing
from studio.engine.progress import Step
from studio.errors import BadInput
from studio.job import Job
from studio.specs import (
    EMOTIONS,
    AnimateSpec,
    AnimationFormat,
    Emotion,
    GenerateSpec,
    MorphMethod,
    MorphSpec,
    Recipe,
    SpritesSpec,
)
from studio.store.metadata import request_of

TEXT = {
    "picture_method": "An uploaded picture has no noise to draw it again from, so its expression is changed in place.",
    "described": "The picture was read as: {}.",
    "frame": "frame {} of {}",
    "even": "finding frames that look equally far apart",
    "source": "drawing the character",
    "found": "{} of {} frames were there already.",
}


def morph(engine: Any, job: Job, spec: MorphSpec) -> None:
    """Frames from emotion to emotion, then the file of them."""
    base, method = spec.base, spec.method
    if spec.image is not None:
        known = job.picture(spec.image).recipe
        if known is not None:  # drawn here: the same noise, model and words
            base = _as_known(base, request_of(known), keep_source=method != "picture")
        elif method == "prompt":
            method = "picture"
            job.note(TEXT["picture_method"])
    base = _described(engine, job, base, spec.image)
    recipes = _recipes(job, base, spec.emotions, spec.image if method == "picture" else None)
    first = recipes[0]
    plan: dict[str, Any] = {
        "morph": method, "prompts": [recipe.prompt for recipe in recipes], "amount": spec.amount,
        "easing": "even" if spec.retime else spec.easing,
    }  # fmt: skip
    if method == "prompt":
        plan |= {"held": spec.held, "attention": spec.attention}
    if method == "latent" and spec.image is not None:
        plan |= {"first": spec.image}
    places = timing.spread(spec.frames, len(recipes) - 1)
    frames = [
        _frame(
            recipes[round(place * (len(recipes) - 1))],
            plan | ({"frame": [index, spec.frames]} if spec.retime else {"place": round(place, 6)}),
        )
        for index, place in enumerate(places)
    ]
    missing = _missing(job, frames)
    if missing:
        tries = 3 if spec.retime else 1
        image = _source(engine, job, first, spec.image) if method == "picture" or spec.image else None
        total = (spec.frames if spec.retime else len(missing)) * first.steps * tries
        with _Drawing(engine, job, first, total) as drawing:
            from studio.engine import morph as morphs

            made = morphs.make(
                method, drawing.components, recipes, image, spec.easing, spec.amount, spec.held, spec.attention,
                drawing.did,
            )  # fmt: skip
            if spec.retime:
                drawing.note = TEXT["even"]
                for index, _, picture, final in morphs.even(made, spec.frames, morphs.distance_of(drawing.components)):
                    if final:
                        job.save(picture, frames[index], index, kind="frame", details={"place": places[index]})
                    else:
                        drawing.show(picture)
            else:
                for index, picture in zip(missing, made.draw([places[k] for k in missing]), strict=True):
                    drawing.note = TEXT["frame"].format(index + 1, spec.frames)
                    job.save(picture, frames[index], index, kind="frame", details={"place": places[index]})
    _finish(job, first, len(frames), spec.fps, spec.format, pingpong=spec.pingpong)


def animate(engine: Any, job: Job, spec: AnimateSpec) -> None:
    """The source if there is none, then frames of rising strength from it, then the file of them."""
    stills = timing.stills(
        spec.emotions, spec.frames, spec.strength_from, spec.strength_to, spec.keyframes, spec.easing
    )
    emotions = tuple(dict.fromkeys(e for still in stills for e in (still.mix.source, still.mix.target)))
    base = spec.base
    if spec.image is not None:
        known = job.picture(spec.image).recipe
        if known is not None:
            base = _as_known(base, request_of(known), keep_source=False)
    base = _described(engine, job, base, spec.image)
    source_id = spec.image
    if source_id is None:
        start = _recipes(job, base, emotions[:1], None)[0]
        source_id = _drawn(engine, job, start)
        job.result["source"] = source_id
    recipes = dict(zip(emotions, _recipes(job, base, emotions, source_id), strict=True))
    frames = []
    for index, still in enumerate(stills):
        plan = {
            "animate": [still.mix.source, still.mix.target, round(still.mix.amount, 6)],
            "first": stills[0].mix.source,
            "prompts": {emotion: recipe.prompt for emotion, recipe in recipes.items()},
        } | ({} if spec.consistent else {"frame": index})  # fmt: skip
        frames.append(_frame(recipes[still.mix.emotion].model_copy(update={"strength": still.strength}), plan))
    missing = _missing(job, frames)
    if missing:
        image = job.image(source_id)
        first = recipes[emotions[0]]
        from studio.engine import animation

        total = sum(animation.steps_of(first, stills[index]) for index in missing)
        with _Drawing(engine, job, first, total) as drawing:
            for index, picture in animation.animate(
                drawing.components, recipes, stills, image, spec.consistent, missing, on_step=drawing.did
            ):
                drawing.note = TEXT["frame"].format(index + 1, len(frames))
                job.save(picture, frames[index], index, kind="frame", details={"strength": stills[index].strength})
    holds = [still.hold for still in stills]
    _finish(
        job, frames[0], len(frames), spec.fps, spec.format, pingpong=spec.pingpong, holds=holds,
        inbetweens=spec.inbetweens,
    )  # fmt: skip


def sprites(engine: Any, job: Job, spec: SpritesSpec) -> None:
    """One picture per emotion of one character, and the ZIP with the file names of chat front ends."""
    emotions = spec.emotions
    base, known = spec.base, None
    if spec.image is not None:
        known = job.picture(spec.image).recipe
        if known is not None:
            base = _as_known(base, request_of(known), keep_source=True)
    method: MorphMethod = "prompt" if spec.image is None or known is not None else "picture"
    base = _described(engine, job, base, spec.image)
    # an uploaded picture is first inverted with what it shows now
    chain = emotions if method == "prompt" else (base.emotion, *(e for e in emotions if e != base.emotion))
    if len(chain) == 1:
        chain = (*chain, *(e for e in EMOTIONS if e != chain[0]))[:2]
    recipes = _recipes(job, base, chain, spec.image if method == "picture" else None)
    plan: dict[str, Any] = {"morph": method, "prompts": [recipe.prompt for recipe in recipes], "sprites": True}
    frames = [_frame(recipes[chain.index(emotion)], plan | {"emotion": emotion}) for emotion in emotions]
    missing = _missing(job, frames)
    if missing:
        image = job.image(spec.image) if method == "picture" and spec.image else None
        with _Drawing(engine, job, recipes[0], (len(missing) + 1) * recipes[0].steps) as drawing:
            from studio.engine import morph as morphs

            made = morphs.make(method, drawing.components, recipes, image, on_step=drawing.did)
            places = [chain.index(emotions[index]) / (len(chain) - 1) for index in missing]
            for index, picture in zip(missing, made.draw(places), strict=True):
                job.save(picture, frames[index], index, kind="frame", title=emotions[index])
    ids = [job.ids[index] for index in range(len(frames))]
    with tempfile.TemporaryDirectory() as folder:
        pictures = {emotion: job.files(id) for emotion, id in zip(emotions, ids, strict=True)}
        path = output.sprites(pictures, Path(folder) / "sprites.zip", recipes[0].model_dump_json())
        packed = job.save_file(
            path.read_bytes(), ".zip", job.image(ids[0]).size, len(ids), kind="frame", recipe=recipes[0]
        )
    job.result |= {"frames": ids, "emotions": list(emotions), "sprites": packed}


KINDS: dict[str, Callable[[Any, Job, Any], None]] = {"morph": morph, "animate": animate, "sprites": sprites}


# --- what they share ----------------------------------------------------------------------------------------------


class _Drawing:
    """A loaded model with the recipe's adapters attached, and progress in steps of single frames."""

    def __init__(self, engine: Any, job: Job, recipe: Recipe, total: int) -> None:
        from studio.engine.adapters import attached

        self.note = ""
        self._done, self._total = 0, max(1, total)
        job.begin(self._total)
        self._tell: Callable[[Step], None] = job.stage(self._total)
        self.components = engine.components(recipe.model, job.say)
        fast = self.components.info.fast
        self._adapters = attached(
            self.components,
            [(Path(ref.path), ref.weight) for ref in recipe.loras],
            fast.adapter if recipe.fast and fast is not None else None,
        )

    def did(self, steps: int) -> None:
        self._done = min(self._done + steps, self._total)
        self._tell(Step(self._done, self._total, self.note))

    def show(self, picture: Image.Image) -> None:
        self._tell(Step(self._done, self._total, self.note, picture))

    def __enter__(self) -> _Drawing:
        self._adapters.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._adapters.__exit__(*error)


def _as_known(base: GenerateSpec, known: GenerateSpec, keep_source: bool) -> GenerateSpec:
    """The request that a stored picture came from; the words of `base` go first where there are any."""
    changes: dict[str, Any] = {"count": 1, "control": None}
    if not keep_source:
        changes |= {"source": None}
    if base.prompt is not None:
        changes |= {"prompt": base.prompt, "emotion": base.emotion, "style": base.style}
    return known.model_copy(update=changes)


def _described(engine: Any, job: Job, base: GenerateSpec, image: str | None) -> GenerateSpec:
    """Where nobody said what an uploaded picture shows, the model's judge says it."""
    if image is None or base.prompt is not None or base.text or job.picture(image).recipe is not None:
        return base
    components = engine.components(base.model, job.say)
    from studio.engine import morph as morphs

    seen = morphs.describe(components, job.image(image))
    if not seen:
        return base
    words = ", ".join(seen["tags"])
    job.note(TEXT["described"].format(words))
    return base.model_copy(update={"text": words, "emotion": seen["emotion"], "style": seen["style"]})


def _recipes(job: Job, base: GenerateSpec, emotions: Sequence[Emotion], source: str | None) -> list[Recipe]:
    """One recipe per emotion, alike but for the prompt."""
    base = base.model_copy(update={"count": 1, "source": source} if source else {"count": 1})
    found = [job.resolve(job.prompted(base, emotion, base.style))[0] for emotion in emotions]
    first = found[0]
    return [recipe.model_copy(update={"negative": first.negative, "seed": first.seed}) for recipe in found]


def _frame(recipe: Recipe, plan: dict[str, Any]) -> Recipe:
    return recipe.model_copy(update={"frame": json.dumps(plan, ensure_ascii=False, sort_keys=True)})


def _missing(job: Job, frames: Sequence[Recipe]) -> list[int]:
    """Show the frames that an earlier try finished; returns the places of the others."""
    missing = []
    for index, recipe in enumerate(frames):
        picture = job.cached(recipe)
        if picture is None:
            missing.append(index)
        else:
            job.found[index] = picture
            job.show(picture.id, index)
    if 0 < len(missing) < len(frames):
        job.note(TEXT["found"].format(len(frames) - len(missing), len(frames)))
    return missing


def _source(engine: Any, job: Job, recipe: Recipe, image: str | None) -> Image.Image:
    if image is None:
        drawn = recipe.model_copy(update={"source": None, "strength": None})
        image = _drawn(engine, job, drawn)
        job.result["source"] = image
    return job.image(image)


def _drawn(engine: Any, job: Job, recipe: Recipe) -> str:
    """A picture to start from, from the cache or drawn now; shown before all frames."""
    picture = job.cached(recipe)
    if picture is not None:
        return job.show(picture.id, -1)
    job.say(TEXT["source"])
    job.begin(recipe.steps)
    ((_, image),) = engine.draw([recipe], job.stage(recipe.steps), job.files)
    return job.save(image, recipe, -1)


def _finish(
    job: Job, recipe: Recipe, count: int, fps: int, form: AnimationFormat, *, pingpong: bool,
    holds: Sequence[int] = (), inbetweens: int = 0,
) -> None:  # fmt: skip
    """The file in the format that was asked for and, where that is no picture, a GIF beside it for the gallery."""
    ids = [job.ids[index] for index in range(count)]
    details: dict[str, Any] = {
        "frames": ids,
        "fps": fps,
        "holds": list(holds),
        "pingpong": pingpong,
        "inbetweens": inbetweens,
    }
    shown: AnimationFormat = form if form in ("gif", "apng", "webp") else "gif"
    files = [job.files(id) for id in ids]
    size = job.image(ids[0]).size
    saved = {}
    for index, wanted in enumerate(dict.fromkeys((shown, form))):
        data = encode(files, wanted, recipe.model_dump_json(), **details)
        saved[wanted] = job.save_file(
            data, output.SUFFIXES[wanted], size, count + index, recipe=recipe,
            kind="animation" if wanted == shown else "frame", details={**details, "format": wanted},
        )  # fmt: skip
    job.result |= {"frames": ids, "animation": saved[form], "preview": saved[shown]}


def encode(
    files: Sequence[Path], form: AnimationFormat, recipe: str, *, fps: int = 8, holds: Sequence[int] = (),
    pingpong: bool = False, inbetweens: int = 0, **ignored: Any,
) -> bytes:  # fmt: skip
    """The bytes of an animation of stored frames. Raises BadInput when one of them is gone."""
    if not all(path.is_file() for path in files):
        raise BadInput("Some of the frames were deleted; make the animation again.")
    with tempfile.TemporaryDirectory() as folder:
        frames, shown_for = output.arrange(files, holds, pingpong and form != "zip", inbetweens)
        rate = fps * (inbetweens + 1)
        path = output.write(frames, Path(folder) / f"a{output.SUFFIXES[form]}", form, rate, shown_for, recipe)
        return path.read_bytes()
