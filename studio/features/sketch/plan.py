"""Which pictures a sketch means."""

from __future__ import annotations

from studio.features.feature import Planned, Planning
from studio.features.sketch.spec import SketchSpec


def plan(spec: SketchSpec, planning: Planning) -> Planned:
    """`count` pictures that follow the drawing."""
    base = planning.seeded(spec.base)
    return Planned(spec.model_copy(update={"base": base}), [base.model_copy(update={"control": spec.control})])
