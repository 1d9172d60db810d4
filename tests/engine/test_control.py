"""Control images of drawings, photos of drawings and pictures; what is no drawing gets a sentence."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from support.pictures import encoded

from studio.core.errors import BadInput
from studio.core.settings import ASSETS
from studio.core.specs import ControlSpec
from studio.engine.media import control_images
from studio.pretraining.corpus import specs
from studio.pretraining.painter import paint

LINES = ControlSpec(image="x", kind="lines")
CANNY = ControlSpec(image="x", kind="canny")
SKETCHES = sorted((ASSETS / "examples" / "sketches").glob("*.png"))


def sketch(width: int = 6, side: int = 512, ink: int = 0, paper: int = 255) -> Image.Image:
    image = Image.new("L", (side, side), paper)
    pen = ImageDraw.Draw(image)
    k = side / 512
    pen.ellipse((100 * k, 100 * k, 400 * k, 420 * k), outline=ink, width=width)
    pen.line((150 * k, 250 * k, 350 * k, 250 * k), fill=ink, width=width)
    return image


def lit(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L")) > 60


def runs(row: np.ndarray) -> int:
    """How many separate lit stretches a row has."""
    return int((np.diff(np.concatenate([[0], row.astype(int)])) == 1).sum())


def test_a_stroke_of_any_width_is_one_thin_line_where_it_was_drawn() -> None:
    for width in (2, 6, 14):
        seen = control_images.extract(sketch(width), LINES, (256, 256))
        assert seen.image.size == (256, 256)
        column = lit(seen.image)[:, 100]  # crosses the ellipse twice and the line once
        assert runs(column) == 3, width
        assert column.sum() <= 12
        assert column[122:129].any()  # the middle line, at y = 250 of 512
    assert control_images.extract(sketch(14), LINES).kind({"lines": "a", "scribble": "b"}) == "scribble"
    assert control_images.extract(sketch(14), LINES).kind({"lines": "a"}) == "lines"
    assert control_images.extract(sketch(2), LINES).kind({"lines": "a", "scribble": "b"}) == "lines"


def test_a_fine_pen_on_a_large_sheet_is_seen() -> None:
    plain = lit(control_images.control_image(sketch(), LINES, (128, 128)))
    fine = lit(control_images.control_image(sketch(3, 1800), LINES, (128, 128)))
    near = np.asarray(Image.fromarray(plain).filter(ImageFilter.MaxFilter(5)))
    assert (fine & near).sum() > 0.9 * plain.sum()
    assert fine.sum() < 1.5 * plain.sum()


def test_canny_gives_a_stroke_two_edges() -> None:
    assert runs(lit(control_images.control_image(sketch(14), CANNY, (256, 256)))[:, 100]) == 6


def test_a_filled_area_gets_an_outline() -> None:
    image = sketch(4)
    ImageDraw.Draw(image).ellipse((200, 280, 300, 380), fill=0)
    seen = control_images.extract(image, LINES, (512, 512))
    lines = lit(seen.image)
    assert not lines[310:350, 230:270].any()
    assert runs(lines[330]) == 4  # the face's two sides, the area's two sides
    assert seen.kind({"lines": "a", "scribble": "b"}) == "lines"  # the pen is a fine one still
    assert control_images.extract(sketch(30), LINES).kind({"lines": "a", "scribble": "b"}) == "scribble"


def test_the_size_is_exact_and_nothing_is_cut_off() -> None:
    wide = Image.new("L", (900, 300), 255)
    ImageDraw.Draw(wide).rectangle((5, 5, 894, 294), outline=0, width=5)
    seen = control_images.control_image(wide, LINES, (256, 256))
    assert seen.size == (256, 256)
    rows, columns = np.nonzero(lit(seen))
    assert columns.min() < 5
    assert columns.max() > 250
    assert 84 <= rows.min() < 92  # a band in the middle
    assert 164 < rows.max() <= 172


def test_pen_paper_and_ground_do_not_matter() -> None:
    plain = lit(control_images.control_image(sketch(), LINES, (256, 256)))
    chalk = sketch(ink=255, paper=20)
    transparent = Image.new("RGBA", (512, 512), (0, 0, 0, 0))
    transparent.putalpha(Image.eval(sketch(), lambda value: 255 - value))
    white = Image.new("RGBA", (512, 512), (255, 255, 255, 0))
    white.putalpha(Image.eval(sketch(), lambda value: 255 - value))
    for other in (chalk, transparent, white, sketch(ink=150, paper=235)):
        same = lit(control_images.control_image(other, LINES, (256, 256)))
        assert (same & plain).sum() > 0.9 * plain.sum()
        assert same.sum() < 1.1 * plain.sum()


Y, X = np.mgrid[0:900, 0:900] / 900
WHITE, WARM = (1, 1, 1), (1, 0.88, 0.68)
PHOTOS = {  # brightness of the paper, colour of the light
    "lamp": (90 + 150 * X * (1 - 0.5 * Y), WHITE),  # three times as bright on one side
    "warm lamp": (90 + 150 * X * (1 - 0.5 * Y), WARM),
    "window": (170 + 70 * X, WHITE),
    "evening": (np.full_like(X, 235), WARM),
    "dark room": (50 + 60 * X, WARM),
}


def photo(of: str, chalk: bool = False) -> Image.Image:
    drawn = np.asarray(sketch(8, 900).filter(ImageFilter.GaussianBlur(1)), float) / 255
    tone = 0.15 + 0.65 * (1 - drawn) if chalk else 0.3 + 0.7 * drawn
    light, colour = PHOTOS[of]
    taken = (tone * light)[..., None] * colour + np.random.default_rng(0).normal(0, 4, (*drawn.shape, 3))
    return Image.fromarray(taken.clip(0, 255).astype(np.uint8))


def same_lines(image: Image.Image) -> bool:
    """Whether they are those of `sketch(8, 900)`."""
    plain = lit(control_images.control_image(sketch(8, 900), LINES, (256, 256)))
    found = lit(control_images.control_image(image, LINES, (256, 256)))
    near = np.asarray(Image.fromarray(plain).filter(ImageFilter.MaxFilter(5)))
    return bool((found & near).sum() > 0.95 * found.sum() and found.sum() > 0.85 * plain.sum())


@pytest.mark.parametrize("chalk", [False, True])
@pytest.mark.parametrize("name", PHOTOS)
def test_a_photo_of_a_drawing_gives_the_same_lines_and_white_paper(name: str, chalk: bool) -> None:
    taken = photo(name, chalk)
    assert same_lines(taken)
    kind, white = control_images.drawable(encoded(taken))
    assert kind == "lines"
    assert white is not None
    assert same_lines(white)
    grey = np.asarray(white.convert("L"))
    assert np.quantile(grey[:, [5, 450, 894]], 0.1, axis=0).min() > 215  # paper, on the left, inside and on the right
    assert grey[438:441, 300:600].max() < 230  # the middle line is darker, also faint chalk in the dark
    pen = ImageDraw.Draw(white)
    pen.rectangle((190, 400, 690, 480), fill="white")
    pen.line((50, 60, 50, 840), fill="#2A2135", width=8)
    lines = lit(control_images.control_image(white, LINES, (256, 256)))
    assert not lines[118:133, 60:191].any()  # the eraser erased
    assert lines[30:230, 10:19].any(1).all()  # the pen drew


def test_what_is_white_paper_or_a_picture_is_drawn_on_as_it_is() -> None:
    assert control_images.drawable(encoded(sketch())) == ("lines", None)
    assert control_images.drawable((ASSETS / "examples" / "style_1" / "01.jpg").read_bytes()) == ("canny", None)


@pytest.mark.parametrize("colour", ["#ffa500", "#ffff00", "#00ffff", "#ff8080"])
def test_a_colour_beside_black_is_seen(colour: str) -> None:
    image = sketch().convert("RGB")
    ImageDraw.Draw(image).line((450, 50, 450, 460), fill=colour, width=5)
    assert lit(control_images.control_image(image, LINES, (256, 256)))[30:226, 220:230].any(1).all()


@pytest.mark.parametrize("colour", [WHITE, WARM])
def test_the_noise_of_a_camera_is_not_drawn(colour: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    paper = np.full((512, 512, 1), 190.0) * colour + rng.normal(0, 3, (512, 512, 3))
    with pytest.raises(BadInput, match="hardly anything drawn"):
        control_images.control_image(Image.fromarray(paper.astype(np.uint8)), LINES, (256, 256))
    drawn = paper * (np.asarray(sketch())[..., None] / 255)
    found = lit(control_images.control_image(Image.fromarray(drawn.clip(0, 255).astype(np.uint8)), LINES, (256, 256)))
    assert found.sum() < 1.1 * lit(control_images.control_image(sketch(), LINES, (256, 256))).sum()


def test_thresholds_are_chosen_from_the_picture_and_can_be_set() -> None:
    strong, weak = sketch(ink=0), sketch(ink=225)
    high = control_images.extract(strong, CANNY).high
    assert high is not None
    assert high > (control_images.extract(weak, CANNY).high or 0)
    with pytest.raises(BadInput, match="lower the thresholds"):
        control_images.extract(weak, ControlSpec(image="x", kind="canny", low=180, high=250))
    set_by_hand = control_images.extract(strong, ControlSpec(image="x", kind="canny", low=10, high=30))
    assert (set_by_hand.low, set_by_hand.high) == (10, 30)
    only_low = control_images.extract(strong, ControlSpec(image="x", kind="canny", low=255))
    assert (only_low.low, only_low.high) == (254, 255)


def test_drawings_and_pictures_are_told_apart() -> None:
    assert len(SKETCHES) == 3
    for path in SKETCHES:
        with Image.open(path) as picture:
            assert control_images.suggest(picture) == "lines"
    for path in sorted((ASSETS / "examples" / "style_1").glob("*.jpg")):
        with Image.open(path) as picture:
            assert control_images.suggest(picture) == "canny", path.name
    for number, spec in enumerate(specs(100, 8, "full") + specs(0, 8, "small")):
        painted = paint(spec, 256, number)
        assert control_images.suggest(painted) == "canny", number


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (Image.new("RGB", (512, 512), "white"), "The drawing is empty; draw a few lines first"),
        (Image.new("RGBA", (512, 512), (0, 0, 0, 0)), "The drawing is empty; draw a few lines first"),
        (Image.new("RGB", (512, 512), "black"), "The drawing is black; draw a few lines first"),
        (Image.new("RGB", (512, 512), "teal"), "The drawing is one flat colour"),
        (Image.new("1", (20_000, 20_000)), "20000 x 20000 pixels; at most 64 million"),
        (Image.new("L", (512, 3)), "512 x 3 pixels: too thin"),
        (Image.new("L", (2000, 20)), "2000 x 20 pixels: too thin"),
    ],
)
def test_what_is_no_drawing_gets_a_sentence(image: Image.Image, sentence: str) -> None:
    for spec in (LINES, CANNY):
        with pytest.raises(BadInput, match=sentence):
            control_images.control_image(image, spec, (256, 256))


def test_a_line_of_three_pixels_is_not_a_drawing_yet() -> None:
    image = Image.new("L", (512, 512), 255)
    ImageDraw.Draw(image).line((200, 200, 202, 200), fill=0)
    with pytest.raises(BadInput, match="hardly anything drawn"):
        control_images.control_image(image, LINES, (256, 256))


def test_an_animation_gives_its_first_frame(tmp_path) -> None:
    sketch().save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("L", (512, 512), 255)], duration=100)
    with Image.open(tmp_path / "a.gif") as animation:
        animation.seek(1)
        assert lit(control_images.control_image(animation, LINES, (256, 256))).any()


def test_thinning_keeps_what_is_connected() -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        image = Image.new("L", (96, 96))
        ImageDraw.Draw(image).line([tuple(point) for point in rng.integers(8, 88, (6, 2)).tolist()], fill=1, width=7)
        mask = np.asarray(image)
        thin = control_images.thinned(mask)
        assert not (thin & ~mask.astype(bool)).any()
        assert _parts(thin) == _parts(mask)
        blocks = thin[:-1, :-1] & thin[1:, :-1] & thin[:-1, 1:] & thin[1:, 1:]
        assert blocks.sum() <= 3  # one pixel wide but for crossings


def _parts(mask: np.ndarray) -> int:
    import cv2

    return int(cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0])


def test_it_loads_no_torch() -> None:
    code = "import sys, studio.engine.media.control_images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
