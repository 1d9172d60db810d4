"""What can be loaded and from where: one reference string becomes a `ModelInfo`, a LoRA name a `LoraInfo`.

Reads file names, small JSON files and headers, and whole files only for a hash. Knows no torch, no device and nothing
of drawing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio.core.errors import BadInput, NotFound
from studio.core.files import files_below, is_text, read_regular
from studio.core.settings import EMBEDDED_MODEL, Settings
from studio.engine.models import hub
from studio.engine.models.families import (
    FAMILIES,
    KNOWN,
    PUBLISHED,
    SD15,
    Family,
    FastReference,
    PromptWords,
    family_of,
    inpaints,
)
from studio.engine.models.few_steps import downloadable, fast_here, fast_path, few_step, of_file
from studio.engine.models.file_kinds import has_lora, kind_of, other_adapter
from studio.engine.models.infos import FastPath, LoraInfo, ModelInfo
from studio.engine.models.lora_keys import unused
from studio.engine.models.places import candidates, inside
from studio.engine.models.sidecars import read_sidecars
from studio.engine.models.single_files import TOLD, VAE_ENDING, other_vae, require_parts, scheduler_changes
from studio.engine.models.weights import (
    PICKLES,
    Header,
    Tensor,
    component_weights,
    fingerprint,
    keep_in,
    one_line,
    read_header,
    remembered,
)

__all__ = [
    "FastPath",
    "LoraInfo",
    "ModelInfo",
    "catalogue",
    "file_family",
    "find_lora",
    "fingerprint",
    "loras",
    "refused_loras",
    "resolve",
]  # fmt: skip

# References that stood in many guides and are gone from the hub.
MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
}

CONTROL = ("guided", "unguided", "unconditional")  # what studio.json may say of a ControlNet's use: sampling.Control
INPAINTING = 9  # channels that a single file's UNet reads: latents, mask, latents of the picture without it
FAST_STEPS = 2  # a few-step adapter serves up to this multiple of the steps that it was trained for


def resolve(reference: str, settings: Settings, with_hash: bool = True) -> ModelInfo:
    """What `reference` means: `embedded`, a hub id, a diffusers folder, a .safetensors file, or a name in `models/`.

    Raises NotFound when there is nothing of that name and BadInput when there is something that can't be used (a
    pickle, a damaged file, another architecture). A hub model that isn't on this machine resolves with state
    "download". Hashing gigabytes for the first time takes seconds: `with_hash=False` leaves `hash` empty.
    """
    keep_in(settings.hashes)
    name = reference.strip()
    note = ""
    if name in MOVED:
        note = f"{name} is gone from the hub; {MOVED[name]} is the same model and is used."
        name = MOVED[name]
    if name == "embedded":
        if not (EMBEDDED_MODEL / "model_index.json").is_file():
            raise NotFound("The embedded model is missing from this installation; get assets/models/embedded again.")
        info = replace(_folder("embedded", EMBEDDED_MODEL), kind="embedded")
    elif (path := _local(name, settings)) is not None:
        info = _folder(name, path) if path.is_dir() else _file(name, path)
    elif re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", name) and not name.lower().endswith((".safetensors", *PICKLES)):
        info = _hub(name)
    else:
        raise NotFound(
            f"There is no model {reference!r}: give embedded, a hub id, a diffusers folder or a .safetensors file."
        )
    if with_hash:
        info = _hashed(info)
    return replace(info, note=note or info.note)


def _hashed(info: ModelInfo) -> ModelInfo:
    """With the hash of all that decides its pixels."""
    if info.path is None:
        return info
    digest = fingerprint(info.path)
    if info.vae is not None:
        files = [info.vae] if info.vae.is_file() else component_weights(info.vae.parent, info.vae.name)
        digest = hashlib.sha256("\n".join([digest, *map(fingerprint, files)]).encode()).hexdigest()
    return replace(info, hash=digest)


def _local(reference: str, settings: Settings) -> Path | None:
    try:
        for path in candidates(reference, settings, settings.models_dir):
            if path.is_dir() and not (path / "model_index.json").is_file():
                if path.parent == settings.models_dir or Path(reference).is_absolute() or reference.startswith("."):
                    raise BadInput(f"{path} is a folder without model_index.json, so not a diffusers model.")
                continue
            if path.exists():
                return path
        named = candidates(f"{reference}.safetensors", settings, settings.models_dir)
        for path in named:
            if path.parent == settings.models_dir:
                same = [file for file in settings.models_dir.glob("*") if file.stem == path.stem]
                files = [path, *(file for file in same if file.suffix.lower() == ".safetensors")]
                return next((file for file in files if file.is_file()), None)
        return None
    except (OSError, RuntimeError, ValueError):  # too long for the file system, no home folder for `~`, a NUL in it
        return None


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_regular(path))
    except FileNotFoundError:
        raise BadInput(f"{path.parent.name}/{path.name} is missing from the model {path.parent.parent}.") from None
    except (OSError, ValueError, RecursionError):
        raise BadInput(f"{path} is not readable JSON; get the model again.") from None
    if not isinstance(data, dict):
        raise BadInput(f"{path} is not readable JSON; get the model again.")
    return data


def _folder(reference: str, path: Path) -> ModelInfo:
    unet, vae = _json(path / "unet" / "config.json"), _json(path / "vae" / "config.json")
    facts = _json(path / "studio.json") if (path / "studio.json").is_file() else {}
    family = FAMILIES.get(str(facts.get("family"))) or family_of(unet)
    texts = [_json(path / name / "config.json") for name in family.text_encoders]
    parts = ("unet", "vae", *family.text_encoders)
    numbers = {part: sum(read_header(file).parameters() for file in component_weights(path, part)) for part in parts}
    size = sum(file.stat().st_size for file in path.glob("**/*.safetensors"))
    factor = 2 ** (len(vae.get("block_out_channels", (0, 0, 0, 0))) - 1)
    sample = unet.get("sample_size")
    native = int(sample) * factor if isinstance(sample, int) else family.default_size
    offered = family.fast_for(unet)
    try:
        fast = fast_here(offered)
        if facts.get("fast"):
            entry = facts["fast"]
            adapter = inside(path, entry["adapter"])
            files = sorted(adapter.glob("*.safetensors")) if adapter.is_dir() else [adapter]
            if files and files[0].is_file():
                fast = FastPath(files[0], int(entry["steps"]), float(entry["guidance"]), str(entry["sampler"]))
        controlnets = {
            kind: str(inside(path, relative))
            for kind, relative in dict(facts.get("controlnet") or {}).items()
            if (inside(path, relative) / "config.json").is_file()
        }
        judge = inside(path, facts["judge"]) if facts.get("judge") else None
        quality = inside(path, facts["quality"]) if facts.get("quality") else None
        box = (facts.get("face") or {}).get("box")
        return ModelInfo(
            reference=reference,
            title=str(facts.get("title") or path.name),
            family=family,
            kind="folder",
            path=path,
            size_bytes=size,
            parameters=sum(numbers.values()),
            unet_parameters=numbers["unet"],
            native_size=int(facts.get("native_size", native)),
            sizes=_sizes(family, int(facts.get("native_size", native))),
            inpainting=inpaints(unet),
            text_layers=_text_layers(texts),
            steps=int(facts.get("steps", family.steps)),
            guidance=float(facts.get("guidance", family.guidance)),
            sampler=str(facts.get("sampler", family.sampler)),
            fast=fast,
            fast_published=downloadable(offered),
            # published ones are made for the family's own text encoders
            controlnets=controlnets
            or (dict(family.controlnets) if unet.get("cross_attention_dim") == family.text_width else {}),
            control={key: float(facts["control"][key]) for key in CONTROL if key in dict(facts.get("control") or {})},
            judge=judge if judge is not None and judge.is_dir() else None,
            quality=quality if quality is not None and quality.is_dir() else None,
            tags=tuple(str(tag) for tag in facts.get("tags", ())),
            distill={key: float(value) for key, value in dict(facts.get("distill") or {}).items()},
            face=tuple(float(side) for side in box) if box else None,  # type: ignore[arg-type]
            words=_words(facts.get("words")),
            license=str(facts.get("license", "")),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"studio.json of the model {path.name} is not as expected ({error}).") from None


def _words(said: Any) -> PromptWords | None:
    """What `studio.json` says of the words for good pictures and bad ones: lists `quality` and `negative`."""
    if not said:
        return None
    return PromptWords(*(tuple(map(str, dict(said).get(name) or ())) for name in ("quality", "negative")))


def _sizes(family: Family, native: int) -> tuple[tuple[int, int], ...]:
    """The family's sizes, for a model that was made for as many pixels."""
    return family.sizes if native == family.default_size else ()


