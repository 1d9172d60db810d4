"""Several pictures as one: a labelled grid. Doesn't know what the labels mean."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP = 8  # pixels between tiles
INK, PAPER = (40, 36, 48), (250, 248, 246)
MAX_SIDE = 8192  # of the whole sheet: larger ones are of no use to any viewer


def grid_picture(tiles: Sequence[Image.Image], columns: Sequence[str], rows: Sequence[str] = ()) -> Image.Image:
    """Tiles row by row under the labels of their columns; `rows` label the left side (none: one row or no labels).

    Tiles of different sizes are centred in the largest. Scaled down where a side would exceed `MAX_SIDE`.
    """
    across, down = len(columns), -(-len(tiles) // len(columns))
    width, height = max(tile.width for tile in tiles), max(tile.height for tile in tiles)
    scale = min(1.0, MAX_SIDE / (across * (width + GAP)), MAX_SIDE / (down * (height + GAP)))
    width, height = max(1, int(width * scale)), max(1, int(height * scale))
    size = max(12, min(width, height) // 14)
    font = ImageFont.load_default(size)
    top = size + 2 * GAP
    left = GAP + (max((int(font.getlength(label)) for label in rows), default=0) + GAP if rows else 0)
    canvas = Image.new("RGB", (left + across * (width + GAP), top + down * (height + GAP)), PAPER)
    pen = ImageDraw.Draw(canvas)
    for column, label in enumerate(columns):
        pen.text(
            (left + column * (width + GAP) + width // 2, top // 2), _fit(label, font, width), INK, font, anchor="mm"
        )
    for row, label in enumerate(rows):
        pen.text((GAP, top + row * (height + GAP) + height // 2), label, INK, font, anchor="lm")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, across)
        if scale < 1:
            tile = tile.resize((int(tile.width * scale), int(tile.height * scale)), Image.Resampling.LANCZOS)
        x = left + column * (width + GAP) + (width - tile.width) // 2
        y = top + row * (height + GAP) + (height - tile.height) // 2
        canvas.paste(tile, (x, y))
    return canvas


def _fit(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    while len(label) > 1 and font.getlength(label) > width:
        label = label.rstrip("…")[:-1] + "…"
    return label
