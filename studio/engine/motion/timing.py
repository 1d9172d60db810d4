"""When each frame stands where: easing, chains of emotions, keyframes, equal perceptual steps, ping-pong.

Pure functions on numbers. Knows no picture, no model and no file, and loads no torch.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from studio.core.specs import Easing, Emotion, Keyframe

T = TypeVar("T")

# Cubic ease-in-out is 3t^2 - 2t^3 ("smoothstep"): slope 0 at both ends, so that a chain doesn't jerk at its joints.
EASINGS: dict[Easing, Callable[[float], float]] = {
    "linear": lambda t: t,
    "ease": lambda t: t * t * (3 - 2 * t),
    "ease_in": lambda t: t * t,
    "ease_out": lambda t: t * (2 - t),
}


@dataclass(frozen=True)
class Mix:
    """A point between two emotions: 0 is all `source`, 1 all `target`."""

    source: Emotion
    target: Emotion
    amount: float

    @property
    def emotion(self) -> Emotion:
        """The emotion that outweighs the other; the target from the middle on."""
        return self.source if self.amount < 0.5 else self.target


@dataclass(frozen=True)
class Still:
    """One frame of an animation: its mix of emotions, its img2img strength, and for how many frames' time it stays."""

    mix: Mix
    strength: float
    hold: int = 1


def positions(count: int) -> list[float]:
    """`count` >= 2 equal steps from 0 to 1, both included: 5 gives 0, .25, .5, .75, 1."""
    return [k / (count - 1) for k in range(count)]


def along(emotions: Sequence[Emotion], position: float, easing: Easing = "linear") -> Mix:
    """Where `position` (0..1 over the whole chain) stands between two of its emotions; each leg is eased by itself."""
    legs = len(emotions) - 1
    leg = min(int(position * legs), legs - 1)
    amount = min(max(position * legs - leg, 0.0), 1.0)
    return Mix(emotions[leg], emotions[leg + 1], EASINGS[easing](amount))


def spread(count: int, legs: int) -> list[float]:
    """`count` (nearly) equal steps from 0 to 1, the nearest moved to where an emotion of a chain is shown purely."""
    return retime(positions(count), [1.0] * (count - 1), count, positions(legs + 1)[1:-1])


def retime(
    samples: Sequence[float], distances: Sequence[float], count: int, anchors: Sequence[float] = ()
) -> list[float]:
    """Positions of `count` frames whose perceptual steps are equal, by inverting the cumulative distance.

    `samples` are rising positions that were drawn, `distances[k]` >= 0 how different the pictures at samples[k] and
    samples[k + 1] look (a *metric*: take the root of a squared distance). `anchors` are positions that must be hit
    exactly (the emotions of a chain); the frame nearest to each moves there. Returns `count` rising positions from
    the first sample to the last. The reschedule step of DiffMorpher (2312.07409, section 4.4).
    """
    total = sum(distances)
    first, last = samples[0], samples[-1]
    if total <= 0:
        return [first + (last - first) * p for p in positions(count)]
    travelled = [0.0]
    for distance in distances:
        travelled.append(travelled[-1] + distance)
    moved = []
    for p in positions(count):
        goal = p * total
        k = min(max(bisect.bisect_right(travelled, goal) - 1, 0), len(distances) - 1)
        step = distances[k]
        share = (goal - travelled[k]) / step if step else 0.0
        moved.append(samples[k] + min(share, 1.0) * (samples[k + 1] - samples[k]))
    moved[0], moved[-1] = first, last
    taken = {0, count - 1}
    for anchor in anchors:
        free = [k for k in range(count) if k not in taken]
        if first < anchor < last and free:
            nearest = min(free, key=lambda k: abs(moved[k] - anchor))
            moved[nearest] = anchor
            taken.add(nearest)
    return sorted(moved)


def pingpong(frames: Sequence[T]) -> list[T]:
    """There and back for a loop: the last and the first frame are not shown twice in a row."""
    return [*frames, *frames[-2:0:-1]]


def stills(
    emotions: Sequence[Emotion],
    count: int,
    strength_from: float,
    strength_to: float,
    keyframes: Sequence[Keyframe] = (),
    easing: Easing = "linear",
) -> list[Still]:
    """The plan of an animation: `count` frames along the emotions, with strength rising from one end to the other.

    With keyframes, `emotions` are ignored: every frame between two keyframes lies between their emotions and their
    strengths; before the first and after the last keyframe nothing changes. A keyframe without a strength takes the
    ramp's at its frame.
    """

    def ramp(k: int) -> float:
        return strength_from + (strength_to - strength_from) * k / (count - 1)

    if not keyframes:
        if len(emotions) == 1:
            return [Still(Mix(emotions[0], emotions[0], 0.0), ramp(k)) for k in range(count)]
        return [Still(along(emotions, p, easing), ramp(k)) for k, p in enumerate(positions(count))]

    marks = sorted(keyframes, key=lambda mark: mark.frame)
    frames = []
    for k in range(count):
        after = next((i for i, mark in enumerate(marks) if mark.frame > k), len(marks))
        a = marks[max(after - 1, 0)]
        b = marks[min(after, len(marks) - 1)]
        share = EASINGS[easing]((k - a.frame) / (b.frame - a.frame)) if b.frame > a.frame else 0.0
        share = max(share, 0.0) if k >= a.frame else 0.0
        low = a.strength if a.strength is not None else ramp(a.frame)
        high = b.strength if b.strength is not None else ramp(b.frame)
        hold = a.hold if k == a.frame else 1
        frames.append(Still(Mix(a.emotion, b.emotion, share), low + (high - low) * share, hold))
    return frames


def durations(count: int, fps: int, holds: Sequence[int] = (), unit_ms: int = 10) -> list[int]:
    """Milliseconds per frame in multiples of `unit_ms` (a GIF counts in hundredths of a second).

    The rounding error is carried on, so that the whole animation keeps its length at any rate.
    """
    milliseconds, shown, spent = [], 0, 0
    for k in range(count):
        shown += holds[k] if holds else 1
        end = max(round(shown * 1000 / fps / unit_ms) * unit_ms, spent + unit_ms)
        milliseconds.append(end - spent)
        spent = end
    return milliseconds
