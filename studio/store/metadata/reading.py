"""The recipe inside a picture file, or a pasted text, as a request: ours, or in the words of AUTOMATIC1111's web UI.

What stands in a file is only claimed: which models and LoRAs exist here is another room's business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from PIL import ExifTags, Image
from pydantic import ValidationError

from studio.core.errors import BadInput
from studio.core.fields import fields as described
from studio.core.specs import (
    EMOTIONS,
    MAX_PROMPT,
    QUALITIES,
    STYLES,
    GenerateSpec,
    LoraRef,
    Parameters,
    Recipe,
    Sampler,
)
from studio.core.views import FoundRecipe
from studio.store.metadata.writing import A1111_SAMPLERS, CHUNK, portable

MAX_LORAS = 8  # of one request
FRAME = (
    "It is part of a morph or an animation, and only its words and settings can be taken over: drawn from them alone "
    "it is another picture."
)


class Read(FoundRecipe):
    """What stands in a file, before anybody asked which of it is on this machine.

    `lora_hashes` belong to `spec.loras` in order, "" where none is written. `recipe`: our own, whole, of a picture that
    is nothing but its result; without folders, and otherwise as unproven as the rest of the file.
    """

    lora_hashes: tuple[str, ...] = ()
    recipe: Recipe | None = None


# Every repetition is bounded or ends at the next start: a text chunk may be a megabyte that somebody made up.
_LORA = re.compile(r"<lora:([^:<>]+)(?::([^:<>]*))?[^<>]*>", re.IGNORECASE)
_EXTRA = re.compile(r"<(?:hypernet|lyco):[^<>]*>", re.IGNORECASE)
_PAIR = re.compile(r'\s*(\w[\w \-/]{1,60}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')  # as A1111's own re_param


def read(data: bytes) -> Read:
    """The recipe inside a picture file (PNG, JPEG, WebP) or a pasted A1111 text.

    Raises `BadInput` when the file is no picture, or a picture without a recipe that we can read.
    """
    texts = _texts(data)
    if CHUNK in texts:
        return _ours(texts[CHUNK])
    if "parameters" in texts:
        return _a1111(texts["parameters"])
    raise BadInput(
        "This picture carries no recipe; pictures from this studio, A1111, Forge or Civitai do, unless they were "
        "converted or sent through a messenger."
    )


def own(data: bytes) -> Read | None:
    """As `read`, but only a recipe of this studio for a plain picture; None for everything else."""
    try:
        found = read(data)
    except BadInput:
        return None
    return found if found.recipe is not None else None


class Named(Protocol):
    """A LoRA file as far as it is needed to find it again."""

    @property
    def path(self) -> Path: ...
    @property
    def title(self) -> str: ...
    @property
    def hash(self) -> str: ...


def known_loras(found: Read, here: Sequence[Named], notes: list[str]) -> tuple[LoraRef, ...]:
    """The LoRAs of a recipe as they are called `here`, by hash, else by name.

    A note for each that isn't here, and for one of ours that is another file now (A1111 hashes files in its own way).
    """
    known: dict[str, LoraRef] = {}
    for ref, digest in zip(found.spec.loras, found.lora_hashes, strict=True):
        name = ref.path.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
        able = [info for info in here if len(digest) >= 10 and info.hash.startswith(digest)]
        able += [info for info in here if str(info.path) == ref.path]
        able += [info for info in here if name in (info.title, info.path.name, info.path.stem)]
        if not able:
            notes.append(f"Its LoRA {name!r} isn't here and was left out; without it the picture is another.")
            continue
        if found.origin == "studio" and able[0].hash != digest:
            notes.append(f"The LoRA {name!r} here is another file than its own; another one gives another picture.")
        known.setdefault(str(able[0].path), LoraRef(path=str(able[0].path), weight=ref.weight))
    return tuple(known.values())


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


def _texts(data: bytes) -> dict[str, str]:
    try:
        with Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            found = {str(key): value for key, value in image.info.items() if isinstance(value, str)}
            comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pasted = _decoded(data) if len(data) < 100_000 else ""
        if "Steps:" in pasted:
            return {"parameters": pasted}
        raise BadInput("This file can't be read as a picture; drop a PNG, JPEG or WebP file.") from error
    if "parameters" not in found and isinstance(comment, bytes):
        found["parameters"] = _user_comment(comment)
    return found


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return ""


def _user_comment(comment: bytes) -> str:
    # Exif 2.3, 4.6.5 "UserComment": eight bytes name the encoding. A1111 (piexif) writes big-endian UTF-16.
    code, body = comment[:8], comment[8:]
    if code.startswith(b"UNICODE"):
        big = body[:1] == b"\x00"
        return body.decode("utf-16-be" if big else "utf-16-le", errors="replace").strip("\x00")
    return body.decode("utf-8", errors="replace").strip("\x00")


def _ours(text: str) -> Read:
    try:
        data = json.loads(text)
        details = data.pop("details", None)
        recipe = portable(Recipe.model_validate(data))  # the folders in a file from elsewhere mean nothing here
        spec = request_of(recipe)
        if len(recipe.lora_hashes) != len(recipe.loras):
            raise ValueError("every LoRA has a hash")
    except (ValueError, AttributeError, TypeError, RecursionError, ValidationError) as error:
        raise BadInput("The recipe in this picture is damaged or from a newer version of the studio.") from error
    return Read(
        spec=spec,
        origin="studio",
        notes=left_out(recipe),
        model_hash=recipe.model_hash,
        lora_hashes=recipe.lora_hashes,
        recipe=recipe if details is None and not recipe.frame else None,
    )


def _a1111(text: str) -> Read:
    lines = text.replace("\r\n", "\n").strip().split("\n")
    pairs = {key: _unquoted(value) for key, value in _PAIR.findall(lines[-1])}
    if len(pairs) < 3 and "Steps" not in pairs:
        pairs = {}
    else:
        lines.pop()
    prompt, _, negative = "\n".join(lines).partition("Negative prompt:")
    notes: list[str] = []
    loras = [_lora(name, weight, notes) for name, weight in _LORA.findall(prompt)]
    if _EXTRA.search(prompt):
        notes.append("Hypernetworks and LyCORIS tags were left out.")
    prompt = _EXTRA.sub("", _LORA.sub("", prompt)).strip().rstrip(",").rstrip()
    negative = negative.strip()
    if max(len(prompt), len(negative)) > MAX_PROMPT:
        prompt, negative = prompt[:MAX_PROMPT], negative[:MAX_PROMPT]
        notes.append(f"The prompt was cut at {MAX_PROMPT} characters.")
    fields: dict[str, Any] = {"prompt": prompt.replace("\x00", ""), "negative": negative.replace("\x00", "")}
    fields["sampler"] = _sampler(pairs, notes)
    for field, known in described(GenerateSpec).items():
        if (infotext := known.about.infotext) is not None:
            _take(fields, field, pairs.get(infotext.key), infotext.key, notes)
    if size := re.fullmatch(r"(\d{1,5})x(\d{1,5})", pairs.get("Size", "")):
        for field, value in (("width", size[1]), ("height", size[2])):
            _take(fields, field, str(int(value) // 8 * 8), "Size", notes)
    taken = [lora for lora in loras if lora is not None]
    if len(taken) > MAX_LORAS:
        notes.append(f"Only its first {MAX_LORAS} LoRAs were taken.")
    fields["loras"] = tuple(taken[:MAX_LORAS])
    written = dict(re.findall(r"([^:,]+):\s*([0-9a-f]{10,64})", pairs.get("Lora hashes", "").lower()))
    hashes = {name.strip(): value for name, value in written.items()}
    if model := pairs.get("Model"):
        fields["model"] = model[:1024]
    if "Hires upscale" in pairs or "Hires steps" in pairs:
        notes.append("Its second pass (hires fix) isn't repeated here.")
    if any(key.startswith("ControlNet") for key in pairs):
        notes.append("Its ControlNet image isn't in the file.")
    if "strength" in fields:
        notes.append("It started from another picture, which isn't in the file.")
    if pairs.get("Clip skip", "1") != "1":
        notes.append(f"Clip skip {pairs['Clip skip']} isn't repeated here.")
    digest = pairs.get("Model hash", "").lower()
    spec = GenerateSpec(**fields)
    return Read(
        spec=spec,
        origin="a1111",
        notes=tuple(notes),
        model_hash=digest,
        lora_hashes=tuple(hashes.get(lora.path.lower(), "") for lora in spec.loras),
    )


def _take(fields: dict[str, Any], field: str, value: str | None, key: str, notes: list[str]) -> None:
    """Put a value into `fields` if the spec accepts it, else say so."""
    if value is None:
        return
    try:
        fields[field] = getattr(GenerateSpec.model_validate({field: value}), field)
    except ValidationError:
        if not (field == "seed" and value == "-1"):
            notes.append(f"{key} {value[:40]} is outside what this studio can do and was left out.")


def _lora(name: str, weight: str | None, notes: list[str]) -> LoraRef | None:
    try:
        return LoraRef(path=name.strip(), weight=float(weight or 1))
    except ValueError:
        notes.append(f"The LoRA {name.strip()[:60]!r} has a weight that this studio can't use and was left out.")
        return None


def _sampler(pairs: dict[str, str], notes: list[str]) -> Sampler:
    name, schedule = pairs.get("Sampler", ""), pairs.get("Schedule type", "")
    if name.endswith(" Karras"):
        name, schedule = name.removesuffix(" Karras"), "Karras"
    for ours, (theirs, theirs_schedule) in A1111_SAMPLERS.items():
        if name.lower() == theirs.lower() and (schedule == "Karras") == (theirs_schedule == "Karras"):
            return ours  # type: ignore[return-value]
    if name:
        notes.append(f"The sampler {name!r} isn't in this studio; its own default is used.")
    return "auto"


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] == '"':
        try:
            return str(json.loads(value))
        except ValueError:
            return value[1:-1]
    return value
