"""Models and words: what can be loaded, what it was taught, what is written for a request."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from studio.interfaces.api.access import Owner, TheStudio
from studio.service import PromptRequest, PromptResult

router = APIRouter(tags=["models"])


@router.get("/models")
def models(owner: Owner, studio: TheStudio) -> dict[str, list[dict[str, Any]]]:
    """What can be loaded."""
    return {
        "models": [_model(info) for info in studio.models.list()],
        "loras": [_lora(info) for info in studio.models.loras_of(owner)],
    }


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


def _model(info: Any) -> dict[str, Any]:
    # Where files lie on the server is nobody's business.
    names = ("reference", "title", "kind", "size_bytes", "state", "note", "native_size", "steps", "guidance", "sampler")
    fast = (
        {"steps": info.fast.steps, "guidance": info.fast.guidance, "sampler": info.fast.sampler} if info.fast else None
    )
    return {name: getattr(info, name) for name in names} | {
        "family": info.family.name,
        "fast": fast,
        "controls": list(info.controlnets),
        "license": info.license,
        "hash": info.hash,
    }


def _lora(info: Any) -> dict[str, Any]:
    return {
        "name": info.path.stem,
        "title": info.title,
        "hash": info.hash,
        "trigger_words": info.trigger_words,
        "weight": info.weight,
        "base": info.base,
    }
