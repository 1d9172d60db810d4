"""The painter: labelled pictures that show what their specs say, and stay what the embedded model was trained on."""

import ast
import random
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import studio
from studio.pretraining.painter import (
    CharacterSpec,
    bend,
    face_boxes,
    hand_lines,
    line_art,
    paint,
    sample_spec,
    tags,
    vocabulary,
)
from studio.pretraining.painter.expressions import EXPRESSIONS
from studio.pretraining.painter.spec import ACCESSORIES, CHOICES, EMOTIONS, STYLES

GOLDEN = Path(__file__).with_name("test_painter_golden.png")
GOLDEN_COLUMNS, GOLDEN_SIZE = 4, 64


def array(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def changed(first: np.ndarray, second: np.ndarray, by: int = 10) -> np.ndarray:
    """Mask of the pixels that differ by more than `by` levels."""
    return np.abs(first - second).max(-1) > by


# ---- frozen: the embedded model was trained on exactly these pictures


def golden_specs() -> list[CharacterSpec]:
    """Three characters of each style; together all emotions and most of the wardrobe."""
    rng = random.Random(99)
    return [sample_spec(rng, style=STYLES[i % 4], emotion=EMOTIONS[i % 5]) for i in range(12)]


def golden_sheet() -> Image.Image:
    """`golden_sheet().save(GOLDEN)` accepts a deliberate change; the embedded model must then be trained anew."""
    size, columns = GOLDEN_SIZE, GOLDEN_COLUMNS
    sheet = Image.new("RGB", (columns * size, 12 // columns * size))
    for i, spec in enumerate(golden_specs()):
        sheet.paste(paint(spec, size, seed=i), (i % columns * size, i // columns * size))
    return sheet


def test_pictures_are_what_the_model_was_trained_on() -> None:
    difference = np.abs(array(golden_sheet()) - array(Image.open(GOLDEN)))
    assert difference.mean() < 0.25  # another build of skia may round a level differently
    assert (difference > 8).mean() < 0.001


def test_specs_are_what_the_model_was_trained_on() -> None:
    assert ", ".join(tags(sample_spec(random.Random(1), style="formal", emotion="sad"))) == (
        "1girl, solo, upper body, sad, formal style, aqua hair, short hair, bob cut, blunt bangs, gradient hair, "
        "black hair tips, blue eyes, looking to the side, dark skin, tears, crying, streaming tears, open mouth, "
        "blue tank top, bare shoulders, eyepatch, city lights, head tilt"
    )


# ---- what is asked for is drawn


BASE = CharacterSpec(hair_style="wavy", hair_length="medium", accessories=("ribbon",), background="gradient")


@pytest.mark.parametrize("name", [*CHOICES, "accessories", "variant", "ahoge", "tilt", "turn", "scale", "dx", "dy"])
def test_every_value_of_every_factor_is_visible(name: str) -> None:
    values = {
        "accessories": [(), *((accessory,) for accessory in ACCESSORIES)],
        "variant": range(len(EXPRESSIONS[BASE.emotion])),
        "ahoge": (False, True),
        "tilt": (-10.0, 0.0, 10.0),
        "turn": (-0.8, 0.0, 0.8),
        "scale": (0.95, 1.0, 1.08),
        "dx": (-0.05, 0.0, 0.05),
        "dy": (-0.05, 0.0, 0.05),
    }
    options = CHOICES.get(name) or values[name]
    base = BASE
    if name == "tip_color":  # tips of the hair's own colour are no tips
        options = tuple(value for value in options if value != base.hair_color)
    pictures = [array(paint(replace(base, **{name: value}), 128)) for value in options]
    for first, second in combinations(range(len(pictures)), 2):
        count = changed(pictures[first], pictures[second]).sum()
        assert count >= 4, f"{name}: {options[first]!r} and {options[second]!r} look the same"


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_every_expression_of_an_emotion_is_drawable_and_different(emotion: str) -> None:
    specs = [CharacterSpec(emotion=emotion, variant=i) for i in range(len(EXPRESSIONS[emotion]))]
    pictures = [array(paint(spec, 128)) for spec in specs]
    assert all(changed(a, b).sum() > 20 for a, b in combinations(pictures, 2))


def test_the_same_spec_and_seed_give_the_same_bytes_and_another_seed_does_not() -> None:
    for style in STYLES:
        spec = sample_spec(random.Random(4), style=style)
        first = paint(spec, 96, seed=1)
        assert (first.mode, first.size) == ("RGB", (96, 96))
        assert first.tobytes() == paint(spec, 96, seed=1).tobytes()
        assert first.tobytes() != paint(spec, 96, seed=2).tobytes()


# ---- tags


def test_tags_say_what_the_spec_says() -> None:
    rng, known = random.Random(11), set(vocabulary())
    for _ in range(400):
        spec = sample_spec(rng)
        found = tags(spec)
        assert len(found) == len(set(found))
        assert set(found) <= known
        assert {spec.emotion, f"{spec.style} style", f"{spec.hair_color} hair", spec.skin} <= set(found)
        assert ("1girl" in found) == (spec.gender == "girl")
        assert ("closed eyes" in found) == (f"{spec.eye_color} eyes" not in found)
        assert ("glasses" in found) == ("glasses" in spec.accessories)
        assert [tag for tag in found if tag in EMOTIONS] == [spec.emotion]


def test_vocabulary_is_complete_sorted_and_all_of_it_occurs() -> None:
    known = vocabulary()
    assert known == sorted(set(known))
    rng = random.Random(12)
    seen = {tag for _ in range(4000) for tag in tags(sample_spec(rng))}
    assert seen <= set(known)
    assert len(set(known) - seen) < 20  # rare ones, such as a black background, which samples avoid


# ---- specs


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hair_color": "plaid"}, "hair_color must be one of 'black', .* not 'plaid'"),
        ({"accessories": ("monocle",)}, "accessories must be among .* not 'monocle'"),
        ({"variant": 9}, "variant must be from 0 to 7 for 'happy', not 9"),
        ({"tilt": 90.0}, "tilt must be from -30 to 30, not 90"),
        ({"turn": float("nan")}, "turn must be from -1 to 1, not nan"),
    ],
)
def test_a_wrong_spec_names_the_field_and_what_is_allowed(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CharacterSpec(**wrong)


def test_sampling_pins_factors_and_refuses_what_is_none() -> None:
    spec = sample_spec(random.Random(0), gender="boy", style="formal", emotion="sad", tilt=0.0)
    assert (spec.gender, spec.style, spec.emotion, spec.tilt) == ("boy", "formal", "sad", 0.0)
    assert sample_spec(random.Random(5)) == sample_spec(random.Random(5))
    with pytest.raises(ValueError, match="style must be one of"):
        sample_spec(random.Random(0), style="cubist")
    with pytest.raises(TypeError, match="whiskers"):
        sample_spec(random.Random(0), whiskers=True)


# ---- face boxes


def posed(seed: int) -> CharacterSpec:
    rng = random.Random(seed)
    return sample_spec(
        rng, style=("casual", "formal", "realistic")[seed % 3], emotion="happy", variant=0, hair_color="green",
        outfit_color="white", accessory_color="aqua", accessories=(), background="plain", background_color="aqua",
        skin="fair skin", tilt=rng.uniform(-12, 12), turn=rng.uniform(-0.9, 0.9), scale=rng.uniform(0.9, 1.1),
        dx=rng.uniform(-0.05, 0.05), dy=rng.uniform(-0.05, 0.05), bangs="micro",
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_eye_boxes_hold_the_eyes(seed: int) -> None:
    spec, size = posed(seed), 192
    blue, red = (array(paint(replace(spec, eye_color=color), size)) for color in ("blue", "red"))
    ys, xs = np.nonzero(changed(blue, red, by=24))  # only the irises differ
    boxes = face_boxes(spec, size)
    left, top, right, bottom = boxes["eyes"]
    inside = (left <= xs) & (xs <= right) & (top <= ys) & (ys <= bottom)
    assert len(xs) > 100
    assert inside.mean() > 0.99
    for side in ("left_eye", "right_eye"):
        left, top, right, bottom = boxes[side]
        inside = (left <= xs) & (xs <= right) & (top <= ys) & (ys <= bottom)
        assert 0.3 < inside.mean() < 0.7
        assert (right - left) * (bottom - top) < 12 * inside.sum()  # not much larger than the iris


@pytest.mark.parametrize("seed", range(6))
def test_mouth_box_holds_the_mouth(seed: int) -> None:
    spec, size = replace(posed(seed), style="casual", eye_color="blue"), 192
    ys, xs = np.nonzero(np.abs(array(paint(spec, size)) - (150, 44, 56)).max(-1) < 12)  # inside of the open mouth
    left, top, right, bottom = face_boxes(spec, size)["mouth"]
    assert len(xs) > 30
    assert ((left <= xs) & (xs <= right) & (top <= ys) & (ys <= bottom)).all()
    assert (right - left) * (bottom - top) < 0.03 * size * size


def test_boxes_scale_with_the_picture() -> None:
    small, large = face_boxes(posed(1), 128), face_boxes(posed(1), 512)
    assert small.keys() == {"eyes", "left_eye", "right_eye", "mouth", "face"}
    for name, box in small.items():
        assert np.allclose(np.array(box) * 4, large[name])


# ---- line art


def edges(picture: Image.Image) -> np.ndarray:
    strong = cv2.Canny(np.asarray(picture.convert("L")), 30, 80) > 0
    return cv2.dilate(strong.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0


@pytest.mark.parametrize("style", STYLES)
def test_line_art_is_the_same_drawing(style: str) -> None:
    spec = sample_spec(random.Random(21), style=style, background="plain", background_color="yellow")
    lines = line_art(spec, 256, seed=3)
    ink = array(lines) < 128
    assert (lines.mode, lines.size) == ("L", (256, 256))
    assert 0.02 < ink.mean() < 0.2
    assert (array(lines) > 250).mean() > 0.7
    assert (ink & edges(paint(spec, 256, seed=3))).sum() > 0.85 * ink.sum()
    assert lines.tobytes() == line_art(spec, 256, seed=3).tobytes()


def near(ink: np.ndarray, reach: int) -> np.ndarray:
    return cv2.dilate(ink.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0


def test_hand_lines_differ_from_the_drawing_and_resemble_it() -> None:
    clean = line_art(sample_spec(random.Random(8), style="casual"), 256)
    ink, results = array(clean) < 128, []
    for seed in range(12):
        drawn = hand_lines(clean, random.Random(seed))
        assert (drawn.mode, drawn.size) == ("L", clean.size)
        mine = array(drawn) < 160
        assert (mine & near(ink, 6)).sum() > 0.9 * mine.sum()  # nothing that the drawing does not have
        assert (ink & near(mine, 6)).sum() > 0.5 * ink.sum()  # most of what it has
        assert ((array(drawn) < 128) != ink).mean() > 0.005
        results.append(drawn.tobytes())
    assert len(set(results)) == len(results)
    assert results[3] == hand_lines(clean, random.Random(3)).tobytes()
    widths = [sum(value < 128 for value in result) for result in results]
    assert max(widths) > 1.3 * min(widths)


def test_hand_lines_leave_parts_out_only_where_that_is_wanted() -> None:
    clean = line_art(CharacterSpec(), 256)
    ink = array(clean) < 128

    def kept(missing: bool) -> float:
        drawn = [array(hand_lines(clean, random.Random(seed), missing)) < 200 for seed in range(12)]
        return float(np.mean([(ink & near(mine, 5)).sum() / ink.sum() for mine in drawn]))

    assert kept(missing=False) > 0.97
    assert kept(missing=True) < kept(missing=False) - 0.01


def test_hand_lines_of_an_empty_page_are_an_empty_page() -> None:
    assert array(hand_lines(Image.new("L", (64, 48), 255), random.Random(0))).min() == 255


# ---- the house


def test_only_the_painter_imports_skia() -> None:
    root = Path(studio.__file__).parent
    for path in root.rglob("*.py"):
        if path.is_relative_to(root / "pretraining" / "painter"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "skia" for name in names), path


def test_a_bent_painting_and_its_bent_lines_lie_on_each_other() -> None:
    clean = np.asarray(line_art(CharacterSpec(), 256).convert("L"))
    painted = np.repeat(clean[:, :, None], 3, axis=2)
    lines, picture = bend(clean, 3.0, 11), bend(painted, 3.0, 11)
    assert np.array_equal(lines, picture[:, :, 0])
    assert not np.array_equal(lines, bend(clean, 3.0, 12))
    away = cv2.distanceTransform((clean >= 128).astype(np.uint8), cv2.DIST_L2, 5)[lines < 128]
    assert 0.5 < away.mean() < 6  # moved, and not far
    assert np.array_equal(bend(clean, 0.0, 11), clean)


def test_a_hand_that_keeps_proportions_stays_on_the_lines() -> None:
    clean = line_art(CharacterSpec(), 256)
    away = cv2.distanceTransform((array(clean) >= 128).astype(np.uint8), cv2.DIST_L2, 5)

    def off(drift: bool) -> float:
        drawn = [array(hand_lines(clean, random.Random(seed), drift=drift)) < 128 for seed in range(12)]
        return float(np.mean([away[mine].mean() for mine in drawn]))

    assert off(drift=False) < 0.5 * off(drift=True)
