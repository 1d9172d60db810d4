"""What can be asked for, as frozen data. The bounds stand here once; widgets, command line and API read them.

A `*Spec` is a request as a person makes it (blank seed, model by reference). `studio.service.studio` resolves it at
submission into `Recipe`s: one picture each, every default filled in, files named by content, so that a picture can be
made again from its recipe alone. Nothing here knows how.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

Emotion = Literal["happy", "angry", "sad", "surprised", "calm"]
Style = Literal["casual", "formal", "artistic", "realistic"]
Quality = Literal["draft", "standard", "high"]
Sampler = Literal["auto", "dpmpp_2m", "dpmpp_2m_karras", "euler_a", "ddim", "unipc", "lcm", "tcd"]
ControlKind = Literal["canny", "lines"]
Favour = Literal["both", "sketch", "prompt"]
AnimationFormat = Literal["gif", "apng", "webp", "mp4", "zip"]
MorphMethod = Literal["latent", "prompt", "picture", "direction"]
Easing = Literal["linear", "ease", "ease_in", "ease_out"]
LowConfidence = Literal["retry", "fixed", "run", "fail"]
GridAxis = Literal["seed", "steps", "guidance", "sampler", "emotion", "style", "lora_weight", "lora"]

EMOTIONS: tuple[Emotion, ...] = get_args(Emotion)
STYLES: tuple[Style, ...] = get_args(Style)
QUALITIES: tuple[Quality, ...] = get_args(Quality)
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)

MAX_SEED = 2**32 - 1
MAX_PROMPT = 4000  # characters: about ten times the longest prompt in common use
MAX_FRAME = 20_000  # characters of a frame's plan; the prompts in a longer one become their hash


def _no_nul(text: object) -> object:
    if isinstance(text, str) and "\x00" in text:
        raise ValueError("text can't contain NUL characters")
    if isinstance(text, str) and not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair: no file and no database could keep it
            raise ValueError("text has to be valid Unicode") from None
    return text


def _whole(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a seed is a whole number from 0 to 4294967295")
    return value


def _run_name(name: str) -> str:
    plain = all(letter in " .-_" or unicodedata.category(letter)[0] in "LMN" for letter in name)
    if not plain or name[0] in " .-":  # a folder's name in the end
        raise PydanticCustomError("name", "letters, digits, _ and, not in first place, spaces, dots and -")
    return name


Text = Annotated[str, BeforeValidator(_no_nul), Field(max_length=MAX_PROMPT)]
Seed = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=MAX_SEED)]
RunName = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_run_name)]
# 8 is the coarsest step that every family accepts for its latents; the engine rounds further where a family needs it.
Side = Annotated[int, Field(ge=64, le=2048, multiple_of=8)]


def _renamed(name: str, old: str, default: Any) -> Any:
    """A field that earlier requests and run folders call `old`: both names are read, `name` is written."""
    return Field(default=default, validation_alias=AliasChoices(name, old))


class Spec(BaseModel):
    """Frozen, closed, comparable: the base of everything that crosses a room."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LoraRef(Spec):
    """A LoRA file (or a name in the studio's LoRA folder) and how strongly it is applied."""

    path: Annotated[str, Field(min_length=1, max_length=1024)]
    weight: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] = 1.0


class ControlSpec(Spec):
    """A drawing that steers the picture (ControlNet, 2302.05543)."""

    # content id in the store, or a file on the command line
    image: Annotated[str, Field(min_length=1, max_length=1024)]
    kind: ControlKind = "lines"
    low: Annotated[int, Field(ge=0, le=255)] | None = None  # Canny thresholds; None: chosen from the picture
    high: Annotated[int, Field(ge=0, le=255)] | None = None
    weight: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 1.0
    start: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of the steps at which control sets in
    end: Annotated[float, Field(ge=0, le=1)] = 1.0
    favour: Favour = "both"  # what matters more where drawing and prompt disagree
    # a ControlNet by reference: hub id, diffusers folder or .safetensors file; None: the family's own for this kind
    model: Annotated[str, BeforeValidator(_no_nul), Field(min_length=1, max_length=1024)] | None = None

    @model_validator(mode="after")
    def _order(self) -> ControlSpec:
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("the low Canny threshold must be below the high one")
        if self.start >= self.end:
            raise ValueError("control must end after it starts")
        return self


