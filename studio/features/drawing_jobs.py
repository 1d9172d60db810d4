"""What each kind of job does in the worker: one function per kind, in the table `KINDS`.

A function gets the engine, the job (see `job.Job`) and its request. As a generator it says with each `yield` "others
may go first now"; nothing may be attached to the engine at that point. Doesn't load models and doesn't write files:
that is the engine's and the store's.

`JobView.result`: sheet and grid give {"sheet": id, "tiles": [ids], "rows": [...], "columns": [...]}, batch gives
{"rows": [[ids of the first prompt], ...]}, animations give {"animation": id, "frames": [ids]}, sketch
{"control_image": id, "low": Canny threshold, "high"}, experiment {"report": id, "sentence", "names", "comparisons",
"pairs": [[left id, right id], ...]} (the same when it was cancelled after its first pair), caption {"folder": path,
"captions": {file: caption}, "kept": pictures that had one, "without": [files that have none still]}.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from studio.core.errors import BadInput, Cancelled, NotFound, StudioError
from studio.core.specs import GenerateSpec, Recipe
from studio.core.views import Picture
from studio.engine.models.catalogue import find_lora, resolve
from studio.engine.progress import Step
from studio.features import motion_jobs
from studio.features.caption.spec import CaptionSpec
from studio.features.experiment import report as prompts
from studio.features.experiment.spec import ExperimentSpec
from studio.features.sheets.spec import BatchSpec, GridSpec, SheetSpec
from studio.features.sketch.spec import SketchSpec
from studio.jobs.job import Job
from studio.jobs.queue import Work
from studio.prompting.triggers import trigger_words as trigger_words
from studio.runs import dataset
from studio.store.layout import grid_picture

SHOWN_PROBLEMS = 5  # files of a training set that are named; all of them are in the result
SHOWN_PAIRS = 8  # of an experiment, in its picture; all of them are in the report


def draw(engine: Any, job: Job, recipes: Sequence[Recipe]) -> Iterator[None]:
    """Draw and save what isn't there yet, each at its place.

    Yields after every batch: on a CPU after each picture, so that nobody waits for sixteen slow ones of somebody else.
    """
    todo: list[tuple[int, Recipe]] = []
    for index, recipe in enumerate(recipes):
        if index in job.found:
            continue
        picture = job.cached(recipe)  # drawn since it was submitted, by an earlier job
        if picture is not None:
            job.found[index] = picture
            job.show(picture.id, index)
        else:
            todo.append((index, recipe))
    job.begin(sum(recipe.steps for _, recipe in todo))
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
            on_step = _numbered(job.stage(sum(recipe.steps for recipe in wanted)), drawn, len(wanted), len(todo))
            for number, image in engine.draw(wanted, on_step, job.files):
                index, recipe = members[number]
                job.save(image, recipe, index)
            drawn += len(wanted)
            members = members[len(wanted) :]
            yield
    for index, same in again.items():
        job.show(job.ids[same], index)


def generate(engine: Any, job: Job, spec: GenerateSpec) -> Iterator[None]:
    """`count` pictures of one prompt."""
    yield from draw(engine, job, job.recipes)


def sheet(engine: Any, job: Job, spec: SheetSpec) -> Iterator[None]:
    """One character in every emotion (and style): tiles, then one labelled picture of them all."""
    yield from draw(engine, job, job.recipes)
    _assemble(job, "sheet", spec.styles, spec.emotions)


def grid(engine: Any, job: Job, spec: GridSpec) -> Iterator[None]:
    """Every combination of the values of one or two parameters: tiles, then one labelled picture of them all."""
    yield from draw(engine, job, job.recipes)
    rows = [_label(spec.y.name, value) for value in spec.y.values] if spec.y else []
    _assemble(job, "grid", rows, [_label(spec.x.name, value) for value in spec.x.values])


def batch(engine: Any, job: Job, spec: BatchSpec) -> Iterator[None]:
    """Many prompts. What an earlier try finished is found in the image cache, so repeating the request resumes it."""
    yield from draw(engine, job, job.recipes)
    ids = [job.ids[index] for index in range(len(job.recipes))]
    count = spec.base.count
    job.result["rows"] = [ids[start : start + count] for start in range(0, len(ids), count)]


def sketch(engine: Any, job: Job, spec: SketchSpec) -> Iterator[None]:
    """Several pictures that follow one drawing, and what the model saw of it."""
    from studio.engine.media import control_images  # OpenCV, needed by this kind only

    first = job.recipes[0]
    with Image.open(job.files(spec.control.image)) as drawing:
        seen = control_images.extract(drawing, spec.control, (first.width, first.height))
    key = job.key("control", spec.control.model_dump_json(), f"{first.width} {first.height}")
    job.result["control_image"] = job.save(
        seen.image, None, len(job.recipes), id=key, kind="control", details={"drawing": spec.control.image}
    )
    job.result |= {"low": seen.low, "high": seen.high}
    yield from draw(engine, job, job.recipes)


def experiment(engine: Any, job: Job, spec: ExperimentSpec) -> Iterator[None]:
    """Both sides of every pair from the same seeds, judged; then the report, with its first pairs as a picture.

    A cancel keeps the report of the pairs that were finished.
    """
    from studio.engine import judging  # torch, needed by this kind only

    folder = engine.components(spec.base.model).info.judge
    if folder is None:
        raise BadInput(f"{job.model_title} has no judge to measure emotions with; choose the embedded model.")
    triggers = trigger_words(spec.base.loras, lambda path: find_lora(path, engine.settings))
    worst = None
    if spec.compare == "clean_worst":
        pairs, worst = yield from _worst(engine, job, spec, folder, triggers)
    else:
        pairs = prompts.pairs(spec, triggers=triggers)
    recipes: list[Recipe] = []
    for pair in pairs:
        for side in pair.sides:
            asked = {"prompt": side.prompt, "negative": side.negative, "seed": pair.seed, "count": 1}
            recipes += job.resolve(spec.base.model_copy(update=asked | {"emotion": pair.emotion, "style": pair.style}))
    across = len(pairs[0].sides)
    first: dict[str, int] = {}  # sides with one prompt (hardening gives the clean one back) are drawn once
    places = [first.setdefault(recipe.key, index) for index, recipe in enumerate(recipes)]
    outcomes: list[prompts.Outcome] = []

    def judge() -> None:
        """Look at the pairs that are all there by now, in order."""
        for pair in pairs[len(outcomes) :]:
            at = len(outcomes) * across
            there = [job.ids[place] for place in places[at : at + across] if place in job.ids]
            if len(there) < across:
                return
            looks = judging.classify(folder, [job.image(id) for id in there])
            left, right, *cured = [
                prompts.Seen(
                    emotion=look.emotion, style=look.style, probability=look.emotions[pair.emotion], picture=id
                )
                for look, id in zip(looks, there, strict=True)
            ]
            outcomes.append(prompts.Outcome(pair=pair, left=left, right=right, cured=next(iter(cured), None)))

    def report(complete: bool) -> None:
        made = prompts.Report(
            spec=spec, model=job.model_title, created=time.time(), outcomes=tuple(outcomes), complete=complete,
            worst=worst,
        )  # fmt: skip
        _keep_report(job, made, len(recipes))

    try:
        for _ in draw(engine, job, recipes):
            judge()
            yield
        judge()
    except (Cancelled, GeneratorExit):
        with suppress(StudioError):  # what can't be kept now must not turn a cancel into a fault
            judge()
            if outcomes:
                report(complete=False)
        raise
    report(complete=True)


def _worst(
    engine: Any, job: Job, spec: ExperimentSpec, folder: Path, triggers: Sequence[str]
) -> Generator[None, None, tuple[list[prompts.Pair], prompts.Worst]]:
    """Look for the spelling of the base's prompt that the judge sees the emotion in least: many pictures of few steps,
    none of which is kept. Yields after every batch.
    """
    from studio.engine import judging

    [recipe] = job.resolve(spec.base.model_copy(update={"count": 1}))
    small = recipe.model_copy(update={"steps": min(recipe.steps, prompts.SEARCH_STEPS)})
    seeds = prompts.seeds(spec)[: prompts.SEARCH_SEEDS]
    most, search = prompts.worst_case(spec, recipe.prompt, triggers)
    total = most * len(seeds)
    job.begin(total * small.steps)
    drawn = tried = 0
    try:
        wanted = next(search)
        while True:
            todo = [small.model_copy(update={"prompt": prompt, "seed": seed}) for prompt in wanted for seed in seeds]
            sure: list[float] = []
            while len(sure) < len(todo):
                rest = todo[len(sure) :]
                chunk = rest[: engine.at_once(rest, job.say)]
                on_step = _searching(job.stage(small.steps * len(chunk)), drawn, total)
                images = [image for _, image in sorted(engine.draw(chunk, on_step, job.files), key=lambda one: one[0])]
                sure += [look.emotions[spec.base.emotion] for look in judging.classify(folder, images)]
                drawn += len(chunk)
                yield
            tried += len(wanted)
            across = len(seeds)
            wanted = search.send([sum(sure[at : at + across]) / across for at in range(0, len(sure), across)])
    except StopIteration as over:
        attacked, _ = over.value
    clean = prompts.Side(prompt=recipe.prompt, negative=recipe.negative)
    changes = tuple((swap.source, swap.target) for swap in attacked.swaps)
    return prompts.worst_pairs(spec, clean, attacked.text, triggers), prompts.Worst(tried=tried, changes=changes)


def _searching(tell: Callable[[Step], None], before: int, total: int) -> Callable[[Step], None]:
    """Progress of the search for the worst spelling; what happens before the first step is said as it is."""
    note = f"trying spellings, picture {before + 1} of {total} at most"
    return lambda step: tell(replace(step, note=note) if step.done else step)


def _keep_report(job: Job, report: prompts.Report, place: int) -> None:
    """Store a report with its first pairs as its picture, and tell it in the job's result."""
    told = report.told()
    shown = report.outcomes[:SHOWN_PAIRS]
    picture = grid_picture(
        [job.image(id) for ids in told["pairs"][: len(shown)] for id in ids],
        list(report.names),
        [outcome.pair.emotion for outcome in shown],
    )
    key = job.key("report", report.model_dump_json(exclude={"created"}))
    job.result |= told
    job.result["report"] = job.save(
        picture, None, place, id=key, kind="report", title=report.title,
        details={"report": report.model_dump(mode="json")},
    )  # fmt: skip


