"""Who an animation or a set of sprites shows; their frames are found out by the job."""

from __future__ import annotations

from studio.features.animate.spec import AnimateSpec, SpritesSpec
from studio.features.characters import default_method, plan_character
from studio.features.feature import Planned, Planning


def plan_animation(spec: AnimateSpec, planning: Planning) -> Planned:
    """One character in the emotions of the keyframes, or of the sequence."""
    emotions = [mark.emotion for mark in spec.keyframes] or spec.emotions
    return plan_character(spec, spec.base, spec.image, emotions, planning)


def plan_sprites(spec: SpritesSpec, planning: Planning) -> Planned:
    """One character in several emotions."""
    method = spec.method or default_method(spec.image)
    return plan_character(spec, spec.base, spec.image, spec.emotions, planning, method)
