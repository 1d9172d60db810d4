"""LoRAs on a loaded model, for the length of a `with` block. Knows weights and layers, not what an adapter teaches.

The low-rank product is added to the weights (2106.09685, section 4.1: no extra latency), and the very tensors from
before are put back at the end: afterwards the model gives bit-identical output. Reads the three formats in use: kohya
(A1111, ComfyUI, Civitai), diffusers and PEFT.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from studio.core.errors import BadInput
from studio.engine.models.catalogue import LORA_DOWN, lora_header
from studio.engine.models.weights import fingerprint

if TYPE_CHECKING:
    from studio.engine.models.components import Components

# the second halves, in the order of `models.LORA_DOWN`
_UP = (".lora_up.weight", ".lora_B.weight", ".lora.up.weight", "_lora.up.weight", ".lora_linear_layer.up.weight")


@dataclass(frozen=True)
class LowRank:
    """One layer's pair: `down` (rank, in, ...), `up` (out, rank, ...); its product counts `scale` times."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float


@dataclass(frozen=True)
class Adapter:
    """A read LoRA file: pairs by the name of the layer that they belong to, in the UNet and in the text encoder."""

    name: str
    unet: Mapping[str, LowRank]
    text_encoder: Mapping[str, LowRank]


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
    unet_names = _names(components.unet)
    text_names = _names(components.text_encoder)
    pairs_of: dict[str, dict[str, LowRank]] = {"unet": {}, "text_encoder": {}}
    for key, down in tensors.items():
        end = next((suffix for suffix in LORA_DOWN if key.endswith(suffix)), None)
        if end is None:
            continue
        stem = key.removesuffix(end)
        up = tensors.get(stem + _UP[LORA_DOWN.index(end)])
        if up is None:
            raise BadInput(f"{path.name} is incomplete: the second half of a layer is missing; download it again.")
        part, layer = _layer(stem, end, unet_names, text_names)
        module = getattr(components, part)
        if (
            layer is None
            or (weight := module.get_parameter(layer + ".weight")).numel() != up.shape[0] * down[0].numel()
        ):
            raise BadInput(_other_architecture(path, header.metadata, tensors, components))
        if weight.shape[0] != up.shape[0] or down.shape[0] != up.shape[1]:
            raise BadInput(_other_architecture(path, header.metadata, tensors, components))
        rank = down.shape[0]
        alpha = tensors.get(stem + ".alpha")
        if alpha is None:
            alpha = _alpha_of(alphas, part, layer, rank)
        # rank-stabilised LoRA (2312.03732) divides by the root of the rank
        scale = float(alpha) / (rank**0.5 if alphas.get(f"{part}.use_rslora") else rank)
        pairs_of[part][layer] = LowRank(down, up, scale)
    if not pairs_of["unet"] and not pairs_of["text_encoder"]:
        raise BadInput(f"{path.name} is not a LoRA: it has no low-rank layers; choose a LoRA file.")
    return Adapter(path.stem, pairs_of["unet"], pairs_of["text_encoder"])


@contextmanager
def attached(
    components: Components, loras: Sequence[tuple[Path, float]] = (), fast: Path | None = None
) -> Iterator[None]:
    """Apply LoRA files with their weights, and the few-step adapter `fast` at 1, to the model inside the block.

    Several add up. Undone exactly, also when the block raises; nothing is changed when a file can't be read. While it
    is attached, don't load or move the model. Raises BadInput (see `read`).
    """
    wanted = [(path, weight) for path, weight in loras if weight != 0]
    if fast is not None:
        wanted.append((fast, 1.0))
    adapters = [(read(path, components), weight) for path, weight in wanted]
    changed: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
    text_key = components.text_key
    try:
        for part in ("unet", "text_encoder"):
            layers: dict[str, list[tuple[LowRank, float]]] = {}
            for adapter, weight in adapters:
                for layer, pair in getattr(adapter, part).items():
                    layers.setdefault(layer, []).append((pair, weight))
            for layer, pairs in layers.items():
                parameter = getattr(components, part).get_parameter(layer + ".weight")
                changed.append((parameter, parameter.data))
                parameter.data = _merged(parameter.data, pairs)
        components.text_key = text_key + tuple(
            (fingerprint(path), weight)
            for (path, weight), (adapter, _) in zip(wanted, adapters, strict=True)
            if adapter.text_encoder
        )
        yield
    finally:
        components.text_key = text_key
        for parameter, before in reversed(changed):
            parameter.data = before


