"""A file that somebody sent becomes a clean RGB picture, or one sentence.

Judged by content and never by name; nothing is decoded before its size is known. Doesn't know what the picture is for.
"""

from __future__ import annotations

from io import BytesIO

from PIL import Image, UnidentifiedImageError

from studio.core.errors import BadInput
from studio.core.imaging import background_of, to_rgb

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 64_000_000  # decoded at once: 256 MB as RGBA, more than any camera phone in common use
MAX_SIDE = 2048  # what is kept: no model here draws larger


def clean(data: bytes, max_bytes: int) -> tuple[Image.Image, tuple[str, ...]]:
    """The picture as RGB, upright, at most 2048 px on its longer side, and sentences about what was changed.

    Raises `BadInput`.
    """
    if not data:
        raise BadInput("The file is empty.")
    if len(data) > max_bytes:
        raise BadInput(f"The file has {len(data) / 1e6:.0f} MB; at most {max_bytes / 1e6:.0f} MB are accepted.")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise BadInput(f"The picture is {width} x {height} pixels; at most 64 million are accepted.")
            if min(width, height) < 8 or max(width, height) > 32 * min(width, height):
                raise BadInput(f"The picture is {width} x {height} pixels: too thin to draw from.")
            notes: tuple[str, ...] = ("Only the first frame is used.",) if getattr(opened, "n_frames", 1) > 1 else ()
            opened.draft("RGB", (MAX_SIDE, MAX_SIDE))  # JPEG: decode no larger than needed
            opened.load()
            notes += _said(opened)
            image = to_rgb(opened)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadInput("The picture is far larger than the 64 million pixels that are accepted.") from error
    except UnidentifiedImageError as error:
        raise BadInput("This file isn't a picture that can be read; use PNG, JPEG, WebP, GIF or BMP.") from error
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError, IndexError) as error:
        raise BadInput("The picture is damaged or cut off; save or download it again.") from error
    if max(width, height) > MAX_SIDE:
        image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
        notes += (f"It was made smaller: {image.width} x {image.height} instead of {width} x {height} pixels.",)
    image.info.clear()
    return image, notes


def _said(image: Image.Image) -> tuple[str, ...]:
    """What is said about a picture with transparent parts."""
    below = background_of(image)
    if below is None:
        return ()
    if image.convert("RGBA").getchannel("A").getextrema()[1] == 0:
        return (f"It is transparent everywhere, so it was put on {below} and only {below} is left.",)
    return (f"Its transparent parts were put on {below}.",)