class GenerateSpec(Spec):
    """One to sixty-four pictures of one prompt."""

    kind: Literal["generate"] = "generate"
    emotion: Emotion = "happy"
    style: Style = "casual"
    quality: Quality = "standard"
    text: Text = ""  # free text: what the person adds to the written prompt
    prompt: Text | None = None  # the whole positive prompt, edited by hand; None: written from the fields above
    negative: Text | None = None  # None: the writer's own negative prompt
    on_low_confidence: LowConfidence = "run"  # where the written prompt is doubtful; see `prompting.confidence`
    model: Annotated[str, Field(min_length=1, max_length=1024)] = "embedded"
    steps: Annotated[int, Field(ge=1, le=50)] | None = None  # None: the fast path where the model has one
    guidance: Annotated[float, Field(ge=0, le=30, allow_inf_nan=False)] | None = None
    sampler: Sampler = "auto"
    width: Side | None = None
    height: Side | None = None
    seed: Seed | None = None
    count: Annotated[int, Field(ge=1, le=64)] = 1
    loras: tuple[LoraRef, ...] = Field(default=(), max_length=8)
    source: str | None = None  # img2img: content id or file of the picture to start from
    strength: Annotated[float, Field(gt=0, le=1)] = 0.6
    control: ControlSpec | None = None


class SheetSpec(Spec):
    """One character, every emotion (x every style): a labelled sheet and its tiles."""

    kind: Literal["sheet"] = "sheet"
    base: GenerateSpec = GenerateSpec()
    emotions: tuple[Emotion, ...] = Field(default=EMOTIONS, min_length=1, max_length=5)
    styles: tuple[Style, ...] = Field(default=(), max_length=4)  # empty: the base's own style only


class Axis(Spec):
    """One axis of an X/Y grid: a parameter and its values, as text so that one type holds all."""

    name: GridAxis
    values: tuple[str, ...] = Field(min_length=1, max_length=16)


class GridSpec(Spec):
    """An X/Y grid over any two parameters."""

    kind: Literal["grid"] = "grid"
    base: GenerateSpec = GenerateSpec()
    x: Axis
    y: Axis | None = None

    @model_validator(mode="after")
    def _two_axes(self) -> GridSpec:
        if self.y is not None and self.x.name == self.y.name:
            raise ValueError("the two axes of a grid must differ")
        return self


class BatchRow(Spec):
    """One line of a prompt list: a prompt, and optionally its own seed and emotion."""

    prompt: Text
    seed: Seed | None = None
    emotion: Emotion | None = None


class BatchSpec(Spec):
    """Many prompts as one job; finished rows are found again, so a batch can be resumed."""

    kind: Literal["batch"] = "batch"
    base: GenerateSpec = GenerateSpec()
    rows: tuple[BatchRow, ...] = Field(min_length=1, max_length=1000)


class Keyframe(Spec):
    """A frame of an animation that is set by hand; what lies between two of them is worked out."""

    emotion: Emotion
    frame: Annotated[int, Field(ge=0, le=63)]
    strength: Annotated[float, Field(gt=0, le=1)] | None = None  # None: the ramp's at this frame
    hold: Annotated[int, Field(ge=1, le=32)] = 1  # for how many frames' time it stays on the screen


