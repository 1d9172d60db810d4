"""An experiment writes its prompts itself; planned is the request that they build on."""

from __future__ import annotations

from studio.features.experiment.spec import ExperimentSpec
from studio.features.feature import Planned, Planning


def plan(spec: ExperimentSpec, planning: Planning) -> Planned:
    """The base alone: it compares prompts of its own."""
    base = planning.seeded(spec.base)
    one = base.model_copy(update={"count": 1})
    return Planned(spec.model_copy(update={"base": base}), [one], complete=False, alike=())
