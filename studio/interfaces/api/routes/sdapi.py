"""The routes of A1111's web UI that programs call (SillyTavern, krita's plugins, `webuiapi`), mapped onto ours.

What they send beyond what the studio knows is passed over, and numbers are brought into its bounds. A login's password
is the key.
"""

from __future__ import annotations

import json
from io import BytesIO
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.concurrency import run_in_threadpool

from studio.core.errors import BadInput
from studio.core.fields import SpecField, fields, within
from studio.core.specs import GenerateSpec, MaskArea, MaskSpec
from studio.core.specs.picture import SAMPLER_NAMES
from studio.core.views import JobView, Picture
from studio.features.upscale.spec import UpscaleSpec
from studio.interfaces.api.access import Once, Owner, TheStudio
from studio.interfaces.api.routes.drawn import (
    Drawn,
    bounded,
    check,
    draw,
    encoded,
    enlarged,
    finished,
    picture_of,
    reference,
    rounded,
    sampler,
    upscaler,
    upscaler_name,
)
from studio.service import ModelInfo, Studio

router = APIRouter(prefix="/sdapi/v1", tags=["as A1111's web UI"])
queue = APIRouter(tags=["as A1111's web UI"])  # of the page that A1111's web UI is
MOST = 64  # pictures of one request


class Loose(BaseModel):
    """A request of another program: unknown fields are passed over."""

    model_config = ConfigDict(extra="ignore")


ADDED = {name: field for name, field in fields(GenerateSpec).items() if field.about.elsewhere.a1111}
_TYPES: Any = {field.about.elsewhere.a1111[0]: (field.type | None, None) for field in ADDED.values()}
_Added = create_model("_Added", __base__=Loose, **_TYPES)


class Txt2Img(_Added):
    prompt: str = Field("", max_length=4000)
    negative_prompt: str = Field("", max_length=4000)
    seed: int | None = -1
    steps: int | None = None
    cfg_scale: float | None = Field(None, allow_inf_nan=False)
    width: int | None = None
    height: int | None = None
    sampler_name: str | None = Field(None, max_length=100)
    sampler_index: str | None = Field(None, max_length=100)
    scheduler: str | None = Field(None, max_length=100)
    batch_size: int | None = Field(1, ge=0, le=MOST)
    n_iter: int | None = Field(1, ge=0, le=MOST)
    override_settings: dict[str, Any] | None = None
    send_images: bool | None = True


class Txt2ImgHires(Txt2Img):
    enable_hr: bool | None = False
    hr_scale: float | None = Field(2, allow_inf_nan=False)
    hr_second_pass_steps: int | None = 0
    hr_upscaler: str | None = Field(None, max_length=1024)
    denoising_strength: float | None = Field(None, allow_inf_nan=False)


class Img2Img(Txt2Img):
    init_images: list[str] = Field(min_length=1, max_length=1)
    denoising_strength: float | None = Field(0.75, allow_inf_nan=False)
    mask: str | None = None
    mask_blur: float | None = Field(None, allow_inf_nan=False)
    inpainting_mask_invert: int | None = 0
    inpaint_full_res: bool | None = False


class Pictures(BaseModel):
    images: list[str]
    parameters: dict[str, Any]
    info: str


class Extra(Loose):
    image: str
    resize_mode: int = 0
    upscaling_resize: float = Field(2, gt=0, le=16, allow_inf_nan=False)
    upscaling_resize_w: int = 512
    upscaling_resize_h: int = 512
    upscaler_1: str | None = Field(None, max_length=1024)


class OnePicture(Loose):
    image: str


class Upscaled(BaseModel):
    html_info: str = ""
    image: str


class PngInfo(BaseModel):
    info: str
    items: dict[str, Any]
    parameters: dict[str, Any]


def _chosen(request: Request, owner: Owner, studio: TheStudio) -> dict[str, Any]:
    plain = {"sd_model_checkpoint": studio.settings.model, "samples_format": "png"}
    plain |= {option: field.default for field in ADDED.values() for option in field.about.elsewhere.a1111[1:]}
    kept: dict[str, dict[str, Any]] = request.app.state.sd_options
    return plain | kept.get(owner, {})


Chosen = Annotated[dict[str, Any], Depends(_chosen)]  # what this owner has set with `POST /options`


