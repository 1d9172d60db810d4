"""A mask on a picture: what the model gets of both, how what it drew is put back, and how visible the seam is.

Outside of the mask every pixel of the result is the picture's own: nothing there ever goes through an autoencoder or a
resize. Knows no model and loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from PIL import Image

from studio.core.errors import BadInput
from studio.core.specs import MaskSpec

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; may reach over the picture's edges
Pixels = np.ndarray

RING = 1 / 24  # of the area's longer side: how far from the seam colours are matched
LEAST_RING = 6  # pixels
SIMILAR = 24.0  # levels of 255: what differs by more across the seam is another thing, and not another shade of it
LEVEL = 1.0  # of 255: finer differences than one level are none
LARGEST_SHAPE = 2.0  # a masked area that is longer than this gets more of the picture beside it


def check(picture: tuple[int, int], mask: Image.Image, spec: MaskSpec) -> Pixels:
    """The mask (height, width) uint8 as it is used, grown. Raises BadInput for another size, and where it is empty."""
    if mask.size != picture:
        raise BadInput(
            f"The mask is {mask.width} x {mask.height} pixels and the picture {picture[0]} x {picture[1]}; "
            "they have to be of the same size."
        )
    given = np.asarray(mask.convert("L"))
    if not given.any():
        raise BadInput("The mask is empty (black everywhere): paint white what is to be drawn anew.")
    used = _grown(given, spec.grow)
    if not used.any():
        raise BadInput(f"Nothing of the mask is left when it is made {-spec.grow} px smaller; make that less.")
    return used


def covers(mask: Pixels) -> bool:
    """Whether a mask leaves nothing of its picture as it is."""
    return bool(mask.min() == 255)


def _grown(mask: Pixels, by: int) -> Pixels:
    if by == 0:
        return mask
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(by) + 1, 2 * abs(by) + 1))
    return cv2.dilate(mask, kernel) if by > 0 else cv2.erode(mask, kernel)


def drawn_shape(mask: Pixels, padding: int) -> float:
    """Width by height of the area around a mask (height, width) that a model is to draw alone; 0.5 to 2."""
    left, top, right, bottom = _bounds(mask, padding)
    return min(LARGEST_SHAPE, max(1 / LARGEST_SHAPE, (right - left) / (bottom - top)))


def _bounds(mask: Pixels, padding: int) -> Box:
    """What a mask covers with `padding` around it, inside of the picture."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return (
        max(0, int(columns[0]) - padding), max(0, int(rows[0]) - padding),
        min(width, int(columns[-1]) + 1 + padding), min(height, int(rows[-1]) + 1 + padding),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Area:
    """The part of a picture that a model draws, `canvas` (width, height) pixels of it.

    `picture`: RGB. `mask`: what `check` gave for it.
    """

    picture: Image.Image
    mask: Pixels
    spec: MaskSpec
    canvas: tuple[int, int]

    @cached_property
    def box(self) -> Box:
        """Where it lies: the whole picture from its upper left corner, or the surroundings of the mask."""
        if self.spec.area != "masked":
            return (0, 0, *self.canvas)
        left, top, right, bottom = _bounds(self.mask, self.spec.padding)
        shape = self.canvas[0] / self.canvas[1]
        width = max(right - left, round((bottom - top) * shape))
        height = max(bottom - top, round(width / shape))
        left = _shifted((left + right - width) // 2, width, self.picture.width)
        top = _shifted((top + bottom - height) // 2, height, self.picture.height)
        return left, top, left + width, top + height

    @property
    def start(self) -> Image.Image:
        """What the model starts from (RGB, `canvas`); beyond the picture its outermost pixels go on."""
        return self._enlarged(self._cut(np.asarray(self.picture), cv2.BORDER_REPLICATE))

    @property
    def change(self) -> Image.Image:
        """How much may change where (L, `canvas`). The feather is not in it: colours to be lost would shine through."""
        return self._enlarged(self._cut(self.mask, cv2.BORDER_CONSTANT))

    def seen(self, control: Image.Image) -> Image.Image:
        """The part of a control image of the picture's size that belongs to this area (RGB, `canvas`)."""
        return self._enlarged(self._cut(np.asarray(control.convert("RGB")), cv2.BORDER_CONSTANT))

    def _cut(self, pixels: Pixels, border: int) -> Pixels:
        left, top, right, bottom = self.box
        height, width = pixels.shape[:2]
        beyond = (max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width))
        inside = pixels[max(0, top) : min(bottom, height), max(0, left) : min(right, width)]
        return cv2.copyMakeBorder(inside, *beyond, border) if any(beyond) else inside

    def _enlarged(self, pixels: Pixels) -> Image.Image:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        return image if image.size == self.canvas else image.resize(self.canvas, Image.Resampling.LANCZOS)

    @cached_property
    def alpha(self) -> Pixels:
        """How much of what is drawn is seen, (height, width) in 0..1: 0 outside of the mask, 1 behind the feather."""
        inside = (self.mask > 0).astype(np.uint8)
        if not self.spec.feather or covers(self.mask):
            return inside.astype(np.float32)
        depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return np.clip(depth / (self.spec.feather + 1), 0, 1).astype(np.float32)

    def paste(self, drawn: Image.Image) -> tuple[Image.Image, float]:
        """What a model drew (`canvas`) in the picture, and the seam's figure (see `seam`).

        Along the seam its colours are matched to the picture's. Outside of the mask every pixel stays.
        """
        left, top, right, bottom = self.box
        size = (right - left, bottom - top)
        if drawn.size != size:
            drawn = drawn.resize(size, Image.Resampling.LANCZOS)
        before = np.asarray(self.picture).astype(np.float32)
        height, width = before.shape[:2]
        rows, columns = slice(max(0, top), min(bottom, height)), slice(max(0, left), min(right, width))
        new = np.asarray(drawn.convert("RGB")).astype(np.float32)
        new = new[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        old, alpha = before[rows, columns], self.alpha[rows, columns]
        mixed = old + alpha[..., None] * (matched(new, old, alpha) - old)
        result = np.array(self.picture)
        inside = alpha > 0
        result[rows, columns][inside] = np.clip(mixed.round(), 0, 255).astype(np.uint8)[inside]
        return Image.fromarray(result), seam(result, np.asarray(self.picture), self.alpha)


def _shifted(start: int, length: int, whole: int) -> int:
    """Where a stretch begins so that it lies inside of the picture, or in its middle where it is too long."""
    return (whole - length) // 2 if length > whole else min(max(0, start), whole - length)


def matched(new: Pixels, old: Pixels, alpha: Pixels) -> Pixels:
    """`new` (height, width, 3) with the colour and brightness of `old` along the seam, less and less behind it.

    How far an autoencoder and a model shift colours shows just outside of the mask, where both show the same; what
    shows another thing there doesn't count. Levels of 0 to 255.
    """
    inside = (alpha > 0).astype(np.uint8)
    if inside.all():
        return new
    ring = max(LEAST_RING, round(RING * max(alpha.shape)))
    near = cv2.distanceTransform(1 - inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= ring
    shift = old - new
    weight = (near & (inside == 0)) * np.exp(-((np.abs(shift).max(2) / SIMILAR) ** 2))
    weight = weight.astype(np.float32)
    around = cv2.GaussianBlur(weight, (0, 0), ring / 2)
    shifts = cv2.GaussianBlur(shift * weight[..., None], (0, 0), ring / 2) / (around[..., None] + 0.02)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return new + shifts * np.clip(1 - (depth - 1) / ring, 0, 1)[..., None]


def seam(result: Pixels, before: Pixels, alpha: Pixels) -> float:
    """How visible the edge of a mask is: the mean step from pixel to pixel across it, as a multiple of the picture's.

    Both pictures (height, width, 3) uint8. Counted are all neighbours of which one shows more of what is new than the
    other (`alpha` differs), so that a feather hides nothing. 1: as before. A mask without an edge has 1.
    """
    steps = np.zeros(2)
    count = 0
    for axis in (0, 1):
        across = np.diff(alpha, axis=axis) != 0
        count += int(across.sum())
        for number, picture in enumerate((result, before)):
            steps[number] += np.abs(np.diff(picture.astype(np.float32), axis=axis)).mean(2)[across].sum()
    if count == 0:
        return 1.0
    after, first = steps / count
    return float((after + LEVEL) / (first + LEVEL))
