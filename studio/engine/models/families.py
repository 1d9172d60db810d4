"""Everything that differs between families of models, as data. Another family is one more entry here.

Knows no file, no device and no weights; loads no torch. What differs between models of one family (native size, best
steps, trained tags) is not here: it stands in the `studio.json` beside each model's weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from studio.core.errors import BadInput


@dataclass(frozen=True)
class FastReference:
    """A few-step adapter published for a whole family."""

    reference: str  # on the Hugging Face Hub
    file: str
    steps: int
    guidance: float
    sampler: str


@dataclass(frozen=True)
class Family:
    """What code may need to know about a kind of model; sizes in pixels, layer names as in diffusers."""

    name: str
    title: str
    default_model: str
    download_bytes: int  # of the default model, as `hub.get` would fetch it in 32 bits; for CUDA it is half of that
    default_size: int
    steps: int
    guidance: float
    sampler: str
    text_encoders: tuple[str, ...]  # sub-folders; a model that has others is of another family
    lora_targets: tuple[str, ...]
    lcm_lora_targets: tuple[str, ...]
    single_file_config: str  # folder under assets/models: configs and tokenizer for files that hold weights only
    single_file_key: str  # a tensor that every single file of this family has
    fast: FastReference | None = None
    controlnets: Mapping[str, str] = field(default_factory=dict)  # kind of drawing -> reference


SD15 = Family(
    name="sd15",
    title="Stable Diffusion 1.5",
    default_model="stable-diffusion-v1-5/stable-diffusion-v1-5",
    download_bytes=4_270_000_000,
    default_size=512,
    steps=20,
    guidance=7.0,
    sampler="dpmpp_2m_karras",
    text_encoders=("text_encoder",),
    # `to_out` is a list of a linear layer and a dropout: the layer itself has to be named
    lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
    # LCM-LoRA (2311.05556), as in diffusers' distillation script
    lcm_lora_targets=(
        "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
        "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
    ),
    single_file_config="sd15-config",
    single_file_key="model.diffusion_model.input_blocks.0.0.weight",
    fast=FastReference("latent-consistency/lcm-lora-sdv1-5", "pytorch_lora_weights.safetensors", 4, 1.0, "lcm"),
    controlnets={
        "canny": "lllyasviel/control_v11p_sd15_canny",
        "lines": "lllyasviel/control_v11p_sd15s2_lineart_anime",
        "scribble": "lllyasviel/control_v11p_sd15_scribble",
    },
)  # fmt: skip

FAMILIES: dict[str, Family] = {family.name: family for family in (SD15,)}
SDXL = "This is an SDXL model, which the studio can't draw with yet; choose a Stable Diffusion 1.5 model."
OTHER = "This model is not of the Stable Diffusion family; choose a Stable Diffusion 1.5 model."


def accept(configuration: Mapping[str, Any]) -> None:
    """Raise BadInput when a `model_index.json`, or the `config.json` of a UNet, is of a model that can't be used.

    For a model that isn't here yet, so that gigabytes aren't downloaded to be refused (see `hub.get`).
    """
    if "UNet" in str(configuration.get("_class_name")) or "in_channels" in configuration:
        family_of(configuration)
        return
    if "XL" in str(configuration.get("_class_name")):
        raise BadInput(SDXL)
    parts = {name: part for name, part in configuration.items() if isinstance(part, list) and len(part) > 1 and part[1]}
    encoders = {name for name in parts if name.startswith("text_encoder")}
    if "unet" not in parts or not any(encoders == set(family.text_encoders) for family in FAMILIES.values()):
        raise BadInput(OTHER)
    if not all(str(parts[name][1]).startswith("CLIPText") for name in encoders):
        raise BadInput(OTHER)


def family_of(unet_config: Mapping[str, Any]) -> Family:
    """The family of a model, from the `config.json` of its UNet.

    Every latent diffusion UNet with one text encoder has SD 1.5's layout, whatever its size. Others: BadInput.
    """
    if unet_config.get("addition_embed_type") == "text_time":
        raise BadInput(SDXL)
    if unet_config.get("_class_name", "UNet2DConditionModel") != "UNet2DConditionModel":
        raise BadInput(OTHER)
    if unet_config.get("in_channels") != unet_config.get("out_channels") and not inpaints(unet_config):
        raise BadInput("This model needs an extra input picture (depth, an edit); choose a text-to-image model.")
    return SD15


def inpaints(unet_config: Mapping[str, Any]) -> bool:
    """Whether a UNet reads a mask and the picture without what it covers, as latents, beside its own latents."""
    channels = unet_config.get("out_channels")
    return isinstance(channels, int) and unet_config.get("in_channels") == 2 * channels + 1