def _spec(body: Txt2Img, chosen: dict[str, Any], studio: Studio) -> GenerateSpec:
    options = chosen | (body.override_settings or {})
    count = (body.batch_size or 1) * (body.n_iter or 1)
    if not 1 <= count <= MOST:
        raise BadInput(f"At most {MOST} pictures can be asked for at once.")
    given = options | body.model_dump(exclude_none=True)
    values: dict[str, Any] = {
        "model": reference(str(options.get("sd_model_checkpoint") or ""), studio),
        "prompt": body.prompt,
        "negative": body.negative_prompt,
        "seed": body.seed % 2**32 if body.seed is not None and body.seed >= 0 else None,
        "sampler": sampler(body.sampler_name or body.sampler_index, body.scheduler),
        "count": count,
    }
    for name, field in ADDED.items():
        theirs = next((given[key] for key in field.about.elsewhere.a1111 if given.get(key)), None)
        if (value := _number(field, theirs)) is not None:
            values[name] = value
    if body.steps is not None:
        values["steps"] = bounded(body.steps, 1, 50)
    if body.cfg_scale is not None:
        values["guidance"] = bounded(body.cfg_scale, 0, 30)
    if body.width and body.height:
        values |= {"width": rounded(body.width), "height": rounded(body.height)}
    return GenerateSpec(**values)


def _number(field: SpecField, theirs: Any) -> Any:
    """A number of another program as ours, brought into the field's bounds; None for what isn't a number."""
    try:
        return within(field, field.about.elsewhere.read(float(theirs)))
    except (TypeError, ValueError, OverflowError):
        return None


def _answer(drawn: list[Drawn], body: Txt2Img, view: JobView) -> Pictures:
    first = drawn[0].recipe if drawn else None
    said: dict[str, Any] = {
        "prompt": body.prompt,
        "all_prompts": [one.recipe.prompt for one in drawn],
        "negative_prompt": body.negative_prompt,
        "all_negative_prompts": [one.recipe.negative for one in drawn],
        "seed": first.seed if first else -1,
        "all_seeds": [one.recipe.seed for one in drawn],
        "width": drawn[0].size[0] if drawn else 0,
        "height": drawn[0].size[1] if drawn else 0,
        "sampler_name": SAMPLER_NAMES.get(first.sampler, first.sampler) if first else "",
        "cfg_scale": first.guidance if first else 0,
        "steps": first.steps if first else 0,
        "batch_size": len(drawn),
        "sd_model_hash": first.model_hash[:10] if first else "",
        "infotexts": [one.infotext for one in drawn],
        "job_timestamp": str(view.created),
        "notes": list(view.notes),
    }
    sent = [encoded(one.png) for one in drawn] if body.send_images is not False else []
    parameters = body.model_dump(exclude={"init_images", "mask"})
    return Pictures(images=sent, parameters=parameters, info=json.dumps(said, ensure_ascii=False))


@router.post("/txt2img")
async def txt2img(body: Txt2ImgHires, owner: Owner, studio: TheStudio, chosen: Chosen, once: Once) -> Pictures:
    """Draw pictures of a prompt and answer with them. A size beyond the model's is drawn smaller and enlarged.

    `enable_hr` with its fields is the second pass (hires fix).
    """
    spec = await run_in_threadpool(_spec, body, chosen, studio)
    if body.enable_hr and (body.hr_scale or 2) > 1:
        strength = body.denoising_strength
        hires: dict[str, Any] = {
            "hires": bounded(body.hr_scale or 2, 1, 4),
            "hires_steps": bounded(body.hr_second_pass_steps, 1, 50) if body.hr_second_pass_steps else None,
            "hires_strength": bounded(strength, 0.01, 1) if strength is not None else None,
            "upscaler": upscaler(body.hr_upscaler, studio),
        }
        spec = spec.model_copy(update=hires)
    drawn, view = await draw(spec, owner, studio, once)
    return _answer(drawn, body, view)


