"""One trained adapter as the three kinds of file in use: kohya (A1111, Forge, ComfyUI), diffusers, PEFT.

    adapter/<name>.safetensors                       kohya, with `.alpha` tensors and `ss_*` metadata: opens everywhere
    adapter/epochs/epoch-0005.safetensors            the same of earlier checkpoints, for the epoch x weight grid
    adapter/diffusers/pytorch_lora_weights.safetensors
    adapter/peft/{unet,text_encoder,text_encoder_2}/adapter_model.safetensors + adapter_config.json
    adapter/studio.json, adapter/README.md           what the studio's LoRA list and the Hub show

Knows tensors and names of layers, not how they were trained. The alpha of each format is its own: kohya's stands in the
file, PEFT's in the configuration, and diffusers' file has none, so there alpha / rank is multiplied into B.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save, save_file
from torch import Tensor

from studio.training.export.folder import fresh_folder, replace_folder

_ALPHAS = ".alpha"
SDXL_BASE = "sdxl_base_v1-0"
_ARCHITECTURES = {"sd_v1": "stable-diffusion-v1", SDXL_BASE: "stable-diffusion-xl-v1-base"}
_PRIVATE = ("kind", "name", "data", "model", "loras")  # said elsewhere, or paths of the machine it was trained on


@dataclass(frozen=True)
class Adapter:
    """Low-rank pairs by layer: `<layer>.lora_A.weight` (rank, in, ...) and `<layer>.lora_B.weight` (out, rank, ...)."""

    unet: Mapping[str, Tensor]
    rank: int
    alpha: float
    targets: tuple[str, ...]
    text_encoder: Mapping[str, Tensor] = field(default_factory=dict)  # layers as in CLIPTextModel
    text_targets: tuple[str, ...] = ()
    text_encoder_2: Mapping[str, Tensor] = field(default_factory=dict)  # as in CLIPTextModelWithProjection

    @property
    def parts(self) -> dict[str, Mapping[str, Tensor]]:
        texts = {"text_encoder": self.text_encoder, "text_encoder_2": self.text_encoder_2}
        return {"unet": self.unet} | {part: state for part, state in texts.items() if state}


@dataclass(frozen=True)
class Card:
    """What an export says about itself, in its metadata and in its model card."""

    title: str
    base: str  # the base model's name; no path, which would tell of the machine it was trained on
    hub_id: str = ""  # of the base model, where it has one
    base_version: str = "sd_v1"  # kohya's word for the family
    kind: str = "style or character LoRA"
    trigger_words: tuple[str, ...] = ()
    license: str = ""
    weight: float = 1.0  # at which to start
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)  # pictures, digest, tags: {tag: count}
    losses: Sequence[tuple[int, float]] = ()  # (step, smoothed loss)
    pictures: Sequence[Path] = ()  # copied beside the card


def from_parameters(
    values: Mapping[str, Tensor], rank: int, alpha: float, targets: Sequence[str], text_targets: Sequence[str] = ()
) -> Adapter:
    """An adapter from PEFT's parameters by name, `unet.` or a text encoder's in front (a run's, or a checkpoint's)."""
    parts: dict[str, dict[str, Tensor]] = {"unet": {}, "text_encoder": {}, "text_encoder_2": {}}
    for name, value in values.items():
        part, _, rest = name.partition(".")
        layer, _, half = rest.rpartition(".lora_")
        parts[part][f"{layer}.lora_{half[0]}.weight"] = value.detach().float().cpu().clone()
    texts = parts["text_encoder"], tuple(text_targets), parts["text_encoder_2"]
    return Adapter(parts["unet"], rank, alpha, tuple(targets), *texts)


# --- the three formats ---------------------------------------------------------------------------------------------


def diffusers_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """`unet.<layer>.lora_A.weight`, with alpha / rank multiplied into B: readers without metadata take alpha = rank."""
    scale = adapter.alpha / adapter.rank
    return {
        f"{part}.{key}": value * scale if ".lora_B." in key else value.clone()
        for part, state in adapter.parts.items()
        for key, value in state.items()
    }


def kohya_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """`lora_unet_<layer_with_underscores>.lora_down.weight`, `.lora_up.weight` and the true `.alpha` of each layer.

    (diffusers' own converter writes the rank as alpha, always.)
    """
    tensors: dict[str, Tensor] = {}
    first = "lora_te1_" if adapter.text_encoder_2 else "lora_te_"
    prefixes = {"unet": "lora_unet_", "text_encoder": first, "text_encoder_2": "lora_te2_"}
    for part, state in adapter.parts.items():
        for key, value in state.items():
            layer, _, half = key.rpartition(".lora_")
            if part != "unet":
                # transformers 5 dropped this level from CLIPTextModel; every reader of the format expects it
                layer = layer if layer.startswith("text_model.") else f"text_model.{layer}"
            name = prefixes[part] + layer.replace(".", "_")
            tensors[f"{name}.lora_{'down' if half.startswith('A') else 'up'}.weight"] = value.clone()
            tensors[name + _ALPHAS] = torch.tensor(float(adapter.alpha))
    return tensors


def peft_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`base_model.model.<layer>.lora_A.weight`, as `PeftModel` saves."""
    return {f"base_model.model.{key}": value.clone() for key, value in state.items()}


def kohya_metadata(adapter: Adapter, card: Card, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """`ss_*` keys (sd-scripts) and `modelspec.*` keys (Stability's model spec) that A1111 and ComfyUI show."""
    settings, data = card.settings, card.data
    architecture = _ARCHITECTURES.get(card.base_version, card.base_version)
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": adapter.rank,
        "ss_network_alpha": adapter.alpha,
        "ss_base_model_version": card.base_version,
        "ss_sd_model_name": card.base,
        "ss_output_name": card.title,
        "ss_v2": False,
        "ss_num_train_images": data.get("pictures"),
        "ss_tag_frequency": json.dumps({card.title: data["tags"]}, ensure_ascii=False) if data.get("tags") else None,
        "ss_dataset_hash": data.get("digest"),
        "ss_learning_rate": settings.get("learning_rate"),
        "ss_unet_lr": settings.get("learning_rate"),
        "ss_text_encoder_lr": settings.get("text_encoder_lr"),
        "ss_optimizer": settings.get("optimizer"),
        "ss_num_epochs": settings.get("epochs"),
        "ss_seed": settings.get("seed"),
        "ss_min_snr_gamma": settings.get("min_snr_gamma"),
        "ss_noise_offset": settings.get("noise_offset"),
        "ss_caption_dropout_rate": settings.get("caption_dropout"),
        "ss_max_train_steps": settings.get("steps"),
        "ss_resolution": settings.get("resolution"),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": card.title,
        "modelspec.trigger_phrase": ", ".join(card.trigger_words),
        "modelspec.license": card.license,
        "sshs_model_hash": hash_of(save(dict(tensors))),
    }
    return {key: str(value) for key, value in metadata.items() if value not in (None, "")}


def hash_of(file: bytes) -> str:
    """Of a safetensors file without its header, so that it outlives other metadata (sd-scripts' addnet_hash)."""
    return hashlib.sha256(file[8 + int.from_bytes(file[:8], "little") :]).hexdigest()


def base_version(title: str, unet_config: Mapping[str, Any]) -> str:
    """kohya's word for a base model: `sd_v1` or SDXL's for whatever has their inputs, else its own name."""
    if unet_config.get("addition_embed_type") == "text_time" and unet_config.get("cross_attention_dim") == 2048:
        return SDXL_BASE
    sd1 = unet_config.get("cross_attention_dim") == 768 and unet_config.get("in_channels") == 4
    return "sd_v1" if sd1 else title


def with_metadata(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with its metadata in alphabetical order: the library writes it in another order each time."""
    plain = save(dict(tensors))
    length = int.from_bytes(plain[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(plain[8 : 8 + length])}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text + plain[8 + length :]


def write(folder: Path, adapter: Adapter, card: Card, epochs: Mapping[str, Adapter] | None = None) -> Path:
    """Write all formats and the card into `folder`, whole or not at all; the path of the kohya file.

    `epochs`: earlier states of the adapter by name, each written as one kohya file. What was in `folder` before is
    replaced. Raises OSError when the disk is full; the old export is intact then.
    """
    fresh = fresh_folder(folder)
    (fresh / "diffusers").mkdir()
    name = f"{card.title}.safetensors"
    kohya = kohya_tensors(adapter)
    (fresh / name).write_bytes(with_metadata(kohya, kohya_metadata(adapter, card, kohya)))
    save_file(
        diffusers_tensors(adapter), fresh / "diffusers" / "pytorch_lora_weights.safetensors", metadata={"format": "pt"}
    )
    for earlier, state in (epochs or {}).items():
        (fresh / "epochs").mkdir(exist_ok=True)
        kohya = kohya_tensors(state)
        data = with_metadata(kohya, kohya_metadata(state, replace(card, title=f"{card.title} {earlier}"), kohya))
        (fresh / "epochs" / f"{earlier}.safetensors").write_bytes(data)
    for part, tensors in adapter.parts.items():
        target = fresh / "peft" / part
        targets = adapter.targets if part == "unet" else adapter.text_targets
        LoraConfig(r=adapter.rank, lora_alpha=adapter.alpha, target_modules=sorted(targets)).save_pretrained(target)
        save_file(peft_tensors(tensors), target / "adapter_model.safetensors", metadata={"format": "pt"})
    facts = {
        "title": card.title,
        "trigger_words": list(card.trigger_words),
        "weight": card.weight,
        "base": card.base,
        "license": card.license,
    }
    (fresh / "studio.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1), encoding="utf-8")
    for picture in card.pictures:
        shutil.copy(picture, fresh / picture.name)
    (fresh / "README.md").write_text(model_card(adapter, card), encoding="utf-8")
    replace_folder(folder, fresh)
    return folder / name


def model_card(adapter: Adapter, card: Card) -> str:
    """The model card (README.md with the Hub's front matter): how to use it, data, settings, loss, samples, licence."""
    front = ["---", "library_name: diffusers"]
    front += [f"base_model: {json.dumps(card.hub_id)}"] if card.hub_id else []  # the Hub refuses any other name
    # the Hub knows licences by identifiers only; anything else is "other" with a name
    front += ["license: other", f"license_name: {json.dumps(card.license)}"] if card.license else []
    front += ["tags:", "- lora", "- text-to-image", "- stable-diffusion", "- diffusers"]
    if card.trigger_words:
        front.append(f"instance_prompt: {json.dumps(', '.join(card.trigger_words), ensure_ascii=False)}")
    words = ", ".join(f"`{word}`" for word in card.trigger_words) or "none"
    lines = [
        *front,
        "---",
        "",
        f"# {card.title}",
        "",
        f"A {card.kind} for {card.base}, made with Anime Character Studio on {time.strftime('%Y-%m-%d')}.",
        "",
        f"- Trigger words: {words}",
        f"- Start at weight {card.weight:g}",
        f"- Licence: {card.license or 'not stated'}",
        "",
        "## Files",
        "",
        f"- `{card.title}.safetensors`: A1111, Forge, ComfyUI (kohya format)",
        "- `diffusers/`: `pipe.load_lora_weights(...)`",
        "- `peft/`: `PeftModel.from_pretrained(...)`",
        "",
        "## Data",
        "",
        *(f"- {key}: {value}" for key, value in card.data.items() if key != "tags"),
    ]
    tags: Mapping[str, int] = card.data.get("tags") or {}
    if tags:
        lines.append("- most common tags: " + ", ".join(f"{tag} ({count})" for tag, count in list(tags.items())[:20]))
    lines += ["", "## Settings", "", f"- rank {adapter.rank}, alpha {adapter.alpha:g}: {', '.join(adapter.targets)}"]
    lines += [f"- {key}: {value}" for key, value in card.settings.items() if key not in _PRIVATE]
    if card.losses:
        every = max(1, len(card.losses) // 20)
        lines += ["", "## Loss (smoothed)", "", "| step | loss |", "|---|---|"]
        lines += [f"| {step} | {loss:.4f} |" for step, loss in [*card.losses[::every], card.losses[-1]]]
    if card.pictures:
        lines += ["", "## Samples", "", *(f"![{picture.stem}]({picture.name})" for picture in card.pictures)]
    return "\n".join(lines) + "\n"