@torch.no_grad()
def _merged(weight: torch.Tensor, pairs: Sequence[tuple[LowRank, float]]) -> torch.Tensor:
    """weight + sum of strength * scale * up @ down, in fp32 before it is rounded; same layout in memory."""
    total = weight.float().clone(memory_format=torch.preserve_format)
    for pair, strength in pairs:
        up, down = (half.to(weight.device, torch.float32).flatten(1) for half in (pair.up, pair.down))
        total += (strength * pair.scale) * (up @ down).reshape(weight.shape)
    return total.to(weight.dtype)


def _refuse_no_numbers(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise BadInput when there is a NaN or an infinity: it would spread over every picture at any weight."""
    # 8-bit floats have no `isfinite` of their own
    bad = [key for key, value in tensors.items() if value.is_floating_point() and not value.float().isfinite().all()]
    if bad:
        raise BadInput(
            f"The LoRA {path.name} holds values that are no numbers (NaN or infinity) in {len(bad)} of its "
            f"{len(tensors)} tensors: its training failed, and no weight helps; use another file."
        )


def _names(module: torch.nn.Module) -> dict[str, str]:
    """Layers that a LoRA may change, by dotted name and by kohya's name with underscores."""
    layers = [name for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)]
    return {name: name for name in layers} | {name.replace(".", "_"): name for name in layers}


def _layer(stem: str, end: str, unet: Mapping[str, str], text: Mapping[str, str]) -> tuple[str, str | None]:
    """Which part a key belongs to, and the layer there (None: there is no such layer)."""
    stem = stem.removeprefix("base_model.model.")
    if end == "_lora.down.weight":  # diffusers before 0.20: attn1.processor.to_q_lora.down.weight
        stem = stem.replace(".processor.", ".")
        stem += ".0" if stem.endswith("to_out") else ""
    for prefix in ("lora_te_", "lora_te1_", "text_encoder."):
        if stem.startswith(prefix):
            # transformers 5 left the outermost name away that all files still have
            stem = re.sub(r"^text_model[._]", "", stem.removeprefix(prefix))
            return "text_encoder", text.get(stem) or text.get("text_model." + stem) or text.get("text_model_" + stem)
    for prefix in ("lora_unet_", "unet."):
        if stem.startswith(prefix):
            stem = stem.removeprefix(prefix)
            break
    return "unet", unet.get(stem)


def _configured_alphas(path: Path, metadata: Mapping[str, str]) -> dict[str, object]:
    """The PEFT configuration of a file without alpha tensors: beside it (PEFT) or in its metadata (diffusers)."""
    config_file = path.parent / "adapter_config.json"
    try:
        if "lora_adapter_metadata" in metadata:
            return dict(json.loads(metadata["lora_adapter_metadata"]))
        if path.name == "adapter_model.safetensors" and config_file.is_file():
            return {
                f"unet.{key}": value for key, value in json.loads(config_file.read_text(encoding="utf-8-sig")).items()
            }
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
    alpha = configured.get(f"{part}.lora_alpha")
    return float(alpha) if isinstance(alpha, int | float) else float(rank)


def _other_architecture(
    path: Path, metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor], components: Components
) -> str:
    base_model = metadata.get("ss_base_model_version") or metadata.get("modelspec.architecture") or ""
    base_model = base_model.removesuffix("/lora")
    if not base_model and any(key.startswith(("lora_te2_", "text_encoder_2.")) for key in tensors):
        base_model = "SDXL"
    kind = f" ({base_model})" if base_model else ""
    return (
        f"The LoRA {path.name} was made for another kind of model{kind} and doesn't fit "
        f"{components.info.title}; choose one that was trained on this kind."
    )
