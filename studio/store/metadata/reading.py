"""The recipe inside a picture file, or a pasted text, as a request: ours, or in the words of whoever made it.

What stands in a file is only claimed: which models and LoRAs exist here is another room's business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from studio.core.errors import BadInput
from studio.core.specs import EMOTIONS, QUALITIES, STYLES, GenerateSpec, LoraRef, Parameters, Recipe
from studio.store.metadata import a1111, comfyui, files, programs
from studio.store.metadata.facts import Facts, ReadRecipe, read_recipe
from studio.store.metadata.writing import CHUNK, portable

FRAME = (
    "It is part of a morph or an animation, and only its words and settings can be taken over: drawn from them alone "
    "it is another picture."
)
# Fields in which A1111's text or JSON stands, by how likely it is the whole of it.
_TEXTS = ("parameters", "UserComment", "pasted", "XPComment", "xmp", "comment", "Comment",
          "ImageDescription", "Description", "MakerNote")  # fmt: skip
# What tells a program whose recipe can't be read.
_MARKS = {
    "workflow": "ComfyUI", "prompt": "ComfyUI", "invokeai_metadata": "InvokeAI", "invokeai_graph": "InvokeAI",
    "sd-metadata": "InvokeAI", "Dream": "InvokeAI", "fooocus_scheme": "Fooocus",
}  # fmt: skip


def read(data: bytes) -> ReadRecipe:
    """The recipe inside a picture file (PNG, JPEG, WebP), or a pasted text in A1111's words or JSON.

    Raises `BadInput` when the file is no picture, or a picture without a recipe that we can read.
    """
    fields = files.texts(data)
    if CHUNK in fields:
        return _ours(fields[CHUNK])
    facts = _facts(fields)
    if facts is None and (hidden := files.hidden(data)):
        fields = {"parameters": hidden}
        facts = _facts(fields)
    if facts is not None:
        return read_recipe(facts)
    raise BadInput(_why_not(fields))


def _facts(fields: dict[str, str]) -> Facts | None:
    """What the first field that is a recipe says; a text without settings only where nothing else is."""
    words: Facts | None = None
    fields = {name: text for name, text in fields.items() if text not in (files.UNREADABLE, files.CUT)}
    for name in _TEXTS:
        text = fields.get(name, "")
        if not text:
            continue
        data = _json(text) if re.match(r"\s*[{\[]", text) else None  # a prompt may begin with a bracket, too
        if isinstance(data, dict | list):
            facts = programs.of_json(data, fields)
        elif name == "parameters" or files.is_recipe(text):
            facts = programs.of_lines(text) or a1111.read(text)
            if facts.steps is None and facts.seed is None:
                # elsewhere than under A1111's own key it is a text that only looks like settings
                words, facts = words or (facts if name == "parameters" else None), None
        else:
            continue
        if facts is not None and not facts.empty:
            return facts
    graph, canvas = _json(fields.get("prompt", "")), _json(fields.get("workflow", ""))
    if isinstance(graph, dict) or isinstance(canvas, dict):
        facts = comfyui.read(graph, canvas)
        if facts is not None and not facts.empty:
            return facts
    facts = programs.of_fields(fields)
    return words if facts is None or facts.empty else facts


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _why_not(fields: dict[str, str]) -> str:
    """One true sentence about a picture whose recipe isn't read."""
    if files.CUT in fields.values():
        return "This file is cut off in the middle of what it says of itself, so that isn't read; get it again."
    if "pasted" in fields:
        return files.NO_PICTURE
    unreadable = [name for name, text in fields.items() if text == files.UNREADABLE]
    if unreadable:
        return f"The text in this file ({unreadable[0][:40]}) is in an encoding that can't be told, so it isn't read."
    program = next((program for mark, program in _MARKS.items() if mark in fields), "") or _maker(fields)
    if program:
        return f"This picture carries a recipe of {program}, in a form that isn't read here."
    told = [name for name in _TEXTS if name in fields]
    if told:
        return f"This picture carries a text ({told[0]}), but no recipe that is known here."
    return (
        "This picture carries no recipe. Programs write one into the file, and it is lost when the picture is "
        "converted or sent through a messenger."
    )


