"""Everything that differs between families of models, as data. Another family is one more entry here.

Knows no file, no device and no weights; loads no torch. What differs between models of one family (native size, best
steps, trained tags) is not here: it stands in the `studio.json` beside each model's weights, and for the models that
the list offers in `Published`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from studio.core.errors import BadInput


@dataclass(frozen=True)
class FastReference:
    """A few-step adapter published for a whole family. Its file is known by its name, wherever it lies."""

    reference: str  # on the Hugging Face Hub
    file: str
    steps: int
    guidance: float
    sampler: str
    license: str = ""
    # of one that is downloaded when it is asked for: it is checked to be the file that is known, whatever its name
    title: str = ""
    download_bytes: int = 0
    sha256: str = ""

    @property
    def said(self) -> str:
        """What it is, for whoever is about to download it."""
        size = f"{self.download_bytes / 1e6:.0f} MB"
        return f"{self.title} ({self.reference}, {size}, licence {self.license})"


@dataclass(frozen=True)
class PromptWords:
    """What a model was taught to call good pictures and bad ones; it takes the place of the writers' own words."""

    quality: tuple[str, ...]
    negative: tuple[str, ...]


@dataclass(frozen=True)
class Published:
    """A model on the Hugging Face Hub that the list offers, with what its card says."""

    reference: str
    download_bytes: int  # in 32 bits where it has them, as `hub.get` would fetch it; for CUDA it may be half of that
    license: str = ""
    steps: int | None = None  # None: the family's
    guidance: float | None = None
    sampler: str = ""
    words: PromptWords | None = None


@dataclass(frozen=True)
class Family:
    """What code may need to know about a kind of model; sizes in pixels, layer names as in diffusers."""

    name: str
    title: str
    published: tuple[Published, ...]  # the first is the default
    parameters: int  # of all that draws
    unet_parameters: int  # of these
    default_size: int
    steps: int
    guidance: float
    sampler: str
    text_encoders: tuple[str, ...]  # sub-folders; a model that has others is of another family
    lora_targets: tuple[str, ...]
    lcm_lora_targets: tuple[str, ...]
    single_file_config: str  # folder under assets/models: configs for files that hold weights only
    single_file_kind: str  # what `file_kinds.kind_of` calls such a file
    single_file_text: Mapping[str, str]  # where such a file has its text encoders
    text_layers: int  # how far from its end a text encoder can be read
    text_width: int  # of what published ControlNets and few-step adapters read; a model of another width has none
    single_file_key: str = "model.diffusion_model.input_blocks.0.0.weight"  # a tensor that every such file has
    pads: Mapping[str, str] = field(default_factory=dict)  # by tokenizer, where it isn't the end of a text
    vae_model: str = ""  # reference of the model whose autoencoder files without one take; "": the default model
    vae_overflows: bool = False  # in 16 bits, unless its configuration says that it was mended (`force_upcast`)
    sizes: tuple[tuple[int, int], ...] = ()  # width and height it was trained with, the best first; none: any shape
    fast: tuple[FastReference, ...] = ()  # the first that is on this machine is taken by itself
    controlnets: Mapping[str, str] = field(default_factory=dict)  # kind of drawing -> reference

    @property
    def default_model(self) -> str:
        """Reference of the model that stands for the family."""
        return self.published[0].reference

    @property
    def download_bytes(self) -> int:
        """Of the default model."""
        return self.published[0].download_bytes

    def fast_for(self, unet_config: Mapping[str, Any]) -> tuple[FastReference, ...]:
        """The published few-step adapters, where they fit a UNet; none fits one that was distilled whole."""
        fits = unet_config.get("cross_attention_dim") == self.text_width
        return self.fast if fits and not unet_config.get("time_cond_proj_dim") else ()

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """Sub-folders, one for each text encoder."""
        return tuple(name.replace("text_encoder", "tokenizer") for name in self.text_encoders)


# `to_out` is a list of a linear layer and a dropout: the layer itself has to be named
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
# LCM-LoRA (2311.05556), as in diffusers' distillation script
_LCM_TARGETS = (
    *_ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut",
    "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
)  # fmt: skip

