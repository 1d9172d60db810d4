"""Which pictures a request for one prompt means."""

from __future__ import annotations

from studio.core.specs import GenerateSpec
from studio.features.feature import Planned, Planning


def plan(spec: GenerateSpec, planning: Planning) -> Planned:
    """`count` pictures from neighbouring seeds."""
    base = planning.seeded(spec)
    return Planned(base, [base])