@router.post("/img2img")
async def img2img(body: Img2Img, owner: Owner, studio: TheStudio, chosen: Chosen, once: Once) -> Pictures:
    """Draw pictures that start from one; with a mask, what is white in it anew, in the picture's own size."""
    source = await run_in_threadpool(studio.upload, picture_of(body.init_images[0]), owner, "img2img")
    spec = await run_in_threadpool(_spec, body, chosen, studio)
    strength = bounded(0.75 if body.denoising_strength is None else body.denoising_strength, 0.01, 1)
    changes: dict[str, Any] = {"source": source.id, "strength": strength}
    if body.mask:
        mask = await run_in_threadpool(_mask, body, source, owner, studio)
        changes |= {"mask": mask, "width": None, "height": None}
    drawn, view = await draw(spec.model_copy(update=changes), owner, studio, once)
    return _answer(drawn, body, view)


def _mask(body: Img2Img, source: Picture, owner: str, studio: Studio) -> MaskSpec:
    sent = studio.upload(picture_of(body.mask or ""), owner, "mask")
    with Image.open(sent.path) as image:
        mask = image.convert("L").resize((source.width, source.height))
    buffer = BytesIO()
    (ImageOps.invert(mask) if body.inpainting_mask_invert else mask).save(buffer, "PNG")
    feather = None if body.mask_blur is None else round(bounded(body.mask_blur, 0, 128))
    area: MaskArea = "masked" if body.inpaint_full_res else "auto"
    return MaskSpec(image=studio.upload(buffer.getvalue(), owner, "mask").id, area=area, feather=feather)


@router.get("/progress")
def progress(owner: Owner, studio: TheStudio, skip_current_image: bool = False) -> dict[str, Any]:
    """How your own job stands; 0 when nothing is drawn for you."""
    job = next((one for one in reversed(studio.jobs(owner, 50)) if one.active), None)
    job = job and studio.job(job.id, owner)
    shown = job.preview if job and not skip_current_image else None
    state = {
        "skipped": False,
        "interrupted": False,
        "job": job.id if job else "",
        "job_count": 1 if job else 0,
        "job_no": 0,
        "sampling_step": job.done if job else 0,
        "sampling_steps": job.total if job else 0,
    }
    return {
        "progress": job.fraction if job else 0.0,
        "eta_relative": (job.seconds_left or 0.0) if job else 0.0,
        "state": state,
        "current_image": encoded(shown) if shown else None,
        "textinfo": job.note if job else "",
    }


@router.post("/interrupt")
@router.post("/skip")
def interrupt(owner: Owner, studio: TheStudio) -> dict[str, Any]:
    """Stop your own jobs, and nobody else's."""
    for job in studio.jobs(owner, 200):
        if job.active:
            studio.cancel(job.id, owner)
    return {}


@router.get("/options")
def options(owner: Owner, studio: TheStudio, found: Chosen) -> dict[str, Any]:
    """What your requests are drawn with where they say nothing."""
    info = next((one for one in studio.models.list() if one.reference == found["sd_model_checkpoint"]), None)
    return found | {"sd_checkpoint_hash": info.hash if info else ""}


@router.post("/options")
def set_options(body: dict[str, Any], owner: Owner, studio: TheStudio, request: Request) -> dict[str, Any]:
    """Choose a model for your own requests, until the server ends. Other settings of A1111 mean nothing here."""
    found: dict[str, Any] = {}
    if "sd_model_checkpoint" in body:
        found["sd_model_checkpoint"] = reference(str(body["sd_model_checkpoint"])[:1024], studio)
        if found["sd_model_checkpoint"] not in [info.reference for info in studio.models.list()]:
            raise BadInput("There is no such model; GET /sdapi/v1/sd-models lists those that there are.")
    for field in ADDED.values():
        for option in field.about.elsewhere.a1111[1:]:
            if (value := _number(field, body.get(option))) is not None:
                found[option] = value
    kept: dict[str, dict[str, Any]] = request.app.state.sd_options
    kept[owner] = kept.get(owner, {}) | found
    return found


@router.get("/sd-models")
def sd_models(owner: Owner, studio: TheStudio) -> list[dict[str, Any]]:
    """Models that can be drawn with."""

    def row(info: ModelInfo) -> dict[str, Any]:
        return {"title": info.reference, "model_name": info.title, "hash": info.hash[:10] or None,
                "sha256": info.hash or None, "filename": info.reference, "config": None}  # fmt: skip

    return [row(info) for info in studio.models.list() if info.state != "missing"]


