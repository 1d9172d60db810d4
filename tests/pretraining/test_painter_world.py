"""The painter's places, clothes, faces and things worn: each shows where it should, and its words are known."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from studio.engine.judging import BACKGROUNDS as JUDGED
from studio.pretraining.captions import ALIASES
from studio.pretraining.painter import CharacterSpec, face_boxes, line_art, paint, sample_spec, tags, vocabulary
from studio.pretraining.painter.captions import BACKGROUND_TAGS
from studio.pretraining.painter.costumes import COSTUMES
from studio.pretraining.painter.expressions import EXPRESSIONS
from studio.pretraining.painter.mouth import INNER, TONGUE
from studio.pretraining.painter.scenery import PLACES
from studio.pretraining.painter.spec import (
    ACCESSORIES,
    ALL_OUTFITS,
    BACKGROUNDS,
    BANGS,
    HATS,
    ON_TOP_OF_THE_HEAD,
    STYLES,
)

KNOWN = set(vocabulary())
SIZE = 128
UPRIGHT = CharacterSpec(hair_style="bob", hair_length="short", background_color="black")


def painted(spec: CharacterSpec, seed: int = 0) -> np.ndarray:
    return np.asarray(paint(spec, SIZE, seed)).astype(int)


def differs(first: np.ndarray, second: np.ndarray, by: int = 24) -> np.ndarray:
    """Mask of the pixels that differ by more than `by` levels."""
    return np.abs(first - second).max(-1) > by


# ---- places


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", PLACES)
def test_a_place_is_seen_beside_the_character_and_never_on_her(name: str, style: str) -> None:
    spec = replace(UPRIGHT, style=style)
    change = differs(painted(spec), painted(replace(spec, background=name)))
    assert change[:, : SIZE // 8].mean() > 0.5
    assert change[:, -SIZE // 8 :].mean() > 0.5
    assert change[50:84, 44:84].mean() < 0.01  # the face


def test_places_differ_from_each_other_and_have_no_color_of_their_choosing() -> None:
    pictures = {name: painted(replace(UPRIGHT, background=name)) for name in PLACES}
    for name, picture in pictures.items():
        same = painted(replace(UPRIGHT, background=name, background_color="red"))
        assert (picture == same).all()
        assert all(differs(picture, other).mean() > 0.2 for at, other in pictures.items() if at != name)


def test_every_background_has_its_own_tag_and_places_have_no_color() -> None:
    assert set(JUDGED) == set(BACKGROUNDS) == set(BACKGROUND_TAGS)
    assert JUDGED == BACKGROUND_TAGS
    assert len(set(BACKGROUND_TAGS.values())) == len(BACKGROUNDS)
    for name in PLACES:
        found = tags(replace(UPRIGHT, background=name))
        assert BACKGROUND_TAGS[name] in found
        assert not any(tag.endswith(" background") for tag in found)
        assert ALIASES[BACKGROUND_TAGS[name]]


def test_line_art_has_no_background() -> None:
    bare = line_art(UPRIGHT, SIZE).tobytes()
    assert all(line_art(replace(UPRIGHT, background=name), SIZE).tobytes() == bare for name in PLACES)


# ---- clothes


@pytest.mark.parametrize("gender", ["girl", "boy"])
@pytest.mark.parametrize("name", ALL_OUTFITS)
def test_clothes_show_above_the_lower_edge_in_their_color(name: str, gender: str) -> None:
    spec = replace(UPRIGHT, gender=gender, outfit=name)
    red, green = (painted(replace(spec, outfit_color=color)) for color in ("red", "green"))
    change = differs(red, green)
    assert change[98:].sum() > 60  # the chest
    assert not change[:84].any() or name == "maid"


@pytest.mark.parametrize("name", COSTUMES)
def test_a_costume_is_told_from_all_other_clothes(name: str) -> None:
    spec = replace(UPRIGHT, outfit_color="black")
    mine = painted(replace(spec, outfit=name))
    for other in set(ALL_OUTFITS) - {name}:
        assert differs(mine, painted(replace(spec, outfit=other)))[94:].mean() > 0.03, other
    lines = [np.asarray(line_art(replace(spec, outfit=outfit), SIZE)) for outfit in (name, "t-shirt")]
    assert ((lines[0] < 128) != (lines[1] < 128))[90:].mean() > 0.01


@pytest.mark.parametrize(
    ("outfit", "gender", "words"),
    [
        ("blazer", "girl", {"black blazer", "school uniform", "bowtie"}),
        ("blazer", "boy", {"black blazer", "school uniform", "necktie"}),
        ("serafuku", "girl", {"black sailor collar", "serafuku", "school uniform"}),
        ("maid", "girl", {"black dress", "maid", "maid apron", "maid headdress"}),
        ("armor", "boy", {"black armor", "breastplate", "shoulder armor"}),
        ("tank top", "girl", {"black tank top", "bare shoulders"}),
        ("track jacket", "boy", {"black track jacket"}),
    ],
)
def test_clothes_have_the_usual_words(outfit: str, gender: str, words: set[str]) -> None:
    found = set(tags(CharacterSpec(gender=gender, outfit=outfit, outfit_color="black")))
    assert words <= found <= KNOWN


def test_a_maid_wears_her_headdress_where_there_is_room() -> None:
    maid = replace(UPRIGHT, outfit="maid")
    hat = replace(maid, accessories=("hat",))
    assert "maid headdress" not in tags(hat)
    assert (painted(hat)[:40] == painted(replace(hat, outfit="hoodie"))[:40]).all()
    assert differs(painted(maid), painted(replace(maid, outfit="hoodie")))[10:45].mean() > 0.02


# ---- faces


def eyes_of(spec: CharacterSpec, size: int = 256) -> list[np.ndarray]:
    """Where the two eyes are, as grey pictures, left to right."""
    picture, boxes = np.asarray(paint(spec, size).convert("L")).astype(int), face_boxes(spec, size)
    cut = [[round(edge) for edge in boxes[name]] for name in ("left_eye", "right_eye")]
    return [picture[top:bottom, left:right] for left, top, right, bottom in cut]


@pytest.mark.parametrize("style", STYLES)
def test_one_eye_winks_and_the_other_keeps_its_color(style: str) -> None:
    open_eyed = replace(UPRIGHT, style=style, bangs="micro", emotion="happy", variant=0)
    found = tags(replace(open_eyed, variant=4))
    assert {"one eye closed", "blue eyes", "looking at viewer"} <= set(found) <= KNOWN
    assert "closed eyes" not in found
    both, one = eyes_of(open_eyed), eyes_of(replace(open_eyed, variant=4))
    none = eyes_of(replace(open_eyed, variant=1))
    assert np.abs(both[0] - one[0]).mean() < 6 < np.abs(both[1] - one[1]).mean()
    assert np.abs(none[1] - one[1]).mean() < 1 < 6 < np.abs(none[0] - one[0]).mean()


@pytest.mark.parametrize("variant", [5, 6])
def test_a_tongue_is_out_of_a_mouth_that_is_closed(variant: int) -> None:
    spec = replace(UPRIGHT, emotion="happy", variant=variant)
    assert "tongue out" in tags(spec)
    left, top, right, bottom = (round(edge) for edge in face_boxes(spec, 256)["mouth"])
    mouth = np.asarray(paint(spec, 256)).astype(int)[top:bottom, left:right]
    assert (np.abs(mouth - TONGUE).max(-1) < 12).sum() > 100
    assert (np.abs(mouth - INNER).max(-1) < 12).sum() == 0
    assert (np.asarray(line_art(spec, 256))[top:bottom, left:right] < 128).sum() > 60


@pytest.mark.parametrize(
    ("emotion", "mouths"), [("happy", ("open mouth", "closed mouth")), ("calm", ("closed mouth",))]
)
def test_closed_eyes_can_be_asked_for(emotion: str, mouths: tuple[str, ...]) -> None:
    found = [set(way.tags) for way in EXPRESSIONS[emotion] if way.closed]
    assert all("closed eyes" in words for words in found)
    assert len(found) == 2
    assert all(any(mouth in words for words in found) for mouth in mouths)


@pytest.mark.parametrize("style", STYLES)
def test_a_gaze_moves_the_eyes_and_nothing_else(style: str) -> None:
    spec = replace(UPRIGHT, style=style, bangs="micro")
    straight = painted(spec)
    for gaze in ("left", "right", "up", "down"):
        change = differs(straight, painted(replace(spec, gaze=gaze)))
        assert change.sum() > 60
        assert not change[:40].any()
        assert not change[86:].any()


# ---- things worn

SMALL = {"mole": 5, "freckles": 15, "hairclip": 40, "bandaid": 60, "choker": 60, "earrings": 60}  # pixels, at least


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", ACCESSORIES)
def test_a_thing_worn_shows_with_long_hair_and_has_lines(name: str, style: str) -> None:
    spec = replace(UPRIGHT, style=style, hair_style="straight", hair_length="long", outfit="t-shirt")
    worn = replace(spec, accessories=(name,))
    assert differs(painted(spec), painted(worn), 20).sum() > SMALL.get(name, 120)
    assert paint(worn, SIZE).tobytes() != paint(spec, SIZE).tobytes()
    assert line_art(worn, SIZE).tobytes() != line_art(spec, SIZE).tobytes()
    assert set(tags(worn)) - set(tags(spec)) <= KNOWN
    assert len(set(tags(worn)) - set(tags(spec))) == 1


@pytest.mark.parametrize("skin", ["pale skin", "dark skin"])
@pytest.mark.parametrize("style", STYLES)
def test_glasses_are_the_same_bold_frames_whatever_the_hair(style: str, skin: str) -> None:
    masks = []
    for bangs in BANGS:
        spec = replace(UPRIGHT, bangs=bangs, skin=skin, style=style)
        masks.append(differs(painted(spec), painted(replace(spec, accessories=("glasses",))), 30))
    assert min(mask.sum() for mask in masks) > 200
    assert (sum(mask.astype(int) for mask in masks) >= len(BANGS) - 1).sum() > 180  # at the same place


def test_an_eyepatch_hides_one_eye() -> None:
    spec = replace(UPRIGHT, bangs="micro")
    bare, patched = eyes_of(spec), eyes_of(replace(spec, accessories=("eyepatch",)))
    assert np.abs(bare[0] - patched[0]).mean() > 40
    assert np.abs(bare[1] - patched[1]).mean() < 8  # the strap passes above it


def test_hats_cover_the_stray_lock() -> None:
    for hat in HATS:
        spec = replace(UPRIGHT, accessories=(hat,), ahoge=True)
        assert "ahoge" not in tags(spec)
        assert paint(spec, SIZE).tobytes() == paint(replace(spec, ahoge=False), SIZE).tobytes()


def test_samples_go_together_and_hold_everything() -> None:
    rng = random.Random(3)
    seen, backgrounds = Counter[str](), Counter[str]()
    for _ in range(3000):
        spec = sample_spec(rng)
        worn = set(spec.accessories)
        seen.update(worn | {spec.outfit})
        backgrounds[spec.background] += 1
        assert len(worn & ON_TOP_OF_THE_HEAD) <= 1
        assert not {"glasses", "eyepatch"} <= worn
        assert not ("eyepatch" in worn and spec.expression.eyes == "wink")
        assert spec.gender == "girl" or spec.outfit != "maid"
    assert set(seen) == set(ACCESSORIES) | set(ALL_OUTFITS)
    assert set(backgrounds) == set(BACKGROUNDS)
    rare = {name: backgrounds[name] for name in ("rays", "dots", "stripes", "circle", "bokeh")}
    assert max(rare.values()) < min(backgrounds[name] for name in PLACES)
    assert sum(backgrounds[name] for name in PLACES) > 0.4 * 3000


# ---- words


def test_common_words_lead_to_tags_that_exist() -> None:
    wanted = {
        "sailor uniform": "serafuku", "sakura": "cherry blossoms", "cherry blossom": "cherry blossoms",
        "night city": "city lights", "city at night": "city lights", "beach background": "beach",
        "tongue": "tongue out", "knight armor": "breastplate", "looking away": "looking to the side",
        "maid outfit": "maid", "wink": "one eye closed", "room": "indoors", "snowing": "snow",
    }  # fmt: skip
    for word, tag in wanted.items():
        assert word in ALIASES[tag]
        assert tag in KNOWN
    assert set(ALIASES) <= KNOWN
    assert not KNOWN & {word for words in ALIASES.values() for word in words} - {"ribbon"}