SD15 = Family(
    name="sd15",
    title="Stable Diffusion 1.5",
    published=(Published("stable-diffusion-v1-5/stable-diffusion-v1-5", 4_270_000_000),),
    parameters=1_066_235_307,
    unet_parameters=859_520_964,
    default_size=512,
    steps=20,
    guidance=7.0,
    sampler="dpmpp_2m_karras",
    text_encoders=("text_encoder",),
    lora_targets=_ATTENTION,
    lcm_lora_targets=_LCM_TARGETS,
    single_file_config="sd15-config",
    single_file_kind="",
    single_file_text={"text_encoder": "cond_stage_model.transformer."},
    text_layers=12,
    text_width=768,
    fast=(
        FastReference(
            "latent-consistency/lcm-lora-sdv1-5", "pytorch_lora_weights.safetensors", 4, 1.0, "lcm", "openrail++",
            "LCM-LoRA", 134_621_556, "8f90d840e075ff588a58e22c6586e2ae9a6f7922996ee6649a7f01072333afe4",
        ),
    ),
    controlnets={
        "canny": "lllyasviel/control_v11p_sd15_canny",
        "lines": "lllyasviel/control_v11p_sd15s2_lineart_anime",
        "scribble": "lllyasviel/control_v11p_sd15_scribble",
    },
)  # fmt: skip

# Hyper's and Lightning's steps are Euler's from the end of the schedule, which DDIM's are in other words
_LIGHTNING, _HYPER = "ByteDance/SDXL-Lightning", "ByteDance/Hyper-SD"
_SDXL_FAST = (
    FastReference(
        "tianweiy/DMD2", "dmd2_sdxl_4step_lora_fp16.safetensors", 4, 1.0, "dmd2", "CC BY-NC 4.0, not for commerce"
    ),
    FastReference(_LIGHTNING, "sdxl_lightning_4step_lora.safetensors", 4, 1.0, "ddim", "openrail++"),
    FastReference(_LIGHTNING, "sdxl_lightning_8step_lora.safetensors", 8, 1.0, "ddim", "openrail++"),
    FastReference(_HYPER, "Hyper-SDXL-4steps-lora.safetensors", 4, 1.0, "ddim", "see its card"),
    FastReference(_HYPER, "Hyper-SDXL-8steps-lora.safetensors", 8, 1.0, "ddim", "see its card"),
    FastReference(
        "latent-consistency/lcm-lora-sdxl", "pytorch_lora_weights.safetensors", 6, 1.0, "lcm", "openrail++",
        "LCM-LoRA for SDXL", 393_855_224, "a764e6859b6e04047cd761c08ff0cee96413a8e004c9f07707530cd776b19141",
    ),
)  # fmt: skip

