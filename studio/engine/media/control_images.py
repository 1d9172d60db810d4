"""From a drawing or a picture to the control image: exactly what a ControlNet (2302.05543) is shown.

White lines on black, in the size of the picture to be made. `canny` finds the edges of a picture (Canny, 1986);
`lines` takes drawn lines as they are, thinned to one width: Canny on a drawn line gives two. The same functions make
the control images that the embedded ControlNet is trained on. Knows no model and loads no torch.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageStat

from studio.core.errors import BadInput
from studio.core.imaging import to_rgb
from studio.core.specs import ControlKind, ControlSpec

MAX_PIXELS = 64_000_000
MAX_SIDE = 2048  # what is worked on; larger pictures are made smaller first
INK = 0.2  # how much darker than the paper around it a point has to be to count as drawn, of 0..1
TINGE = 0.1  # how much darker in one channel than by its brightness a point has to be for its colour to count
LEAST = 0.05  # of the longer side: all lines of something that counts as a drawing are longer than this together
SPECK = 0.02  # of the longer side: shorter loose strokes in a photo are dirt and grain
THICK = 0.035  # of the longer side: what is drawn wider than this is an area and gets an outline
ROUGH = 0.014  # of the longer side: a mean stroke wider than this is a scribble


@dataclass(frozen=True)
class ControlImage:
    """A control image (RGB) and what was measured on the way: the thresholds used (Canny), the mean stroke (lines)."""

    image: Image.Image
    low: int | None = None
    high: int | None = None
    stroke: float | None = None  # mean width as a share of the longer side

    def kind(self, available: Mapping[str, str]) -> str:
        """Which of the ControlNets that a model has, by kind, fits best: a broad pen asks for the loosest."""
        if self.stroke is None:
            return "canny"
        return "scribble" if self.stroke > ROUGH and "scribble" in available else "lines"


def control_image(image: Image.Image, spec: ControlSpec, size: tuple[int, int] | None = None) -> Image.Image:
    """The control image of a drawing or picture: RGB, white on black, `size` (width, height) or the picture's own.

    Raises BadInput where there is nothing to follow: an empty or one-coloured canvas, a mere dot, an impossible size.
    """
    return extract(image, spec, size).image


def extract(image: Image.Image, spec: ControlSpec, size: tuple[int, int] | None = None) -> ControlImage:
    """`control_image` with the thresholds that were chosen and the width of the strokes.

    The latest ones are kept by the picture's pixels: a sketch is checked when it is asked for, shown, and drawn from.
    """
    image = _flat(image)
    thresholds = (spec.low, spec.high) if spec.kind == "canny" else None
    pixels = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    return _LATEST.get(
        (pixels, image.size, spec.kind, thresholds, size), lambda: _extract(_readable(image), spec, size)
    )


def _extract(image: Image.Image, spec: ControlSpec, size: tuple[int, int] | None) -> ControlImage:
    width, height = size or image.size
    if spec.kind == "canny":
        return _canny(np.asarray(image.convert("L")), spec, width, height)
    return _lines(np.asarray(image), width, height)


class _Latest:
    """The latest few control images. Thread-safe: requests are checked beside the thread that draws."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._images: OrderedDict[Hashable, ControlImage] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], ControlImage]) -> ControlImage:
        with self._lock:
            image = self._images.get(key)
        if image is None:
            image = make()
        with self._lock:
            self._images[key] = image
            self._images.move_to_end(key)
            while len(self._images) > self._count:
                self._images.popitem(last=False)
        return image


_LATEST = _Latest(8)


def controlnet_kind(path: Path, spec: ControlSpec, size: tuple[int, int], available: Mapping[str, str]) -> str:
    """Which of the ControlNets that a model has, by kind, a stored drawing will get: `ControlImage.kind` of it.

    Raises BadInput, as `extract` does: a request whose drawing can't be followed is refused before it waits in line.
    """
    try:
        with Image.open(path) as drawing:
            return extract(drawing, spec, size).kind(available)
    except OSError:
        return spec.kind  # the file is gone: whoever draws it says so


def suggest(image: Image.Image) -> ControlKind:
    """`lines` for a drawing on paper, however it is lit, and `canny` for a picture with areas of tone."""
    values = _dark_on_light(_small(_flat(image), 256))
    light, even = _light(values)
    colourful = float((np.ptp(values / light, axis=2) > 0.16).mean())
    # few paintings have so much of one ground, and those are colourful
    return "lines" if even > 0.7 and colourful < 0.12 else "canny"


