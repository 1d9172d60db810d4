"""Names that requests give to what lies on the server."""

from __future__ import annotations

from typing import TypeVar

from studio.core.errors import NotFound
from studio.core.fields import fields
from studio.core.settings import Settings
from studio.core.specs import Spec

SpecT = TypeVar("SpecT", bound=Spec)


def _data_set(settings: Settings, name: str) -> str:
    """The folder or ZIP of a data set by its name in `datasets/`. Raises `NotFound` for everything that lies elsewhere.

    A key may read pictures and write captions there, and nowhere else on the server.
    """
    folder = settings.datasets_dir.resolve()
    try:
        found = (folder / name).resolve()
        if found != folder and found.is_relative_to(folder) and found.exists():
            return str(found)
    except (OSError, ValueError):  # too long, a NUL in it
        pass
    raise NotFound(f"There is no data set {name[:80]!r} in the studio's folder datasets/; give the name of one there.")


def with_data_sets(spec: SpecT, settings: Settings) -> SpecT:
    """The request with the data sets that its fields name as their folders. Raises `NotFound`."""
    named = {name: getattr(spec, name) for name, field in fields(type(spec)).items() if field.about.file == "dataset"}
    found = {name: _data_set(settings, value) for name, value in named.items() if value is not None}
    return spec.model_copy(update=found)
