"""From a request to recipes: prompts written, blanks filled, files named by content, at once and for good.

Runs at submission, before any model is loaded: it knows model files by their headers and hashes only. Doesn't draw,
doesn't queue, and never asks a language model (that is an earlier request of its own).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from studio.core.errors import BadInput, NotFound, StudioError, explain
from studio.core.fields import of_model
from studio.core.samplers import FEW_STEP_SAMPLERS
from studio.core.settings import Settings
from studio.core.specs import (
    MAX_SEED,
    GenerateSpec,
    LoraRef,
    MaskSpec,
    Parameters,
    Recipe,
    Request,
)
from studio.core.views import ImportedRecipe, Picture
from studio.engine.models import controlnets, upscalers
from studio.engine.models.catalogue import FAST_STEPS, LoraInfo, ModelInfo, catalogue, find_lora, loras, resolve
from studio.features.feature import Planned, Planning
from studio.features.registry import FEATURES
from studio.prompting.dynamic import has_choices
from studio.prompting.exchange import says
from studio.service import sizes
from studio.service.enlarging import NOT_LARGER, drawn_size, larger
from studio.service.named_files import Files
from studio.service.prompts import PromptService
from studio.service.wording import Wording, once
from studio.store.metadata import ReadRecipe, known_loras

MAX_PICTURES = 4000  # of one job
FAST_GUIDANCE = 2.0  # up to this and `FAST_STEPS` times its steps the fast path is taken by itself
TOO_FEW_LAYERS = "This model's text encoder is too small for a Clip skip of {clip_skip}; take {most} or less."
RECOMMENDED = "The LoRA {name!r} is applied at {weight:g}: its own notes recommend that."
FULL_MASK = "The mask covers the whole picture, so nothing of it stays as it is."
NEEDS_MASK = (
    "{title} only fills a mask in a picture (Retouch, verb `inpaint`); choose a text-to-image model for the rest."
)

RequestT = TypeVar("RequestT", bound=Request)
GetPicture = Callable[[str, str], Picture]  # (id, owner), raises NotFound
DrawnWith = Callable[[str], str | None]  # the reference under which pictures were drawn with weights of this hash


@dataclass(frozen=True)
class Plan:
    """A request, resolved. `spec` is the request with nothing left to chance, so that it can be repeated."""

    spec: Request
    recipes: tuple[Recipe, ...]
    title: str
    notes: tuple[str, ...]
    model_title: str
    complete: bool  # the recipes are all pictures of the job
    fixed: bool | None = None  # what `Wording.written` is to be asked with for this job
    result: Mapping[str, Any] = field(default_factory=dict)  # what the job's result begins with


class Resolver:
    """Resolves requests of one studio. Thread-safe: it keeps nothing. `prompts` writes what nobody has written."""

    def __init__(self, settings: Settings, picture: GetPicture, prompts: PromptService) -> None:
        self._settings = settings
        self._picture = picture
        self.wording = Wording(settings, prompts)

    # --- one request of one prompt ----------------------------------------------------------------------------------

    def recipes(
        self,
        spec: GenerateSpec,
        owner: str,
        notes: list[str] | None = None,
        files: Files | None = None,
        fixed: bool | None = None,
    ) -> tuple[Recipe, ...]:
        """`spec.count` recipes with the seeds seed, seed+1, ... Raises `BadInput` and its kin with one sentence.

        `files` remembers models and LoRAs between the recipes of one request. `fixed`: see `Wording.written`.
        """
        notes = [] if notes is None else notes
        files = files or Files(self._settings, owner)
        texts = self.wording.texts(spec, notes, fixed)
        first = spec.seed if spec.seed is not None else secrets.randbelow(2**31)
        recipes: list[Recipe] = []
        for number in range(spec.count):
            seed = (first + number) % (MAX_SEED + 1)
            if recipes and spec.prompt is not None and not any(map(has_choices, texts)):
                recipes.append(recipes[0].model_copy(update={"seed": seed}))
                continue
            labels = _labels(spec)
            if spec.prompt is not None:
                labels |= self.wording.left_out(spec)
            else:
                prompt, decided = self.wording.decided(spec, seed, fixed)
                texts = (prompt, texts[1])
                labels |= decided
            recipe = self._recipe(spec, owner, texts, seed, notes, files)
            recipes.append(recipe.model_copy(update={"labels": labels}))
        return tuple(recipes)

    def _recipe(
        self, spec: GenerateSpec, owner: str, texts: tuple[str, str], seed: int, notes: list[str], files: Files
    ) -> Recipe:
        info = files.model(spec.model)
        words = self.wording.words(texts, spec, seed, notes, files.lora)
        refs = (*spec.loras, *words.loras)
        loras = [files.lora(ref.path) for ref in refs]
        for lora in loras:
            if lora.note:
                once(notes, lora.note)
        steps, guidance, sampler, fast = sampling(spec, info, loras)
        mask = None
        if spec.mask is not None:
            mask, width, height = self._masked(spec, spec.mask, info, owner, notes, files)
        elif info.inpainting:
            raise BadInput(NEEDS_MASK.format(title=info.title))
        else:
            width, height = self._size(spec, info, owner)
        self._check_pixels(width, height)
        width, height, upscale = drawn_size(spec, (width, height), info, notes)
        if info.note:
            once(notes, info.note)
        if spec.clip_skip > info.text_layers:
            raise BadInput(TOO_FEW_LAYERS.format(clip_skip=spec.clip_skip, most=info.text_layers))
        net = ""
        if spec.control is not None:
            drawing = self._picture(spec.control.image, owner)
            net = files.net(info, spec.control, drawing, self._followed_size(spec, (width, height), owner))
        values = {name: getattr(spec, name) for name in Parameters.model_fields} | {
            "model": info.reference,
            "model_hash": info.hash,
            "prompt": words.prompt,
            "negative": words.negative,
            "seed": seed,
            "steps": steps,
            "guidance": guidance,
            "sampler": sampler,
            "width": width,
            "height": height,
            "loras": tuple(_placed(ref, lora) for ref, lora in zip(refs, loras, strict=True)),
            "lora_hashes": tuple(lora.hash for lora in loras),
            "fast": fast,
            "strength": spec.strength if spec.source is not None else None,
            "control_hash": net,
            "mask": mask,
            "redraw": spec.redraw and info.quality is not None,
            "upscale": upscale,
        }
        if upscale > 1 or spec.hires > 1:
            again = spec.model_copy(update={"source": "the first pass", "steps": spec.hires_steps or spec.steps})
            values |= larger(spec, files.upscaler(spec.upscaler), sampling(again, info, loras)[0])
        else:
            values |= NOT_LARGER
        self._check_pixels(round(width * spec.hires), round(height * spec.hires))
        try:
            return Recipe(**values)
        except ValidationError as error:
            raise BadInput(explain(error)) from error

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > self._settings.max_pixels:
            raise BadInput(
                f"{width} x {height} pixels are more than this studio draws "
                f"({self._settings.max_pixels / 1e6:.1f} million); choose a smaller size."
            )

    def _size(self, spec: GenerateSpec, info: ModelInfo, owner: str) -> tuple[int, int]:
        """The size asked for; else the model's own, in the shape of the picture that the drawing starts from."""
        shape = None
        reference = spec.source or (spec.control.image if spec.control else None)
        if reference is not None:
            picture = self._picture(reference, owner)
            shape = min(2.0, max(0.5, picture.width / picture.height))
        if spec.width is not None and spec.height is not None:
            width, height = spec.width, spec.height
        elif spec.width is not None:
            width, height = spec.width, sizes.side(spec.width / (shape or 1))
        elif spec.height is not None:
            width, height = sizes.side(spec.height * (shape or 1)), spec.height
        else:
            width, height = sizes.default_size(info.native_size, shape, info.sizes)
        return width, height

    def _masked(
        self, spec: GenerateSpec, mask: MaskSpec, info: ModelInfo, owner: str, notes: list[str], files: Files
    ) -> tuple[MaskSpec, int, int]:
        """The mask with its area decided, and the size in which that is drawn: the picture's own, or the model's."""
        assert spec.source is not None
        picture = self._picture(spec.source, owner)
        shape, full = files.mask(mask, picture, self._picture(mask.image, owner))
        if full:
            once(notes, FULL_MASK)
        area, size = sizes.masked(mask, (picture.width, picture.height), spec, info.native_size, shape, info.sizes)
        width, height = size if size is not None else self._size(spec, info, owner)
        feather = max(1, round(min(picture.width, picture.height) / 128)) if mask.feather is None else mask.feather
        return mask.model_copy(update={"area": area, "feather": feather}), width, height

    def _followed_size(self, spec: GenerateSpec, size: tuple[int, int], owner: str) -> tuple[int, int]:
        """In which size the lines of a drawing are found: beside a mask that of the whole picture."""
        if spec.mask is None or spec.source is None:
            return size
        picture = self._picture(spec.source, owner)
        return picture.width, picture.height

    # --- recipes from elsewhere -------------------------------------------------------------------------------------

    def with_known_files(self, read: ReadRecipe, drawn_with: DrawnWith, own: bool = False) -> ImportedRecipe:
        """The recipe with its model and LoRAs as they are called here, found by hash, else by name; else a note.

        Another model stands in for one that isn't here, nothing for a LoRA. `own`: it was stored here, so its model
        stays as it is called and paths are worth a look.
        """
        spec, notes = read.spec, list(read.notes)
        model = spec.model if own else next(self._models_like(spec.model, read.model_hash, drawn_with), None)
        if model is None:
            notes.append(f"Its model {spec.model!r} isn't here; another one gives another picture.")
        changes: dict[str, Any] = {"model": model or self._settings.model}
        for info in of_model(GenerateSpec):
            if model is None and (value := getattr(spec, info.name)) != info.default:
                notes.append(f"Its {info.label} of {value} belongs to its own model and is left out.")
                changes[info.name] = info.default
        changes["loras"] = self._known_loras(read, notes, own)
        if spec.times > 1 or spec.upscaler != "embedded":
            try:
                changes["upscaler"] = upscalers.find(spec.upscaler, self._settings).reference
            except StudioError:
                notes.append(f"Its upscaler {spec.upscaler[:60]!r} isn't here; the studio's own is used.")
                changes["upscaler"] = "embedded"
        if spec.control is not None and spec.control.model is not None:
            try:
                controlnets.find(spec.control.model, self._settings)
            except StudioError:
                notes.append(f"Its ControlNet {spec.control.model!r} isn't here; the model's own is used.")
                changes["control"] = spec.control.model_copy(update={"model": None})
        return ImportedRecipe(
            spec=spec.model_copy(update=changes),
            origin=read.origin,
            program=read.program,
            notes=tuple(notes),
            model_hash=read.model_hash,
            written=read.spec,
        )

    def proven(
        self, read: ReadRecipe | None, size: tuple[int, int], owner: str, drawn_with: DrawnWith
    ) -> Recipe | None:
        """The recipe in an uploaded picture, if all that it names is here under the same hashes; None without one.

        A file can claim anything, so nothing in it is believed: names become those of this studio, and what it starts
        from or follows has to be this owner's. Raises `BadInput` that says what is missing.
        """
        recipe = read.recipe if read is not None else None
        if read is None or recipe is None or (recipe.mask is None and size != recipe.size):
            return None
        models = self._models_like(recipe.model, recipe.model_hash, drawn_with, listed=True)
        same = (info for info in (resolve(name, self._settings) for name in models) if info.hash == recipe.model_hash)
        if (info := next(same, None)) is None:
            raise BadInput(f"Its model {recipe.model!r} isn't here.")
        notes: list[str] = []
        refs = self._known_loras(read, notes)
        if notes or len(refs) < len(recipe.loras):
            raise BadInput(notes[0] if notes else "It names a LoRA twice.")
        if recipe.times > 1 and upscalers.find(recipe.upscaler, self._settings).hash != recipe.upscaler_hash:
            raise BadInput("Its upscaler isn't here.")
        control = recipe.control
        try:
            source = self._picture(recipe.source, owner) if recipe.source is not None else None
            if recipe.mask is not None and source is not None:
                self._picture(recipe.mask.image, owner)
                if size != (round(source.width * recipe.upscale), round(source.height * recipe.upscale)):
                    return None
            drawing = self._picture(control.image, owner) if control else None
        except NotFound:
            raise BadInput("The picture that it started from isn't here.") from None
        if control is not None and drawing is not None:
            drawn = (round(size[0] / recipe.times), round(size[1] / recipe.times))
            net = Files(self._settings).net(info, control, drawing, drawn)  # in a mask, too, that of its picture
            if net != recipe.control_hash and (recipe.control_hash or control.model):
                raise BadInput("Its ControlNet isn't here.")
        return recipe.model_copy(update={"model": info.reference, "loras": refs, "labels": _labels(read.spec)})

    def _models_like(self, wanted: str, digest: str, drawn_with: DrawnWith, listed: bool = False) -> Iterator[str]:
        """References of models that may be the one meant, best first. `listed`: only those that can be chosen here.

        `digest` is a hash or its beginning.
        """
        models = catalogue(self._settings, with_hash=len(digest) >= 10)
        candidates = [wanted] if not listed or wanted in {info.reference for info in models} else []
        if len(digest) >= 10:
            by_hash = [drawn_with(digest), *(info.reference for info in models if info.hash.startswith(digest))]
            candidates = [reference for reference in by_hash if reference is not None] + candidates
        for reference in dict.fromkeys([*candidates, self._settings.model] if listed else candidates):
            try:
                if resolve(reference, self._settings, with_hash=False).path is not None:
                    yield reference
            except StudioError:
                continue

    def _known_loras(self, read: ReadRecipe, notes: list[str], own: bool = False) -> tuple[LoraRef, ...]:
        """`metadata.known_loras`; `own`: the paths are of this machine, so a file outside of the list counts too."""
        here = loras(self._settings) if read.spec.loras else []
        for ref in read.spec.loras if own else ():
            with suppress(StudioError):  # it has moved
                here.append(find_lora(ref.path, self._settings))
        return known_loras(read, here, notes)

    # --- every kind of job ------------------------------------------------------------------------------------------

    def plan(self, spec: Request, owner: str) -> Plan:
        """Resolve a request of any kind. Raises `BadInput` and its kin with one sentence."""
        planning = Planning(self._settings, self.wording, lambda id: self._picture(id, owner))
        spec = self._with_weights(spec, planning)
        planned = FEATURES[spec.kind].plan(spec, planning)
        if sum(request.count for request in planned.requests) > MAX_PICTURES:
            raise BadInput(f"That is more than {MAX_PICTURES} pictures in one job; split it.")
        base = planned.spec if isinstance(planned.spec, GenerateSpec) else getattr(planned.spec, "base", None)
        fixed: bool | None = None
        recipes: list[Recipe] = []
        files, model_title = Files(self._settings, owner), planned.model_title
        if base is not None:
            fixed = self._agreed(planned, base, planning)
            for request in planned.requests:
                recipes += self.recipes(request, owner, planning.notes, files, fixed)
            model_title = files.model(base.model).title
        return Plan(
            spec=planned.spec,
            recipes=tuple(recipes),
            complete=planned.complete,
            title=planned.title or self._title(base, recipes),
            notes=tuple(planning.notes),
            model_title=model_title,
            fixed=fixed,
            result=planned.result,
        )

    def _title(self, base: GenerateSpec | None, recipes: Sequence[Recipe]) -> str:
        """What a job and its pictures are called: what the person said, as far as it is drawn."""
        if base is None:
            return ""
        if base.prompt is None and any("left_out" in recipe.labels for recipe in recipes):
            drawn = self.wording.written(base, fixed=False).layers.text
            base = base.model_copy(update={"text": drawn})
        return _title(base)

    def _with_weights(self, spec: RequestT, planning: Planning) -> RequestT:
        """The request with the weights that its LoRAs recommend, where it says none."""
        if not isinstance(spec, GenerateSpec):
            base = getattr(spec, "base", None)
            if not isinstance(base, GenerateSpec):
                return spec
            filled = self._with_weights(base, planning)
            return spec if filled is base else spec.model_copy(update={"base": filled})
        if all("weight" in ref.model_fields_set for ref in spec.loras):
            return spec
        refs = weighted(spec.loras, self._settings)
        for ref, before in zip(refs, spec.loras, strict=True):
            if ref.weight != before.weight:
                planning.note(RECOMMENDED.format(name=Path(ref.path).stem, weight=ref.weight))
        return spec.model_copy(update={"loras": refs})

    def _agreed(self, planned: Planned, base: GenerateSpec, planning: Planning) -> bool | None:
        """How all prompts of this job are written (see `Wording.written`); None: each for itself.

        One character in several emotions has one wording: where only one of its prompts came from the template, the
        words around the emotion would change with it, and the character too. Decided before anything is drawn.
        """
        if base.on_low_confidence == "run" or base.prompt is not None:  # a picture drawn here has brought its words
            return None
        if planned.alike is None:
            return None
        # The offline writer is as sure of one wording as of another: what isn't fixed now is its first one.
        written = [self.wording.written(request) for request in planned.alike]
        for result in written:
            for note in result.notes if result.writer == "fixed" else ():
                planning.note(note)
        return any(result.writer == "fixed" for result in written)


