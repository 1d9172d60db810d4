"""The text of AUTOMATIC1111's web UI and its family: Forge, reForge, SD.Next, Civitai, and whoever writes as they do.

Read as `parse_generation_parameters` does (AUTOMATIC1111/stable-diffusion-webui, `modules/infotext_utils.py`), with
what others put into its last line and behind it.
"""

from __future__ import annotations

import json
import re
from typing import Any

from studio.core.views import Origin
from studio.store.metadata.facts import CONTROL, HIRES, INFOTEXT, Facts, Lora, pair, resources, tags

_PAIR = re.compile(r'\s*(\w[\w \-/]{1,60}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')  # as A1111's own re_param
_JSON = re.compile(r"(?:^|,)\s*(\w[\w ]{1,40}): ?(?=[\[{])")
_NEGATIVE = re.compile(r"^Negative prompt:", re.MULTILINE)
_SETTINGS = re.compile(r"(?:^|[\s,.])Steps: ?\d{1,5}(?:[.,\s]|$)")
_SECOND = ("hires", "first pass size", "hr ")
_ONE = re.compile(r"Steps: ?\d{1,5}$")  # a line of settings with a single one
# What draws beside the model, by the beginning of its keys.
_BESIDE = {
    "ADetailer": "ADetailer, which draws faces and hands again,", "Refiner": "Its refiner", "RP ": "Regional Prompter",
    "Dynamic thresholding": "Dynamic thresholding", "FreeU": "FreeU", "Hypernet": "Its hypernetwork",
    "Variation seed": "Its variation of the seed",
}  # fmt: skip


def read(text: str) -> Facts:
    """Every text is one: without settings it is all prompt."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    words, settings = _parted(text)
    pairs, nested = _pairs(settings)
    match = _NEGATIVE.search(words)
    if match is None and settings:  # all of it on one line
        match = re.search(r"[\s.,]Negative prompt:", words)
    prompt, negative = (words[: match.start()], words[match.end() :]) if match else (words, "")
    origin, program = _program(pairs, nested)
    facts = Facts(origin, program, prompt.strip(), negative.strip())
    facts.steps, facts.seed = pairs.get("Steps"), pairs.get("Seed")
    facts.guidance = pairs.get("CFG scale", pairs.get("CFG Scale"))
    facts.sampler, facts.schedule = pairs.get("Sampler", ""), pairs.get("Schedule type", pairs.get("Scheduler", ""))
    for key in INFOTEXT:
        if key in pairs and key not in ("Steps", "Seed", "CFG scale", "Denoising strength", "Hires upscaler"):
            facts.setting(key, pairs[key], usual="1")
    if size := pair(pairs.get("Size", "")):
        facts.width, facts.height = size
    facts.model, facts.model_hash = pairs.get("Model", ""), pairs.get("Model hash", "")
    _second_pass(facts, pairs)
    if any(key.startswith("ControlNet") for key in pairs):
        facts.notes.append(CONTROL)
    beside = [said for key, said in _BESIDE.items() if any(name.startswith(key) for name in pairs)]
    facts.notes += [f"{said} isn't repeated here." for said in beside]
    listed = nested.get("Civitai resources")
    resources(facts, listed)
    if not listed:  # they name embeddings themselves
        facts.notes += [f"Its embedding {name[:80]!r} isn't used here." for name in _embeddings(text, pairs, nested)]
    hashes = _hashes(pairs, nested)
    facts.model_hash = facts.model_hash or hashes.pop("model", "")
    named = tags(facts.prompt)
    said = {name.lower() for name, _ in named}
    named += [(name, weight) for name, weight in _apart(pairs) if name.lower() not in said]
    facts.loras += [Lora(name, weight, hashes.get(name.strip().lower(), "")) for name, weight in named]
    return facts


def is_settings(line: str) -> bool:
    """Whether a line is A1111's settings and nothing else."""
    return line.lstrip().startswith("Steps: ") and len(_PAIR.findall(line)) >= 2


def _apart(pairs: dict[str, str]) -> list[tuple[str, str]]:
    """Name and weight of LoRAs that stand among the settings: Fooocus', SD.Next's, and Additional Networks'."""
    listed = ", ".join(pairs[key] for key in ("Lora weights", "LoRA networks") if key in pairs)
    found = [(name.strip(), weight) for name, weight in re.findall(r"([^:,]+):\s*(-?[\d.]+)", listed)]
    for key, name in pairs.items():
        if (number := re.fullmatch(r"AddNet Model (\d+)", key)) and name not in ("", "None"):
            weight = pairs.get(f"AddNet Weight {number[1]}", pairs.get(f"AddNet Weight A {number[1]}", "1"))
            found.append((re.sub(r"\([0-9a-f]{8,64}\)$", "", name), weight))
    return found


