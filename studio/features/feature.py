"""What a kind of job is made of, and what it is handed when it is planned.

A feature is a folder: `spec.py` (what is asked for), `plan.py` (which pictures that means), `job.py` (what the worker
does), and a `Feature` in its `__init__.py` that names them; `registry.py` lists all. Nothing here knows one of them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from studio.core.settings import Settings
from studio.core.specs import GenerateSpec, Request
from studio.core.views import Picture
from studio.jobs.job import Wording
from studio.jobs.queue import Work


@dataclass(frozen=True)
class Planning:
    """What a plan may ask. `notes` are true sentences about how the request was understood: it adds to them."""

    settings: Settings
    wording: Wording
    picture: Callable[[str], Picture]  # of the owner, by its id; raises NotFound
    notes: list[str] = field(default_factory=list)

    def seeded(self, base: GenerateSpec) -> GenerateSpec:
        """The request with a seed where it left that open."""
        return base if base.seed is not None else base.model_copy(update={"seed": secrets.randbelow(2**31)})

    def note(self, sentence: str) -> None:
        """Add a sentence, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)


@dataclass(frozen=True)
class Planned:
    """A request with nothing left to chance, and the pictures that it means.

    `requests` become recipes, `count` each, in order. `complete`: they are all that is drawn, so that what is there
    already needs no work; else the job asks for more itself. `alike`: requests whose prompts have to agree in how they
    are written (None: each for itself; none: as the writer writes them). `result` is what the job's result begins with.
    """

    spec: Request
    requests: Sequence[GenerateSpec] = ()
    complete: bool = True
    alike: Sequence[GenerateSpec] | None = None
    title: str = ""
    model_title: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verb:
    """A feature on the command line. Its options are the fields of its spec and of the request that it builds on.

    `without`: fields that are no options.
    """

    help: str
    without: Iterable[str] = ()


@dataclass(frozen=True)
class Feature:
    """One kind of job."""

    spec: type[Request]
    plan: Callable[[Any, Planning], Planned]
    work: Work
    verb: Verb | None = None

    @property
    def kind(self) -> str:
        """Its name in JSON and in the log."""
        return str(self.spec.model_fields["kind"].default)
