"""How large pictures are drawn: as many pixels as a model was made for, in whatever shape. Knows no file."""

from __future__ import annotations

import math
from collections.abc import Sequence

from studio.core.errors import BadInput
from studio.core.specs import GenerateSpec, MaskArea, MaskSpec

ROOM = 1.5  # how much longer than a model's own a side may be, and how many times its own pixels it draws well
MOST_TIMES = 4  # as large on each side a picture is made that the model can't draw
LEAST = 0.4  # of a model's own pixels: with fewer it draws too little to be enlarged, while more would fit
WHOLE_SIZE = (
    "What is masked is drawn in the picture's own size, {width} x {height}; leave the size out, or draw only the "
    "masked area."
)


Trained = Sequence[tuple[int, int]]  # sizes that a model was trained with, the best first; none: all shapes


def default_size(native: int, shape: float | None, trained: Trained = ()) -> tuple[int, int]:
    """Width and height of a picture of this `shape` (width by height) with as many pixels as the model's own square.

    `trained`: that of these sizes whose shape is nearest, or the first where no `shape` is given.
    """
    if trained:
        wanted = trained[0][0] / trained[0][1] if shape is None else shape
        return min(trained, key=lambda size: abs(math.log(size[0] / size[1] / wanted)))
    if shape is None or shape == 1:
        return native, native
    shape = min(2.0, max(0.5, shape))
    return side(native * math.sqrt(shape)), side(native / math.sqrt(shape))


def largest_side(native: int, other: int | None = None) -> int:
    """The longest side in pixels, a multiple of 8, that a model draws well beside the `other` one; None: as long as it.

    Measured on the embedded model (256): hair stands in the air above the head from 320 x 320 on, and is everywhere at
    512 x 512; 384 x 256 is nearly drawn as 256 x 256 is.
    """
    if other is None:
        return max(64, int(native * math.sqrt(ROOM)) // 8 * 8)
    return max(64, int(min(ROOM * native, ROOM * native * native / other)) // 8 * 8)


def fits(width: int, height: int, native: int) -> bool:
    """Whether a model of `native` pixels draws this size well."""
    return width <= largest_side(native, height) and height <= largest_side(native, width)


def enlarged(width: int, height: int, native: int) -> tuple[int, int, float] | None:
    """The size in which a picture beyond the model is drawn, and how many times that is enlarged; None: it can't be.

    The result has exactly the size asked for where a size of the same shape fits the model, else nearly. Whole factors
    are preferred: a network that doubles has nothing to reduce again then.
    """
    shape = math.gcd(width // 8, height // 8)
    steps = (width // shape, height // shape)  # the smallest picture of this shape
    exact = [(steps[0] * k, steps[1] * k, shape / k) for k in range(shape - 1, 0, -1)]
    near = []
    for factor in (1.5, 2.0, 3.0, 4.0):
        small = [round(length / factor / 8) * 8 for length in (width, height)]
        near.append((small[0], small[1], factor))
    for candidates in (exact, near):
        able = [one for one in candidates if 1 < one[2] <= MOST_TIMES and min(one[:2]) >= 64 and fits(*one[:2], native)]
        able = [one for one in able if one[0] * one[1] >= LEAST * native * native] or able
        if able:
            return next((one for one in able if one[2] == int(one[2])), able[0])
    return None


def side(length: float) -> int:
    return min(2048, max(64, round(length / 16) * 16))


def masked(
    mask: MaskSpec, picture: tuple[int, int], spec: GenerateSpec, native: int, shape: float, trained: Trained = ()
) -> tuple[MaskArea, tuple[int, int] | None]:
    """What a model of `native` pixels sees of a masked `picture` (width, height), and how large it is drawn.

    `shape`: width by height of the area around the mask. No size: as for any picture, the request says some of it.
    Raises BadInput for a size of another shape than the whole picture's own.
    """
    whole = (max(64, -(-picture[0] // 8) * 8), max(64, -(-picture[1] // 8) * 8))
    size = (spec.width or whole[0], spec.height or whole[1])
    area = mask.area
    if area == "auto":
        area = "whole" if fits(*whole, native) and size == whole else "masked"
    if area == "whole":
        if size != whole:
            raise BadInput(WHOLE_SIZE.format(width=picture[0], height=picture[1]))
        return area, whole
    return area, default_size(native, shape, trained) if spec.width is None and spec.height is None else None