def _text_layers(configurations: Sequence[Mapping[str, Any]]) -> int:
    """Layers of the text encoder that can be read; of two the fewer."""
    return min(int(one.get("num_hidden_layers", ModelInfo.text_layers)) for one in configurations)


def _file(reference: str, path: Path) -> ModelInfo:
    header = read_header(path)
    family = file_family(path.name, header)
    vae = other_vae(path, header, family)
    v = "; it predicts v, as it says itself" if scheduler_changes(path, header).get("prediction_type") else ""
    return ModelInfo(
        reference=reference,
        title=one_line(header.metadata.get("modelspec.title", "")) or path.stem,
        family=family,
        kind="file",
        path=path,
        size_bytes=path.stat().st_size,
        # many files also hold the averages of a training, or an optimiser, which nobody loads
        parameters=header.parameters(
            "model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.embedders."
        ),
        unet_parameters=header.parameters("model.diffusion_model."),
        note=f"A single file: its configuration and tokenizer come with the studio{v}.{_vae_note(vae, family)}",
        vae=vae,
        text_layers=family.text_layers,
        native_size=family.default_size,
        sizes=family.sizes,
        inpainting=header.tensors[family.single_file_key].shape[1] == INPAINTING,
        steps=family.steps,
        guidance=family.guidance,
        sampler=family.sampler,
        controlnets=dict(family.controlnets),
        fast=fast_here(family.fast),
        fast_published=downloadable(family.fast),
    )


