"""From a drawing or a picture to the control image: exactly what a ControlNet (2302.05543) is shown.

White lines on black, in the size of the picture to be made. `canny` finds the edges of a picture (Canny, 1986);
`lines` takes drawn lines as they are, thinned to one width: Canny on a drawn line gives two. The same functions make
the control images that the embedded ControlNet is trained on. Knows no model and loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from studio.errors import BadInput
from studio.specs import ControlKind, ControlSpec

MAX_PIXELS = 64_000_000
MAX_SIDE = 2048  # what is worked on; larger pictures are made smaller first
INK = 0.2  # how much darker than the paper around it a point has to be to count as drawn, of 0..1
LEAST = 0.05  # of the longer side: all lines of something that counts as a drawing are longer than this together
SPECK = 0.02  # of the longer side: shorter loose strokes in a photo are dirt and grain
THICK = 0.035  # of the longer side: what is drawn wider than this is an area and gets an outline
ROUGH = 0.014  # of the longer side: a mean stroke wider than this is a scribble


@dataclass(frozen=True)
class Seen:
    """A control image (RGB) and what was found out on the way: the thresholds used (Canny), the mean stroke (lines)."""

    image: Image.Image
    low: int | None = None
    high: int | None = None
    stroke: float | None = None  # mean width as a share of the longer side

    def kind(self, known: Mapping[str, str]) -> str:
        """Which of the ControlNets that a model knows by name fits best: a broad pen asks for the loosest."""
        if self.stroke is None:
            return "canny"
        return "scribble" if self.stroke > ROUGH and "scribble" in known else "lines"


def control_image(image: Image.Image, spec: ControlSpec, size: tuple[int, int] | None = None) -> Image.Image:
    """The control image of a drawing or picture: RGB, white on black, `size` (width, height) or the picture's own.

    Raises BadInput where there is nothing to follow: an empty or one-coloured canvas, a mere dot, an impossible size.
    """
    return see(image, spec, size).image


def see(image: Image.Image, spec: ControlSpec, size: tuple[int, int] | None = None) -> Seen:
    """`control_image` with the thresholds that were chosen and the width of the strokes."""
    grey = _grey(image)
    width, height = size or (grey.shape[1], grey.shape[0])
    return _canny(grey, spec, width, height) if spec.kind == "canny" else _lines(grey, width, height)


def chosen(path: Path, spec: ControlSpec, size: tuple[int, int], known: Mapping[str, str]) -> str:
    """Which of the ControlNets that a model knows by name a stored drawing will get: `Seen.kind` of it.

    Raises BadInput, as `see` does: a request whose drawing can't be followed is refused before it waits in line.
    """
    try:
        with Image.open(path) as drawing:
            return see(drawing, spec, size).kind(known)
    except OSError:
        return spec.kind  # the file is gone: whoever draws it says so


def suggest(image: Image.Image) -> ControlKind:
    """`lines` for a drawing on paper, `canny` for a picture with areas of tone."""
    array = np.asarray(_small(_flat(image), 256).convert("RGB"), np.int16)
    grey = array.mean(2)
    paper = np.bincount(grey.astype(np.uint8).ravel(), minlength=256).argmax()
    on_paper = float((np.abs(grey - paper) < 26).mean())
    colourful = float((array.max(2) - array.min(2) > 40).mean())
    return "lines" if on_paper > 0.6 and colourful < 0.15 else "canny"


# --- reading the drawing ----------------------------------------------------------------------------------------------


def _flat(image: Image.Image) -> Image.Image:
    """Upright, first frame, without transparency: what is drawn on nothing gets the paper on which it can be seen."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadInput(f"The drawing is {width} x {height} pixels; at most 64 million are accepted.")
    if min(width, height) < 8 or max(width, height) > 32 * min(width, height):
        raise BadInput(f"The drawing is {width} x {height} pixels: too thin to draw from.")
    if getattr(image, "n_frames", 1) > 1:
        image.seek(0)
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"), np.float32) / 255
        tone = np.asarray(image.convert("L"), np.float32) / 255
        drawn = float((alpha * tone).sum() / max(1e-6, float(alpha.sum())))
        # white chalk on nothing is drawn on a blackboard
        paper = "black" if alpha.mean() < 0.9 and drawn > 0.85 else "white"
        image = Image.alpha_composite(Image.new("RGBA", image.size, paper), image)
    elif image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    return image.convert("RGB")


