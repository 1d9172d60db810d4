"""A job as it goes on: what a page sees that asks again and again."""

from __future__ import annotations

from collections.abc import Iterator

from studio.core.views import JobView
from studio.service import Studio


def watch(studio: Studio, id: str, owner: str = "me") -> Iterator[JobView]:
    """Every state of a job that differs from the one before, until it is over; the last state last."""
    last: JobView | None = None
    while last is None or last.active:
        view = studio.job(id, owner)
        if view != last:
            yield view
            last = view
        if view.active:
            studio.wait(id, owner, 0.05)
