"""Picture files from elsewhere: every mode of every format becomes RGB, damaged and dangerous ones are refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor, ImageDraw
from support.pictures import encoded

from studio.core.errors import BadInput
from studio.store import metadata, uploads

LIMIT = 20 * 2**20


MODES = {
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "JPEG": ("RGB", "L", "CMYK"),
    "WEBP": ("RGB", "RGBA", "L"),
    "GIF": ("RGB", "RGBA", "L", "P", "1"),
    "BMP": ("RGB", "RGBA", "L", "P", "1"),
}


@pytest.mark.parametrize(("form", "mode"), [(form, mode) for form, modes in MODES.items() for mode in modes])
def test_every_mode_of_every_format_becomes_rgb(form: str, mode: str) -> None:
    grey = Image.radial_gradient("L").resize((40, 30))
    colour = Image.merge("RGB", (grey, grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT), grey))
    if mode == "I;16":
        source = grey.convert("I").point(lambda value: value * 257).convert("I;16")
    elif mode == "LA":
        source = colour.convert("RGBA").convert("LA")
    else:
        source = colour.convert(mode)
    clean, _ = uploads.clean(encoded(source, form), LIMIT)
    assert clean.mode == "RGB"
    assert clean.size == (40, 30)
    low, high = clean.convert("L").getextrema()
    assert low < 120  # neither all white nor all black
    assert high > 120


def test_exif_turns_the_picture_and_is_dropped() -> None:
    source = Image.new("RGB", (40, 20), "black")
    source.paste("white", (0, 0, 20, 20))  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees
    exif[0x010E] = "at home"
    clean, _ = uploads.clean(encoded(source, "JPEG", exif=exif), LIMIT)
    assert clean.size == (20, 40)
    assert clean.getpixel((10, 5)) > (200, 200, 200)
    assert clean.getpixel((10, 35)) < (50, 50, 50)
    assert not clean.info
    assert b"at home" not in metadata.png(clean, None)


def test_damaged_exif_costs_no_picture() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "at home"
    notes = bytearray(exif.tobytes())
    notes[17] = 0  # the description is of no kind
    clean, _ = uploads.clean(encoded(Image.new("RGB", (40, 20), "red"), "JPEG", exif=bytes(notes)), LIMIT)
    assert clean.getpixel((10, 10)) > (200, 0, 0)


def test_white_lines_on_nothing_are_chalk_on_a_blackboard() -> None:
    lines = Image.new("L", (256, 256))
    ImageDraw.Draw(lines).ellipse((60, 60, 200, 210), outline=255, width=4)
    chalk, pencil = Image.new("RGBA", lines.size, "white"), Image.new("RGBA", lines.size, "black")
    for drawn, ground in ((chalk, "black"), (pencil, "white")):
        drawn.putalpha(lines)
        clean, notes = uploads.clean(encoded(drawn), LIMIT)
        assert clean.getpixel((3, 3)) == ImageColor.getrgb(ground)
        assert notes == (f"Its transparent parts were put on {ground}.",)
    pale = Image.new("RGBA", (64, 64), (0, 0, 0, 0))  # a figure in white that can be seen on white
    ImageDraw.Draw(pale).ellipse((8, 8, 56, 56), fill="white", outline="black", width=2)
    assert uploads.clean(encoded(pale), LIMIT)[0].getpixel((1, 1)) == (255, 255, 255)


def test_transparent_becomes_paper_white() -> None:
    clean, notes = uploads.clean(encoded(Image.new("RGBA", (16, 16), (0, 0, 0, 0))), LIMIT)
    assert clean.getpixel((3, 3)) == (255, 255, 255)
    assert "only white is left" in notes[0]
    half = Image.new("RGBA", (16, 16), "red")
    assert uploads.clean(encoded(half), LIMIT)[1] == ()  # opaque all over: nothing was changed
    half.paste((0, 0, 0, 0), (0, 0, 8, 16))
    assert uploads.clean(encoded(half), LIMIT)[1] == ("Its transparent parts were put on white.",)


def test_a_large_photo_is_made_smaller_and_said() -> None:
    clean, notes = uploads.clean(encoded(Image.new("RGB", (4000, 2000), "red"), "JPEG"), LIMIT)
    assert clean.size == (2048, 1024)
    assert "2048 x 1024 instead of 4000 x 2000" in notes[0]


def bomb() -> bytes:
    """A PNG whose header promises 60000 x 60000 pixels, in under 100 bytes."""
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "empty"),
        (b"GIF89a nothing more", "isn't a picture|damaged"),
        (b"PK\x03\x04" + b"\0" * 100, "isn't a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "isn't a picture"),
        (encoded(Image.effect_noise((64, 64), 90))[:-400], "damaged or cut off"),
        (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:700], "damaged or cut off"),
        (encoded(Image.effect_noise((64, 64), 90), "WEBP")[:300], "isn't a picture|damaged"),
        (encoded(Image.new("RGB", (4, 4))), "too thin"),
        (encoded(Image.new("RGB", (2000, 10))), "too thin"),
        (b"\xff" * (LIMIT + 1), "20 MB|21 MB"),
    ],
)
def test_what_is_no_sound_picture_is_refused(data: bytes, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        uploads.clean(data, LIMIT)


def test_a_decompression_bomb_is_refused_unopened() -> None:
    with pytest.raises(BadInput, match="64 million"):
        uploads.clean(bomb(), LIMIT)


NOISE = Image.effect_noise((24, 24), 60)
SOUND = {form: encoded(NOISE, form) for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP")}


@settings(max_examples=80)
@given(
    st.sampled_from(sorted(SOUND)),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_a_damaged_picture_is_read_or_refused(form: str, changes: list[tuple[int, int]]) -> None:
    raw = bytearray(SOUND[form])
    for place, value in changes:
        raw[place % len(raw)] = value
    try:
        clean, _ = uploads.clean(bytes(raw), LIMIT)
    except BadInput:
        return
    assert clean.mode == "RGB"