def drawable(data: bytes) -> tuple[ControlKind, Image.Image | None]:
    """`suggest` for a picture file, and a drawing as dark lines on white paper, so that pen and eraser work on it.

    A blackboard is turned round, the light on the paper evened out. None for a picture, and for what is white already.
    Raises BadInput.
    """
    with Image.open(BytesIO(data)) as opened:
        image = _flat(opened)
    kind = suggest(image)
    if kind != "lines":
        return kind, None
    values = _dark_on_light(image)
    light, _ = _light(values)
    if light.min() > 247 and np.array_equal(values, np.asarray(image)):
        return kind, None
    return kind, Image.fromarray(np.clip(values / light * 255, 0, 255).astype(np.uint8))


# --- reading the drawing ----------------------------------------------------------------------------------------------


def _flat(image: Image.Image) -> Image.Image:
    """First frame, plain RGB. Raises BadInput for an impossible size."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadInput(f"The drawing is {width} x {height} pixels; at most 64 million are accepted.")
    if min(width, height) < 8 or max(width, height) > 32 * min(width, height):
        raise BadInput(f"The drawing is {width} x {height} pixels: too thin to draw from.")
    if getattr(image, "n_frames", 1) > 1:
        image.seek(0)
    return to_rgb(image)


def _small(image: Image.Image, side: int) -> Image.Image:
    if max(image.size) <= side:
        return image
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.LANCZOS)


def _readable(image: Image.Image) -> Image.Image:
    """An RGB picture, no larger than what is worked on. Raises BadInput for a picture of a single tone."""
    image = _small(image, MAX_SIDE)
    if max(int(np.ptp(np.asarray(channel))) for channel in image.split()) < 12:
        grey = ImageStat.Stat(image.convert("L")).mean[0]
        tone = "black" if grey < 30 else "empty" if grey > 225 else "one flat colour"
        raise BadInput(f"The drawing is {tone}; draw a few lines first, or choose another picture.")
    return image


def _without_strokes(values: np.ndarray, side: int) -> np.ndarray:
    """The paper, `side` pixels large at most: what a closing with a wide disc leaves (no stroke is wider)."""
    scale = min(1, side / max(values.shape))
    small = cv2.resize(values, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    size = side // 10 | 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    paper: np.ndarray = cv2.morphologyEx(small, cv2.MORPH_CLOSE, disc, borderType=cv2.BORDER_REPLICATE)
    return paper


def _dark_on_light(image: Image.Image) -> np.ndarray:
    """RGB as (height, width, 3) uint8; light lines on a dark ground are turned round."""
    values = np.asarray(image)
    grey = np.asarray(image.convert("L"))
    if np.median(grey) < 110 and grey.mean() < 128:
        # Paper in the dark is no blackboard: what is drawn is the lesser part of each place, here the darker one.
        small = cv2.resize(grey, (256, 256), interpolation=cv2.INTER_AREA)
        if small.mean() > cv2.medianBlur(small, 31).mean():
            return 255 - values
    return values


def _light(values: np.ndarray) -> tuple[np.ndarray, float]:
    """The light on the paper below a drawing, in the shape of `values`, and how much of the picture is such paper.

    Light falls off smoothly: in each channel it is e to a polynomial of second degree, fitted time after time to the
    half of the picture that lies nearest to it. What lies within a tenth of it, strokes left out, is paper.
    """
    paper = cv2.resize(_without_strokes(values, 64), (64, 64), interpolation=cv2.INTER_LINEAR)
    y, x = np.mgrid[0:64, 0:64].reshape(2, -1) / 31.5 - 1
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1)
    logs = np.log(np.maximum(paper.reshape(-1, 3).astype(np.float32), 8))
    bright = logs.mean(1)
    fits = bright >= np.quantile(bright, 0.3)  # a table around the paper is darker
    for _ in range(5):
        fitted = terms @ np.linalg.lstsq(terms[fits], logs[fits], rcond=None)[0]
        off = np.abs(logs - fitted).max(1)
        fits = off <= max(float(np.median(off)), 0.05)
    light = np.exp(np.clip(fitted, np.log(16), np.log(255))).reshape(64, 64, 3).astype(np.float32)
    return cv2.resize(light, values.shape[1::-1], interpolation=cv2.INTER_LINEAR), float((off < 0.1).mean())


def ink(image: np.ndarray) -> np.ndarray:
    """How much is drawn at each point, float32 0..1: the paper's uneven light is taken out first.

    Light lines on a dark ground are turned round. A colour counts by the channel in which it is darkest: yellow is as
    dark in blue as black is. For `image` (height, width, 3) uint8.
    """
    values = _dark_on_light(Image.fromarray(image))
    values = np.dstack([values, cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)])
    paper = cv2.GaussianBlur(_without_strokes(values.astype(np.float32), 256), (0, 0), 8)
    paper = cv2.resize(paper, values.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    each = 1 - values / np.maximum(paper, 32)
    *colours, darker = cv2.split(each)
    tinge = np.maximum.reduce(colours)
    noise = float(np.median(tinge - darker))  # most of the picture is paper, and has no colour of its own
    darker = np.maximum(darker, tinge - TINGE - 4 * noise)
    # pale pencil on bright paper: the darkest percent of the picture counts as full ink
    full = float(np.quantile(darker, 0.995))
    full = min(0.9, max(full, 0.18))
    drawn: np.ndarray = np.clip((darker / full - INK) / (1 - INK) * 1.6, 0, 1).astype(np.float32)
    return drawn


# --- the two kinds ----------------------------------------------------------------------------------------------------


def _place(array: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """Where a picture of this shape lies, whole, in a field of width x height: left, top, width, height."""
    scale = min(width / array.shape[1], height / array.shape[0])
    w, h = min(width, max(1, round(array.shape[1] * scale))), min(height, max(1, round(array.shape[0] * scale)))
    if abs(w - width) <= 0.03 * width and abs(h - height) <= 0.03 * height:
        w, h = width, height  # sides are rounded to the model's step: no border for a pixel or two
    return (width - w) // 2, (height - h) // 2, w, h


def _on_black(lines: np.ndarray, left: int, top: int, width: int, height: int) -> Image.Image:
    field = np.zeros((height, width), np.uint8)
    field[top : top + lines.shape[0], left : left + lines.shape[1]] = lines
    return Image.fromarray(field).convert("RGB")


def thresholds(grey: np.ndarray) -> tuple[int, int]:
    """Low and high Canny thresholds for a picture (height, width) uint8, from its own contrasts.

    The high one is Otsu's split (1979) of the strengths of all edges that aren't grain; low is 0.4 of it, as in Canny's
    usual ratio of two to three.
    """
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    strength = np.abs(dx) + np.abs(dy)  # what cv2.Canny compares with its thresholds
    edges = strength[strength > 24]
    if not len(edges):
        return 20, 50
    scaled = np.clip(edges / 4, 0, 255).astype(np.uint8).reshape(-1, 1)
    split, _ = cv2.threshold(scaled, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    high = int(np.clip(split * 4 * 0.6, 50, 220))
    return int(0.4 * high), high


def _canny(grey: np.ndarray, spec: ControlSpec, width: int, height: int) -> ControlImage:
    left, top, w, h = _place(grey, width, height)
    way = cv2.INTER_AREA if w < grey.shape[1] else cv2.INTER_CUBIC
    sized = cv2.resize(grey, (w, h), interpolation=way)
    smooth = cv2.GaussianBlur(sized, (0, 0), 0.8)
    low, high = thresholds(smooth)
    low, high = spec.low if spec.low is not None else low, spec.high if spec.high is not None else high
    if low >= high:  # one of the two was chosen by hand, on the other's wrong side
        low = min(low, 254) if spec.low is not None else max(0, high - 1)
        high = low + 1
    edges = cv2.Canny(smooth, low, high)
    if np.count_nonzero(edges) < LEAST * max(w, h):
        raise BadInput("No edges are strong enough; lower the thresholds, or choose a picture with more contrast.")
    return ControlImage(_on_black(edges, left, top, width, height), low, high)


def _lines(image: np.ndarray, width: int, height: int) -> ControlImage:
    left, top, w, h = _place(image, width, height)
    # At twice the size the lines are thinned, so that scaling down smooths their steps.
    drawn = ink(image)
    shrink = image.shape[1] / (2 * w)
    if shrink > 1:  # a fine pen on a large sheet would fade away
        drawn = cv2.dilate(drawn, np.ones((round(shrink), round(shrink)), np.uint8))
    large = cv2.resize(drawn, (2 * w, 2 * h), interpolation=cv2.INTER_AREA if shrink > 1 else cv2.INTER_CUBIC)
    mask = (large > 0.4).astype(np.uint8)
    side = max(mask.shape)
    mask = _without_specks(mask, SPECK * side)
    thick = _areas(mask, THICK * side)
    fine = mask & (1 - thick)
    thin = thinned(fine)
    stroke = _mean_stroke(fine, thin, thick, side)
    if thick.any():
        outlines, _ = cv2.findContours(thick, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(thin, outlines, -1, 1, 1)
    length = int(np.count_nonzero(thin))
    if length < LEAST * side:
        raise BadInput("There is hardly anything drawn yet; draw a few lines first.")
    # One pixel wide in the end: two at twice the size, blurred a little for smooth steps.
    wide = cv2.dilate(thin * np.float32(255), np.ones((2, 2), np.uint8))
    soft = cv2.GaussianBlur(wide, (0, 0), 0.7)
    lines = cv2.resize(soft, (w, h), interpolation=cv2.INTER_AREA)
    lines = np.clip(lines * 1.25, 0, 255).astype(np.uint8)
    return ControlImage(_on_black(lines, left, top, width, height), stroke=stroke)


def _mean_stroke(fine: np.ndarray, thin: np.ndarray, thick: np.ndarray, side: int) -> float:
    """Mean width of the strokes (`fine`, thinned to `thin`) as a share of `side`; an area's where all are areas."""
    rim = cv2.dilate(thick, np.ones((round(THICK * side),) * 2, np.uint8))  # slivers are left along areas
    length = np.count_nonzero(thin & (1 - rim))
    return float(np.count_nonzero(fine & (1 - rim))) / length / side if length >= LEAST * side else THICK


