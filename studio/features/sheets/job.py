"""Sheets, grids and batches in the worker.

`JobView.result`: sheet and grid give {"sheet": id, "tiles": [ids], "rows": [...], "columns": [...]}, batch gives
{"rows": [[ids of the first prompt], ...]}.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from studio.features.drawing import draw
from studio.features.sheets.spec import BatchSpec, GridSpec, SheetSpec
from studio.jobs.job import Job
from studio.store.layout import grid_picture


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