def _vae_note(vae: Path | None, family: Family) -> str:
    if vae is None:
        return ""
    own = vae.name if vae.is_file() else f"that of {family.vae_model or family.default_model}"
    return f" It has no VAE; {own} is used."


def file_family(name: str, header: Header) -> Family:
    """The family of a whole model in one file. Raises BadInput, saying what it is instead, for other files."""
    tensors = header.tensors
    _refuse_other_adapter(name, tensors)
    if has_lora(tensors):
        raise BadInput(f"{name} is a LoRA, not a model; put it into the LoRA folder and choose it beside a model.")
    kind = kind_of(tensors)
    if kind == "a VAE":
        raise BadInput(
            f"{name} is a VAE, not a whole model; as NAME{VAE_ENDING} beside a model NAME.safetensors that has "
            "none it is used with that."
        )
    for family in FAMILIES.values():
        if kind == family.single_file_kind and family.single_file_key in tensors:
            require_parts(name, header, family)
            return family
    if kind:
        told = TOLD.get(kind, f"the studio can't draw with it: choose a {KNOWN} model.")
        raise BadInput(f"{name} is {kind}; {told}")
    raise BadInput(f"{name} is not a model that the studio knows; it needs the layout of {KNOWN}.")


def _hub(reference: str) -> ModelInfo:
    """A model of the hub: what its copy on this machine says, else what its card does, else nothing yet."""
    family, published = PUBLISHED.get(reference, (None, None))
    title = reference.split("/")[-1]
    own: dict[str, Any] = {}
    if published is not None:
        own = {
            "license": published.license,
            "steps": published.steps,
            "guidance": published.guidance,
            "sampler": published.sampler,
            "words": published.words,
        }
        own = {name: value for name, value in own.items() if value}
    here = hub.snapshot(reference)
    if here is not None:
        info = _folder(reference, here) if here.is_dir() else _file(reference, here)
        told = {} if (here / "studio.json").is_file() else own
        return replace(info, kind="hub", title=title, **told)
    # nothing of the model is here: this is what it turns out to be, or it is refused before its weights are downloaded
    family = family or _told(reference) or SD15
    return ModelInfo(
        reference=reference,
        title=title,
        family=family,
        kind="hub",
        path=None,
        size_bytes=published.download_bytes if published is not None else 0,
        state="download",
        note="Not on this machine yet; it is downloaded when it is used first.",
        native_size=family.default_size,
        sizes=family.sizes,
        fast_published=downloadable(family.fast) if published is not None else None,
        controlnets=dict(family.controlnets),
        **dict[str, Any](steps=family.steps, guidance=family.guidance, sampler=family.sampler) | own,
    )