def report_of(picture: Picture) -> dict[str, Any]:
    """A stored report as an experiment's result has it, for a page that opens it again. Raises `BadInput`."""
    return prompts.opened(picture.details.get("report")).told() | {"report": picture.id}


def caption(engine: Any, job: Job, spec: CaptionSpec) -> Iterator[None]:
    """A first caption for each picture of a training set, written beside it as soon as it is made.

    What a cancel or a fault leaves is a set with fewer captions; asking again goes on where it ended.
    """
    from studio.engine import captioning  # torch
    from studio.engine.models import captioners

    folder = Path(spec.data)
    job.say("Looking at the pictures")
    report = dataset.check(folder, 1)  # a picture too small for one model is large enough for another
    todo = [entry for entry in report.entries if spec.every or not entry.caption]
    broken = [problem for problem in report.problems if problem.kind == "unreadable"]
    without = [problem.file for problem in broken]
    job.result |= {"captions": {}, "kept": len(report.entries) - len(todo), "without": without}
    for problem in broken[:SHOWN_PROBLEMS]:
        job.note(problem.message)
    if len(broken) > SHOWN_PROBLEMS:
        job.note(f"{len(broken) - SHOWN_PROBLEMS} more can't be read either.")
    if not todo:
        job.note("Every picture has a caption already; they are written anew only when you ask for all.")
        return
    info = captioners.find(spec.captioner, engine.settings)
    captioner = captioning.load(info, engine.settings, spec.threshold, spec.style, job.say)
    job.begin(len(todo))
    on_step = job.stage(len(todo))
    for start in range(0, len(todo), captioner.batch):
        chunk = todo[start : start + captioner.batch]
        captions = captioner([_upright(folder, entry.file) for entry in chunk])
        made = dict(zip((entry.file for entry in chunk), captions, strict=True))
        made = {file: text for file, text in dataset.behind_triggers(report.entries, made).items() if text}
        dataset.write_captions(folder, made)
        # made anew each time: whoever holds an earlier view of the job keeps what it saw
        job.result["captions"] = job.result["captions"] | made
        job.result["without"] = job.result["without"] + [entry.file for entry in chunk if entry.file not in made]
        on_step(Step(start + len(chunk), len(todo), chunk[-1].file))
        yield
    if unsure := len(todo) - len(job.result["captions"]):
        job.note(f"In {unsure} of {len(todo)} pictures nothing was sure enough to be named.")