# Stable Diffusion XL (2307.01952) without its refiner. Few of its fine-tunes draw squares best: these are the sizes of
# its training (appendix I) that anime models recommend, portraits first.
SDXL = Family(
    name="sdxl",
    title="SDXL",
    published=(
        Published(
            "OnomaAIResearch/Illustrious-XL-v1.0", 6_940_000_000, "sdxl-license", 28, 5.5, "euler_a",
            PromptWords(
                ("masterpiece", "best quality", "very aesthetic", "absurdres", "newest", "general"),
                ("lowres", "worst quality", "bad quality", "bad anatomy", "bad hands", "sketch", "jpeg artifacts",
                 "signature", "watermark", "old", "oldest"),
            ),
        ),
        Published(
            "Laxhar/noobai-XL-1.1", 7_110_000_000, "fair-ai-public-license-1.0-sd, not for commerce", 28, 5.5,
            "euler_a",
            PromptWords(
                ("masterpiece", "best quality", "newest", "absurdres", "highres", "safe"),
                ("nsfw", "worst quality", "old", "early", "low quality", "lowres", "signature", "username", "logo",
                 "bad hands", "mutated hands", "mammal", "anthro", "furry", "ambiguous form", "feral", "semi-anthro"),
            ),
        ),
    ),
    parameters=3_468_837_867,
    unet_parameters=2_567_463_684,
    default_size=1024,
    steps=28,
    guidance=5.5,
    sampler="euler_a",
    text_encoders=("text_encoder", "text_encoder_2"),
    lora_targets=_ATTENTION,
    lcm_lora_targets=_LCM_TARGETS,
    single_file_config="sdxl-config",
    single_file_kind="an SDXL model",
    single_file_text={
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    text_layers=12,  # of the smaller one
    text_width=2048,
    pads={"tokenizer_2": "!"},
    vae_model="Laxhar/noobai-XL-1.1",
    vae_overflows=True,
    sizes=((832, 1216), (1216, 832), (896, 1152), (1152, 896), (768, 1344), (1344, 768), (1024, 1024)),
    fast=_SDXL_FAST,
    # one for all kinds of drawing, Apache 2.0 (`Control.kind`)
    controlnets=dict.fromkeys(("canny", "lines", "scribble"), "xinsir/controlnet-union-sdxl-1.0"),
)  # fmt: skip

FAMILIES: dict[str, Family] = {family.name: family for family in (SD15, SDXL)}
PUBLISHED: dict[str, tuple[Family, Published]] = {
    published.reference: (family, published) for family in FAMILIES.values() for published in family.published
}
# Adapters by the name of their file, without those that many files have
FAST_FILES: dict[str, FastReference] = {
    fast.file.lower(): fast
    for family in FAMILIES.values()
    for fast in family.fast
    if fast.file != "pytorch_lora_weights.safetensors"
}
KNOWN = " or ".join(family.title for family in FAMILIES.values())
OTHER = f"This model is not of the Stable Diffusion family; choose a {KNOWN} model."
REFINER = (
    "This is SDXL's refiner, which goes over pictures that another model has drawn and draws none itself; choose an "
    "SDXL base model."
)


def accept(configuration: Mapping[str, Any]) -> None:
    """Raise BadInput when a `model_index.json`, or the `config.json` of a UNet, is of a model that can't be used.

    For a model that isn't here yet, so that gigabytes aren't downloaded to be refused (see `hub.get`).
    """
    if "UNet" in str(configuration.get("_class_name")) or "in_channels" in configuration:
        family_of(configuration)
        return
    parts = {name: part for name, part in configuration.items() if isinstance(part, list) and len(part) > 1 and part[1]}
    encoders = {name for name in parts if name.startswith("text_encoder")}
    if encoders == {"text_encoder_2"} and "unet" in parts:
        raise BadInput(REFINER)
    if "unet" not in parts or not any(encoders == set(family.text_encoders) for family in FAMILIES.values()):
        raise BadInput(OTHER)
    if not all(str(parts[name][1]).startswith("CLIPText") for name in encoders):
        raise BadInput(OTHER)


def family_of(unet_config: Mapping[str, Any]) -> Family:
    """The family of a model, from the `config.json` of its UNet.

    Every latent diffusion UNet with one text encoder has SD 1.5's layout, whatever its size, and every one that is told
    a summary of the text and sizes has SDXL's. Others: BadInput.
    """
    if unet_config.get("_class_name", "UNet2DConditionModel") != "UNet2DConditionModel":
        raise BadInput(OTHER)
    if unet_config.get("in_channels") != unet_config.get("out_channels") and not inpaints(unet_config):
        raise BadInput("This model needs an extra input picture (depth, an edit); choose a text-to-image model.")
    if unet_config.get("addition_embed_type") != "text_time":
        return SD15
    summary, sizes = (
        unet_config.get("projection_class_embeddings_input_dim"),
        unet_config.get("addition_time_embed_dim"),
    )
    # the refiner reads the second text encoder alone, whose summary is as wide as its tokens, and an aesthetic score
    if (
        isinstance(summary, int)
        and isinstance(sizes, int)
        and summary - 5 * sizes == unet_config["cross_attention_dim"]
    ):
        raise BadInput(REFINER)
    return SDXL


def inpaints(unet_config: Mapping[str, Any]) -> bool:
    """Whether a UNet reads a mask and the picture without what it covers, as latents, beside its own latents."""
    channels = unet_config.get("out_channels")
    return isinstance(channels, int) and unet_config.get("in_channels") == 2 * channels + 1