@router.get("/loras")
def loras(owner: Owner, studio: TheStudio) -> list[dict[str, Any]]:
    """LoRAs that a prompt may name: `<lora:name:1>`."""
    return [
        {"name": info.path.stem, "alias": info.title, "path": info.path.name, "metadata": {"base": info.base}}
        for info in studio.models.loras_of(owner)
    ]


@router.get("/samplers")
def samplers(owner: Owner) -> list[dict[str, Any]]:
    return [{"name": title, "aliases": [ours], "options": {}} for ours, title in SAMPLER_NAMES.items()]


@router.get("/schedulers")
def schedulers(owner: Owner) -> list[dict[str, Any]]:
    return [{"name": name.lower(), "label": name, "aliases": None} for name in ("Automatic", "Karras")]


@router.get("/upscalers")
def upscalers(owner: Owner, studio: TheStudio) -> list[dict[str, Any]]:
    """What pictures can be enlarged with."""
    plain: dict[str, Any] = {"model_name": None, "model_path": None, "model_url": None, "scale": 4}
    return [
        plain | {"name": "None"},
        *(
            plain | {"name": upscaler_name(info), "model_name": info.title, "scale": info.scale or 4}
            for info in studio.models.upscalers()
        ),
    ]


@router.get("/latent-upscale-modes")
@router.get("/sd-vae")
@router.get("/sd-modules")
@router.get("/embeddings-list")
@router.get("/hypernetworks")
@router.get("/face-restorers")
@router.get("/prompt-styles")
def nothing(owner: Owner) -> list[dict[str, Any]]:
    """What A1111 has and the studio hasn't: an empty list."""
    return []


@router.get("/scripts")
def scripts(owner: Owner) -> dict[str, list[str]]:
    """A1111's scripts, of which the studio has none."""
    return {"txt2img": [], "img2img": []}


@router.get("/embeddings")
def embeddings(owner: Owner) -> dict[str, dict[str, Any]]:
    """Textual inversions, of which the studio has none."""
    return {"loaded": {}, "skipped": {}}


@queue.get("/queue/status")
def queue_status(owner: Owner, studio: TheStudio) -> dict[str, Any]:
    """By this plugins find out whether a server is there: how many jobs wait."""
    return {"msg": "estimation", "queue_size": studio.system().queue_waiting}


@router.post("/extra-single-image")
async def extra_single_image(body: Extra, owner: Owner, studio: TheStudio) -> Upscaled:
    """Enlarge a picture by `upscaler_1` (left out: the studio's own; "None": a filter).

    By a factor (`resize_mode` 0) or to a size (1); what lies beyond four times is left to the filter.
    """
    data = picture_of(body.image)
    shown = source = await run_in_threadpool(studio.upload, data, owner, "extra")
    factor = body.upscaling_resize
    size = (round(source.width * factor), round(source.height * factor))
    if body.resize_mode == 1:
        size = (body.upscaling_resize_w, body.upscaling_resize_h)
    check(size)
    times = max(size[0] / source.width, size[1] / source.height)
    name = await run_in_threadpool(upscaler, body.upscaler_1, studio)
    if times > 1 and name != "lanczos":
        spec = UpscaleSpec(image=source.id, scale=bounded(times, 1, 4), upscaler=name)
        view = await finished(spec, owner, studio)
        shown = await run_in_threadpool(studio.picture, view.pictures[0], owner)

    def sent() -> bytes:
        with Image.open(shown.path) as image:
            return enlarged(image, size, _infotext(data))

    return Upscaled(image=encoded(await run_in_threadpool(sent)))


@router.post("/png-info")
def png_info(body: OnePicture, owner: Owner, studio: TheStudio) -> PngInfo:
    """What a picture says of how it was made."""
    data = picture_of(body.image)
    text = _infotext(data)
    if not text:
        return PngInfo(info="", items={}, parameters={})
    found = studio.read_recipe(data)
    return PngInfo(info=text, items={"parameters": text}, parameters=found.spec.model_dump(mode="json"))


def _infotext(data: bytes) -> str:
    try:
        with Image.open(BytesIO(data), formats=("PNG",)) as image:
            return str(image.info.get("parameters", ""))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