def _upright(folder: Path, file: str) -> Image.Image:
    try:
        with Image.open(folder / file) as picture:
            return dataset.upright(picture)
    except (OSError, SyntaxError, ValueError) as error:  # it could be read a moment ago
        if not folder.is_dir():
            raise NotFound(f"The folder {folder} is gone; choose the pictures again.") from error
        raise BadInput(f"{file} can't be read any more; look at the folder and try again.") from error


def _with_models(work: Work) -> Work:
    """The same work, but models that aren't here yet are downloaded first, and others go on meanwhile."""

    def run(engine: Any, job: Job, spec: Any) -> Iterator[None]:
        for recipe in {(recipe.model, recipe.control): recipe for recipe in job.recipes}.values():
            if resolve(recipe.model, engine.settings, with_hash=False).path is None:
                yield from engine.fetched(recipe.model, job.say)
            if recipe.control is not None and recipe.control.weight:
                yield from engine.fetched_control(recipe.model, _follows(engine, job, recipe), job.say)
        yield from work(engine, job, spec) or ()

    return run


def _follows(engine: Any, job: Job, recipe: Recipe) -> str:
    """The kind or the name of the ControlNet that this recipe will be drawn with."""
    from studio.engine.media import control_images  # OpenCV: only where something follows a drawing

    assert recipe.control is not None
    known = resolve(recipe.model, engine.settings, with_hash=False).controlnets
    size = (recipe.width, recipe.height)
    return recipe.control.model or control_images.controlnet_kind(
        job.files(recipe.control.image), recipe.control, size, known
    )


