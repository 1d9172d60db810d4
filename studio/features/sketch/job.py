"""A sketch in the worker. `JobView.result`: {"control_image": id, "low": Canny threshold, "high"}."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from PIL import Image

from studio.core.fields import key_data
from studio.core.specs import ControlSpec
from studio.features.drawing import draw
from studio.features.sketch.spec import SketchSpec
from studio.jobs.job import Job


def sketch(engine: Any, job: Job, spec: SketchSpec) -> Iterator[None]:
    """Several pictures that follow one drawing, and what the model saw of it."""
    from studio.engine.media import control_images  # OpenCV, needed by this kind only

    first = job.recipes[0]
    with Image.open(job.files(spec.control.image)) as drawing:
        seen = control_images.extract(drawing, spec.control, (first.width, first.height))
    key = job.key("control", _fields(spec.control), f"{first.width} {first.height}")
    job.result["control_image"] = job.save(
        seen.image, None, len(job.recipes), id=key, kind="control", details={"drawing": spec.control.image}
    )
    job.result |= {"low": seen.low, "high": seen.high}
    yield from draw(engine, job, job.recipes)


def _fields(control: ControlSpec) -> str:
    """What counts of it, as JSON: a control image that is there already is found under it."""
    return json.dumps(key_data(control), ensure_ascii=False, separators=(",", ":"))
