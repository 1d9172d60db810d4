"""A recipe and small pictures that the tests of the store share."""

from __future__ import annotations

from io import BytesIO

from PIL import Image

from studio.core.specs import Recipe

RECIPE = Recipe(
    model="embedded",
    model_hash="a" * 64,
    prompt="1girl, (red hair:1.3), smile",
    negative="lowres, bad hands",
    seed=7,
    steps=20,
    guidance=3.5,
    sampler="dpmpp_2m_karras",
    width=256,
    height=320,
    labels={"emotion": "happy", "style": "casual"},
)


def image(colour: str = "red", size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new("RGB", size, colour)


def encoded(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()
