"""Training runs, as they are asked for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from studio.core.fields import About
from studio.core.specs.base import RunName, Seed, Spec, Text
from studio.core.specs.picture import LoraRef

PRECISIONS = {"auto": "Automatic", "fp32": "32 bits", "fp16": "16 bits (fp16)", "bf16": "16 bits (bf16)"}
OPTIMIZERS = {"adamw": "AdamW", "adamw8bit": "8-bit AdamW", "prodigy": "Prodigy"}

# What several kinds of runs have.
Base = Annotated[
    str, Field(title="Model", description="embedded, a hub id, a diffusers folder or a .safetensors file.")
]
Name = Annotated[RunName, Field(title="Name", description="What the result is called.")]
Epochs = Annotated[int, Field(title="Epochs", ge=1, le=1000)]
BatchSize = Annotated[
    int,
    Field(title="Batch size", description="Pictures per step.", ge=1, le=256),
    About(option=("--batch", "--batch-size")),
]
Rank = Annotated[
    int,
    Field(title="Rank", description="How much it can learn. 32 for most; 8 to 16 for a simple style.", ge=1, le=256),
]
Precision = Annotated[Literal["auto", "fp32", "fp16", "bf16"], Field(title="Precision"), About(names=PRECISIONS)]
GradientCheckpointing = Annotated[
    bool,
    Field(title="Gradient checkpointing", description="Much less memory, and each step takes a third longer."),
    About(advanced=True),
]
Samples = Annotated[
    bool,
    Field(title="Samples", description="Draw a few pictures at each checkpoint, to see how it comes along."),
    About(option="--samples/--no-samples", advanced=True),
]
GradNorm = Annotated[
    float,
    Field(title="Gradient clipping", description="Longest gradient that is followed.", gt=0),
    About(advanced=True),
]
CheckpointMinutes = Annotated[
    float | None,
    Field(
        title="Save every … minutes",
        description="Besides the epochs, in the middle of one too: what a cut-off run may lose.",
        gt=0,
    ),
    About(blank="epochs only", step=5, advanced=True),
]
KeepCheckpoints = Annotated[
    int, Field(title="Checkpoints kept", description="The newest so many.", ge=1, le=1000), About(advanced=True)
]
TimeLimit = Annotated[
    float | None,
    Field(
        title="Stop after … minutes",
        description="Save and stop before the time is over. For a Colab session of 12 hours: 660.",
        gt=0,
    ),
    About(blank="no limit", step=10, option="--time-limit", advanced=True),
]
RunSeed = Annotated[Seed, Field(title="Seed"), About(advanced=True)]
License = Annotated[
    str,
    Field(title="Licence of the result", description="Written into its card.", max_length=200),
    About(advanced=True),
]
MinSnr = Annotated[
    float | None,
    Field(title="Min-SNR gamma", description="Weights steps by their noise (2303.09556).", gt=0, le=20),
    About(blank="off", step=0.5, advanced=True),
]


class LoraSpec(Spec):
    """A LoRA training run (its own process); see `training.lora`."""

    kind: Literal["lora"] = "lora"
    data: Annotated[
        str,
        Field(title="Pictures", description="A folder of pictures, or a ZIP of one.", min_length=1),
        About(file="dataset"),
    ]
    name: Name = "my-style"
    model: Base = "embedded"
    epochs: Epochs = 20
    rank: Rank = 32
    alpha: Annotated[float | None, Field(title="Alpha", gt=0, le=512), About(blank="half the rank", advanced=True)] = (
        None
    )
    learning_rate: Annotated[
        float, Field(title="Learning rate", description="Such as 0.0002.", gt=0, le=1), About(step=0.0001)
    ] = 2e-4
    text_encoder_lr: Annotated[
        float,
        Field(
            title="Text encoder learning rate",
            description="0 leaves it alone, which is right for styles.",
            ge=0,
            le=1,
            validation_alias=AliasChoices("text_encoder_lr", "text_encoder_rate"),
        ),
        About(step=0.00001, advanced=True),
    ] = 0.0
    optimizer: Annotated[
        Literal["adamw", "adamw8bit", "prodigy"], Field(title="Optimizer"), About(names=OPTIMIZERS, advanced=True)
    ] = "adamw"
    warmup: Annotated[
        float,
        Field(title="Warm-up", description="The share of all steps in which the rate rises.", ge=0, le=0.5),
        About(step=0.01, advanced=True),
    ] = 0.05
    batch_size: BatchSize = 4
    accumulation: Annotated[
        int,
        Field(title="Gradient accumulation", description="Batches that are added up for one step.", ge=1, le=64),
        About(advanced=True),
    ] = 1
    repeats: Annotated[
        int | None,
        Field(title="Repeats", description="How often each picture is shown in an epoch.", ge=1, le=1000),
        About(blank="so that an epoch has 200 to 400"),
    ] = None
    resolution: Annotated[
        int | None,
        Field(title="Resolution", description="Side of the pictures.", ge=64, le=2048, multiple_of=8),
        About(unit="px", blank="the model's own", step=64, advanced=True),
    ] = None
    buckets: Annotated[
        bool,
        Field(title="Aspect ratio buckets", description="Keep the shapes of the pictures, or cut all square."),
        About(option="--buckets/--square", advanced=True),
    ] = True
    flip: Annotated[
        bool,
        Field(
            title="Mirror some pictures",
            description="Only where left and right don't matter: no writing, no asymmetric hair or clothes.",
        ),
    ] = False
    min_snr_gamma: MinSnr = 5.0
    noise_offset: Annotated[
        float,
        Field(title="Noise offset", description="For darker darks and lighter lights.", ge=0, le=0.2),
        About(step=0.01, advanced=True),
    ] = 0.0
    caption_dropout: Annotated[
        float,
        Field(title="Caption dropout", description="The share of captions that are left out.", ge=0, le=1),
        About(step=0.01, advanced=True),
    ] = 0.05
    caption_variants: Annotated[
        int,
        Field(title="Caption variants", description="Cached shuffles of the tags of each caption.", ge=1, le=32),
        About(advanced=True),
    ] = 4
    keep_tokens: Annotated[
        int,
        Field(title="Kept tags", description="Leading tags that are never shuffled or dropped.", ge=0, le=8),
        About(advanced=True),
    ] = 1
    tag_dropout: Annotated[
        float,
        Field(title="Tag dropout", description="The share of tags that are left out.", ge=0, le=0.5),
        About(step=0.01, advanced=True),
    ] = 0.0
    ema: Annotated[
        bool,
        Field(title="Weight averaging (EMA)", description="Keep an exponential moving average of the weights."),
        About(advanced=True),
    ] = False
    ema_decay: Annotated[float, Field(title="EMA decay", ge=0.5, lt=1), About(step=0.01, advanced=True)] = 0.99
    gradient_checkpointing: GradientCheckpointing = False
    max_grad_norm: GradNorm = 1.0
    precision: Precision = "auto"
    seed: RunSeed = 0
    checkpoint_epochs: Annotated[int, Field(title="Save every … epochs", ge=1, le=100), About(advanced=True)] = 5
    checkpoint_minutes: CheckpointMinutes = None
    keep_checkpoints: KeepCheckpoints = 10
    time_limit_minutes: TimeLimit = None
    samples: Samples = True
    sample_prompts: Annotated[
        tuple[Text, ...], Field(title="Sample prompts", max_length=8), About(blank="from the first captions", option="")
    ] = ()
    license: License = ""


def _has_real(weight: float, info: ValidationInfo) -> float:
    if weight and (info.data.get("objective") != "dmd" or not info.data.get("data")):
        raise PydanticCustomError("adversary", "an adversary needs the method DMD, and pictures of your own")
    return weight


def _lora_objective(objective: str, info: ValidationInfo) -> str:
    if objective == "dmd" and info.data.get("form") == "full":
        raise PydanticCustomError("objective", "DMD makes a LoRA; choose another method for a whole model")
    return objective


class LcmSpec(Spec):
    """A latent consistency distillation run; see `training.distill`."""

    kind: Literal["lcm"] = "lcm"
    name: Name = "my-lcm"
    model: Base = "embedded"
    loras: Annotated[
        tuple[LoraRef, ...], Field(title="LoRAs", description="Part of the teacher.", max_length=4), About(option="")
    ] = ()  # the command line takes each as --lora
    data: Annotated[
        str | None,
        Field(title="Learn from", description="Pictures to learn from, a folder or a ZIP."),
        About(file="dataset", blank="what the teacher draws"),
    ] = None
    form: Annotated[
        Literal["lora", "full"],
        Field(
            title="Result",
            description="A LoRA is small, works with your other LoRAs and needs little memory. A whole model also "
            "obeys the guidance setting, and needs five times the memory to make.",
        ),
        About(names={"lora": "LCM-LoRA", "full": "Whole model"}),
    ] = "lora"
    objective: Annotated[
        Literal["lcm", "tcd", "pcm", "dmd"],
        AfterValidator(_lora_objective),
        Field(
            title="Method",
            description="LCM gives clean pictures in 2 to 4 steps. TCD keeps more detail at 8 and more. PCM learns 4 "
            "steps fastest, and keeps the teacher's colours; fewer than 4 are not for it. DMD goes on from there: "
            "at last pictures are compared with the teacher's, for clearer faces; a step then takes several times as "
            "long.",
        ),
        About(names={"lcm": "LCM", "tcd": "TCD", "pcm": "PCM", "dmd": "DMD"}),
    ] = "lcm"
    exact_target_share: Annotated[
        float,
        Field(
            title="Exact targets",
            description="pcm, dmd: the share of the steps with exact targets.",
            ge=0,
            lt=1,
            validation_alias=AliasChoices("exact_target_share", "finish"),
        ),
        About(step=0.01, advanced=True),
    ] = 0.25
    dmd_share: Annotated[
        float,
        Field(
            title="Distribution matching",
            description="dmd: the last share of the steps, in which pictures are matched to the teacher's.",
            gt=0,
            lt=1,
            validation_alias=AliasChoices("dmd_share", "match"),
        ),
        About(step=0.01, advanced=True),
    ] = 0.1
    adversarial_weight: Annotated[
        float,
        AfterValidator(_has_real),
        Field(
            title="Adversarial weight",
            description="dmd with pictures of your own: how much the student is also led to those, by a network that "
            "learns to tell them from its own. Such as 0.003.",
            ge=0,
            le=1,
        ),
        About(step=0.001, advanced=True),
    ] = 0.0
    epochs: Epochs = 20
    steps_per_epoch: Annotated[
        int, Field(title="Steps in an epoch", ge=1, le=100_000), About(option=("--steps", "--steps-per-epoch"))
    ] = 50
    rank: Rank = 64
    learning_rate: Annotated[
        float | None,
        Field(title="Learning rate", description="Such as 0.0002.", gt=0, le=1),
        About(step=0.0001, blank="automatic", advanced=True),
    ] = None
    batch_size: BatchSize = 8
    w_min: Annotated[
        float | None,
        Field(title="Guidance from", description="Least guidance that is learnt in, less one.", ge=0, le=30),
        About(blank="the model's own", step=0.5, advanced=True),
    ] = None
    w_max: Annotated[
        float | None,
        Field(title="Guidance to", description="Most guidance that is learnt in, less one.", ge=0, le=30),
        About(blank="the model's own", step=0.5, advanced=True),
    ] = None
    loss: Annotated[
        Literal["l2", "huber"], Field(title="Loss"), About(names={"l2": "L2", "huber": "Pseudo-Huber"}, advanced=True)
    ] = "huber"
    huber_c: Annotated[float, Field(title="Huber c", gt=0, le=1), About(step=0.001, advanced=True)] = 1e-3
    ema_decay: Annotated[float, Field(title="EMA decay", ge=0, lt=1), About(step=0.01, advanced=True)] = 0.95
    latents: Annotated[
        int,
        Field(
            title="Pictures it draws first",
            description="How many pictures the teacher draws first, where it isn't given any.",
            ge=8,
            le=100_000,
        ),
        About(step=100),
    ] = 2000
    max_grad_norm: GradNorm = 1.0
    precision: Precision = "auto"
    seed: RunSeed = 0
    checkpoint_epochs: Annotated[
        int, Field(title="Save and measure every … epochs", ge=1, le=100), About(advanced=True)
    ] = 5
    checkpoint_minutes: CheckpointMinutes = None
    keep_checkpoints: KeepCheckpoints = 10
    time_limit_minutes: TimeLimit = None
    patience: Annotated[
        int,
        Field(
            title="Stop after … worse checkpoints",
            description="Stop after so many measurements without a better one.",
            ge=1,
            le=100,
        ),
        About(advanced=True),
    ] = 3
    curve_pictures: Annotated[
        int | None,
        Field(title="Pictures per measurement", description="Pictures per point of the curve.", ge=0, le=2000),
        About(blank="60 with a judge, 4 without", advanced=True),
    ] = None
    gradient_checkpointing: GradientCheckpointing = False


class ControlRunSpec(Spec):
    """A ControlNet training run; see `training.controlnet`."""

    kind: Literal["control"] = "control"
    data: Annotated[
        str,
        Field(
            title="Pictures",
            description="Captioned pictures, a folder or ZIP, with lines in NAME.control.png; or prepared shards.",
            min_length=1,
        ),
        About(file="dataset"),
    ]
    name: Name = "my-controlnet"
    model: Base = "embedded"
    epochs: Epochs = 10
    steps_per_epoch: Annotated[
        int | None,
        Field(title="Steps in an epoch", ge=1, le=1_000_000),
        About(blank="every picture once", option=("--steps", "--steps-per-epoch")),
    ] = None
    # None: a copy of the UNet, as in the paper, which begins to follow after thousands of pictures.
    init: Annotated[
        str | None,
        Field(
            title="Go on from",
            description="lines or canny for what the model has already, a Hugging Face id, a folder in diffusers "
            "format, or a .safetensors file. Empty or none: a new one, which takes thousands of pictures.",
            max_length=1024,
        ),
        About(blank="a new one, from the model itself", parse=lambda text: None if text in ("", "none") else text),
    ] = "lines"
    learning_rate: Annotated[
        float, Field(title="Learning rate", description="Such as 0.0001.", gt=0, le=1), About(step=0.0001)
    ] = 1e-4
    warmup: Annotated[
        float,
        Field(title="Warm-up", description="The share of all steps in which the rate rises.", ge=0, le=0.5),
        About(step=0.01, advanced=True),
    ] = 0.02
    batch_size: BatchSize = 8
    noise_bias: Annotated[
        float,
        Field(
            title="Noise bias",
            description="Above 1: more steps at high noise, where lines are decided.",
            ge=1,
            le=4,
        ),
        About(step=0.1, advanced=True),
    ] = 1.5
    caption_dropout: Annotated[
        float,
        Field(
            title="Caption dropout",
            description="The share of captions that are left out: without words it has to read the drawing.",
            ge=0,
            le=1,
        ),
        About(step=0.01, advanced=True),
    ] = 0.15
    control_dropout: Annotated[
        float,
        Field(title="Control dropout", description="The share of drawings that are left out.", ge=0, le=1),
        About(step=0.01, advanced=True),
    ] = 0.03
    min_snr_gamma: MinSnr = None
    ema_decay: Annotated[float, Field(title="EMA decay", ge=0, lt=1), About(step=0.001, advanced=True)] = 0.995
    max_grad_norm: GradNorm = 1.0
    held_out: Annotated[
        int,
        Field(title="Held out", description="The last pictures: measured, never trained on.", ge=0, le=1000),
        About(advanced=True),
    ] = 32
    gradient_checkpointing: GradientCheckpointing = False
    precision: Precision = "auto"
    seed: RunSeed = 0
    checkpoint_epochs: Annotated[int, Field(title="Save every … epochs", ge=1, le=1000), About(advanced=True)] = 1
    checkpoint_minutes: CheckpointMinutes = None
    keep_checkpoints: KeepCheckpoints = 3
    samples: Samples = True
    time_limit_minutes: TimeLimit = None
    license: License = ""


RunSpec = LoraSpec | LcmSpec | ControlRunSpec
