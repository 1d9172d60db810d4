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
from studio.core.specs import GenerateSpec, Recipe, Request
from studio.core.specs.picture import SAMPLER_NAMES
from studio.core.views import JobView, Picture
from studio.service import Studio, UpscalerInfo
from studio.service.sizes import default_size, fits
from studio.service.sizes import enlarged as enlargeable

POLL = 0.1  # seconds between looks at a job that somebody waits for
LARGEST = 4096  # pixels of a side that is asked of the upscaler


@dataclass(frozen=True)
class Drawn:
    """One picture as it is sent: a PNG with its recipe inside, as A1111 writes it."""

    png: bytes
    size: tuple[int, int]  # width and height in pixels
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


def upscaler_name(info: UpscalerInfo) -> str:
    """An upscaler as programs are told of it."""
    return "Lanczos" if info.reference == "lanczos" else info.title


def upscaler(name: str | None, studio: Studio) -> str:
    """Our name of an upscaler that another program calls `name`; the studio's own for one that isn't here.

    "None" is the filter: A1111 enlarges with it then.
    """
    plain = (name or "").strip()
    if plain == "None":
        return "lanczos"
    for info in studio.models.upscalers():
        if plain and plain in (info.reference, info.title, upscaler_name(info)):
            return info.reference
    return "embedded"


def picture_of(encoded: str) -> bytes:
    """A picture in base64, with or without the head of a data URL. Raises `BadInput`."""
    try:
        return base64.b64decode(encoded.rpartition("base64,")[2], validate=True)
    except (binascii.Error, ValueError):
        raise BadInput("A picture has to be sent in base64.") from None


async def finished(spec: Request, owner: str, studio: Studio, once: str = "") -> JobView:
    """Submit a request and wait until it is over. Raises `StudioError`, and HTTPException for a job that failed."""
    view = await run_in_threadpool(studio.submit, spec, owner, once)
    while view.active:
        await asyncio.sleep(POLL)
        view = await run_in_threadpool(studio.job, view.id, owner)
    if view.state == "failed":
        raise HTTPException(422 if view.bad_input else 500, view.error or "The pictures couldn't be drawn.")
    return view


async def draw(spec: GenerateSpec, owner: str, studio: Studio, once: str = "") -> tuple[list[Drawn], JobView]:
    """Draw this request and wait until it is over, as `finished`. Its pictures have the size that was asked for."""
    size = None
    if spec.mask is None and spec.width is not None and spec.height is not None:
        size = (round(spec.width * spec.times), round(spec.height * spec.times))
        spec = await run_in_threadpool(_within, spec, studio)
    view = await finished(spec, owner, studio, once)
    return await run_in_threadpool(lambda: [_sent(studio.picture(id, owner), size) for id in view.pictures]), view


def _within(spec: GenerateSpec, studio: Studio) -> GenerateSpec:
    """The request, or one for a smaller picture where its size is too far beyond its model to be enlarged to.

    Programs ask for 512 x 512 and more, whatever the model was made for.
    """
    assert spec.width is not None
    assert spec.height is not None
    info = next((info for info in studio.models.list() if info.reference == spec.model), None)
    if info is None or spec.times > 1 or fits(spec.width, spec.height, info.native_size):
        return spec
    if enlargeable(spec.width, spec.height, info.native_size) is not None:
        return spec
    width, height = default_size(info.native_size, spec.width / spec.height, info.sizes)
    return spec.model_copy(update={"width": width, "height": height, "upscale": 4.0})


def _sent(picture: Picture, size: tuple[int, int] | None) -> Drawn:
    data = picture.path.read_bytes()
    with Image.open(BytesIO(data)) as image:
        infotext = str(image.info.get("parameters", ""))
        made = size or image.size
        if made != image.size:
            data = enlarged(image, made, infotext)
    assert picture.recipe is not None
    return Drawn(data, made, picture.recipe, infotext)


def enlarged(image: Image.Image, size: tuple[int, int], infotext: str = "") -> bytes:
    """A picture in another size (Lanczos) as PNG, `infotext` inside. Raises `BadInput` for one that is too large."""
    check(size)
    notes = PngImagePlugin.PngInfo()
    if infotext:
        notes.add_text("parameters", infotext)
    buffer = BytesIO()
    image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(buffer, "PNG", pnginfo=notes)
    return buffer.getvalue()


def check(size: tuple[int, int]) -> None:
    """Raises `BadInput` for a size that no picture is enlarged to."""
    if not 0 < min(size) <= max(size) <= LARGEST:
        raise BadInput(f"Pictures are enlarged to at most {LARGEST} x {LARGEST} pixels.")


def rounded(length: int) -> int:
    """A side in pixels as requests have them: a multiple of 8 from 64 to 2048."""
    return min(2048, max(64, round(length / 8) * 8))


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def bounded(value: float, low: float, high: float) -> Any:
    """Programs offer more than models use: 150 steps, a guidance of 40."""
    return min(high, max(low, value))
