"""LoRAs on a loaded model, for the length of a `with` block. Knows weights and layers, not what an adapter teaches.

The low-rank product is added to the weights (2106.09685, section 4.1: no extra latency), and the very tensors from
before are put back at the end: afterwards the model gives bit-identical output. Reads the formats of kohya, LyCORIS,
ComfyUI, OneTrainer, diffusers and PEFT.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from studio.core.errors import BadInput, StudioError
from studio.engine.models.catalogue import lora_header
from studio.engine.models.lora_keys import complete, split_key
from studio.engine.models.lora_layers import PARTS, Change, find_layer, fits, layer_names, rank
from studio.engine.models.weights import fingerprint

if TYPE_CHECKING:
    from studio.engine.models.components import Components

# How files call our families that they were made for, in small letters
_SAID = {
    "sd15": ("sd_v1", "stable-diffusion-v1", "stable diffusion 1"),
    "sdxl": ("sdxl", "stable-diffusion-xl"),
}
_ONLY_SD1 = ("unet_down_blocks_0_attentions_", "input_blocks_1_1_")


@dataclass(frozen=True)
class Adapter:
    """A read LoRA file: changes by the name of the layer that they belong to, in the UNet and in the text encoders."""

    name: str
    unet: Mapping[str, Change]
    text_encoder: Mapping[str, Change]
    text_encoder_2: Mapping[str, Change]


def read(path: Path, components: Components) -> Adapter:
    """Read a LoRA file and fit it to the layers of this model.

    Raises BadInput when it is no LoRA, damaged, of a kind that isn't supported, or made for another architecture.
    """
    header = lora_header(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path.name} can't be read ({error}); download it again.") from None
    _refuse_no_numbers(path, tensors)
    alphas = _configured_alphas(path, header.metadata)
    names = _names(components)
    parts: dict[str, dict[str, dict[str, torch.Tensor]]] = {}
    unknown: list[str] = []  # layers that this model hasn't
    for key, value in tensors.items():
        known = split_key(key)
        if known is None:
            continue  # counted and named by `catalogue`
        stem, ending = known
        part, layer = find_layer(stem, names)
        if layer is None:
            unknown.append(stem)
            continue
        own = parts.setdefault(part, {}).setdefault(layer, {})
        if ending in own:
            raise BadInput(f"{path.name} has the layer {layer} under two names; get another version of it.")
        own[ending] = value
    made_for = _made_for(header.metadata, tensors).lower()
    other = made_for and not made_for.startswith(_SAID.get(components.family.name, ()))
    if unknown and (other or 4 * len(set(unknown)) > sum(map(len, parts.values()))):
        raise BadInput(_other_architecture(path, header.metadata, tensors, components))
    changes: dict[str, dict[str, Change]] = {part: {} for part in PARTS}
    for part, layers in parts.items():
        for layer, own in layers.items():
            alpha = own.pop("alpha", None)
            if not own:
                continue  # an alpha of nothing
            if not complete(own):
                raise BadInput(f"{path.name} is incomplete: the second half of a layer is missing; download it again.")
            low = rank(own) or _whole_rank(own, alphas, part)
            # rank-stabilised LoRA (2312.03732) divides by the root of the rank
            root = 0.5 if alphas.get(f"{part}.use_rslora") else 1.0
            scale = 1.0
            if alpha is not None and alpha.numel() != 1:
                raise BadInput(_other_architecture(path, header.metadata, tensors, components))
            if low is not None:
                scale = (_alpha_of(alphas, part, layer, low) if alpha is None else float(alpha)) / low**root
            change = Change(own, scale)
            module = getattr(components, part).get_submodule(layer)
            if not fits(change, module.weight.data, getattr(module, "bias", None)):
                raise BadInput(_other_architecture(path, header.metadata, tensors, components))
            changes[part][layer] = change
    if unknown:
        count = len(set(unknown))
        raise BadInput(
            f"The LoRA {path.name} fits {components.info.title} but for {count} of its layers (such as "
            f"{min(unknown)[:80]}), which this model hasn't; get another version of it."
        )
    if not any(changes.values()):
        raise BadInput(f"{path.name} is not a LoRA: it has no low-rank layers; choose a LoRA file.")
    return Adapter(path.stem, **changes)


def _names(components: Components) -> dict[str, dict[str, str]]:
    """The layers of each part that a LoRA may change, by every name that files have for them."""
    modules = {part: getattr(components, part) for part in PARTS}
    return {part: layer_names(module) for part, module in modules.items() if module is not None}


@dataclass(frozen=True)
class Merged:
    """Weights of a model with adapters added, to be put in the place of its own ones as often as they are wanted."""

    key: tuple[Any, ...]
    weights: list[tuple[torch.nn.Parameter, torch.Tensor]]
    text_key: tuple[Any, ...]

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for _, tensor in self.weights)


@contextmanager
def attached(
    components: Components, loras: Sequence[tuple[Path, float]] = (), fast: Path | None = None, keep: bool = False
) -> Iterator[None]:
    """Apply LoRA files with their weights, and the few-step adapter `fast` at 1, to the model inside the block.

    Several add up. Undone exactly, also when the block raises; nothing is changed when a file can't be read. While it
    is attached, don't load or move the model. `keep`: what was added up stays in memory beside the model, for the next
    block with the same files. Raises BadInput (see `read`).
    """
    wanted = _wanted(loras, fast)
    merged = components.merged
    if merged is None or merged.key != _key(components, wanted):
        components.merged = None  # two would be one too many
        merged = _merge(components, wanted)
    text_key = components.text_key
    own = [(parameter, parameter.data) for parameter, _ in merged.weights]
    try:
        for parameter, tensor in merged.weights:
            parameter.data = tensor
        components.text_key = text_key + merged.text_key
        yield
    finally:
        components.text_key = text_key
        for parameter, before in own:
            parameter.data = before
        components.merged = merged if keep and merged.weights else None


def merging_bytes(components: Components, loras: Sequence[tuple[Path, float]], fast: Path | None) -> int:
    """Bytes that `attached` will take on the device for these files: nothing where what it added up was kept.

    A file that can't be used counts as nothing: `attached` says what is wrong with it.
    """
    wanted, merged = _wanted(loras, fast), components.merged
    if components.offload_hook is not None or (merged is not None and merged.key == _key(components, wanted)):
        return 0  # offloaded weights are added up in main memory
    names, changed = _names(components), set()
    for path, _ in wanted:
        try:
            stems = {known[0] for key in lora_header(path).tensors if (known := split_key(key)) is not None}
        except StudioError:
            continue
        changed |= {find_layer(stem, names) for stem in stems}
    layers = [getattr(components, part).get_submodule(layer) for part, layer in changed if layer is not None]
    return sum(layer.weight.numel() * layer.weight.element_size() for layer in layers)


def _wanted(loras: Sequence[tuple[Path, float]], fast: Path | None) -> list[tuple[Path, float]]:
    return [(path, weight) for path, weight in loras if weight != 0] + ([(fast, 1.0)] if fast is not None else [])


def _key(components: Components, wanted: Sequence[tuple[Path, float]]) -> tuple[Any, ...]:
    return (components.dtype, *((fingerprint(path), weight) for path, weight in wanted if path.is_file()))


@torch.no_grad()
def _merge(components: Components, wanted: Sequence[tuple[Path, float]]) -> Merged:
    """The weights that these files change, changed; the model stays as it is."""
    adapters = [(read(path, components), weight) for path, weight in wanted]
    weights: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
    for part in PARTS:
        layers: dict[str, list[tuple[Change, float]]] = {}
        for adapter, weight in adapters:
            for layer, change in getattr(adapter, part).items():
                layers.setdefault(layer, []).append((change, weight))
        for layer, several in layers.items():
            module = getattr(components, part).get_submodule(layer)
            weights.append((module.weight, _changed_weight(module.weight.data, several)))
            biases = [(added, strength) for change, strength in several if (added := change.bias()) is not None]
            if biases:
                weights.append((module.bias, _changed_bias(module.bias.data, biases)))
    text_key = tuple(
        (fingerprint(path), weight)
        for (path, weight), (adapter, _) in zip(wanted, adapters, strict=True)
        if adapter.text_encoder or adapter.text_encoder_2
    )
    return Merged(_key(components, wanted), weights, text_key)


def _changed_weight(weight: torch.Tensor, changes: Sequence[tuple[Change, float]]) -> torch.Tensor:
    """weight + the sum of all changes, in fp32 before it is rounded; same layout in memory."""
    before = weight.float()
    total = before.clone(memory_format=torch.preserve_format)
    for change, strength in changes:
        delta = change.delta(before, strength)
        if delta is not None:
            total += delta
    return total.to(weight.dtype)


def _changed_bias(bias: torch.Tensor, added: Sequence[tuple[torch.Tensor, float]]) -> torch.Tensor:
    total = bias.float().clone()
    for value, strength in added:
        total += strength * value.to(bias.device, torch.float32)
    return total.to(bias.dtype)


def _refuse_no_numbers(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise BadInput when there is a NaN or an infinity: it would spread over every picture at any weight."""
    # 8-bit floats have no `isfinite` of their own
    bad = [key for key, value in tensors.items() if value.is_floating_point() and not value.float().isfinite().all()]
    if bad:
        raise BadInput(
            f"The LoRA {path.name} holds values that are no numbers (NaN or infinity) in {len(bad)} of its "
            f"{len(tensors)} tensors: its training failed, and no weight helps; use another file."
        )


