"""What morphs, animations and sprites share in the worker.

Every frame has a recipe of its own, the plan in `Recipe.frame` included, and is found by it: a request that was
cancelled or failed goes on where it stopped. `JobView.result`: {"frames": [ids], "animation": id of the file in the
format that was asked for, "preview": id of one that a browser shows as a picture}; with a source that was drawn for the
job also "source". Loads models and torch only through the engine, inside the worker.

The jobs are generators that yield between batches, so that others may go first: the model has nothing attached then,
and nothing here holds it (see `FrameDrawing`).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from studio.core.errors import BadInput, explain
from studio.core.specs import MAX_FRAME, AnimationFormat, Emotion, GenerateSpec, Recipe
from studio.engine.media import output
from studio.engine.progress import Step
from studio.jobs.job import Job
from studio.store.metadata import portable

TEXT = {
    "frame": "frame {} of {}",
    "even": "finding frames that look equally far apart",
    "source": "drawing the character",
    "found": "{} of {} frames were there already.",
    "gif": "A GIF shows 50 frames a second at most, so it has {} pictures between two frames and not {}; "
    "the other formats have all of them.",
    "hires": "Hires fix is for single pictures: frames are drawn once, and enlarged if that is asked for.",
    "plan": "One frame of this can't be written down ({}); use fewer emotions or shorter words.",
}


class FrameDrawing:
    """The model of a recipe, borrowed for one batch after another, and progress in steps of single frames.

    Between two batches it is the engine's alone, without the recipe's adapters: whoever draws in between gets the
    pictures that he would get alone, and a model that he loads instead finds the memory free.
    """

    def __init__(self, engine: Any, job: Job, recipe: Recipe) -> None:
        self.note = ""
        self._engine, self._job, self._recipe = engine, job, recipe
        self._done, self._total = 0, 1
        self._tell: Callable[[Step], None] = lambda step: None

    def begin(self, total: int) -> None:
        """How many steps of single frames there will be, about."""
        self._done, self._total = 0, max(1, total)
        self._job.begin(self._total)
        self._tell = self._job.stage(self._total)

    def did(self, steps: int) -> None:
        self._done = min(self._done + steps, self._total)
        self._tell(Step(self._done, self._total, self.note))

    def make(self, build: Callable[..., Any]) -> Any:
        """What `build(components=...)` gives (a morph, an animation): no model is lent to it yet."""
        with self._attached() as components:
            made = build(components=components)
            made.release()
            return made

    @contextmanager
    def borrowed(self, made: Any) -> Iterator[None]:
        """Lend the model to `made` while the block lasts."""
        with self._attached() as components:
            made.acquire(components)
            try:
                yield
            finally:
                made.release()

    @contextmanager
    def _attached(self) -> Iterator[Any]:
        """The loaded model with the recipe's adapters."""
        from studio.engine.recipe import attached

        components = self._engine.components(self._recipe.model, self._job.say)
        with attached(components, self._recipe, self._engine.settings):
            yield components


def recipes_for(job: Job, base: GenerateSpec, emotions: Sequence[Emotion], source: str | None) -> list[Recipe]:
    """One recipe per emotion, alike but for the prompt."""
    if base.hires > 1:
        job.note(TEXT["hires"])
    changes: dict[str, Any] = {"count": 1, "hires": 1}
    base = base.model_copy(update=changes | ({"source": source} if source else {}))
    recipes = [job.resolve(job.wording.prompted(base, emotion, base.style))[0] for emotion in emotions]
    first = recipes[0]
    return [recipe.model_copy(update={"negative": first.negative, "seed": first.seed}) for recipe in recipes]


def frame_recipe(recipe: Recipe, plan: dict[str, Any]) -> Recipe:
    """The recipe of one frame. A plan that would be too long keeps a hash of its prompts: enough to tell it apart."""
    text = _json(plan)
    if len(text) > MAX_FRAME:
        text = _json(plan | {"prompts": hashlib.sha256(_json(plan["prompts"]).encode()).hexdigest()})
    try:  # what can't be read again must not be stored
        return Recipe.model_validate(recipe.model_dump() | {"frame": text})
    except ValidationError as error:
        raise BadInput(TEXT["plan"].format(explain(error).rstrip("."))) from error


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, sort_keys=True)


def missing_frames(job: Job, frames: Sequence[Recipe], own: Collection[str] = ()) -> list[int]:
    """Show the frames that are there; returns the places of the others.

    `own` are those that this job has dealt with already; what else is there an earlier try finished.
    """
    missing, cached = [], {}
    earlier = {picture.id: picture for picture in job.cached.values()}
    for index, recipe in enumerate(frames):
        picture = earlier.get(recipe.key) if recipe.key in own else job.claim_cached(recipe)
        if picture is not None:
            cached[index] = picture
        if picture is not None or recipe.key in own:
            job.show(recipe.key, index)
        else:
            missing.append(index)
    job.cached = cached  # at once: others may be reading it
    if not own and 0 < len(missing) < len(frames):
        job.note(TEXT["found"].format(len(frames) - len(missing), len(frames)))
    return missing


