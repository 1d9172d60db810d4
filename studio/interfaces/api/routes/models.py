"""Models and words: what can be loaded, what it was taught, what is written for a request."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from studio.interfaces.api.access import Owner, TheStudio
from studio.service import LoraInfo, ModelInfo, PromptRequest, PromptResult

router = APIRouter(tags=["models"])


class Fast(BaseModel):
    """The settings of a model's few-step path."""

    steps: int
    guidance: float
    sampler: str


class FewStep(BaseModel):
    """A published few-step adapter that isn't on the machine: as a LoRA of a request it is downloaded with it."""

    reference: str
    size_bytes: int
    license: str
    steps: int


class Model(BaseModel):
    """A model: `reference` is what a request names it by. Sizes in pixels and bytes."""

    reference: str
    title: str
    kind: str
    size_bytes: int
    state: str  # ready, download or missing
    note: str
    native_size: int
    steps: int
    guidance: float
    sampler: str
    family: str
    fast: Fast | None
    fast_available: FewStep | None
    controls: list[str]
    license: str
    hash: str


class Lora(BaseModel):
    """A LoRA: a request names it by `name` or `title`."""

    name: str
    title: str
    hash: str
    trigger_words: list[str]
    weight: float
    base: str


class Upscaler(BaseModel):
    """An upscaler: a request names it by `reference`. `scale` 0: not known before it is used."""

    reference: str
    title: str
    scale: int
    size_bytes: int
    hash: str


class Models(BaseModel):
    models: list[Model]
    loras: list[Lora]
    upscalers: list[Upscaler]


_DERIVED = ("family", "fast", "fast_available", "controls")


@router.get("/models")
def models(owner: Owner, studio: TheStudio) -> Models:
    """What can be loaded."""
    return Models(
        models=[_model(info) for info in studio.models.list()],
        loras=[_lora(info) for info in studio.models.loras_of(owner)],
        upscalers=[
            Upscaler(**{name: getattr(info, name) for name in Upscaler.model_fields})
            for info in studio.models.upscalers()
        ],
    )


@router.post("/prompt")
def prompt(request: PromptRequest, owner: Owner, studio: TheStudio) -> PromptResult:
    """Write a prompt and draw nothing. `unknown_words` are those that do little with `model`."""
    return studio.prompts.write_prompt(request)


@router.get("/words")
def words(
    owner: Owner,
    studio: TheStudio,
    model: Annotated[str, Query(max_length=1024)] = "",
    prompt: Annotated[str | None, Query(max_length=4000)] = None,
) -> dict[str, Any]:
    """What a model was taught to draw, by category; with a prompt also its words that do little, and why."""
    found: dict[str, Any] = {"known": studio.prompts.known_words(model)}
    if prompt is not None:
        found["unknown_words"] = [one.model_dump() for one in studio.prompts.unknown_words(prompt, model)]
    return found


def _model(info: ModelInfo) -> Model:
    # Where files lie on the server is nobody's business.
    plain = {name: getattr(info, name) for name in Model.model_fields if name not in _DERIVED}
    fast = Fast(steps=info.fast.steps, guidance=info.fast.guidance, sampler=info.fast.sampler) if info.fast else None
    known = info.fast_published if info.fast is None else None
    available = None
    if known is not None:
        available = FewStep(
            reference=known.reference, size_bytes=known.download_bytes, license=known.license, steps=known.steps
        )
    return Model(family=info.family.name, fast=fast, fast_available=available, controls=list(info.controlnets), **plain)


def _lora(info: LoraInfo) -> Lora:
    return Lora(
        name=info.path.stem,
        title=info.title,
        hash=info.hash,
        trigger_words=list(info.trigger_words),
        weight=info.weight,
        base=info.base,
    )
