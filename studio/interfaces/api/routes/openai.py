"""`POST /v1/images/generations`, as OpenAI's clients call it."""

from __future__ import annotations

import re
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from studio.core.errors import BadInput
from studio.core.specs import GenerateSpec
from studio.interfaces.api.access import Once, Owner, TheStudio
from studio.interfaces.api.routes.drawn import draw, encoded, reference, rounded

router = APIRouter(tags=["as OpenAI's API"])
THEIRS = re.compile(r"dall-e-\d|gpt-image-.*|chatgpt-image-.*")  # what clients send where nobody chose a model


class Generation(BaseModel):
    model_config = ConfigDict(extra="ignore")
    prompt: str = Field(max_length=4000, examples=["red hair, blue eyes, smile"])
    model: str | None = Field(None, max_length=1024)
    n: int | None = Field(1, ge=1, le=10)
    size: str | None = Field("auto", max_length=20, examples=["1024x1024"])
    response_format: Literal["url", "b64_json"] | None = "b64_json"
    seed: int | None = Field(None, ge=0, le=2**32 - 1)  # ours


class Image(BaseModel):
    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str


class Images(BaseModel):
    created: int
    data: list[Image]


@router.post("/images/generations")
async def generations(body: Generation, owner: Owner, studio: TheStudio, once: Once) -> Images:
    """Draw pictures of a prompt. A size that the model can't draw is drawn smaller and enlarged."""
    width = height = None
    if body.size not in (None, "auto"):
        sides = re.fullmatch(r"(\d{2,4})x(\d{2,4})", body.size or "")
        if sides is None:
            raise BadInput("A size is given as 1024x1024, or auto.")
        width, height = rounded(int(sides[1])), rounded(int(sides[2]))
    named = None if body.model is None or THEIRS.fullmatch(body.model) else body.model
    model = await run_in_threadpool(reference, named, studio)
    spec = GenerateSpec(
        model=model, prompt=body.prompt, count=body.n or 1, width=width, height=height, seed=body.seed
    )  # fmt: skip
    drawn, view = await draw(spec, owner, studio, once)
    as_url = body.response_format == "url"
    return Images(
        created=int(view.created),
        data=[
            Image(
                url=f"/v1/images/{id}" if as_url else None,  # on this server, with the key
                b64_json=None if as_url else encoded(one.png),
                revised_prompt=one.recipe.prompt,
            )
            for one, id in zip(drawn, view.pictures, strict=True)
        ],
    )