def _parted(text: str) -> tuple[str, str]:
    """Prompts and settings. What stands behind the settings (templates, notes of extensions) is neither."""
    lines = text.split("\n")
    for number in reversed(range(len(lines))):
        line = lines[number]
        if _SETTINGS.search(line) and len(_PAIR.findall(line)) >= 2:
            start = _SETTINGS.search(line)
            assert start is not None
            begin = start.start() if number == 0 or _NEGATIVE.match(line) else 0
            return "\n".join([*lines[:number], line[:begin]]), line[begin:].lstrip(" .,")
    if len(_PAIR.findall(lines[-1])) >= 3 or _ONE.match(lines[-1]):
        return "\n".join(lines[:-1]), lines[-1]
    return text, ""


def _pairs(line: str) -> tuple[dict[str, str], dict[str, Any]]:
    """The settings, and those among them that are JSON, which may hold anything that looks like a setting."""
    nested: dict[str, Any] = {}
    line, position = re.sub(r"\s{9,}", " ", line), 0
    while match := _JSON.search(line, position):
        try:
            value, end = json.JSONDecoder().raw_decode(line, match.end())
        except (ValueError, RecursionError):
            position = match.end()
            continue
        nested[match[1]] = value
        line, position = line[: match.start()] + line[end:], match.start()
    return {key: _unquoted(value) for key, value in _PAIR.findall(line)}, nested


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] == '"':
        try:
            return str(json.loads(value))
        except ValueError:
            return value[1:-1]
    return value


def _program(pairs: dict[str, str], nested: dict[str, Any]) -> tuple[Origin, str]:
    version = pairs.get("Version", "")
    if "Civitai resources" in nested:
        return "civitai", "Civitai"
    if "Fooocus" in version:
        return "fooocus", "Fooocus"
    if "SD.Next" in pairs.get("App", "") or "Pipeline" in pairs:
        return "a1111", "SD.Next"
    if re.match(r"(f\d|neo|.*forge)", version, re.IGNORECASE):
        return "a1111", "Forge"
    return ("a1111", "ComfyUI") if "ComfyUI" in version else ("a1111", "A1111")


def _second_pass(facts: Facts, pairs: dict[str, str]) -> None:
    """Hires fix writes its strength where img2img does; only the second started from a picture."""
    second = any(key.lower().startswith(_SECOND) for key in pairs)
    if second and "Hires upscale" in pairs:
        facts.others["hires_strength"] = ("Denoising strength", pairs.get("Denoising strength"))
        if "Hires steps" in pairs and pairs["Hires steps"] == "0":  # as many as in the first pass
            facts.others["hires_steps"] = ("Hires steps", facts.steps)
    elif second:
        facts.notes.append(HIRES)
    name = pairs.get("Hires upscaler", pairs.get("Postprocess upscaler", ""))
    if name:
        facts.others["upscaler"] = ("Hires upscaler", name)
    operations = pairs.get("Operations", "")
    if not second and not ("txt2img" in operations and "img2img" not in operations):
        facts.strength = pairs.get("Denoising strength", pairs.get("Denoise strength"))


def _embeddings(text: str, pairs: dict[str, str], nested: dict[str, Any]) -> list[str]:
    """Names of the textual inversions that were in its words."""
    said = pairs.get("TI hashes") or next(iter(re.findall(r"^Used embeddings: (.+)$", text, re.MULTILINE)), "")
    names = [name.strip() for name in re.findall(r"([^:,\[\]]+)(?:: ?[0-9a-f]+| \[[0-9a-f]+\])", said)]
    civitai = nested.get("Hashes")
    keys = map(str, civitai) if isinstance(civitai, dict) else ()
    return list(dict.fromkeys([*names, *(key.removeprefix("embed:") for key in keys if key.startswith("embed:"))]))


def _hashes(pairs: dict[str, str], nested: dict[str, Any]) -> dict[str, str]:
    """Hashes by the lower-case name of a LoRA, and of the "model"."""
    hashes = {
        name.strip(): digest
        for name, digest in re.findall(r"([^:,]+):\s*([0-9a-f]{10,64})", pairs.get("Lora hashes", "").lower())
    }
    civitai = nested.get("Hashes")
    for key, digest in civitai.items() if isinstance(civitai, dict) else ():
        if re.fullmatch(r"[0-9a-f]{10,64}", str(digest).lower()):
            hashes.setdefault(str(key).lower().removeprefix("lora:"), str(digest).lower())
    return hashes
