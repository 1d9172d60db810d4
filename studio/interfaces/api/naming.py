"""Names that requests give to what lies on the server."""

from __future__ import annotations

from typing import TypeVar

from studio.core.fields import fields
from studio.core.specs import Spec
from studio.service import Studio

SpecT = TypeVar("SpecT", bound=Spec)


def with_data_sets(spec: SpecT, owner: str, studio: Studio) -> SpecT:
    """The request with the data sets that its fields name as their folders.

    A key may read pictures and write captions there, and nowhere else on the server. Raises `NotFound`, and `BadInput`
    where captions of a set that isn't the owner's would be lost.
    """
    named = {name: getattr(spec, name) for name, field in fields(type(spec)).items() if field.about.file == "dataset"}
    lost = bool(getattr(spec, "every", False))
    found = {
        name: str(studio.datasets.named(value, owner, change=lost))
        for name, value in named.items()
        if value is not None
    }
    return spec.model_copy(update=found)