class MorphSpec(Spec):
    """From one emotion to another with the same character."""

    kind: Literal["morph"] = "morph"
    base: GenerateSpec = GenerateSpec()
    emotions: tuple[Emotion, ...] = Field(default=("happy", "sad"), min_length=2, max_length=8)
    frames: Annotated[int, Field(ge=3, le=33)] = 5
    method: MorphMethod = "prompt"
    image: str | None = None  # start from this picture (content id or file); needed by method "picture"
    attention: bool = False  # interpolate attention too (AID, fused outer)
    # how far towards the last emotion, above 1: further than asked; the slider of method "direction"
    amount: Annotated[float, Field(gt=0, le=2)] = 1.0
    # share of the steps that all frames share; None: the method's
    shared_steps: Annotated[float, Field(ge=0, le=0.9)] | None = _renamed("shared_steps", "held", None)
    spherical: bool = False  # method latent: along an arc (slerp) instead of a straight line (lerp)
    retime: bool = False  # move the frames so that each step is perceptually equal
    easing: Easing = "linear"
    pingpong: bool = True
    fps: Annotated[int, Field(ge=1, le=30)] = 8
    format: AnimationFormat = "gif"

    @model_validator(mode="after")
    def _change(self) -> MorphSpec:
        if any(a == b for a, b in zip(self.emotions, self.emotions[1:], strict=False)):
            raise ValueError("a morph needs another emotion to go to; choose two different ones in a row")
        if self.frames < len(self.emotions):
            raise ValueError(f"a chain of {len(self.emotions)} emotions needs at least as many frames")
        return self


class AnimateSpec(Spec):
    """img2img animation of one character through a sequence of emotions."""

    kind: Literal["animate"] = "animate"
    base: GenerateSpec = GenerateSpec()
    image: str | None = None  # the source character; None: drawn first from the base
    emotions: tuple[Emotion, ...] = Field(default=("happy", "sad"), min_length=1, max_length=16)
    frames: Annotated[int, Field(ge=2, le=64)] = 12
    strength_from: Annotated[float, Field(gt=0, le=1)] = 0.3
    strength_to: Annotated[float, Field(gt=0, le=1)] = 0.7
    consistent: bool = True  # shared noise at every step and attention to the first frame
    keyframes: tuple[Keyframe, ...] = Field(default=(), max_length=64)  # where there are any, they replace `emotions`
    easing: Easing = "linear"
    inbetweens: Annotated[int, Field(ge=0, le=3)] = 0  # pictures that optical flow puts between two frames
    pingpong: bool = False
    fps: Annotated[int, Field(ge=1, le=30)] = 8
    format: AnimationFormat = "gif"

    @model_validator(mode="after")
    def _marks(self) -> AnimateSpec:
        taken: set[int] = set()
        for mark in self.keyframes:
            if mark.frame >= self.frames:
                raise ValueError(
                    f"the keyframe at frame {mark.frame + 1} is past the end, there are {self.frames} frames"
                )
            if mark.frame in taken:
                raise ValueError(f"two keyframes stand on frame {mark.frame + 1}; move one of them")
            taken.add(mark.frame)
        return self


class SpritesSpec(Spec):
    """One character in every emotion, as the files that chat front ends look for."""

    kind: Literal["sprites"] = "sprites"
    base: GenerateSpec = GenerateSpec()
    image: str | None = None  # keep this character (content id or file); None: drawn from the base
    emotions: tuple[Emotion, ...] = Field(default=EMOTIONS, min_length=1, max_length=5)


class SketchSpec(Spec):
    """A drawing turned into the character."""

    kind: Literal["sketch"] = "sketch"
    base: GenerateSpec = GenerateSpec()
    control: ControlSpec


class ExperimentSpec(Spec):
    """A/B comparison of prompts from the same seeds, judged (see `prompting.experiment`)."""

    kind: Literal["experiment"] = "experiment"
    base: GenerateSpec = GenerateSpec()
    # clean_worst takes the base's own prompt and emotion; the others write their prompts from the base's words
    compare: Literal["template_engine", "plain_hardened", "clean_attacked", "clean_worst"] = "template_engine"
    emotions: tuple[Emotion, ...] = Field(default=EMOTIONS, max_length=5)  # in turn; empty: the base's own alone
    seeds: Annotated[int, Field(ge=2, le=1000)] = 20
    attack: Literal["typo", "glyph", "phonetic", "mixed"] = "mixed"
    share: Annotated[float, Field(gt=0, le=1)] = 0.2  # of the words, misspelt by chance
    words: Annotated[int, Field(ge=1, le=4)] = 2  # clean_worst: how many are misspelt
    candidates: Annotated[int, Field(ge=1, le=8)] = 4  # clean_worst: spellings that are tried of each


