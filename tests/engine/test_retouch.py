"""A mask on a picture: what is drawn of it, what stays, how it is put back, and the seam's figure."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from studio.core.errors import BadInput
from studio.core.specs import MaskSpec
from studio.engine.media import retouch
from studio.engine.media.retouch import Area


def noisy(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def disc(width: int, height: int, box: tuple[int, int, int, int], level: int = 255) -> Image.Image:
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).ellipse(box, fill=level)
    return mask


def area(picture: Image.Image, mask: Image.Image, canvas: tuple[int, int], **fields) -> Area:
    spec = MaskSpec(image="mask", **fields)
    return Area(picture, retouch.check(picture.size, mask, spec), spec, canvas)


@pytest.mark.parametrize("size", [(96, 96), (100, 70), (61, 130)])
@pytest.mark.parametrize("kind", ["whole", "masked"])
@pytest.mark.parametrize("feather", [0, 5])
def test_outside_of_the_mask_every_bit_stays(size: tuple[int, int], kind: str, feather: int) -> None:
    picture, mask = noisy(*size), disc(*size, (20, 22, 50, 60))
    canvas = tuple(-(-side // 16) * 16 for side in size) if kind == "whole" else (64, 80)
    made = area(picture, mask, canvas, area=kind, feather=feather, padding=9)
    assert made.start.size == made.change.size == canvas
    result, figure = made.paste(noisy(*canvas, seed=1))
    outside = np.asarray(mask) == 0
    assert result.size == size
    assert np.array_equal(np.asarray(result)[outside], np.asarray(picture)[outside])
    assert not np.array_equal(np.asarray(result), np.asarray(picture))
    assert figure > 0


def test_the_whole_picture_is_drawn_pixel_for_pixel() -> None:
    picture = noisy(100, 70)
    made = area(picture, disc(100, 70, (20, 22, 50, 60)), (112, 80), area="whole", feather=0)
    assert np.array_equal(np.asarray(made.start)[:70, :100], np.asarray(picture))  # not scaled
    assert (np.asarray(made.start)[:, 100:] == np.asarray(made.start)[:, 99:100]).all()  # its edge goes on
    drawn = noisy(112, 80, seed=1)
    result, _ = made.paste(drawn)
    deep = np.zeros((70, 100), bool)
    deep[35:47, 30:40] = True  # behind the ring that is matched
    assert np.array_equal(np.asarray(result)[deep], np.asarray(drawn)[:70, :100][deep])


def test_only_the_masked_area_has_its_padding_and_the_canvas_shape() -> None:
    made = area(noisy(400, 300), disc(400, 300, (300, 200, 340, 240)), (64, 64), area="masked", padding=10)
    left, top, right, bottom = made.box
    assert (right - left, bottom - top) == (61, 61)
    assert (left, top) == (290, 190)
    wide = area(noisy(400, 300), disc(400, 300, (0, 200, 40, 240)), (128, 64), area="masked", padding=10)
    left, top, right, bottom = wide.box
    assert left == 0  # moved inside
    assert abs((right - left) / (bottom - top) - 2) < 0.1


def test_an_area_larger_than_its_picture_goes_on_with_its_edge() -> None:
    picture = noisy(40, 200)
    made = area(picture, disc(40, 200, (0, 0, 39, 199)), (64, 64), area="masked", padding=0)
    result, _ = made.paste(noisy(64, 64, seed=2))
    assert result.size == (40, 200)
    corner = np.s_[:3, :3]
    assert np.array_equal(np.asarray(result)[corner], np.asarray(picture)[corner])


def test_grow_and_shrink() -> None:
    mask = disc(100, 100, (30, 30, 70, 70))
    sizes = [(retouch.check((100, 100), mask, MaskSpec(image="m", grow=by)) > 0).sum() for by in (-5, 0, 5)]
    assert sizes[0] < sizes[1] < sizes[2]
    with pytest.raises(BadInput, match="Nothing of the mask is left"):
        retouch.check((100, 100), mask, MaskSpec(image="m", grow=-30))


def test_a_shift_of_colour_is_mended_along_the_seam_and_the_seam_is_less_visible_for_it() -> None:
    picture = Image.new("RGB", (128, 128), (120, 140, 160))
    shifted = Image.new("RGB", (128, 128), (130, 134, 166))
    made = area(picture, disc(128, 128, (30, 30, 100, 100)), (128, 128), area="whole", feather=0)
    result, figure = made.paste(shifted)
    raw = np.array(picture)
    inside = made.alpha > 0
    raw[inside] = np.asarray(shifted)[inside]
    assert figure < 0.5 * retouch.seam(raw, np.asarray(picture), made.alpha)
    assert np.abs(np.asarray(result)[65, 30].astype(int) - (120, 140, 160)).max() <= 2
    assert np.array_equal(np.asarray(result)[65, 65], (130, 134, 166))  # what is new stays what it is
    other = Image.new("RGB", (128, 128), (250, 20, 20))  # another thing, and not another shade
    assert np.array_equal(np.asarray(made.paste(other)[0])[65, 34], (250, 20, 20))


def test_the_figure_of_a_seam_is_one_where_nothing_changed_and_a_feather_hides_nothing() -> None:
    picture = Image.fromarray(np.tile(np.linspace(0, 255, 128).astype(np.uint8)[None, :, None], (128, 1, 3)))
    mask = disc(128, 128, (30, 30, 100, 100))
    hard, soft = (area(picture, mask, (128, 128), area="whole", feather=by) for by in (0, 6))
    assert hard.paste(picture)[1] == pytest.approx(1, abs=0.01)
    white = Image.new("RGB", (128, 128), "white")
    assert hard.paste(white)[1] > 10
    assert soft.paste(white)[1] > 2
    assert area(picture, Image.new("L", (128, 128), 255), (128, 128)).paste(white)[1] == 1  # no edge


def test_bad_masks_are_a_sentence_each() -> None:
    spec = MaskSpec(image="mask")
    with pytest.raises(BadInput, match=r"The mask is empty"):
        retouch.check((64, 64), Image.new("L", (64, 64)), spec)
    with pytest.raises(BadInput, match=r"The mask is 32 x 64 pixels and the picture 64 x 64"):
        retouch.check((64, 64), Image.new("L", (32, 64), 255), spec)
    assert retouch.covers(retouch.check((64, 64), Image.new("L", (64, 64), 255), spec))
