"""The painter's masks: every pixel's part, and how much of it is the character, where the painting has them."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from studio.pretraining.painter import PARTS, masks, paint, sample_spec
from studio.pretraining.painter.palette import Palette
from studio.pretraining.painter.spec import STYLES


def share(labels: np.ndarray, part: str) -> float:
    return float((labels == PARTS.index(part)).mean())


@pytest.mark.parametrize("style", STYLES)
def test_every_part_is_where_its_colour_is(style: str) -> None:
    spec = sample_spec(random.Random(3), style=style, hair_color="green", outfit_color="red", skin="fair skin",
                       emotion="surprised", accessories=(), tip_color="")  # fmt: skip
    found, picture = masks(spec, 128, seed=2), np.asarray(paint(spec, 128, seed=2)).astype(int)
    assert found.labels.shape == (128, 128)
    assert found.alpha.size == (128, 128)
    for part, least in (("hair", 0.1), ("skin", 0.04), ("eyes", 0.005), ("mouth", 0.001), ("clothes", 0.04)):
        assert share(found.labels, part) > least, part
    middle = np.median(picture[found.labels == PARTS.index("hair")], 0)
    assert np.abs(middle - Palette(spec).hair).max() < 60
    assert middle[1] > middle[0]  # green


def test_the_character_is_what_alpha_says() -> None:
    spec = sample_spec(random.Random(8), style="casual", background="plain")
    found = masks(spec, 128, seed=1)
    alpha = np.asarray(found.alpha)
    assert (alpha[found.labels > 0] > 40).mean() > 0.99
    assert (alpha[found.labels == 0] < 215).mean() > 0.99
    soft = ((alpha > 8) & (alpha < 247)).mean()
    assert 0.002 < soft < 0.08  # edges, and nothing else
    assert np.array_equal(alpha, np.asarray(masks(spec, 128, seed=1).alpha))


def test_painted_over_another_background_only_the_character_stays() -> None:
    from dataclasses import replace

    spec = sample_spec(random.Random(8), style="casual", background="plain", background_color="blue")
    other = replace(spec, background_color="yellow")
    alpha = np.asarray(masks(spec, 128, seed=1).alpha)
    first, second = (np.asarray(paint(one, 128, seed=1)).astype(int) for one in (spec, other))
    same = np.abs(first - second).max(2) <= 2
    assert same[alpha == 255].all()
    assert not same[alpha == 0].any()
    assert Image.fromarray(alpha).getextrema() == (0, 255)
