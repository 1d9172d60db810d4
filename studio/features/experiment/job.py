"""An A/B comparison in the worker.

`JobView.result`: {"report": id, "sentence", "names", "comparisons", "pairs": [[left id, right id], ...]}; the same when
it was cancelled after its first pair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio.core.errors import BadInput, Cancelled, StudioError
from studio.core.specs import Recipe
from studio.core.views import Picture
from studio.engine.models.catalogue import find_lora
from studio.engine.progress import Step
from studio.features.drawing import draw
from studio.features.experiment import report as reports
from studio.features.experiment.spec import ExperimentSpec
from studio.jobs.job import Job
from studio.prompting.triggers import trigger_words
from studio.store.layout import grid_picture

SHOWN_PAIRS = 8  # of an experiment, in its picture; all of them are in the report


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
        pairs, worst = yield from _find_worst(engine, job, spec, folder, triggers)
    else:
        pairs = reports.pairs(spec, job.wording.write, job.wording.harden, triggers)
    recipes: list[Recipe] = []
    for pair in pairs:
        for side in pair.sides:
            changes = {"prompt": side.prompt, "negative": side.negative, "seed": pair.seed, "count": 1}
            recipes += job.resolve(
                spec.base.model_copy(update=changes | {"emotion": pair.emotion, "style": pair.style})
            )
    across = len(pairs[0].sides)
    first: dict[str, int] = {}  # sides with one prompt (hardening gives the clean one back) are drawn once
    indices = [first.setdefault(recipe.key, index) for index, recipe in enumerate(recipes)]
    outcomes: list[reports.Outcome] = []

    def judge() -> None:
        """Look at the pairs that are all there by now, in order."""
        for pair in pairs[len(outcomes) :]:
            at = len(outcomes) * across
            there = [job.ids[k] for k in indices[at : at + across] if k in job.ids]
            if len(there) < across:
                return
            looks = judging.classify(folder, [job.image(id) for id in there])
            left, right, *cured = [
                reports.Seen(
                    emotion=look.emotion, style=look.style, probability=look.emotions[pair.emotion], picture=id
                )
                for look, id in zip(looks, there, strict=True)
            ]
            outcomes.append(reports.Outcome(pair=pair, left=left, right=right, cured=next(iter(cured), None)))

    def report(complete: bool) -> None:
        made = reports.Report(
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


def _find_worst(
    engine: Any, job: Job, spec: ExperimentSpec, folder: Path, triggers: Sequence[str]
) -> Generator[None, None, tuple[list[reports.Pair], reports.Worst]]:
    """Look for the spelling of the base's prompt that the judge sees the emotion in least: many pictures of few steps,
    none of which is kept. Yields after every batch.
    """
    from studio.engine import judging

    [recipe] = job.resolve(spec.base.model_copy(update={"count": 1}))
    small = recipe.model_copy(update={"steps": min(recipe.steps, reports.SEARCH_STEPS)})
    seeds = reports.seeds(spec)[: reports.SEARCH_SEEDS]
    most, search = reports.worst_case(spec, recipe.prompt, triggers)
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
    clean = reports.Side(prompt=recipe.prompt, negative=recipe.negative)
    changes = tuple((swap.source, swap.target) for swap in attacked.swaps)
    return reports.worst_pairs(spec, clean, attacked.text, job.wording.harden, triggers), reports.Worst(
        tried=tried, changes=changes
    )


def _searching(tell: Callable[[Step], None], before: int, total: int) -> Callable[[Step], None]:
    """Progress of the search for the worst spelling; what happens before the first step is said as it is."""
    note = f"trying spellings, picture {before + 1} of {total} at most"
    return lambda step: tell(replace(step, note=note) if step.done else step)


def _keep_report(job: Job, report: reports.Report, index: int) -> None:
    """Store a report with its first pairs as its picture, and tell it in the job's result."""
    summary = report.summary()
    shown = report.outcomes[:SHOWN_PAIRS]
    picture = grid_picture(
        [job.image(id) for ids in summary["pairs"][: len(shown)] for id in ids],
        list(report.names),
        [outcome.pair.emotion for outcome in shown],
    )
    key = job.key("report", report.model_dump_json(exclude={"created"}))
    job.result |= summary
    job.result["report"] = job.save(
        picture, None, index, id=key, kind="report", title=report.title,
        details={"report": report.model_dump(mode="json")},
    )  # fmt: skip


def report_of(picture: Picture) -> dict[str, Any]:
    """A stored report as an experiment's result has it, for a page that opens it again. Raises `BadInput`."""
    return reports.opened(picture.details.get("report")).summary() | {"report": picture.id}
