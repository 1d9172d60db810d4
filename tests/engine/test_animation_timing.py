"""Where frames stand in time: hand-worked numbers."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from studio.core.specs import Keyframe
from studio.engine.motion import timing
from studio.features.animate.spec import AnimateSpec
from studio.features.morph.spec import MorphSpec


def test_five_frames_stand_at_quarters() -> None:
    assert [timing.along(("happy", "sad"), p).amount for p in timing.positions(5)] == [0, 0.25, 0.5, 0.75, 1]


def test_a_chain_meets_every_emotion() -> None:
    mixes = [timing.along(("happy", "sad", "angry"), p) for p in timing.positions(5)]
    assert [(m.source, m.target, m.amount) for m in mixes] == [
        ("happy", "sad", 0), ("happy", "sad", 0.5), ("sad", "angry", 0), ("sad", "angry", 0.5), ("sad", "angry", 1),
    ]  # fmt: skip
    assert [m.emotion for m in mixes] == ["happy", "sad", "sad", "angry", "angry"]


@pytest.mark.parametrize("name", timing.EASINGS)
def test_easing_keeps_the_ends_and_rises(name) -> None:
    values = [timing.EASINGS[name](k / 10) for k in range(11)]
    assert (values[0], values[-1]) == (0, 1)
    assert values == sorted(values)


def test_retiming_inverts_the_cumulative_distance() -> None:
    # All the change happens between 0.5 and 0.75: three of four steps of five frames must go there.
    found = timing.retime([0, 0.25, 0.5, 0.75, 1], [0, 0, 4, 0], 5)
    assert found == pytest.approx([0, 0.5625, 0.625, 0.6875, 1])
    assert timing.retime([0, 0.5, 1], [1, 1], 5) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert timing.retime([0, 0.5, 1], [0, 0], 3) == [0, 0.5, 1]
    # the emotion in the middle of a chain is shown exactly
    assert 0.5 in timing.retime([0, 0.25, 0.5, 0.75, 1], [1, 1, 5, 5], 5, anchors=[0.5])


def test_pingpong_shows_no_end_twice() -> None:
    assert timing.pingpong([1, 2, 3, 4]) == [1, 2, 3, 4, 3, 2]
    assert timing.pingpong([1, 2]) == [1, 2]


def test_strength_ramps_and_keyframes_hold() -> None:
    plan = timing.stills(("happy", "sad"), 5, 0.3, 0.7)
    assert [s.strength for s in plan] == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7])
    assert [s.mix.amount for s in plan] == [0, 0.25, 0.5, 0.75, 1]
    marks = (Keyframe(emotion="sad", frame=3, strength=0.5, hold=4), Keyframe(emotion="calm", frame=1))
    plan = timing.stills(("happy",), 5, 0.3, 0.7, marks)
    assert [(s.mix.source, s.mix.target) for s in plan][1:4] == [("calm", "sad"), ("calm", "sad"), ("sad", "sad")]
    assert [s.mix.amount for s in plan] == [0, 0, 0.5, 0, 0]
    assert [s.strength for s in plan] == pytest.approx([0.4, 0.4, 0.45, 0.5, 0.5])
    assert [s.hold for s in plan] == [1, 1, 1, 4, 1]


def test_bad_plans_are_named() -> None:
    for emotions in (("sad", "sad"), ("happy", "sad", "sad")):
        with pytest.raises(ValidationError, match="two different ones"):
            MorphSpec(emotions=emotions)
    with pytest.raises(ValidationError, match="at least as many frames"):
        MorphSpec(emotions=("happy", "sad", "calm", "angry"), frames=3)
    with pytest.raises(ValidationError):
        MorphSpec(frames=0)
    with pytest.raises(ValidationError, match="past the end"):
        AnimateSpec(frames=4, keyframes=(Keyframe(emotion="sad", frame=4),))
    with pytest.raises(ValidationError, match="two keyframes"):
        AnimateSpec(keyframes=(Keyframe(emotion="sad", frame=1), Keyframe(emotion="calm", frame=1)))


def test_durations_carry_their_rounding() -> None:
    times = timing.durations(8, 8)  # 125 ms don't fit into hundredths of a second
    assert set(times) <= {120, 130}
    assert sum(times) == 1000
    assert timing.durations(2, 10, [1, 3]) == [100, 300]
    assert min(timing.durations(40, 30)) >= 30
