"""What a request for pictures of one prompt does in the worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from studio.core.specs import GenerateSpec
from studio.features.drawing import draw
from studio.jobs.job import Job


def generate(engine: Any, job: Job, spec: GenerateSpec) -> Iterator[None]:
    """`count` pictures of one prompt."""
    yield from draw(engine, job, job.recipes)
