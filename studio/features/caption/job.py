"""First captions in the worker.

`JobView.result`: {"folder": path, "captions": {file: caption}, "kept": pictures that had one, "without": [files that
have none still]}.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from studio.core.errors import BadInput, NotFound
from studio.engine.progress import Step
from studio.features.caption.spec import CaptionSpec
from studio.jobs.job import Job
from studio.runs import dataset

SHOWN_PROBLEMS = 5  # files of a training set that are named; all of them are in the result


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