def _configured_alphas(path: Path, metadata: Mapping[str, str]) -> dict[str, object]:
    """The PEFT configuration of a file without alpha tensors: beside it (PEFT) or in its metadata (diffusers)."""
    config_file = path.parent / "adapter_config.json"
    try:
        if "lora_adapter_metadata" in metadata:
            return dict(json.loads(metadata["lora_adapter_metadata"]))
        if path.name == "adapter_model.safetensors" and config_file.is_file():
            said = json.loads(config_file.read_text(encoding="utf-8-sig"))  # of one part, whichever it is
            return {f"{part}.{key}": value for part in PARTS for key, value in said.items()}
    except (ValueError, AttributeError, TypeError):
        raise BadInput(f"The settings of {path.name} are not readable JSON; export the LoRA again.") from None
    return {}


def _alpha_of(configured: Mapping[str, object], part: str, layer: str, rank: int) -> float:
    """Alpha of a layer as PEFT stored it; without any, alpha = rank, as every loader assumes."""
    pattern = configured.get(f"{part}.alpha_pattern")
    if isinstance(pattern, dict):
        for ending, alpha in pattern.items():
            if re.fullmatch(rf"(.*\.)?({ending})", layer):
                return float(alpha)
    alpha = configured.get(f"{part}.lora_alpha", configured.get(f"{part}.alpha"))  # LoHa's and LoKr's is `alpha`
    return float(alpha) if isinstance(alpha, int | float) else float(rank)


