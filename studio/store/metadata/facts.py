"""What any program says of a picture, before it is known what this studio can do with it.

Programs name samplers, sizes and LoRAs in their own ways; here they become one request, and a sentence for each thing
that can't be taken over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from studio.core.fields import fields as described
from studio.core.samplers import sampler_of
from studio.core.specs import MAX_LORAS, MAX_PROMPT, GenerateSpec, LoraRef, Recipe, Sampler
from studio.core.views import ImportedRecipe, Origin
from studio.store.metadata.writing import plain_name

HIRES = "Its second pass (hires fix) isn't repeated here."
CONTROL = "Its ControlNet image isn't in the file."
SOURCE = "It started from another picture, which isn't in the file."
SEVERAL = "Several prompts steer it together; here they are one, with commas between."

# Our field of each key in A1111's text.
INFOTEXT = {
    known.about.infotext.key: name
    for name, known in described(GenerateSpec).items()
    if known.about.infotext is not None
}
USUAL_SCHEDULES = {"", "automatic", "uniform", "normal", "simple", "native", "default", "none", "karras"}
# Every repetition is bounded or ends at the next start: a text may be a megabyte that somebody made up.
_LORA = re.compile(r"<(?:lora|lyco|lycoris):([^:<>]+)((?::[^<>]*)?)>", re.IGNORECASE)
_HYPERNET = re.compile(r"<hypernet:[^<>]*>", re.IGNORECASE)
_WEIGHTS = re.compile(r"\.(safetensors|ckpt|pt|pth|bin|gguf)$", re.IGNORECASE)


class ReadRecipe(ImportedRecipe):
    """What stands in a file, before anybody asked which of it is on this machine.

    `lora_hashes` belong to `spec.loras` in order, "" where none is written. `recipe`: our own, whole, of a picture that
    is nothing but its result; without folders, and otherwise as unproven as the rest of the file.
    """

    lora_hashes: tuple[str, ...] = ()
    recipe: Recipe | None = None


@dataclass
class Lora:
    """A LoRA as it is named elsewhere; `weight` is what stands there."""

    name: str
    weight: Any = 1.0
    hash: str = ""


@dataclass
class Facts:
    """One picture as its program says it; numbers are what stands there, None where nothing does."""

    origin: Origin
    program: str  # as people call it
    prompt: str = ""
    negative: str = ""
    steps: Any = None
    seed: Any = None
    guidance: Any = None
    width: Any = None
    height: Any = None
    sampler: str = ""
    schedule: str = ""
    model: str = ""
    model_hash: str = ""
    loras: list[Lora] = field(default_factory=list)
    strength: Any = None  # how far from the picture it started from; None: from noise
    others: dict[str, tuple[str, Any]] = field(default_factory=dict)  # more of our fields: their key there, and value
    notes: list[str] = field(default_factory=list)

    def setting(self, key: str, value: Any, usual: Any = None) -> None:
        """Another setting, by A1111's name: for our field that has that key, else a note where it isn't the usual."""
        name = INFOTEXT.get(key)
        if name is not None:
            self.others[name] = (key, value)
        elif value not in (None, "", usual):
            self.notes.append(f"{key} {str(value)[:20]} isn't repeated here.")

    @property
    def empty(self) -> bool:
        """Whether nothing says how the picture was drawn."""
        return not self.prompt and self.steps is None and self.seed is None


def read_recipe(facts: Facts) -> ReadRecipe:
    """The request that comes nearest to it, with a note for what isn't repeated."""
    notes: list[str] = []
    prompt = facts.prompt.replace("\x00", "")
    loras = [*facts.loras]
    loras += [Lora(name, weight) for name, weight in tags(prompt) if not any(same(name, lora.name) for lora in loras)]
    for name, parts in _LORA.findall(prompt):
        weights = [part.strip() for part in parts.split(":")[1:3]]
        if len(weights) == 2 and "=" not in parts and weights[0] != weights[1]:
            both = " and ".join(weights)
            notes.append(
                f"The LoRA {name.strip()[:60]!r} has two weights ({both}); here the first counts for all of it."
            )
    if _HYPERNET.search(prompt):
        notes.append("Hypernetworks were left out.")
    prompt = _HYPERNET.sub("", _LORA.sub("", prompt)).strip().rstrip(",").rstrip()
    negative = facts.negative.replace("\x00", "").strip()
    if max(len(prompt), len(negative)) > MAX_PROMPT:
        prompt, negative = prompt[:MAX_PROMPT], negative[:MAX_PROMPT]
        notes.append(f"The prompt was cut at {MAX_PROMPT} characters.")
    fields: dict[str, Any] = {"prompt": _valid(prompt), "negative": _valid(negative)}
    fields["sampler"] = _sampler(facts, notes)
    for name, value, called in (
        ("steps", facts.steps, "Steps"), ("guidance", facts.guidance, "CFG scale"), ("seed", facts.seed, "Seed"),
        ("strength", facts.strength, "Denoising strength"), ("width", _side(facts.width), "Size"),
        ("height", _side(facts.height), "Size"),
    ):  # fmt: skip
        _take(fields, name, value, called, notes)
    for name, (called, value) in facts.others.items():
        _take(fields, name, value, called, notes)
    taken = [(ref, lora.hash) for lora in loras if (ref := _reference(lora, notes)) is not None]
    if len(taken) > MAX_LORAS:
        notes.append(f"Only its first {MAX_LORAS} LoRAs were taken.")
    fields["loras"] = tuple(ref for ref, _ in taken[:MAX_LORAS])
    if model := _valid(weights_name(facts.model))[:1024]:
        fields["model"] = model
    else:
        notes.append("It doesn't say which model it was drawn with; another one gives another picture.")
    if facts.strength is not None:
        notes.append(SOURCE)
    return ReadRecipe(
        spec=GenerateSpec(**fields),
        origin=facts.origin,
        program=facts.program,
        notes=tuple(dict.fromkeys([*notes, *facts.notes])),
        model_hash=facts.model_hash.lower(),
        lora_hashes=tuple(digest for _, digest in taken[:MAX_LORAS]),
    )