def _small(image: Image.Image, side: int) -> Image.Image:
    if max(image.size) <= side:
        return image
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.LANCZOS)


def _grey(image: Image.Image) -> np.ndarray:
    """(height, width) uint8. Raises BadInput for a picture of a single tone."""
    grey = np.asarray(_small(_flat(image), MAX_SIDE).convert("L"))
    if int(grey.max()) - int(grey.min()) < 12:
        tone = "black" if grey.mean() < 30 else "empty" if grey.mean() > 225 else "one flat colour"
        raise BadInput(f"The drawing is {tone}; draw a few lines first, or choose another picture.")
    return grey


def ink(grey: np.ndarray) -> np.ndarray:
    """How much is drawn at each point, float32 0..1: the paper's uneven light is taken out first.

    The paper is what a closing with a wide disc leaves (no stroke is wider), smoothed. Light lines on a dark ground are
    turned round. For `grey` (height, width) uint8.
    """
    side = max(grey.shape)
    values = grey.astype(np.float32)
    if np.median(values) < 110 and values.mean() < 128:
        values = 255 - values
    small = cv2.resize(values, None, fx=min(1, 256 / side), fy=min(1, 256 / side), interpolation=cv2.INTER_AREA)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (25, 25))
    paper = cv2.morphologyEx(small, cv2.MORPH_CLOSE, disc, borderType=cv2.BORDER_REPLICATE)
    paper = cv2.GaussianBlur(paper, (0, 0), 8)
    paper = cv2.resize(paper, (grey.shape[1], grey.shape[0]), interpolation=cv2.INTER_LINEAR)
    darker = 1 - values / np.maximum(paper, 32)
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


def _canny(grey: np.ndarray, spec: ControlSpec, width: int, height: int) -> Seen:
    left, top, w, h = _place(grey, width, height)
    way = cv2.INTER_AREA if w < grey.shape[1] else cv2.INTER_CUBIC
    sized = cv2.resize(grey, (w, h), interpolation=way)
    smooth = cv2.GaussianBlur(sized, (0, 0), 0.8)
    low, high = thresholds(smooth)
    low, high = spec.low if spec.low is not None else low, spec.high if spec.high is not None else high
    if low >= high:  # one of the two was chosen by hand, on the other's wrong side
        low, high = (low, min(255, low + 1)) if spec.low is not None else (max(0, high - 1), high)
    edges = cv2.Canny(smooth, low, high)
    if np.count_nonzero(edges) < LEAST * max(w, h):
        raise BadInput("No edges are strong enough; lower the thresholds, or choose a picture with more contrast.")
    return Seen(_on_black(edges, left, top, width, height), low, high)


def _lines(grey: np.ndarray, width: int, height: int) -> Seen:
    left, top, w, h = _place(grey, width, height)
    # At twice the size the lines are thinned, so that scaling down smooths their steps.
    drawn = ink(grey)
    shrink = grey.shape[1] / (2 * w)
    if shrink > 1:  # a fine pen on a large sheet would fade away
        drawn = cv2.dilate(drawn, np.ones((round(shrink), round(shrink)), np.uint8))
    large = cv2.resize(drawn, (2 * w, 2 * h), interpolation=cv2.INTER_AREA if shrink > 1 else cv2.INTER_CUBIC)
    mask = (large > 0.4).astype(np.uint8)
    side = max(mask.shape)
    mask = _without_specks(mask, SPECK * side)
    thick = _areas(mask, THICK * side)
    thin = thinned(mask & (1 - thick))
    if thick.any():
        outlines, _ = cv2.findContours(thick, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(thin, outlines, -1, 1, 1)
    length = int(np.count_nonzero(thin))
    if length < LEAST * side:
        raise BadInput("There is hardly anything drawn yet; draw a few lines first.")
    stroke = float(mask.sum()) / length / side
    # One pixel wide in the end: two at twice the size, blurred a little for smooth steps.
    wide = cv2.dilate(thin * np.float32(255), np.ones((2, 2), np.uint8))
    soft = cv2.GaussianBlur(wide, (0, 0), 0.7)
    lines = cv2.resize(soft, (w, h), interpolation=cv2.INTER_AREA)
    lines = np.clip(lines * 1.25, 0, 255).astype(np.uint8)
    return Seen(_on_black(lines, left, top, width, height), stroke=stroke)


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
