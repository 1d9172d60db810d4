"""Files with recipes as other programs leave them, and what must be read from them."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from typing import Any

from PIL import Image
from support.pictures import encoded, image

from studio.store.metadata import ReadRecipe

SETTINGS = (
    "Steps: 24, Sampler: Euler a, CFG scale: 6.5, Seed: 4242, Size: 256x320, Model hash: 0123abcd45, Model: someMix_v3"
)


def text_of(prompt: str, more: str = "") -> str:
    return f"{prompt}\nNegative prompt: lowres\n{SETTINGS}{more}, Version: v1.10.1"


def png(fields: dict[str, bytes], kind: bytes = b"tEXt", behind: bool = False) -> bytes:
    """A PNG with text chunks as bytes, before or behind the pixels."""
    data = encoded(image())
    chunks = b""
    for name, text in fields.items():
        body = {b"tEXt": text, b"zTXt": b"\0" + zlib.compress(text), b"iTXt": b"\0\0\0\0" + text}[kind]
        body = name.encode() + b"\0" + body
        chunks += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    place = len(data) - 12 if behind else 33
    return data[:place] + chunks + data[place:]


def with_json(data: Any, name: str = "parameters", **more: str) -> bytes:
    return png({name: json.dumps(data).encode()} | {key: value.encode() for key, value in more.items()})


def exif(body: bytes, form: str = "JPEG", first_directory: bool = False, **tags: Any) -> bytes:
    entries = Image.Exif()
    if first_directory:
        entries[0x9286] = body
    else:
        entries.get_ifd(0x8769)[0x9286] = body
    return encoded(image(), form, exif=entries, **tags)


def hidden(text: str, magic: bytes) -> bytes:
    """Text in the lowest bits, column by column."""
    body = text.encode()
    if magic.endswith(b"comp"):
        body = gzip.compress(body)
    bits = "".join(f"{byte:08b}" for byte in magic + struct.pack(">I", len(body) * 8) + body)
    picture = Image.new("RGBA", (80, 80), (120, 130, 140, 254))
    per_pixel = 3 if b"rgb" in magic else 1
    for place in range(0, len(bits), per_pixel):
        x, y = divmod(place // per_pixel, picture.height)
        red, green, blue, alpha = picture.getpixel((x, y))
        if per_pixel == 1:
            alpha = alpha & ~1 | int(bits[place])
        else:
            part = bits[place : place + 3].ljust(3, "0")
            red, green, blue = (value & ~1 | int(bit) for value, bit in zip((red, green, blue), part, strict=True))
        picture.putpixel((x, y), (red, green, blue, alpha))
    return encoded(picture)


def expect(found: ReadRecipe, prompt: str = "1girl, blue hair", negative: str = "lowres") -> None:
    spec = found.spec
    assert (spec.prompt, spec.negative) == (prompt, negative)
    assert (spec.steps, spec.seed, spec.guidance, spec.width, spec.height) == (24, 4242, 6.5, 256, 320)
    assert spec.sampler == "euler_a"
