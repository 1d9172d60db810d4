"""The kinds of jobs whose pictures move: morph, animate and sprites.

Every frame has a recipe of its own, the plan in `Recipe.frame` included, and is found by it: a request that was
cancelled or failed goes on where it stopped. `JobView.result`: {"frames": [ids], "animation": id of the file in the
format that was asked for, "preview": id of one that a browser shows as a picture}; with a source that was drawn for the
job also "source"; sprites give {"frames", "emotions", "sprites": id of the ZIP}. Loads models and torch only through
the engine, inside the worker.

All are generators that yield between batches, so that others may go first: the model has nothing attached then, and
nothing here holds it (see `_Drawing`).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from studio.core.errors import BadInput
from studio.core.specs import EMOTIONS, MAX_FRAME, AnimationFormat, Emotion, GenerateSpec, Recipe
from studio.engine.media import output
from studio.engine.models.catalogue import resolve
from studio.engine.motion import timing
from studio.engine.progress import Step
from studio.features.animate.spec import AnimateSpec, SpritesSpec
from studio.features.characters import Character, character, in_place
from studio.features.characters import method as fitting
from studio.features.morph.spec import MorphSpec
from studio.jobs.job import Job
from studio.store.layout import grid_picture
from studio.store.metadata import portable

TEXT = {
    "frame": "frame {} of {}",
    "even": "finding frames that look equally far apart",
    "source": "drawing the character",
    "found": "{} of {} frames were there already.",
    "gif": "A GIF shows 50 frames a second at most, so it has {} pictures between two frames and not {}; "
    "the other formats have all of them.",
    "plan": "One frame of this can't be written down ({}); use fewer emotions or shorter words.",
}


def morph(engine: Any, job: Job, spec: MorphSpec) -> Iterator[None]:
    """Frames from emotion to emotion, then the file of them."""
    who = character(engine, job, spec.base, spec.image)
    method = fitting(job, who, spec.method)
    source = spec.image if method in ("picture", "direction") else None
    base = in_place(engine, job, who.base) if method == "picture" else who.base
    recipes = _recipes(job, base, spec.emotions, source)
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
        start = _recipes(job, who.base, spec.emotions[:1], None)[0]
        plan |= {"source": start.key}
    by_emotion = dict(zip(spec.emotions, recipes, strict=True))
    from studio.engine.motion import morph as morphs

    first = recipes[0]
    drawing = _Drawing(engine, job, first)
    made: Any = None
    ids: dict[float, str] = {}  # of every place drawn or found so far

    def known() -> dict[float, Any]:
        return {place: job.image(id) for place, id in ids.items()}

    def distance() -> morphs.Distance:
        job.say(TEXT["even"])
        return morphs.distance_of(resolve(first.model, engine.settings, with_hash=False))

    for places in morphs.retiming_rounds(spec.frames, len(recipes) - 1, known, distance if spec.retime else None):
        shows = [timing.along(spec.emotions, place, spec.easing).emotion for place in places]
        frames = [
            _frame(by_emotion[emotion], plan | {"place": round(place, 6)})
            for emotion, place in zip(shows, places, strict=True)
        ]
        missing = _missing(job, frames, set(ids.values()))
        yield
        if missing and made is None:
            if start is not None:
                yield from _drawn(engine, job, start, "source")
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
        for some in _portions(made, missing):
            with drawing.borrowed(made):
                for index, picture in zip(some, made.draw([places[index] for index in some]), strict=True):
                    drawing.note = TEXT["even"] if spec.retime else TEXT["frame"].format(index + 1, spec.frames)
                    job.save(picture, frames[index], index, kind="frame", details={"place": places[index]})
            yield
        ids |= {place: frame.key for place, frame in zip(places, frames, strict=True)}
    drawn = tuple(ids.values())
    yield from _finish(job, first, spec.frames, spec.fps, spec.format, pingpong=spec.pingpong, drawn=drawn)


def animate(engine: Any, job: Job, spec: AnimateSpec) -> Iterator[None]:
    """The source if there is none, then frames of rising strength from it, then the file of them."""
    stills = timing.stills(
        spec.emotions, spec.frames, spec.strength_from, spec.strength_to, spec.keyframes, spec.easing
    )
    emotions = tuple(dict.fromkeys(e for still in stills for e in (still.mix.source, still.mix.target)))
    base = character(engine, job, spec.base, spec.image).base
    source = spec.image
    if source is None:
        yield from _drawn(engine, job, _recipes(job, base, emotions[:1], None)[0], "source")
        source = job.result["source"]
    recipes = dict(zip(emotions, _recipes(job, base, emotions, source), strict=True))
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
        image = job.image(source)
        first = recipes[emotions[0]]
        from studio.engine.motion import animation

        drawing = _Drawing(engine, job, first)
        drawing.begin(sum(animation.steps_of(first, stills[index]) for index in missing))
        make = partial(
            animation.Animation, recipes=recipes, stills=stills, source=image, consistent=spec.consistent,
            on_step=drawing.did,
        )  # fmt: skip
        made = drawing.make(make)
        for chunk in _portions(made, missing):
            with drawing.borrowed(made):
                for index, picture in made.draw(chunk):
                    drawing.note = TEXT["frame"].format(index + 1, len(frames))
                    job.save(picture, frames[index], index, kind="frame", details={"strength": stills[index].strength})
            yield
    holds = [still.hold for still in stills]
    yield from _finish(
        job, frames[0], len(frames), spec.fps, spec.format, pingpong=spec.pingpong, holds=holds,
        inbetweens=spec.inbetweens,
    )  # fmt: skip


def sprites(engine: Any, job: Job, spec: SpritesSpec) -> Iterator[None]:
    """One picture per emotion of one character, and the ZIP with the file names of chat front ends."""
    emotions = spec.emotions
    who = character(engine, job, spec.base, spec.image)
    method = fitting(job, who, "prompt", note_uploads=False)
    base = in_place(engine, job, who.base) if method == "picture" else who.base
    chain = emotions
    if method == "picture":  # it is first inverted with what it shows now
        now = who.shown or base.emotion
        chain = (now, *(emotion for emotion in emotions if emotion != now))
    if len(chain) == 1:
        chain = (*chain, *(e for e in EMOTIONS if e != chain[0]))[:2]
    recipes = _recipes(job, base, chain, spec.image if method == "picture" else None)
    plan: dict[str, Any] = {"morph": method, "prompts": [recipe.prompt for recipe in recipes], "sprites": True}
    frames = [_frame(recipes[chain.index(emotion)], plan | {"emotion": emotion}) for emotion in emotions]
    missing = _missing(job, frames)
    if missing:
        image = job.image(spec.image) if method == "picture" and spec.image else None
        from studio.engine.motion import morph as morphs

        drawing = _Drawing(engine, job, recipes[0])
        drawing.begin((len(missing) + 1) * recipes[0].steps)
        made = drawing.make(partial(morphs.make, method, recipes=recipes, image=image, on_step=drawing.did))
        yield
        for some in _portions(made, missing):
            places = [chain.index(emotions[index]) / (len(chain) - 1) for index in some]
            with drawing.borrowed(made):
                for index, picture in zip(some, made.draw(places), strict=True):
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


KINDS: dict[str, Callable[[Any, Job, Any], Iterator[None]]] = {"morph": morph, "animate": animate, "sprites": sprites}


# --- what they share ----------------------------------------------------------------------------------------------


class _Drawing:
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


def _recipes(job: Job, base: GenerateSpec, emotions: Sequence[Emotion], source: str | None) -> list[Recipe]:
    """One recipe per emotion, alike but for the prompt."""
    base = base.model_copy(update={"count": 1, "source": source} if source else {"count": 1})
    found = [job.resolve(job.prompted(base, emotion, base.style))[0] for emotion in emotions]
    first = found[0]
    return [recipe.model_copy(update={"negative": first.negative, "seed": first.seed}) for recipe in found]


def _as_shown(job: Job, base: GenerateSpec, who: Character, like: Recipe) -> Recipe:
    """The recipe that describes the picture with the emotion that it shows now; all else is that of `like`."""
    assert who.shown is not None
    (recipe,) = _recipes(job, base, [who.shown], like.source)
    return like.model_copy(update={"prompt": recipe.prompt, "labels": recipe.labels})


def _frame(recipe: Recipe, plan: dict[str, Any]) -> Recipe:
    """The recipe of one frame. A plan that would be too long keeps a hash of its prompts: enough to tell it apart."""
    text = _json(plan)
    if len(text) > MAX_FRAME:
        text = _json(plan | {"prompts": hashlib.sha256(_json(plan["prompts"]).encode()).hexdigest()})
    try:  # what can't be read again must not be stored
        return Recipe.model_validate(recipe.model_dump() | {"frame": text})
    except ValidationError as error:
        raise BadInput(TEXT["plan"].format(error.errors()[0]["msg"])) from error


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, sort_keys=True)


def _missing(job: Job, frames: Sequence[Recipe], own: Collection[str] = ()) -> list[int]:
    """Show the frames that are there; returns the places of the others.

    `own` are those that this job has dealt with already; what else is there an earlier try finished.
    """
    missing, found = [], {}
    earlier = {picture.id: picture for picture in job.found.values()}
    for index, recipe in enumerate(frames):
        picture = earlier.get(recipe.key) if recipe.key in own else job.cached(recipe)
        if picture is not None:
            found[index] = picture
        if picture is not None or recipe.key in own:
            job.show(recipe.key, index)
        else:
            missing.append(index)
    job.found = found  # at once: others may be reading it
    if not own and 0 < len(missing) < len(frames):
        job.note(TEXT["found"].format(len(frames) - len(missing), len(frames)))
    return missing


def _portions(made: Any, missing: Sequence[int]) -> Iterator[Sequence[int]]:
    """The missing frames in portions that are drawn side by side: as many at once as `made` finds memory for."""
    while missing:
        some = missing[: made.batch]
        yield some
        missing = missing[len(some) :]


def _drawn(engine: Any, job: Job, recipe: Recipe, name: str) -> Iterator[None]:
    """A picture to start from, from the cache or drawn now; shown before all frames, its id in the result."""
    picture = job.cached(recipe)
    if picture is not None:
        job.result[name] = job.show(picture.id, -1)
        return
    job.say(TEXT["source"])
    job.begin(recipe.steps)
    ((_, image),) = engine.draw([recipe], job.stage(recipe.steps), job.files)
    job.result[name] = job.save(image, recipe, -1)
    yield


def _finish(
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
        path = output.write(frames, Path(folder) / f"a{output.SUFFIXES[form]}", form, rate, shown_for, _inside(recipe))
        return path.read_bytes()


def filmstrip(files: Sequence[Path], recipe: Recipe | None) -> bytes:
    """Stored frames side by side as one PNG."""
    return output.png(output.filmstrip(files), _inside(recipe))


def _inside(recipe: Recipe | None) -> str:
    """A recipe as it goes into a file: without the folders of this machine."""
    return portable(recipe).model_dump_json() if recipe is not None else ""


def _at_most(form: AnimationFormat, fps: int, inbetweens: int) -> int:
    """How many of the in-betweens this format has the time to show."""
    return min(inbetweens, max(0, output.GIF_FPS // fps - 1)) if form == "gif" else inbetweens