def _told(reference: str) -> Family | None:
    """The family of a model of which only the configuration is here yet, see `hub.tell`."""
    unet = hub.cached_file(reference, "unet/config.json")
    try:
        return family_of(_json(unet)) if unet is not None else None
    except BadInput:
        return None  # said when it is to be downloaded


def catalogue(settings: Settings, with_hash: bool = False) -> list[ModelInfo]:
    """Every model that can be chosen: the embedded one, those in `models/`, those in the Hub's cache, what is offered.

    What can't be used is listed too, with state "missing" and the reason as its note. Hashes only where they are known
    already, or `with_hash`: seconds for every model that was never used here.
    """
    references = ["embedded"]
    if settings.models_dir.is_dir():
        for entry in sorted(settings.models_dir.iterdir()):
            single = entry.suffix.lower() == ".safetensors" and not entry.name.lower().endswith(VAE_ENDING)
            if is_text(entry) and (single or (entry / "model_index.json").is_file()):
                references.append(entry.name)
    references += hub.cached_models()
    references += [reference for reference in PUBLISHED if reference not in references]
    models = []
    for reference in references:
        try:
            info = resolve(reference, settings, with_hash=False)
            known = info.path is not None and all(remembered(path) for path in (info.path, info.vae) if path)
            models.append(_hashed(info) if with_hash or info.kind == "embedded" or known else info)
        except (BadInput, NotFound) as error:
            models.append(ModelInfo(reference, reference, SD15, "folder", None, state="missing", note=str(error)))
    return models


# --- LoRAs -----------------------------------------------------------------------------------------------------------


def _refuse_other_adapter(name: str, tensors: Mapping[str, Tensor]) -> None:
    if kind := other_adapter(tensors):
        raise BadInput(f"{name} is an adapter of the kind {kind}, and {kind} isn't supported yet; use a plain LoRA.")


def lora_header(path: Path) -> Header:
    """The header of a LoRA file. Raises BadInput for a damaged file and for kinds of adapters that aren't supported."""
    header = read_header(path)
    _refuse_other_adapter(path.name, header.tensors)
    if not has_lora(header.tensors):
        whole = SD15.single_file_key in header.tensors
        kind = kind_of(header.tensors) or ("a whole model" if whole else "")
        told = f"it is {kind}" if kind else "it has no low-rank layers"
        raise BadInput(f"{path.name} is not a LoRA: {told}; choose a LoRA file.")
    return header


