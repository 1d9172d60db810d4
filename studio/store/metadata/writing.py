"""A recipe as text inside a picture: our JSON, and the `parameters` line of the AUTOMATIC1111 web UI.

The second is what Civitai, Forge and `sd-parsers` read. Its layout (prompt, "Negative prompt:", one line of
"key: value" pairs, values with commas quoted as JSON) follows `create_infotext` of
AUTOMATIC1111/stable-diffusion-webui, `modules/processing.py`.
"""

from __future__ import annotations

import json
import re
from io import BytesIO
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from studio.core.fields import infotext
from studio.core.samplers import SAMPLERS
from studio.core.specs import GenerateSpec, LoraRef, Recipe

CHUNK = "studio"  # PNG text chunk (and key) of our own JSON

_FIRST = ("Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model hash", "Model")  # in A1111's order
_PATH = re.compile(r"[/\\~]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|.*[/\\].*[/\\]")


def parameters(recipe: Recipe, model_title: str = "") -> str:
    """The recipe as A1111's text. `model_title`: a name for people; the reference where there is none."""
    tags = "".join(f" <lora:{_stem(lora.path)}:{lora.weight:g}>" for lora in recipe.loras)
    sampler = SAMPLERS.get(recipe.sampler)
    pairs = dict.fromkeys(_FIRST, "")
    pairs |= infotext(GenerateSpec, recipe) | {
        "Sampler": sampler.infotext if sampler else recipe.sampler,
        "Schedule type": sampler.schedule if sampler else "Automatic",
        "Size": f"{recipe.width}x{recipe.height}",
        "Model hash": recipe.model_hash[:10],
        "Model": model_title or _stem(recipe.model),
    }
    if recipe.lora_hashes:
        pairs["Lora hashes"] = ", ".join(
            f"{_stem(lora.path)}: {digest[:12]}" for lora, digest in zip(recipe.loras, recipe.lora_hashes, strict=True)
        )
    pairs["Version"] = "Anime Character Studio"
    lines = [(recipe.prompt + tags).strip()]
    if recipe.negative:
        lines.append(f"Negative prompt: {recipe.negative}")
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in pairs.items() if value))
    return "\n".join(lines)


def png(image: Image.Image, recipe: Recipe | None, model_title: str = "", extra: dict[str, Any] | None = None) -> bytes:
    """The picture as PNG with its recipe inside, twice. `extra`: more of our own JSON (layout of a sheet)."""
    chunks = PngInfo()
    if recipe is not None:
        chunks.add_text("parameters", parameters(recipe, model_title))
        data = portable(recipe).model_dump(mode="json") | ({"details": extra} if extra else {})
        chunks.add_itxt(CHUNK, json.dumps(data, ensure_ascii=False))
    buffer = BytesIO()
    image.save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def portable(recipe: Recipe) -> Recipe:
    """The recipe without the folders of this machine: a picture that is passed on shouldn't tell them.

    Files keep their names; their hashes say which they were.
    """
    loras = tuple(LoraRef(path=plain_name(lora.path), weight=lora.weight) for lora in recipe.loras)
    control = recipe.control
    if control is not None and control.model is not None:
        control = control.model_copy(update={"model": plain_name(control.model) or None})
    names = {"model": plain_name(recipe.model), "upscaler": plain_name(recipe.upscaler)}
    return recipe.model_copy(update=names | {"loras": loras, "control": control})


def plain_name(reference: str) -> str:
    """A hub id or a plain name as it is; of a path (absolute, `~`, `.` or `..`) only the last part."""
    return reference.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1] if _PATH.match(reference) else reference


def _stem(reference: str) -> str:
    """The name that A1111 would show for a file or a hub id."""
    name = reference.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return name.removesuffix(".safetensors")


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ',:\n"') else value