def resources(facts: Facts, items: Any) -> None:
    """Civitai's list of what a picture was drawn with: its model, its LoRAs, and a note for each other kind."""
    for item in items if isinstance(items, list) else ():
        if not isinstance(item, dict):
            continue
        kind = str(item.get("type", "lora")).lower()
        name = str(item.get("modelName") or item.get("air") or f"version {item.get('modelVersionId', '?')}")
        if kind in ("checkpoint", "model"):
            facts.model = facts.model or name
        elif kind in ("lora", "lycoris", "locon", "dora"):
            facts.loras.append(Lora(name, item.get("strength", item.get("weight", 1.0))))
        else:
            facts.notes.append(f"Its {kind[:40]} {name[:80]!r} isn't used here.")


def weights_name(reference: str) -> str:
    """A file of weights by its name alone, as A1111 has it: no folder, no suffix. Other names as they are."""
    reference = plain_name(reference.strip())
    if _WEIGHTS.search(reference):
        reference = _WEIGHTS.sub("", reference.replace("\\", "/").rsplit("/", 1)[-1])
    return reference


def tags(prompt: str) -> list[tuple[str, str]]:
    """Name and weight of every `<lora:name:0.8>`, or `<lyco:...>`, in a prompt, in order."""
    return [(name.strip(), _tag_weight(rest)) for name, rest in _LORA.findall(prompt)]


def pair(text: Any) -> tuple[str, str] | None:
    """Width and height of "256x320", "(256, 320)", "256 × 320" or [256, 320]."""
    if isinstance(text, list | tuple) and len(text) == 2:
        return str(text[0]), str(text[1])
    match = re.fullmatch(r"\D{0,3}(\d{1,5})\s*[x×,*]\s*(\d{1,5})\D{0,3}", str(text).strip())
    return (match[1], match[2]) if match else None


def _valid(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can say and no file can keep."""
    return text.encode("utf-8", "ignore").decode("utf-8")


def _side(value: Any) -> str | None:
    try:
        return str(int(float(value)) // 8 * 8)
    except (TypeError, ValueError, OverflowError):
        return None


def _take(fields: dict[str, Any], name: str, value: Any, called: str, notes: list[str]) -> None:
    """Put a value into `fields` if the spec accepts it, else say so."""
    if value is None or isinstance(value, bool) or value == "":
        return
    try:
        fields[name] = getattr(GenerateSpec.model_validate({name: value}), name)
    except ValidationError:
        if not (name == "seed" and str(value) == "-1"):
            notes.append(f"{called} {str(value)[:40]} is outside what this studio can do and was left out.")


def _tag_weight(rest: str) -> str:
    """Of `<lora:name:0.8>`, `<lora:name:1:0.8>` and `<lora:name:te=0.5:unet=0.8>`."""
    parts = [part.strip() for part in rest.split(":")[1:]]
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    plain = [part for part in parts if part and "=" not in part]
    return named.get("unet") or (plain[0] if plain else named.get("te", "1"))


def _reference(lora: Lora, notes: list[str]) -> LoraRef | None:
    name = _valid(weights_name(str(lora.name)))
    try:
        return LoraRef(path=name, weight=float(lora.weight if lora.weight not in (None, "") else 1))
    except (TypeError, ValueError):
        notes.append(f"The LoRA {name[:60]!r} has a weight that this studio can't use and was left out.")
        return None


def same(left: str, right: str) -> bool:
    """Whether two names of files of weights are of one file."""
    return weights_name(left).casefold() == weights_name(right).casefold()


def _sampler(facts: Facts, notes: list[str]) -> Sampler:
    name, schedule = facts.sampler.strip(), facts.schedule.strip()
    ours = sampler_of(name, schedule)
    if ours is None:
        if name:
            called = f"{name} {schedule}" if schedule.lower() == "karras" and sampler_of(name) else name
            notes.append(f"The sampler {called[:60]!r} isn't in this studio; its own default is used.")
        return "auto"
    if schedule.lower() not in USUAL_SCHEDULES:
        notes.append(f"The schedule {schedule[:40]!r} isn't in this studio; the sampler's own is used.")
    return ours
