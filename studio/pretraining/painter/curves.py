"""Points, curves and the paths made of them.

Curves are float arrays of shape (count, 2) on a y-down plane; `polygon` and `ribbon` turn them into skia paths.
This module does not know what a curve depicts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import skia

Point = tuple[float, float]


def bezier(start: Point, control1: Point, control2: Point, end: Point, count: int = 14) -> np.ndarray:
    """Cubic Bezier curve, `count` points from start to end inclusive."""
    t = np.linspace(0, 1, count)[:, None]
    u = 1 - t
    return (
        u**3 * np.array(start)
        + 3 * u * u * t * np.array(control1)
        + 3 * u * t * t * np.array(control2)
        + t**3 * np.array(end)
    )


def quadratic(start: Point, control: Point, end: Point, count: int = 10) -> np.ndarray:
    """Quadratic Bezier curve, `count` points from start to end inclusive."""
    t = np.linspace(0, 1, count)[:, None]
    return (1 - t) ** 2 * np.array(start) + 2 * (1 - t) * t * np.array(control) + t * t * np.array(end)


def smooth(points: Sequence[Point] | np.ndarray, per_span: int = 6, closed: bool = False) -> np.ndarray:
    """Uniform Catmull-Rom curve through all the points, `per_span` samples between neighbours."""
    p = np.array(points, float)
    p = np.vstack([p[-1:], p, p[:2]] if closed else [2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, 1, per_span, endpoint=False)[None, :, None]
    a, b, c, d = (p[i : len(p) - 3 + i][:, None] for i in range(4))
    spans = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    curve = spans.reshape(-1, 2)
    return curve if closed else np.vstack([curve, p[-2:-1]])


def ring(x: float, y: float, rx: float, ry: float, stop: float, count: int) -> list[Point]:
    """`count` points on an ellipse, at angles from 0 to `stop` radians; the base of closed smooth blobs."""
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in np.linspace(0, stop, count)]


def normals(curve: np.ndarray) -> np.ndarray:
    """Unit normals of a curve, shape (count, 2); they point to the left of the direction of travel on screen."""
    tangent = np.gradient(curve, axis=0)
    length = np.hypot(tangent[:, 0], tangent[:, 1])[:, None] + 1e-6
    return np.stack([tangent[:, 1], -tangent[:, 0]], 1) / length


def polygon(points: np.ndarray, close: bool = True) -> skia.Path:
    """Path through the points."""
    path, rows = skia.Path(), points.tolist()
    path.moveTo(*rows[0])
    line_to = path.lineTo
    for x, y in rows[1:]:
        line_to(x, y)
    if close:
        path.close()
    return path


def blob(points: Sequence[Point] | np.ndarray, per_span: int = 6) -> skia.Path:
    """Closed smooth path through the points."""
    return polygon(smooth(points, per_span, closed=True))


def ribbon(curve: np.ndarray, widths: np.ndarray) -> skia.Path:
    """Outline of a stroke whose full width follows `widths` (count,): tapered ink."""
    offset = normals(curve) * widths[:, None]
    return polygon(np.vstack([curve + offset / 2, (curve - offset / 2)[::-1]]))


def rotated(x: float, y: float, degrees: float) -> Point:
    """The point turned about the origin, clockwise on a y-down plane."""
    angle = math.radians(degrees)
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


def mirrored(half: Sequence[Point], per_span: int = 5) -> skia.Path:
    """Closed smooth shape, symmetric about x = 0, from its right half, top to bottom."""
    right = smooth(half, per_span)
    return polygon(np.vstack([right, (right * (-1, 1))[::-1]]))


def rounded_box(left: float, top: float, right: float, bottom: float, rx: float, ry: float) -> skia.Path:
    """Rectangle with elliptic corners."""
    return skia.Path.RRect(skia.RRect.MakeRectXY(skia.Rect.MakeLTRB(left, top, right, bottom), rx, ry))