def _without_specks(mask: np.ndarray, length: float) -> np.ndarray:
    """Without loose parts that are smaller than `length` both ways; all are kept where there is nothing else."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    extent = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    # Dots of a face (nostrils, freckles) are small too, but few; dirt and grain are many.
    small = extent < length
    small[0] = False
    if small.sum() <= 40 or small.sum() == count - 1:
        small &= extent < length / 4
    result: np.ndarray = np.where(small[labels], 0, mask).astype(np.uint8)
    return result if result.any() else mask


def _areas(mask: np.ndarray, width: float) -> np.ndarray:
    """The parts that are wider than `width`: a filled pupil, black hair."""
    size = max(3, round(width)) | 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    core = cv2.morphologyEx(mask, cv2.MORPH_OPEN, disc)
    near: np.ndarray = cv2.dilate(core, np.ones((3, 3), np.uint8)) & mask
    return near


# --- thinning ---------------------------------------------------------------------------------------------------------


def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Whether a point with these eight neighbours goes, in each of the two passes of Zhang and Suen (1984)."""
    tables = np.zeros((2, 256), np.uint8)
    for code in range(256):
        p = [code >> bit & 1 for bit in range(8)]  # clockwise from the north
        turns = sum(p[i] == 0 and p[(i + 1) % 8] == 1 for i in range(8))
        if 2 <= sum(p) <= 6 and turns == 1:
            north, east, south, west = p[0], p[2], p[4], p[6]
            tables[0, code] = not (north and east and south) and not (east and south and west)
            tables[1, code] = not (north and east and west) and not (north and south and west)
    return tables[0], tables[1]


_FIRST, _SECOND = _tables()
_NEIGHBOURS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))  # clockwise from the north


def thinned(mask: np.ndarray) -> np.ndarray:
    """Lines of any width as lines one pixel wide, uint8 0 or 1, of the same shape (Zhang and Suen, 1984)."""
    field = np.pad(mask.astype(np.uint8), 1)
    stride = field.shape[1]
    flat = field.ravel()
    offsets = [dy * stride + dx for dy, dx in _NEIGHBOURS]
    points = np.flatnonzero(flat)
    while True:
        gone = 0
        for table in (_FIRST, _SECOND):
            code = np.zeros(len(points), np.uint8)
            for bit, offset in enumerate(offsets):
                code |= flat[points + offset] << bit
            goes = table[code].astype(bool)
            flat[points[goes]] = 0
            points = points[~goes]
            gone += int(goes.sum())
        if not gone:
            return field[1:-1, 1:-1].copy()