_WORK: dict[str, Work] = {
    "generate": generate,
    "sheet": sheet,
    "grid": grid,
    "batch": batch,
    "sketch": sketch,
    "experiment": experiment,
    "caption": caption,
    **motion_jobs.KINDS,
}
KINDS = {kind: _with_models(work) for kind, work in _WORK.items()}


def _together(recipe: Recipe) -> str:
    # What the engine requires to be equal among pictures that it draws together.
    return recipe.model_copy(update={"prompt": "", "negative": "", "seed": 0}).key


def _numbered(tell: Callable[[Step], None], before: int, count: int, total: int) -> Callable[[Step], None]:
    """Progress of `count` pictures that says which of all the job's they are; the engine knows only these."""
    note = f"picture {before + 1} of {total}" if count == 1 else f"pictures {before + 1} to {before + count} of {total}"
    return lambda step: tell(replace(step, note=note if total > 1 else "") if step.done else step)


def _assemble(job: Job, kind: Any, rows: Sequence[str], columns: Sequence[str]) -> None:
    tiles = [job.ids[index] for index in range(len(job.recipes))]
    image = grid_picture([job.image(id) for id in tiles], columns, rows)
    layout = {"tiles": tiles, "columns": list(columns), "rows": list(rows)}
    id = job.save(
        image, job.recipes[0], len(tiles), id=job.key(kind, *tiles, *columns, *rows), kind=kind, details=layout
    )
    job.result.update(layout, sheet=id)


def _label(name: str, value: str) -> str:
    if name == "lora":
        return Path(value.strip()).stem.replace("-", " ")
    return value if name in ("emotion", "style", "sampler") else f"{name.replace('_', ' ')} {value.strip()}"
