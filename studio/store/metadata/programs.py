"""Recipes that other programs keep as JSON or in fields of their own: SwarmUI, Fooocus, InvokeAI, NovelAI and others.

They differ in the names of the same few things, so one table of names reads them all; what is special to one stands in
a function of its own. InvokeAI's three forms are read by sd-parsers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from studio.core.views import Origin
from studio.store.metadata import comfyui
from studio.store.metadata.facts import HIRES, SEVERAL, Facts, Lora, pair, resources, same

# Keys by their letters and digits in lower case.
_NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("positiveprompt", "prompt", "fullprompt", "c"),
    "negative": ("negativeprompt", "fullnegativeprompt", "negative", "uc"),
    "steps": ("steps", "numinferencesteps", "numberofinferencesteps", "samplingsteps"),
    "seed": ("seed", "noiseseed"),
    "guidance": ("cfgscale", "guidancescale", "cfg", "scale", "guidance"),
    "sampler": ("sampler", "samplername", "comfyuisampler", "sampleralgorithm"),
    "schedule": ("scheduler", "noiseschedule", "schedulertype", "comfyuischeduler"),
    "width": ("width", "w"),
    "height": ("height", "h"),
    "model": (
        "model",
        "basemodel",
        "basemodelname",
        "modelname",
        "usestablediffusionmodel",
        "stablediffusionmodel",
    ),
    "model_hash": ("modelhash", "basemodelhash"),
}
_LORA_WEIGHTS = ("loraweights", "loraalpha", "lorastrength")
# Mochi Diffusion's one line, whose keys these are.
_MOCHI = re.compile(
    r"(?:^|;\s*)(Include in Image|Exclude from Image|Model|Steps|Guidance Scale|Seed|Size|Scheduler|Upscaler"
    r"|ML Compute Unit|Generator|Date): "
)
# Lines of a text of Easy Diffusion behind its prompt.
_EASY = re.compile(r"^(Width|Height|Seed|Steps|Sampler|Tiling|[A-Z]\w+ [\w ]{1,30}): ?(.*)$")
_SIZES = ("resolution", "size", "imagesize")


def of_json(data: Any, fields: dict[str, str]) -> Facts | None:
    """The recipe in parsed JSON, whoever wrote it; None where it is none. `fields`: the file's other texts."""
    if not isinstance(data, dict):
        return None
    if "extraMetadata" in data:  # beside the nodes of a graph
        return _civitai(data)
    if comfyui.is_graph(data):
        return comfyui.read(data)
    if isinstance(data.get("nodes"), list) or comfyui.is_graph(_parsed(data.get("prompt"))):
        inner, canvas = _parsed(data.get("prompt")), _parsed(data.get("workflow", data))
        return comfyui.read(inner, canvas)
    for knows, read in _READERS:
        if knows(data, fields):
            return read(data, fields)
    easy = "Easy Diffusion" if "use_stable_diffusion_model" in data else ""
    program = str(fields.get("Software") or data.get("software") or easy or "another program")[:60]
    facts = _plain(data, "other", program)
    return None if not facts.prompt or (facts.steps is None and facts.seed is None) else facts


def of_fields(fields: dict[str, str]) -> Facts | None:
    """The recipe in fields that only one program has."""
    if any(name in fields for name in ("invokeai_metadata", "sd-metadata", "Dream")):
        return _invokeai(fields)
    if "Comment" in fields and (
        "NovelAI" in fields.get("Software", "") + fields.get("Source", "") or "uc" in fields["Comment"]
    ):
        return of_json(_parsed(fields["Comment"]), fields)
    if "generation_data" in fields:  # its text ends in a zero
        return of_json(_parsed(fields["generation_data"].rstrip("\0")), fields | {"Software": "TensorArt"})
    lower = {name.lower(): text for name, text in fields.items()}
    if "prompt" in lower and {"seed", "steps", "sampler", "num_inference_steps"} & lower.keys():
        easy = "use_stable_diffusion_model" in lower or "Stable Diffusion model" in fields
        return _plain(
            dict(fields),
            "other",
            "Easy Diffusion" if easy else "kohya's sd-scripts" if "scale" in lower else "another program",
        )
    return None


def of_lines(text: str) -> Facts | None:
    """Easy Diffusion's text (the prompt, then a line for each setting) and Mochi Diffusion's; None for any other."""
    if text.lstrip().startswith("Include in Image: "):
        return _mochi(text.strip())
    lines = text.replace("\r", "").strip().split("\n")
    begin = next((number for number, line in enumerate(lines) if _EASY.match(line)), len(lines))
    pairs = [(match[1], match[2]) for line in lines[begin:] if (match := _EASY.match(line))]
    values: dict[str, Any] = dict(pairs)
    if len(pairs) < len([line for line in lines[begin:] if line.strip()]) or not {"Seed", "Steps"} <= values.keys():
        return None
    facts = _plain(values | {"Prompt": "\n".join(lines[:begin])}, "other", "Easy Diffusion")
    if facts.model.lower() == "none":
        facts.model = ""
    return facts


