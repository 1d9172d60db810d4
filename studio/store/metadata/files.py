"""The texts that programs leave in a picture file, by the names of their fields. Knows nothing of what they say.

PNG text chunks before and behind the pixels (PNG 1.2, 4.2.3), Exif (2.32, 4.6.5: UserComment), XMP, a JPEG's comment,
and text in the lowest bits of the pixels (NovelAI, and A1111's extension stealth-pnginfo). Chunks are read as bytes,
for many programs write UTF-8 or their system's encoding where Latin-1 is asked for.
"""

from __future__ import annotations

import gzip
import html
import re
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, features

from studio.core.errors import BadInput
from studio.core.text_encoding import decode

MAX_TEXT = 16 * 2**20  # characters of one file: workflows of a few megabytes exist
MAX_PASTED = 2 * 2**20
MAX_HIDDEN = 20_000_000  # pixels in whose bits a text is looked for
UNREADABLE = "\x00"  # the value of a field whose encoding can't be told
CUT = "\x01"  # of one that isn't whole
NO_PICTURE = "This file can't be read as a picture; drop a PNG, JPEG or WebP file."
WRONG = (OSError, ValueError, SyntaxError, KeyError, TypeError, IndexError, OverflowError, EOFError, struct.error,
         zlib.error, RuntimeError, Image.DecompressionBombError, Image.DecompressionBombWarning)  # fmt: skip
FORMATS = ("PNG", "JPEG", "WEBP", *(["AVIF"] if features.check("avif") else []))
_FIELDS = {
    ExifTags.Base.ImageDescription: "ImageDescription",
    ExifTags.Base.Make: "Make",
    ExifTags.Base.Model: "Model",
    ExifTags.Base.Software: "Software",
    ExifTags.Base.UserComment: "UserComment",
    ExifTags.Base.XPComment: "XPComment",
    ExifTags.Base.MakerNote: "MakerNote",
}


def texts(data: bytes) -> dict[str, str]:
    """Every text in a picture file (PNG, JPEG, WebP) or, under "pasted", the text that `data` itself is.

    A field whose encoding can't be told is there as `UNREADABLE`, one that isn't whole as `CUT`: half of a recipe would
    give numbers that nobody wrote. Raises `BadInput` for what is neither.
    """
    fields: dict[str, str] = {}
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        exif = b""
        for name, text, encoding in _chunks(data):
            if not encoding:
                exif = text
            else:
                fields.setdefault(name, _chunk_text(text, encoding))
        fields |= {name: text for name, text in _exif(exif).items() if name not in fields}
        if xmp := fields.pop("XML:com.adobe.xmp", ""):
            fields["xmp"] = _xmp(xmp.encode())
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            for name in ("comment", "xmp"):
                value = image.info.get(name)
                if isinstance(value, bytes):
                    fields.setdefault(name, _xmp(value) if name == "xmp" else _text(value))
            if image.format != "PNG" and isinstance(camera := image.info.get("exif"), bytes):
                fields |= _exif(camera)
    except WRONG as error:
        if fields:
            return fields
        pasted = decode(data, is_recipe) if len(data) <= MAX_PASTED else None
        if pasted is None or not is_recipe(pasted):
            raise BadInput(NO_PICTURE) from error
        return {"pasted": pasted}
    return {name: text for name, text in fields.items() if text}


def is_recipe(text: str) -> bool:
    """Whether a reading of bytes is what a recipe looks like: A1111's settings or JSON."""
    return re.search(r"\bSteps: ?\d", text) is not None or re.match(r'\s*\{\s*"', text) is not None


def _text(data: bytes) -> str:
    text = decode(data.strip(b"\0") if b"\0" not in data.strip(b"\0") else data, is_recipe)
    return UNREADABLE if text is None and data else text or ""


def _chunk_text(data: bytes, encoding: str) -> str:
    """`encoding`: the one that the kind of chunk stands for; many programs don't keep to it."""
    if data == CUT.encode():
        return CUT
    if encoding == "utf-8" and b"\0" not in data:
        try:
            return data.decode("utf-8").lstrip("\ufeff")
        except UnicodeDecodeError:
            return _text(data)
    text = _text(data)
    if text != UNREADABLE or re.search(rb"[\x80-\x9f]", data):
        return text
    for other in ("utf-8", "cp932", "gbk"):
        try:
            data.decode(other)
        except UnicodeDecodeError:
            continue
        return UNREADABLE
    return data.decode("latin-1")


