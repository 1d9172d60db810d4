"""Draw and wait: what routes of other programs' shapes have in common, which answer with the pictures themselves."""

from __future__ import annotations

import asyncio
import base64
import binascii
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image, PngImagePlugin
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from studio.core.errors import BadInput
from studio.core.specs import GenerateSpec, Recipe
from studio.core.specs.picture import SAMPLER_NAMES
from studio.core.views import JobView, Picture
from studio.service import Studio
from studio.service.sizes import default_size, largest_side

POLL = 0.1  # seconds between looks at a job that somebody waits for
LARGEST = 4096  # pixels of a side that is asked of the upscaler


@dataclass(frozen=True)
class Drawn:
    """One picture as it is sent: a PNG with its recipe inside, as A1111 writes it."""

    png: bytes
    recipe: Recipe
    infotext: str


def sampler(name: str | None, scheduler: str | None = None) -> str:
    """Our name of a sampler that A1111 calls `name`; "auto" for one that isn't here."""
    titles = {title.lower(): ours for ours, title in SAMPLER_NAMES.items()}
    plain = (name or "").strip().lower()
    for said in (f"{plain} {(scheduler or '').strip().lower()}", plain):
        if said in titles or said in SAMPLER_NAMES:
            return titles.get(said, said)
    return "auto"


def reference(name: str | None, studio: Studio) -> str:
    """A model as another program names it (a title, with a hash behind it), as a request names it.

    Raises `NotFound` when it is drawn.
    """
    plain = (name or "").strip()
    for info in studio.models.list():
        if plain and plain in (info.reference, info.title, f"{info.title} [{info.hash[:10]}]"):
            return info.reference
    return plain or studio.settings.model


def picture_of(encoded: str) -> bytes:
    """A picture in base64, with or without the head of a data URL. Raises `BadInput`."""
    try:
        return base64.b64decode(encoded.rpartition("base64,")[2], validate=True)
    except (binascii.Error, ValueError):
        raise BadInput("A picture has to be sent in base64.") from None


def fitted(spec: GenerateSpec, studio: Studio) -> tuple[GenerateSpec, tuple[int, int] | None]:
    """The request at a size that its model draws well, and the size to enlarge its pictures to, where that is another.

    Programs ask for 512 x 512 and more, whatever the model was made for.
    """
    if spec.width is None or spec.height is None:
        return spec, None
    info = next((info for info in studio.models.list() if info.reference == spec.model), None)
    native, size = info.native_size if info is not None else 0, (spec.width, spec.height)
    if info is None or (size[0] <= largest_side(native, size[1]) and size[1] <= largest_side(native, size[0])):
        return spec, None
    width, height = default_size(native, size[0] / size[1], info.sizes)
    return spec.model_copy(update={"width": width, "height": height}), size


async def draw(spec: GenerateSpec, owner: str, studio: Studio, once: str = "") -> tuple[list[Drawn], JobView]:
    """Draw this request and wait until it is over. Raises `StudioError`, and HTTPException for a job that failed."""
    spec, size = await run_in_threadpool(fitted, spec, studio)
    view = await run_in_threadpool(studio.submit, spec, owner, once)
    while view.active:
        await asyncio.sleep(POLL)
        view = await run_in_threadpool(studio.job, view.id, owner)
    if view.state == "failed":
        raise HTTPException(422 if view.bad_input else 500, view.error or "The pictures couldn't be drawn.")
    return await run_in_threadpool(lambda: [_sent(studio.picture(id, owner), size) for id in view.pictures]), view


def _sent(picture: Picture, size: tuple[int, int] | None) -> Drawn:
    data = picture.path.read_bytes()
    with Image.open(BytesIO(data)) as image:
        infotext = str(image.info.get("parameters", ""))
        if size is not None:
            data = enlarged(image, size, infotext)
    assert picture.recipe is not None
    return Drawn(data, picture.recipe, infotext)


def enlarged(image: Image.Image, size: tuple[int, int], infotext: str = "") -> bytes:
    """A picture in another size (Lanczos) as PNG, `infotext` inside. Raises `BadInput` for one that is too large."""
    if not 0 < min(size) <= max(size) <= LARGEST:
        raise BadInput(f"Pictures are enlarged to at most {LARGEST} x {LARGEST} pixels.")
    notes = PngImagePlugin.PngInfo()
    if infotext:
        notes.add_text("parameters", infotext)
    buffer = BytesIO()
    image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(buffer, "PNG", pnginfo=notes)
    return buffer.getvalue()


def rounded(length: int) -> int:
    """A side in pixels as requests have them: a multiple of 8 from 64 to 2048."""
    return min(2048, max(64, round(length / 8) * 8))


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def bounded(value: float, low: float, high: float) -> Any:
    """Programs offer more than models use: 150 steps, a guidance of 40."""
    return min(high, max(low, value))