def _mochi(text: str) -> Facts:
    """Of "Include in Image: 1girl; Exclude from Image: lowres; Steps: 20"; a prompt may have a semicolon in it."""
    _, *parts = _MOCHI.split(text)
    names = {"Include in Image": "prompt", "Exclude from Image": "negative_prompt"}
    values = {names.get(key, key): said.strip() for key, said in zip(parts[::2], parts[1::2], strict=True)}
    return _plain(values, "other", "Mochi Diffusion")


def _parsed(text: Any) -> Any:
    """JSON in a string, or what isn't a string as it is; None for what can't be parsed."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _key(name: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def _plain(data: dict[str, Any], origin: Origin, program: str) -> Facts:
    """By the table of names."""
    known = {_key(name): value for name, value in data.items()}
    facts = Facts(origin, program)
    for field, names in _NAMES.items():
        value = next((known[name] for name in names if known.get(name) not in (None, "", [], {})), None)
        if field in ("prompt", "negative", "sampler", "schedule", "model", "model_hash"):
            setattr(facts, field, _words(value))
        elif isinstance(value, str | int | float):
            setattr(facts, field, value)
    size = next((sides for name in _SIZES if (sides := pair(known.get(name, "")))), None)
    if size is not None and facts.width is None:
        facts.width, facts.height = size
    facts.loras = _loras(known)
    return facts


def _words(value: Any) -> str:
    if isinstance(value, dict):  # a model with its name, key and hash
        value = value.get("model_name") or value.get("name") or value.get("modelFileName") or value.get("key")
    if isinstance(value, list):
        value = ", ".join(item for item in value if isinstance(item, str))
    return value if isinstance(value, str) else ""


def _loras(known: dict[str, Any]) -> list[Lora]:
    """[name, ...] with weights beside; [[name, weight, hash], ...]; [{...}, ...]; or "name : weight" one a field."""
    loras: list[Lora] = []
    items = _parsed(known.get("loras")) or known.get("useloramodel") or known.get("loramodel") or ()
    weights = _parsed(next((known[key] for key in _LORA_WEIGHTS if known.get(key)), ())) or ()
    items, weights = ([value] if isinstance(value, str | int | float) else value for value in (items, weights))
    for number, item in enumerate(items if isinstance(items, list) else ()):
        weight = weights[number] if isinstance(weights, list) and number < len(weights) else 1.0
        if isinstance(item, str):
            loras.append(Lora(item, weight))
        elif isinstance(item, list) and item and isinstance(item[0], str):
            digest = item[2] if len(item) > 2 and isinstance(item[2], str) else ""
            loras.append(Lora(item[0], item[1] if len(item) > 1 else 1.0, digest.lower()))
        elif isinstance(item, dict):
            name = _words(item.get("model") or item.get("lora") or item.get("name") or item.get("file") or item)
            given = (item.get(key) for key in ("weight", "strength", "modelStrength", "value"))
            loras += [Lora(name, next((value for value in given if value is not None), 1.0))] if name else []
    for key in sorted(known):
        if re.fullmatch(r"lora(combined)?\d+", key) and isinstance(known[key], str) and ":" in known[key]:
            name, _, weight = known[key].rpartition(":")
            if not any(same(name, lora.name) for lora in loras):  # Fooocus says each in both ways
                loras.append(Lora(name.strip(), weight.strip()))
    return loras


# --- one by one -----------------------------------------------------------------------------------------------------


def _swarm(data: dict[str, Any], fields: dict[str, str]) -> Facts:
    values = data["sui_image_params"]
    facts = _plain(values if isinstance(values, dict) else {}, "swarmui", "SwarmUI")
    if "initimagecreativity" in values or "initimage" in values:
        facts.strength = values.get("initimagecreativity", 0.6)
    if "refinerupscale" in values or "refinercontrolpercentage" in values:
        facts.notes.append(HIRES)
    for model in data.get("sui_models") or ():
        if isinstance(model, dict) and model.get("param") == "model":
            facts.model_hash = str(model.get("hash") or "").removeprefix("0x")
    return facts


def _fooocus(data: dict[str, Any], fields: dict[str, str]) -> Facts:
    ruined = "RuinedFooocus" in str(data.get("software", ""))
    return _plain(data, "fooocus", "RuinedFooocus" if ruined else "Fooocus")


def _novelai(data: dict[str, Any], fields: dict[str, str]) -> Facts:
    facts = _plain(data, "novelai", "NovelAI")
    facts.prompt = _characters(data.get("v4_prompt"), facts) or facts.prompt or fields.get("Description", "")
    facts.negative = _characters(data.get("v4_negative_prompt"), facts) or facts.negative
    facts.model = facts.model or fields.get("Source", "")
    if re.search(r"[{}\[\]]|\d::", facts.prompt + facts.negative):
        facts.notes.append("NovelAI weighs words with {}, [] and :: in its own way; here they are drawn as they stand.")
    if data.get("request_type") == "Img2ImgRequest" or "image" in data:
        facts.strength = data.get("strength", 0.7)
    return facts


def _characters(prompt: Any, facts: Facts) -> str:
    """NovelAI 4: what all share, and each character."""
    caption = prompt.get("caption") if isinstance(prompt, dict) else None
    if not isinstance(caption, dict):
        return ""
    listed = caption.get("char_captions")
    each = (
        [_words(item.get("char_caption")) for item in listed if isinstance(item, dict)]
        if isinstance(listed, list)
        else []
    )
    parts = [part for part in (_words(caption.get("base_caption")), *each) if part]
    if len(parts) > 1:
        facts.notes.append(SEVERAL)
    return ", ".join(parts)


def _stealth(data: dict[str, Any], fields: dict[str, str]) -> Facts | None:
    """The fields of a NovelAI picture as JSON, in the bits of its pixels."""
    return of_fields({name: text for name, text in data.items() if isinstance(text, str)})


def _civitai(data: dict[str, Any]) -> Facts | None:
    """Its generator on ComfyUI: a graph, with the request beside it."""
    inner = _parsed(data["extraMetadata"])
    if not isinstance(inner, dict):
        return None
    facts = _plain(inner, "civitai", "Civitai")
    resources(facts, inner.get("resources"))
    return facts


def _draw_things(data: dict[str, Any], fields: dict[str, str]) -> Facts:
    facts = _plain(data, "drawthings", "Draw Things")
    inner = data.get("v2")
    if isinstance(inner, dict):
        facts.loras = facts.loras or _loras({_key(name): value for name, value in inner.items()})
    if facts.strength is None and isinstance(data.get("strength"), int | float) and data["strength"] < 1:
        facts.strength = data["strength"]
    return facts


def _tensorart(data: dict[str, Any], fields: dict[str, str]) -> Facts:
    facts = _plain(data, "tensorart", "TensorArt")
    facts.loras = []
    for item in data.get("models") or ():
        if isinstance(item, dict) and str(item.get("type", "")).upper() in ("LORA", "LOCON", "LYCORIS"):
            facts.loras.append(Lora(_words(item.get("modelFileName") or item.get("label")), item.get("weight", 1.0)))
    return facts


def _invokeai(fields: dict[str, str]) -> Facts | None:
    from sd_parsers.exceptions import ParserError
    from sd_parsers.parsers import InvokeAIParser

    if "Dream" in fields:  # the first versions wrote -s50 and -m
        prompt, quote, options = fields["Dream"].rpartition('"')
        options = re.sub(r"(\s-[A-Za-z])(?=[^\s])", r"\1 ", options).replace(" -m ", " -A ")
        fields = fields | {"Dream": prompt + quote + options}
    try:
        parsed = InvokeAIParser().parse(dict(fields))
    except (ParserError, ValueError, TypeError, AttributeError, LookupError, RecursionError):
        # of other kinds of models not all is there that it asks for
        values = _parsed(fields.get("invokeai_metadata"))
        return _plain(values, "invokeai", "InvokeAI") if isinstance(values, dict) else None
    values = {str(key): value for key, value in parsed.metadata.items()}
    sampler = parsed.samplers[0]
    facts = _plain(values | sampler.parameters, "invokeai", "InvokeAI")
    facts.prompt = ", ".join(_words(prompt.value) for prompt in sampler.prompts)
    facts.negative = ", ".join(_words(prompt.value) for prompt in sampler.negative_prompts)
    facts.sampler, facts.schedule = _words(sampler.name), ""
    if sampler.model is not None:
        facts.model = _words(sampler.model.name)
    if not facts.model and isinstance(model := _parsed(fields.get("invokeai_metadata")), dict):
        facts.model = _words(model.get("model"))
    if values.get("init_image") or values.get("strength") or str(values.get("generation_mode", "")).endswith("img2img"):
        facts.strength = values.get("strength", 0.75)
    return facts


_FOOOCUS = {"metadata_scheme", "base_model", "Base Model", "base_model_name", "Performance"}
_Knows = Callable[[dict[str, Any], dict[str, str]], bool]
_READERS: tuple[tuple[_Knows, Callable[[dict[str, Any], dict[str, str]], Facts | None]], ...] = (
    (lambda data, fields: isinstance(data.get("sui_image_params"), dict), _swarm),
    (lambda data, fields: isinstance(data.get("Comment"), str), _stealth),
    (lambda data, fields: "v4_prompt" in data or ("uc" in data and "prompt" in data), _novelai),
    (lambda data, fields: "c" in data and "uc" in data, _draw_things),
    (lambda data, fields: fields.get("Software") == "TensorArt", _tensorart),
    (lambda data, fields: bool(_FOOOCUS & data.keys())
     or "fooocus_scheme" in fields, _fooocus),
    (lambda data, fields: "positive_prompt" in data and "scheduler" in data,
     lambda data, fields: _invokeai({"invokeai_metadata": json.dumps(data)})),
)  # fmt: skip