def _chunks(data: bytes) -> Iterator[tuple[str, bytes, str]]:
    """(keyword, text, encoding) of every text chunk of a PNG, and ("eXIf", its bytes, ""); broken ones are left out."""
    offset, left = 8, MAX_TEXT
    while offset + 8 <= len(data) and left > 0:
        length, kind = struct.unpack(">I4s", data[offset : offset + 8])
        if kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf"):
            body = data[offset + 8 : offset + 8 + min(length, left)]
            name, _, text = body.partition(b"\0")
            if kind == b"eXIf":
                name, text = b"eXIf", body
            elif kind == b"zTXt":
                text = _inflated(text[1:], left)
            elif kind == b"iTXt":
                packed, rest = text[:1], text[2:].split(b"\0", 2)
                text = rest[2] if len(rest) == 3 else b""
                text = _inflated(text, left) if packed == b"\1" else text
            if len(body) < length:
                text = CUT.encode()
            left -= len(text)
            yield name.decode("latin-1"), text, {b"iTXt": "utf-8", b"eXIf": ""}.get(kind, "latin-1")
        offset += 12 + length


def _inflated(data: bytes, most: int) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(data, most)
    except zlib.error:
        return b""
    return text if unpacking.eof else CUT.encode()


def _exif(data: bytes) -> dict[str, str]:
    exif = Image.Exif()
    try:
        exif.load(data)
        entries = dict(exif) | dict(exif.get_ifd(ExifTags.IFD.Exif))  # some write all of it into the first directory
    except WRONG:
        return {}
    fields: dict[str, str] = {}
    for tag, name in _FIELDS.items():
        value = entries.get(tag)
        if isinstance(value, tuple) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in value):
            value = bytes(value)  # of type BYTE
        if isinstance(value, str):
            value = value.encode("latin-1", "replace")  # as Pillow has read it
        if isinstance(value, bytes):
            text = _user_comment(value) if name == "UserComment" else _text(value)
            if name in ("Make", "Model", "ImageDescription") and (field := re.match(r"(prompt|workflow):", text, re.I)):
                name, text = field[1].lower(), text[field.end() :]  # ComfyUI in WebP
            if text:
                fields.setdefault(name, text)
    return fields


def _user_comment(value: bytes) -> str:
    code, body = value[:8], value[8:]
    if code == b"JIS\0\0\0\0\0":
        for encoding in ("iso2022_jp", "euc_jp"):
            try:
                return body.decode(encoding).strip("\0")
            except UnicodeDecodeError:
                continue
    elif code not in (b"UNICODE\0", b"ASCII\0\0\0", bytes(8)):
        body = value
    return _text(body)


def _xmp(data: bytes) -> str:
    text = decode(data) or ""
    match = re.search(r"<exif:UserComment>.{0,400}?<rdf:li[^>]*>(.*?)</rdf:li>", text, re.DOTALL)
    match = match or re.search(r'exif:UserComment="([^"]*)"', text)
    match = match or re.search(r"<dc:description>.{0,400}?<rdf:li[^>]*>(.*?)</rdf:li>", text, re.DOTALL)
    return html.unescape(match[1]) if match else ""


def hidden(data: bytes) -> str | None:
    """The text in the lowest bits of a picture's pixels, column by column; None where there is none."""
    try:
        with Image.open(BytesIO(data), formats=("PNG", "WEBP")) as image:
            if image.width * image.height > MAX_HIDDEN or image.mode not in ("RGB", "RGBA"):
                return None
            for start, bands in ((b"stealth_png", slice(3, 4)), (b"stealth_rgb", slice(0, 3))):
                head = _bits(image, bands, 19)
                if len(head) == 19 and head[:15] in (start + b"info", start + b"comp"):
                    size = int.from_bytes(head[15:], "big") // 8
                    body = _bits(image, bands, 19 + min(size, MAX_TEXT))[19:]
                    if head[11:15] == b"comp":
                        with gzip.open(BytesIO(body)) as packed:
                            body = packed.read(MAX_TEXT)
                    return decode(body, is_recipe)
    except WRONG:
        return None
    return None


def _bits(image: Image.Image, bands: slice, count: int) -> bytes:
    """The first `count` bytes, at most, of what the lowest bits of these bands say; only their columns are copied."""
    each = image.height * len(range(*bands.indices(len(image.getbands()))))
    if not each:
        return b""
    columns = np.asarray(image.crop((0, 0, min(image.width, -(-count * 8 // each)), image.height)))[:, :, bands]
    return np.packbits(columns.transpose(1, 0, 2).ravel()[: count * 8] & 1).tobytes()