def batches(made: Any, missing: Sequence[int]) -> Iterator[Sequence[int]]:
    """The missing frames in portions that are drawn side by side: as many at once as `made` finds memory for."""
    while missing:
        some = missing[: made.batch]
        yield some
        missing = missing[len(some) :]


def finished(engine: Any, recipe: Recipe, picture: Any) -> Any:
    """A frame's picture as large as its recipe says."""
    return picture if recipe.upscale == 1 else engine.enlarge(picture, recipe.upscaler, recipe.upscale)


def draw_source(engine: Any, job: Job, recipe: Recipe, name: str) -> Iterator[None]:
    """A picture to start from, from the cache or drawn now; shown before all frames, its id in the result.

    It is as large as the model draws it: its frames are enlarged once they are drawn.
    """
    recipe = recipe.model_copy(update={"upscale": 1, "upscaler": "embedded", "upscaler_hash": ""})
    picture = job.claim_cached(recipe)
    if picture is not None:
        job.result[name] = job.show(picture.id, -1)
        return
    job.say(TEXT["source"])
    job.begin(recipe.steps)
    ((_, image),) = engine.draw([recipe], job.stage(recipe.steps), job.files)
    job.result[name] = job.save(image, recipe, -1)
    yield


def write_animation(
    job: Job, recipe: Recipe, count: int, fps: int, form: AnimationFormat, *, pingpong: bool,
    holds: Sequence[int] = (), inbetweens: int = 0, drawn: Sequence[str] = (),
) -> Iterator[None]:  # fmt: skip
    """The file in the format that was asked for and, where that is no picture, a GIF beside it for the gallery.

    `drawn`: ids of all frames, also of those that aren't shown in the end; they are deleted with the animation.
    """
    ids = [job.ids[index] for index in range(count)]
    details: dict[str, Any] = {
        "frames": ids,
        "fps": fps,
        "holds": list(holds),
        "pingpong": pingpong,
        "inbetweens": inbetweens,
        "spare": sorted(set(drawn) - set(ids)),
    }
    shown: AnimationFormat = form if form in ("gif", "apng", "webp") else "gif"
    files = [job.files(id) for id in ids]
    size = job.image(ids[0]).size
    if form == "gif" and (most := _at_most(form, fps, inbetweens)) < inbetweens:
        job.note(TEXT["gif"].format(most, inbetweens))
    saved = {}
    for index, wanted in enumerate(dict.fromkeys((shown, form))):
        data = encode(files, wanted, recipe, **details)
        saved[wanted] = job.save_file(
            data, output.SUFFIXES[wanted], size, count + index, recipe=recipe,
            kind="animation" if wanted == shown else "frame", details={**details, "format": wanted},
        )  # fmt: skip
        yield
    job.result |= {"frames": ids, "animation": saved[form], "preview": saved[shown]}


def encode(
    files: Sequence[Path], form: AnimationFormat, recipe: Recipe | None, *, fps: int = 8, holds: Sequence[int] = (),
    pingpong: bool = False, inbetweens: int = 0, **ignored: Any,
) -> bytes:  # fmt: skip
    """The bytes of an animation of stored frames. Raises BadInput when one of them is gone."""
    if not all(path.is_file() for path in files):
        raise BadInput("Some of the frames were deleted; make the animation again.")
    inbetweens = _at_most(form, fps, inbetweens)
    with tempfile.TemporaryDirectory() as folder:
        frames, shown_for = output.arrange(files, holds, pingpong and form != "zip", inbetweens)
        rate = fps * (inbetweens + 1)
        path = output.write(
            frames, Path(folder) / f"a{output.SUFFIXES[form]}", form, rate, shown_for, recipe_inside(recipe)
        )
        return path.read_bytes()


def filmstrip(files: Sequence[Path], recipe: Recipe | None) -> bytes:
    """Stored frames side by side as one PNG."""
    return output.png(output.filmstrip(files), recipe_inside(recipe))


def recipe_inside(recipe: Recipe | None) -> str:
    """A recipe as it goes into a file: without the folders of this machine."""
    return portable(recipe).model_dump_json() if recipe is not None else ""


def _at_most(form: AnimationFormat, fps: int, inbetweens: int) -> int:
    """How many of the in-betweens this format has the time to show."""
    return min(inbetweens, max(0, output.GIF_FPS // fps - 1)) if form == "gif" else inbetweens
