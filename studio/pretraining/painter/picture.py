"""From a spec to a picture: the order in which everything is drawn, and where the head lies on the canvas."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .accessories import draw_eyepatch, draw_glasses, draw_over_hair, draw_strap, draw_under_hair
from .background import draw_background
from .eyes import EYE_CENTRE, draw_brows, draw_eyes
from .face import draw_face, draw_marks, draw_nose
from .finish import finish, reduced, wobbled
from .fringe import draw_front_hair, make_fringe
from .hair import draw_back_hair, draw_front_tails, draw_side_locks
from .lines import LineCanvas, line_palette
from .mouth import draw_mouth, mouth_centre, mouth_scale
from .outfits import draw_body
from .palette import Palette
from .parts import PartCanvas, labels
from .pen import UNITS, Canvas
from .scene import SIDES, Scene, head_of
from .spec import CharacterSpec

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels

MIDDLE = (256, 260)  # of the head on an unshifted canvas
ZOOM = 1.2  # canvas units per head unit, at scale 1
NECK = 110  # the head tilts about this point below its origin
GIRLS_CHIN = 116  # what the body's own coordinates assume


def paint(spec: CharacterSpec, size: int = 256, seed: int = 0) -> Image.Image:
    """Paint a spec, `size` pixels wide and high (RGB).

    `seed` only moves what no tag names: strands, splashes, texture. The same spec, size and seed give the same bytes.
    Background, character and finish have random numbers of their own, so that none moves with another's factors.
    """
    palette = Palette(spec)
    canvas = Canvas(size, palette)
    draw_background(spec, palette, canvas, _rng(seed, "background"))
    _draw_character(_scene(spec, palette, canvas, _rng(seed, "character")))
    return finish(canvas.pixels, spec.style, size, _rng(seed, "finish"))


def line_art(spec: CharacterSpec, size: int = 256, seed: int = 0) -> Image.Image:
    """The inked lines of the same drawing, black on white (mode L): no fills, shades or background."""
    pixels = _alone(spec, LineCanvas(size, line_palette(spec)), seed)
    return reduced(pixels, size).convert("L")


@dataclass(frozen=True, eq=False)
class Masks:
    """Where a painting has what: `labels` (size, size) uint8, places in `parts.PARTS`; `alpha` (L), how much of each
    pixel is the character."""

    labels: np.ndarray
    alpha: Image.Image


def masks(spec: CharacterSpec, size: int = 256, seed: int = 0) -> Masks:
    """The parts of what `paint` gives for the same arguments, with edges where that has them."""
    palette = Palette(spec)
    bare, areas = (
        wobbled(pixels, _rng(seed, "finish")) if spec.style == "artistic" else pixels
        for pixels in (_alone(spec, canvas(size, palette), seed) for canvas in (Canvas, PartCanvas))
    )
    alpha = Image.fromarray(np.ascontiguousarray(bare[..., 3])).resize((size, size), Image.Resampling.HAMMING)
    return Masks(labels(areas, size), alpha)


def _alone(spec: CharacterSpec, canvas: Canvas, seed: int) -> np.ndarray:
    """The pixels of the character on an empty canvas."""
    _draw_character(_scene(spec, canvas.palette, canvas, _rng(seed, "character")))
    return canvas.pixels


WAYS = 6  # of drawing what no tag names; few, so that a small network can learn each


def _rng(seed: int, part: str) -> random.Random:
    return random.Random(f"{part} {random.Random(f'{part} of {seed}').randrange(WAYS)}")


def _scene(spec: CharacterSpec, palette: Palette, canvas: Canvas, rng: random.Random) -> Scene:
    head = head_of(spec)
    return Scene(spec, palette, canvas, head, make_fringe(spec, head, rng), rng)


def _draw_character(scene: Scene) -> None:
    """Back to front: hair, body, hair, face, hair, and what lies on top."""
    spec, canvas, chin = scene.spec, scene.canvas, scene.head.chin
    x, y, zoom = MIDDLE[0] + spec.dx * UNITS, MIDDLE[1] + spec.dy * UNITS, ZOOM * spec.scale
    with canvas.placed(x, y, scale=(zoom, zoom)):
        with _tilted(scene), canvas.drawing("hair"):
            draw_back_hair(scene)
        with canvas.placed(0, chin - GIRLS_CHIN), canvas.drawing("clothes"):
            draw_body(scene)
        with _tilted(scene):
            patched = "eyepatch" in spec.accessories
            for part, drawers in (
                ("hair", (draw_front_tails,)), ("skin", (draw_face,)), ("eyes", (draw_eyes,)), ("skin", (draw_nose,)),
                ("mouth", (draw_mouth,)), ("accessory", (draw_strap,) if patched else ()),
                ("hair", (draw_side_locks, draw_under_hair, draw_front_hair)),
                ("accessory", (draw_eyepatch,) if patched else ()), ("hair", (draw_brows,)),
                ("accessory", (draw_glasses,) if "glasses" in spec.accessories else ()),
                ("accessory", (draw_over_hair, draw_marks)),
            ):  # fmt: skip
                with canvas.drawing(part):
                    for drawer in drawers:
                        drawer(scene)


@contextmanager
def _tilted(scene: Scene) -> Iterator[None]:
    with scene.canvas.placed(0, NECK, scene.spec.tilt), scene.canvas.placed(0, -NECK):
        yield


def face_boxes(spec: CharacterSpec, size: int = 256) -> dict[str, Box]:
    """Where the parts of the face are, in pixels of a picture `size` wide: `eyes` (both), `left_eye`, `right_eye`
    (as seen in the picture), `mouth` and `face` (temple to temple, brow to chin). Boxes may reach over the edge."""
    head, painted = head_of(spec), spec.style == "realistic"
    width, height = head.eye
    eyes = []
    for side in SIDES:
        x, y = head.point(side * EYE_CENTRE[0], EYE_CENTRE[1])
        rx, ry = width * 0.56 * head.squeeze(side), height * 0.62
        eyes.append(_box_in_picture(spec, size, (x - rx, y - ry, x + rx, y + ry)))
    x, y = head.point(*mouth_centre(head.girl, painted), 1.2)
    k = mouth_scale(painted)
    mouth = _box_in_picture(spec, size, (x - 28 * k, y - 15 * k, x + 28 * k, y + 21 * k))
    left, right = head.point(-head.half_width, 0, 0.95)[0], head.point(head.half_width, 0, 0.95)[0]
    face = _box_in_picture(spec, size, (left, -0.48 * head.chin, right, head.chin))
    return {"eyes": _union(*eyes), "left_eye": eyes[0], "right_eye": eyes[1], "mouth": mouth, "face": face}


def _box_in_picture(spec: CharacterSpec, size: int, box: Box) -> Box:
    """Bounds of a box given in head units."""
    angle, zoom = math.radians(spec.tilt), ZOOM * spec.scale
    left, top, right, bottom = box
    xs, ys = [], []
    for x, y in ((left, top), (right, top), (left, bottom), (right, bottom)):
        turned_x = x * math.cos(angle) - (y - NECK) * math.sin(angle)
        turned_y = x * math.sin(angle) + (y - NECK) * math.cos(angle) + NECK
        xs.append((MIDDLE[0] + spec.dx * UNITS + zoom * turned_x) * size / UNITS)
        ys.append((MIDDLE[1] + spec.dy * UNITS + zoom * turned_y) * size / UNITS)
    return min(xs), min(ys), max(xs), max(ys)


def _union(first: Box, second: Box) -> Box:
    return (
        min(first[0], second[0]),
        min(first[1], second[1]),
        max(first[2], second[2]),
        max(first[3], second[3]),
    )
