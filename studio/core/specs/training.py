"""Training runs, as they are asked for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from studio.core.specs.base import RunName, Seed, Spec, Text
from studio.core.specs.picture import LoraRef


def _renamed(name: str, old: str, default: Any) -> Any:
    """A field that earlier requests and run folders call `old`: both names are read, `name` is written."""
    return Field(default=default, validation_alias=AliasChoices(name, old))


class LoraSpec(Spec):
    """A LoRA training run (its own process); see `training.lora`."""

    kind: Literal["lora"] = "lora"
    data: Annotated[str, Field(min_length=1)]  # folder of pictures, or a ZIP of one
    name: RunName = "my-style"
    model: str = "embedded"
    epochs: Annotated[int, Field(ge=1, le=1000)] = 20
    rank: Annotated[int, Field(ge=1, le=256)] = 32
    alpha: Annotated[float, Field(gt=0, le=512)] | None = None  # None: rank / 2
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-4
    # the text encoder's learning rate; 0: it stays as it is
    text_encoder_lr: Annotated[float, Field(ge=0, le=1)] = _renamed("text_encoder_lr", "text_encoder_rate", 0.0)
    optimizer: Literal["adamw", "adamw8bit", "prodigy"] = "adamw"
    warmup: Annotated[float, Field(ge=0, le=0.5)] = 0.05  # share of all steps
    batch_size: Annotated[int, Field(ge=1, le=64)] = 4
    accumulation: Annotated[int, Field(ge=1, le=64)] = 1
    repeats: Annotated[int, Field(ge=1, le=1000)] | None = None  # None: images x repeats between 200 and 400
    resolution: Annotated[int, Field(ge=64, le=2048, multiple_of=8)] | None = None  # None: the model's own
    buckets: bool = True
    flip: bool = False
    min_snr_gamma: Annotated[float, Field(gt=0, le=20)] | None = 5.0
    noise_offset: Annotated[float, Field(ge=0, le=0.2)] = 0.0
    caption_dropout: Annotated[float, Field(ge=0, le=1)] = 0.05
    caption_variants: Annotated[int, Field(ge=1, le=32)] = 4  # cached shuffles of the tags of each caption
    keep_tokens: Annotated[int, Field(ge=0, le=8)] = 1  # leading tags that are never shuffled or dropped
    tag_dropout: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    ema: bool = False
    ema_decay: Annotated[float, Field(ge=0.5, lt=1)] = 0.99
    gradient_checkpointing: bool = False
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    seed: Seed = 0
    checkpoint_epochs: Annotated[int, Field(ge=1, le=100)] = 5
    checkpoint_minutes: Annotated[float, Field(gt=0)] | None = None
    keep_checkpoints: Annotated[int, Field(ge=1, le=1000)] = 10
    time_limit_minutes: Annotated[float, Field(gt=0)] | None = None
    sample_prompts: tuple[Text, ...] = Field(default=(), max_length=8)
    license: Annotated[str, Field(max_length=200)] = ""


def _lora_objective(objective: str, info: ValidationInfo) -> str:
    if objective == "dmd" and info.data.get("form") == "full":
        raise PydanticCustomError("objective", "DMD makes a LoRA; choose another method for a whole model")
    return objective


class LcmSpec(Spec):
    """A latent consistency distillation run; see `training.lcm`."""

    kind: Literal["lcm"] = "lcm"
    name: RunName = "my-lcm"
    model: str = "embedded"
    loras: tuple[LoraRef, ...] = Field(default=(), max_length=4)  # part of the teacher
    data: str | None = None  # None: the teacher draws its own latents
    form: Literal["lora", "full"] = "lora"
    objective: Annotated[Literal["lcm", "tcd", "pcm", "dmd"], AfterValidator(_lora_objective)] = "lcm"
    # pcm, dmd: share of the steps with exact targets; dmd: last share, with distribution matching
    exact_target_share: Annotated[float, Field(ge=0, lt=1)] = _renamed("exact_target_share", "finish", 0.25)
    dmd_share: Annotated[float, Field(gt=0, lt=1)] = _renamed("dmd_share", "match", 0.1)
    epochs: Annotated[int, Field(ge=1, le=1000)] = 20
    steps_per_epoch: Annotated[int, Field(ge=1, le=100_000)] = 50
    rank: Annotated[int, Field(ge=1, le=256)] = 64
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=64)] = 8
    w_min: Annotated[float, Field(ge=0, le=30)] | None = None  # None: the teacher's own range
    w_max: Annotated[float, Field(ge=0, le=30)] | None = None
    loss: Literal["l2", "huber"] = "huber"
    huber_c: Annotated[float, Field(gt=0, le=1)] = 1e-3
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.95
    latents: Annotated[int, Field(ge=8, le=100_000)] = 2000  # how many the teacher draws where there is no data
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    seed: Seed = 0
    checkpoint_epochs: Annotated[int, Field(ge=1, le=100)] = 5
    checkpoint_minutes: Annotated[float, Field(gt=0)] | None = None
    keep_checkpoints: Annotated[int, Field(ge=1, le=1000)] = 10
    time_limit_minutes: Annotated[float, Field(gt=0)] | None = None
    patience: Annotated[int, Field(ge=1, le=100)] = 3  # checkpoints of falling quality before it stops by itself
    curve_pictures: Annotated[int, Field(ge=0, le=2000)] | None = None  # per point; None: 60 with a judge, 4 without
    gradient_checkpointing: bool = False  # a third slower, much less memory


class ControlRunSpec(Spec):
    """A ControlNet training run; see `training.control`."""

    kind: Literal["control"] = "control"
    data: Annotated[str, Field(min_length=1)]  # prepared shards, a folder of captioned pictures, or a ZIP of one
    name: RunName = "my-controlnet"
    model: str = "embedded"
    epochs: Annotated[int, Field(ge=1, le=1000)] = 10
    steps_per_epoch: Annotated[int, Field(ge=1, le=1_000_000)] | None = None  # None: every picture once
    # To go on from: one that the model knows by kind (where it does), a diffusers folder, .safetensors, hub id. None: a
    # copy of the UNet, as in the paper, which begins to follow after thousands of pictures.
    init: Annotated[str, Field(max_length=1024)] | None = "lines"
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    warmup: Annotated[float, Field(ge=0, le=0.5)] = 0.02  # share of all steps
    batch_size: Annotated[int, Field(ge=1, le=256)] = 8
    noise_bias: Annotated[float, Field(ge=1, le=4)] = 1.5  # above 1: more steps at high noise, where lines are decided
    caption_dropout: Annotated[float, Field(ge=0, le=1)] = 0.15  # without words it has to read the drawing
    control_dropout: Annotated[float, Field(ge=0, le=1)] = 0.03
    min_snr_gamma: Annotated[float, Field(gt=0, le=20)] | None = None
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.995
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    held_out: Annotated[int, Field(ge=0, le=1000)] = 32  # the last pictures: measured, never trained on
    gradient_checkpointing: bool = False
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    seed: Seed = 0
    checkpoint_epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    checkpoint_minutes: Annotated[float, Field(gt=0)] | None = None
    keep_checkpoints: Annotated[int, Field(ge=1, le=1000)] = 3
    time_limit_minutes: Annotated[float, Field(gt=0)] | None = None
    license: Annotated[str, Field(max_length=200)] = ""


RunSpec = LoraSpec | LcmSpec | ControlRunSpec
RUNS: dict[str, type[RunSpec]] = {"lora": LoraSpec, "lcm": LcmSpec, "control": ControlRunSpec}
