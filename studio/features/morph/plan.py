"""Who a morph shows; its frames are found out by the job."""

from __future__ import annotations

from studio.features.characters import default_method, plan_character
from studio.features.feature import Planned, Planning
from studio.features.morph.spec import MorphSpec


def plan(spec: MorphSpec, planning: Planning) -> Planned:
    """One character in several emotions."""
    method = spec.method or default_method(spec.image)
    return plan_character(spec, spec.base, spec.image, spec.emotions, planning, method)