class CaptionSpec(Spec):
    """First captions for a training set, written beside its pictures; see `engine.captioning`."""

    kind: Literal["caption"] = "caption"
    data: Annotated[str, BeforeValidator(_no_nul), Field(min_length=1, max_length=4096)]  # folder of pictures, or a ZIP
    captioner: Annotated[str, BeforeValidator(_no_nul), Field(min_length=1, max_length=1024)] = "judge"
    every: bool = False  # also pictures that have a caption: it is replaced
    threshold: Annotated[float, Field(gt=0, le=1)] | None = None  # what is less sure is left out; None: the captioner's
    style: bool = False  # name the style too; a LoRA that is to learn it wants it left out


_Grouped = SheetSpec | GridSpec | BatchSpec | SpritesSpec
DrawSpec = GenerateSpec | _Grouped | MorphSpec | AnimateSpec | SketchSpec | ExperimentSpec
JobSpec = DrawSpec | CaptionSpec


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


class Recipe(Spec):
    """One picture, completely said. Same recipe, same machine: same pixels.

    `model` is the reference and `model_hash` the fingerprint of its weights; a LoRA's `path` may move, not its hash.
    `control_hash` is that of the ControlNet; empty where there is none, where it had yet to be downloaded, and in
    recipes from before it was written down.
    `labels` only describe (emotion, style, quality, job): they take part in the search, not in the pixels.
    """

    version: Literal[1] = 1
    model: str
    model_hash: str
    prompt: Text
    negative: Text = ""
    seed: Seed
    steps: Annotated[int, Field(ge=1, le=50)]
    guidance: Annotated[float, Field(ge=0, le=30)]
    sampler: Sampler
    width: Side
    height: Side
    loras: tuple[LoraRef, ...] = ()
    lora_hashes: tuple[str, ...] = ()
    fast: bool = False  # the model's own few-step adapter is attached
    source: str | None = None
    strength: float | None = None
    control: ControlSpec | None = None
    control_hash: Annotated[str, Field(max_length=64)] = ""
    frame: Annotated[str, Field(max_length=MAX_FRAME)] = ""  # one frame of a morph or animation: its plan, as JSON
    labels: dict[str, str] = Field(default_factory=dict)

    @property
    def key(self) -> str:
        """Content key of the picture, 32 hex digits: labels and file locations don't count, everything else does."""
        data: dict[str, Any] = self.model_dump(mode="json", exclude={"labels"})
        if not self.frame:
            del data["frame"]
        if not self.control_hash:
            del data["control_hash"]  # older pictures keep their keys
        elif self.control is not None:
            del data["control"]["model"]
        data["loras"] = [[digest, ref.weight] for digest, ref in zip(self.lora_hashes, self.loras, strict=True)]
        text = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def bounds(spec: type[Spec], field: str) -> dict[str, Any]:
    """`ge`, `gt`, `le`, `lt`, `multiple_of`, `max_length` and `default` of a field, for the widget that edits it.

    Raises KeyError when the spec has no such field.
    """
    info = spec.model_fields[field]
    found: dict[str, Any] = {"default": info.get_default(call_default_factory=True) if not info.is_required() else None}
    pending = list(info.metadata)
    if info.annotation is not None:
        for part in get_args(info.annotation) or ():
            pending += list(getattr(part, "__metadata__", ()))
    while pending:
        item = pending.pop()
        pending += list(getattr(item, "metadata", ()) or ())
        for name in ("ge", "gt", "le", "lt", "multiple_of", "max_length", "min_length"):
            value = getattr(item, name, None)
            if value is not None:
                found[name] = value
    return found