def sampling(spec: GenerateSpec, info: ModelInfo, loras: Sequence[LoraInfo] = ()) -> tuple[int, float, str, bool]:
    """Steps, guidance, sampler, and whether the model's own few-step adapter is attached.

    Where nothing else is said the few-step path is taken, except for high quality, which is the model at its best. A
    chosen LoRA that is a few-step adapter itself takes the model's place: two of them at once spoil the picture.
    """
    chosen = next((lora.fast for lora in loras if lora.fast is not None), None)
    fast = chosen or info.fast
    few = fast is not None and (spec.steps is None or spec.steps <= FAST_STEPS * fast.steps)
    if spec.sampler == "auto":
        few = few and (spec.quality != "high" or spec.steps is not None or chosen is not None)
        few = few and (spec.guidance is None or spec.guidance <= FAST_GUIDANCE)
    else:
        few = few and spec.sampler in FEW_STEP_SAMPLERS
    if fast is not None and few:
        # The solver's few steps begin at fixed noise levels: img2img needs more of them to find one near its strength.
        finer = FAST_STEPS if spec.source is not None and fast.sampler not in FEW_STEP_SAMPLERS else 1
        default: tuple[int, float, str] = (finer * fast.steps, fast.guidance, fast.sampler)
    else:
        steps = -(-info.steps // 2) if spec.quality == "draft" else info.steps
        default = (steps, info.guidance, info.sampler)
    return (
        default[0] if spec.steps is None else spec.steps,
        default[1] if spec.guidance is None else spec.guidance,
        default[2] if spec.sampler == "auto" else spec.sampler,
        few and chosen is None,
    )


def weighted(refs: Sequence[LoraRef], settings: Settings) -> tuple[LoraRef, ...]:
    """The same with the weight of their own that LoRAs have beside their file, where none is said.

    One that isn't here stays as it is.
    """
    filled = []
    for ref in refs:
        if "weight" not in ref.model_fields_set:
            with suppress(StudioError):
                ref = LoraRef(path=ref.path, weight=find_lora(ref.path, settings).weight)
        filled.append(ref)
    return tuple(filled)


def _placed(ref: LoraRef, lora: LoraInfo) -> LoraRef:
    return LoraRef(path=str(lora.path), weight=ref.weight if "weight" in ref.model_fields_set else lora.weight)


def _labels(spec: GenerateSpec) -> dict[str, str]:
    """What a picture is found and called by: what its prompt says, not what else stands in the request."""
    layers: dict[Literal["emotion", "style"], str] = {"emotion": spec.emotion, "style": spec.style}
    labels: dict[str, str] = {
        layer: value for layer, value in layers.items() if spec.prompt is None or says(spec.prompt, layer, value)
    }
    return labels | {"quality": spec.quality} | ({"text": words} if (words := _words(spec)) else {})


def _words(spec: GenerateSpec) -> str:
    """The person's words, if they are drawn: a prompt of one's own may have others."""
    if spec.prompt is not None and not set(re.findall(r"\w+", spec.text)) <= set(re.findall(r"\w+", spec.prompt)):
        return ""
    return spec.text


def _title(base: GenerateSpec) -> str:
    words = " ".join((_words(base) or base.prompt or f"{base.emotion}, {base.style}").split())
    return words if len(words) <= 60 else words[:59].rstrip(" ,") + "…"
