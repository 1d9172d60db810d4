"""What the articles' figures are drawn with: sheets of pictures, lettered by row, and charts as SVG. Knows no model.

Letters and numbers alone stand in a figure, so that one file serves articles in every language.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw, ImageFont

MARGIN, GAP = 22, 3  # px
COLORS = 160  # of a sheet: a third of the bytes, and no difference to the eye at this size
PENS = ("#0969da", "#cf222e", "#1a7f37", "#8250df")
WIDTH, HEIGHT = 640, 300  # of a chart
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 28, 40


def sheet(rows: Sequence[Sequence[Image.Image]], path: Path, side: int = 112, heads: Sequence[str] = ()) -> None:
    """Rows of pictures, a, b, c and so on before them, `heads` above the columns; written as a PNG of few colours."""
    top = MARGIN if heads else 0
    columns = max(map(len, rows))
    whole = Image.new("RGB", (MARGIN + columns * (side + GAP), top + len(rows) * (side + GAP)), "white")
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(14)
    for column, text in enumerate(heads):
        pen.text((MARGIN + column * (side + GAP) + side / 2, top / 2), text, "black", font, anchor="mm")
    for number, row in enumerate(rows):
        y = top + number * (side + GAP)
        pen.text((MARGIN / 2, y + side / 2), chr(ord("a") + number), "black", font, anchor="mm")
        for column, picture in enumerate(row):
            small = picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            whole.paste(small, (MARGIN + column * (side + GAP), y))
    whole.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)


def _svg(parts: Sequence[str], path: Path, height: int = HEIGHT) -> None:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="12">'
    )
    white = f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    path.write_text("\n".join([head, white, *parts, "</svg>", ""]), encoding="utf-8")


def _text(x: float, y: float, text: str, anchor: str = "middle", color: str = "#1f2328") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{escape(text)}</text>'


def _ceiling(value: float) -> float:
    """The end of an axis for `value`, whose quarters are round."""
    unit = 10 ** math.floor(math.log10(value))
    return next(unit * step for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 5, 6, 8, 10) if unit * step >= value)


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    path: Path,
    x: str,
    y: str,
    marks: Sequence[float] = (),
    below: str = "",
) -> None:
    """A line for each of `series`, its name above in its colour; both axes begin at 0; `marks`: upright lines at x.

    The one called `below` is wide and pale, so that it can be seen below the others.
    """
    points = [point for line in series.values() for point in line]
    right, top = _ceiling(max(p[0] for p in points)), _ceiling(max(p[1] for p in points))
    inner, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return LEFT + inner * point[0] / right, TOP + tall * (1 - point[1] / top)

    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        level, across = TOP + tall * (1 - share), LEFT + inner * share
        parts.append(f'<path d="M{LEFT} {level:.1f}H{WIDTH - RIGHT}" stroke="#d0d7de"/>')
        parts.append(_text(LEFT - 6, level + 4, f"{top * share:.3g}", "end"))
        parts.append(_text(across, HEIGHT - BOTTOM + 16, f"{right * share:.4g}"))
    parts.append(_text(LEFT + inner / 2, HEIGHT - 6, x))
    parts.append(_text(6, 16, y, "start"))
    for mark in marks:
        parts.append(
            f'<path d="M{at((mark, 0))[0]:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#6e7781" stroke-dasharray="4"/>'
        )
    name_at, paths = WIDTH - RIGHT, list[str]()
    for (name, line), color in reversed([*zip(series.items(), PENS, strict=False)]):
        path_of = "L".join(f"{a:.1f} {b:.1f}" for a, b in map(at, line))
        pen = 'stroke-width="7" opacity="0.35"' if name == below else 'stroke-width="1.5"'
        paths.insert(0, f'<path d="M{path_of}" fill="none" stroke="{color}" {pen}/>')
        parts.append(_text(name_at, 16, name, "end", color))
        name_at -= 8 * len(name) + 16
    _svg([*parts, *paths], path)


def bars(values: dict[str, float], path: Path, unit: str) -> None:
    """A bar for each value, with its name and the number behind it."""
    top, step = max(values.values()), 30
    begin, parts = 230, []
    for number, (name, value) in enumerate(values.items()):
        y = 12 + number * step
        length = (WIDTH - begin - 90) * value / top
        parts.append(_text(begin - 8, y + 14, name, "end"))
        parts.append(f'<rect x="{begin}" y="{y}" width="{length:.1f}" height="20" fill="{PENS[0]}"/>')
        parts.append(_text(begin + length + 6, y + 14, f"{value:.3g} {unit}", "start"))
    _svg(parts, path, 12 + len(values) * step + 6)
