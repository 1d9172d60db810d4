"""How work reports itself. Knows neither what the work is nor who listens; loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Step:
    """`done` of `total` steps of work are finished. `preview`: a small picture of the state, if there is a new one."""

    done: int
    total: int
    note: str = ""
    preview: Image | None = None


# Called after each step of work, in the thread that works. It may raise `errors.Cancelled`: everything unwinds.
Progress = Callable[[Step], None]