def _whole_rank(own: Mapping[str, torch.Tensor], configured: Mapping[str, object], part: str) -> int | None:
    """PEFT divides by the rank that was asked for also where both sides of a LoKr are whole; LyCORIS doesn't."""
    asked = configured.get(f"{part}.r")
    return asked if "lokr_w1" in own and isinstance(asked, int) and asked > 0 else None


def _made_for(metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    """The kind of model that a file was made for, as it says itself or its layers do; "" where neither does."""
    base_model = metadata.get("ss_base_model_version") or metadata.get("modelspec.architecture") or ""
    base_model = base_model.removesuffix("/lora")
    if not base_model and any(key.startswith(("lora_te1_", "lora_te2_", "text_encoder_2.")) for key in tensors):
        base_model = "SDXL"
    # the largest level of SDXL has no attention
    if not base_model and any(part in key.replace(".", "_") for key in tensors for part in _ONLY_SD1):
        base_model = "Stable Diffusion 1.5 or 2"
    return base_model


def _other_architecture(
    path: Path, metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor], components: Components
) -> str:
    base_model = _made_for(metadata, tensors)
    kind = f" ({base_model})" if base_model else ""
    return (
        f"The LoRA {path.name} was made for another kind of model{kind} and doesn't fit "
        f"{components.info.title}; choose one that was trained on this kind."
    )