def _maker(fields: dict[str, str]) -> str:
    said = " ".join(
        fields.get(name, "")[:200] for name in ("Software", "Source", "parameters", "UserComment", "pasted")
    )
    known = ("NovelAI", "SwarmUI", "Fooocus", "InvokeAI", "ComfyUI", "Draw Things", "TensorArt", "Midjourney")
    if "sui_image_params" in said:
        return "SwarmUI"
    if re.search(r"--(v|ar|niji) |Job ID: [0-9a-f-]{36}", fields.get("Description", "")):
        return "Midjourney"
    return next((name for name in known if name in said), "")


def own(data: bytes) -> ReadRecipe | None:
    """As `read`, but only a recipe of this studio for a plain picture; None for everything else."""
    try:
        fields = files.texts(data)
        read = _ours(fields[CHUNK]) if CHUNK in fields else None
    except BadInput:
        return None
    return read if read is not None and read.recipe is not None else None


class Named(Protocol):
    """A LoRA file as far as it is needed to find it again."""

    @property
    def path(self) -> Path: ...
    @property
    def title(self) -> str: ...
    @property
    def hash(self) -> str: ...


def known_loras(read: ReadRecipe, here: Sequence[Named], notes: list[str]) -> tuple[LoraRef, ...]:
    """The LoRAs of a recipe as they are called `here`, by hash, else by name.

    A note for each that isn't here, and for one of ours that is another file now (A1111 hashes files in its own way).
    """
    known: dict[str, LoraRef] = {}
    for ref, digest in zip(read.spec.loras, read.lora_hashes, strict=True):
        name = ref.path.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
        able = [info for info in here if len(digest) >= 10 and info.hash.startswith(digest)]
        able += [info for info in here if str(info.path) == ref.path]
        able += [info for info in here if name in (info.title, info.path.name, info.path.stem)]
        able += [info for info in here if _plain(name) in (_plain(info.title), _plain(info.path.stem))]
        if not able:
            notes.append(f"Its LoRA {name!r} isn't here and was left out; without it the picture is another.")
            continue
        if read.origin == "studio" and able[0].hash != digest:
            notes.append(f"The LoRA {name!r} here is another file than its own; another one gives another picture.")
        known.setdefault(str(able[0].path), LoraRef(path=str(able[0].path), weight=ref.weight))
    return tuple(known.values())


def _plain(name: str) -> str:
    """ "Ink Lines" and "ink_lines" are one name: sites show titles, folders have files."""
    return re.sub(r"[\s_-]+", " ", name.removesuffix(".safetensors")).casefold().strip()


def left_out(recipe: Recipe) -> tuple[str, ...]:
    """Sentences about what `request_of` can't say, so that its picture is another one."""
    return (FRAME,) if recipe.frame else ()


def request_of(recipe: Recipe) -> GenerateSpec:
    """The request that leads to this recipe again, but for what `left_out` says."""
    labels = recipe.labels
    chosen: dict[str, Any] = {
        name: labels[name]
        for name, known in (("emotion", EMOTIONS), ("style", STYLES), ("quality", QUALITIES))
        if labels.get(name) in known
    }
    chosen |= {name: getattr(recipe, name) for name in Parameters.model_fields}
    if recipe.strength is not None:
        chosen["strength"] = recipe.strength
    return GenerateSpec(
        prompt=recipe.prompt,
        negative=recipe.negative,
        model=recipe.model,
        steps=recipe.steps,
        guidance=recipe.guidance,
        sampler=recipe.sampler,
        width=recipe.width,
        height=recipe.height,
        seed=recipe.seed,
        loras=recipe.loras,
        text=labels.get("text", ""),
        **chosen,
    )


def _ours(text: str) -> ReadRecipe:
    try:
        data = json.loads(text)
        details = data.pop("details", None)
        recipe = portable(Recipe.model_validate(data))  # the folders in a file from elsewhere mean nothing here
        spec = request_of(recipe)
        if len(recipe.lora_hashes) != len(recipe.loras):
            raise ValueError("every LoRA has a hash")
    except (ValueError, AttributeError, TypeError, RecursionError, ValidationError) as error:
        raise BadInput("The recipe in this picture is damaged or from a newer version of the studio.") from error
    return ReadRecipe(
        spec=spec,
        origin="studio",
        program="Anime Character Studio",
        notes=left_out(recipe),
        model_hash=recipe.model_hash,
        lora_hashes=recipe.lora_hashes,
        recipe=recipe if details is None and not recipe.frame else None,
    )
