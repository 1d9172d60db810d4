"""What each kind of job does in the worker: one function per kind, in the table `KINDS`.

A function gets the engine, the job (see `job.Job`) and its request. As a generator it says with each `yield` "others
may go first now"; nothing may be attached to the engine at that point. Doesn't load models and doesn't write files:
that is the engine's and the store's.

`JobView.result`: sheet and grid give {"sheet": id, "tiles": [ids], "rows": [...], "columns": [...]}, batch gives
{"rows": [[ids of the first prompt], ...]}, animations give {"animation": id, "frames": [ids]}, sketch
{"control_image": id, "low": Canny threshold, "high"}.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from studio import work_motion
from studio.job import Job
from studio.jobs import Work
from studio.specs import BatchSpec, GenerateSpec, GridSpec, Recipe, SheetSpec, SketchSpec
from studio.store.layout import grid_picture

CHUNK = 16  # pictures between two points at which others may go first; the engine batches within


def draw(engine: Any, job: Job, recipes: Sequence[Recipe]) -> Iterator[None]:
    """Draw and save what isn't there yet, each at its place. Yields between chunks."""
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
    for members in groups.values():
        for start in range(0, len(members), CHUNK):
            chunk = members[start : start + CHUNK]
            wanted = [recipe for _, recipe in chunk]
            on_step = job.stage(sum(recipe.steps for recipe in wanted))
            for number, image in engine.draw(wanted, on_step, job.files):
                index, recipe = chunk[number]
                job.save(image, recipe, index)
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
    from studio.engine import control  # OpenCV, needed by this kind only

    first = job.recipes[0]
    with Image.open(job.files(spec.control.image)) as drawing:
        seen = control.see(drawing, spec.control, (first.width, first.height))
    key = job.key("control", spec.control.model_dump_json(), f"{first.width} {first.height}")
    job.result["control_image"] = job.save(seen.image, None, len(job.recipes), id=key, kind="control")
    job.result |= {"low": seen.low, "high": seen.high}
    yield from draw(engine, job, job.recipes)


KINDS: dict[str, Work] = {
    "generate": generate,
    "sheet": sheet,
    "grid": grid,
    "batch": batch,
    "sketch": sketch,
    **work_motion.KINDS,
}


def _together(recipe: Recipe) -> str:
    # What the engine requires to be equal among pictures that it draws together.
    return recipe.model_copy(update={"prompt": "", "negative": "", "seed": 0}).key


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