def _lora(path: Path) -> LoraInfo:
    if not is_text(path):
        raise BadInput(f"The LoRA {path.name!a} has a name that isn't UTF-8; give the file another name.")
    header = lora_header(path)
    said = read_sidecars(path)
    metadata = header.metadata
    default_title = path.parent.parent.name if path.parent.name == "adapter" else path.stem
    digest = fingerprint(path)
    known = of_file(path.name, digest)
    fast = fast_path(known, path) if known is not None else None
    if known is not None and known.title:
        default_title = known.title
    if isinstance(entry := said.facts.get("fast"), dict):
        try:
            fast = FastPath(path, int(entry["steps"]), float(entry["guidance"]), str(entry["sampler"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            fast = None  # a note beside the file that somebody edited: the LoRA itself is sound
    try:
        beside = tuple((str(one["title"]), float(one["weight"])) for one in said.facts.get("with", ()))
    except (KeyError, TypeError, ValueError, OverflowError):
        beside = ()
    if rest := unused(header.tensors):
        are = "is" if len(rest) == 1 else "are"
        note = (
            f"{len(rest)} of the {len(header.tensors)} tensors of the LoRA {path.name} {are} of a kind that isn't "
            f"applied (such as {min(rest)[:80]})."
        )
    else:
        note = ""
    if known is not None and known.license:
        note = f"{note} {known.title or known.file} is licensed: {known.license}.".strip()
    titles = (said.title, metadata.get("modelspec.title", ""), metadata.get("ss_output_name", ""))
    phrase = metadata.get("modelspec.trigger_phrase")
    return LoraInfo(
        path=path,
        title=next(filter(None, map(one_line, titles)), default_title),
        hash=digest,
        trigger_words=said.trigger_words or ((phrase,) if phrase else ()),
        weight=said.weight,
        fast=fast,
        note=note,
        beside=beside,
        base=said.base or metadata.get("ss_sd_model_name") or metadata.get("modelspec.architecture") or "",
    )


def find_lora(reference: str, settings: Settings) -> LoraInfo:
    """A LoRA by path, by file name in `models/loras/`, by title, or a published few-step one by its hub id.

    Raises NotFound; BadInput if it is none.
    """
    keep_in(settings.hashes)
    name = Path(reference)
    if name.suffix.lower() in PICKLES:
        raise BadInput(
            f"{name.name} is a pickle, which can run code when it is opened; use the .safetensors version of it."
        )
    try:
        for path in candidates(reference, settings, settings.models_dir / "loras"):
            if path.is_dir():
                files = sorted(file for file in path.glob("*") if file.suffix.lower() == ".safetensors")
                if files:
                    return _lora(files[0])
            if path.is_file():
                return _lora(path)
    except (OSError, RuntimeError, ValueError):  # too long for the file system, no home folder for `~`, a NUL in it
        pass
    for info in loras(settings):
        if reference in (info.title, info.path.name, info.path.stem):
            return info
    if (known := few_step(reference)) is not None:
        here = hub.cached_file(known.reference, known.file)
        return _lora(here) if here is not None else _absent(known)
    raise NotFound(
        f"There is no LoRA {reference!r}: give a .safetensors file, or put it into {settings.models_dir}/loras."
    )


def _absent(known: FastReference) -> LoraInfo:
    path = Path(known.reference)
    return LoraInfo(
        path=path, title=known.title, hash=known.sha256, fast=fast_path(known, path), state="download",
        note=f"{known.said} isn't on this machine yet: it is downloaded first.",
    )  # fmt: skip


def loras(settings: Settings) -> list[LoraInfo]:
    """Every usable LoRA in `models/loras/` and in finished runs, by title; for the others see `refused_loras`."""
    return sorted(_read_loras(settings)[0], key=lambda info: info.title.lower())


def refused_loras(settings: Settings) -> list[tuple[str, str]]:
    """File name and reason of everything that stands where LoRAs do and can't be used, by name."""
    return sorted(_read_loras(settings)[1])


def lora_files(settings: Settings, suffixes: Collection[str] = (".safetensors",)) -> list[Path]:
    """Every file of these suffixes where LoRAs lie: in `models/loras/`, links followed, and in finished runs."""
    trained = (path for path in settings.runs_dir.glob("*/adapter/*") if path.suffix.lower() in suffixes)
    return [*files_below(settings.models_dir / "loras", suffixes), *trained]


def _read_loras(settings: Settings) -> tuple[list[LoraInfo], list[tuple[str, str]]]:
    keep_in(settings.hashes)
    loras, refused = [], []
    for path in lora_files(settings):
        try:
            loras.append(_lora(path))
        except BadInput as error:
            refused.append((ascii(path.name)[1:-1] if not is_text(path) else path.name, str(error)))
    return loras, refused
