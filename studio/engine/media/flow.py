"""Pictures between two frames, by dense optical flow. Knows pixels only: no model, no torch.

Flow moves what both frames show; what only one of them shows (a tear, an opening mouth) is faded in.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from PIL import Image


def between(a: Image.Image, b: Image.Image, count: int) -> list[Image.Image]:
    """`count` pictures at equal steps strictly between `a` and `b` (RGB, one size).

    Each is both ends warped towards it along the flow (DIS, 1603.03590) and mixed; where forward and backward flow
    contradict each other by more than 1.5 px the nearer end counts for more, which keeps ghosts faint.
    """
    first, last = np.asarray(a.convert("RGB")), np.asarray(b.convert("RGB"))
    height, width = first.shape[:2]
    if min(height, width) < 32:  # the flow needs a few 8 px patches; below that only fading is left
        forward = backward = np.zeros((height, width, 2), np.float32)
    else:
        flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        greys = [cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (first, last)]
        forward = flow.calc(greys[0], greys[1], None)
        backward = flow.calc(greys[1], greys[0], None)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)

    def sample(picture: np.ndarray, offset: np.ndarray) -> np.ndarray:
        at = grid + offset
        return cv2.remap(picture, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    # Where following the flow there and back doesn't lead home, something appears or vanishes.
    astray = np.linalg.norm(forward + sample(backward, forward), axis=-1) > 1.5
    unsure = cv2.GaussianBlur(astray.astype(np.float32), (0, 0), 2)[..., None]
    frames = []
    for k in range(1, count + 1):
        t = k / (count + 1)
        left = sample(first, -t * forward).astype(np.float32)
        right = sample(last, -(1 - t) * backward).astype(np.float32)
        sharp = t * t * (3 - 2 * t)
        weight = (1 - unsure) * t + unsure * (sharp * sharp * (3 - 2 * sharp))
        frames.append(Image.fromarray(np.clip(left + (right - left) * weight, 0, 255).astype(np.uint8)))
    return frames


def fill(frames: Sequence[Image.Image], count: int) -> Iterator[Image.Image]:
    """All `frames` with `count` pictures between each two: (n - 1) * (count + 1) + 1 in the end."""
    for a, b in itertools.pairwise(frames):
        yield a
        if count:
            yield from between(a, b, count)
    yield frames[-1]
