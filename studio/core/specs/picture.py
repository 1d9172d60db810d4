"""One picture, as it is asked for (`GenerateSpec`) and as it is completely said (`Recipe`)."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from studio.core.fields import About, Elsewhere, Infotext, key_data
from studio.core.samplers import SAMPLERS
from studio.core.specs.base import (
    MAX_LORAS,
    Emotion,
    EveryWord,
    Guidance,
    LowConfidence,
    Prediction,
    Quality,
    Reference,
    Request,
    Sampler,
    Seed,
    Side,
    Spec,
    Steps,
    Style,
    Text,
)
from studio.core.specs.guides import ControlSpec, MaskSpec

MAX_FRAME = 20_000  # characters of a frame's plan; the prompts in a longer one become their hash
# Labels that no request has: in how many drawings a picture was come by, and how visible the edge of a mask is in it.
DRAWN_LABELS = ("attempts", "seam")
EMOTION_NAMES = {"happy": "Happy", "angry": "Angry", "sad": "Sad", "surprised": "Surprised", "calm": "Calm"}
STYLE_NAMES = {"casual": "Casual", "formal": "Formal", "artistic": "Artistic", "realistic": "Realistic"}
QUALITY_NAMES = {"draft": "Draft", "standard": "Standard", "high": "High"}
SAMPLER_NAMES = {"auto": "Automatic"} | {name: sampler.title for name, sampler in SAMPLERS.items()}


class LoraRef(Spec):
    """A LoRA file (or a name in the studio's LoRA folder) and how strongly it is applied."""

    path: Annotated[str, Field(title="LoRA", min_length=1, max_length=1024)]
    weight: Annotated[
        float, Field(title="LoRA weight", ge=-2, le=2, allow_inf_nan=False), About(step=0.05, axis="0, 0.5, 1")
    ] = 1.0  # left out of a request, it is the one that the file's notes recommend, if they do


# Not in forms and verbs: no model has a head yet whose scores agree with the eye.
Redraw = Annotated[
    bool,
    Field(
        title="Draw melted pictures again",
        description="A picture that looks melted is drawn again before it is shown, up to twice, with seeds that "
        "follow from its own: the same request gives the same picture. For models that can tell.",
    ),
    About(option=""),
]


HIRES_STRENGTH = 0.4  # of a second pass for which none is said


def _beyond_one(factor: float) -> str:
    return f"{factor:g}" if factor > 1 else ""


class Parameters(Spec):
    """What a request hands on to its recipe as it is. A parameter of the drawing that nothing is worked out for is
    written here, and so has a place in both."""

    source: Annotated[
        str | None,
        Field(title="Starting from", description="Start from this picture."),
        About(file="picture", in_key=True),
    ] = None  # img2img: content id or file of the picture to start from
    control: Annotated[ControlSpec | None, Field(title="Following the drawing"), About(option="")] = None
    mask: Annotated[MaskSpec | None, Field(title="Drawn anew"), About(option="")] = None  # of `source`
    redraw: Redraw = False
    clip_skip: Annotated[
        int,
        Field(
            title="Clip skip",
            description="Which layer of the text encoder is read, from the end: 1 is the last, 2 what most anime "
            "models of SD 1.5 were trained with. SDXL reads the second for both.",
            ge=1,
            le=4,
        ),
        About(
            infotext=Infotext("Clip skip", write=lambda layer: str(layer) if layer > 1 else ""),
            axis="1, 2",
            advanced=True,
            elsewhere=Elsewhere(
                a1111=("clip_skip", "CLIP_stop_at_last_layers"),
                comfyui=("stop_at_clip_layer", "clip_skip"),
                read=abs,  # ComfyUI's -1 is the last
            ),
            of_model=True,
        ),
    ] = 1  # as A1111 counts; diffusers' `clip_skip` is one less, and two less for SDXL
    guidance_rescale: Annotated[
        float,
        Field(
            title="Guidance rescale",
            description="Takes back the contrast that guidance adds: 0.7 for models with zero terminal SNR whose "
            "colours burn out, 0 for others.",
            ge=0,
            le=1,
            allow_inf_nan=False,
        ),
        About(
            step=0.05,
            infotext=Infotext("CFG Rescale", write=lambda share: f"{share:g}" if share else ""),
            axis="0, 0.2, 0.7",
            advanced=True,
        ),
    ] = 0.0  # phi of 2305.08891, section 3.4
    prediction: Annotated[
        Prediction,
        Field(
            title="The model predicts",
            description="What its network was trained to tell. Files say so themselves as a rule; choose it for one "
            "that doesn't and draws noise or washed-out colours.",
        ),
        About(
            names={
                "auto": "As it says itself",
                "epsilon": "Noise",
                "v": "Velocity (v)",
                "v_zero_snr": "Velocity, zero terminal SNR",
            },
            advanced=True,
        ),
    ] = "auto"
    upscale: Annotated[
        float,
        Field(
            title="Enlarge",
            description="How many times as large on each side the finished picture is made, by the upscaler.",
            ge=1,
            le=4,
            allow_inf_nan=False,
        ),
        About(step=0.5, infotext=Infotext("Postprocess upscale by", write=_beyond_one), advanced=True),
    ] = 1.0
    hires: Annotated[
        float,
        Field(
            title="Hires fix",
            description="Draw, enlarge this many times on each side, and draw over that once more, for details of the "
            "new size. 1: no second pass.",
            ge=1,
            le=4,
            allow_inf_nan=False,
        ),
        About(step=0.5, infotext=Infotext("Hires upscale", write=_beyond_one), advanced=True),
    ] = 1.0
    hires_steps: Annotated[
        int | None,
        Field(title="Hires steps", description="Steps of the second pass.", ge=1, le=50),
        About(blank="automatic", infotext=Infotext("Hires steps"), advanced=True),
    ] = None
    hires_strength: Annotated[
        float | None,
        Field(
            title="Hires strength",
            description="How much the second pass may change: 0.3 keeps the picture, 0.5 gives it new details.",
            gt=0,
            le=1,
        ),
        About(
            step=0.05,
            blank=f"{HIRES_STRENGTH:g}",
            infotext=Infotext("Denoising strength", write="{:g}".format),
            advanced=True,
        ),
    ] = None
    upscaler: Annotated[
        Reference,
        Field(
            title="Upscaler",
            description="What enlarges: embedded (the studio's own), lanczos, or a .safetensors file in "
            "models/upscalers.",
        ),
        About(
            infotext=Infotext("Hires upscaler", write=lambda name: "" if name == "embedded" else name), advanced=True
        ),
    ] = "embedded"

    @property
    def times(self) -> float:
        """How many times as large on each side as what is drawn first the picture is in the end."""
        return self.hires * self.upscale

    @model_validator(mode="after")
    def _masked_picture(self) -> Self:
        if self.mask is not None and self.source is None:
            raise ValueError("a mask needs the picture that it is for, as the source")
        if self.hires > 1 and self.source is not None:
            raise ValueError("hires fix begins from words alone; enlarge a picture instead, and start from that")
        return self


class GenerateSpec(Parameters, Request):
    """One to sixty-four pictures of one prompt."""

    kind: Literal["generate"] = "generate"
    emotion: Annotated[Emotion, Field(title="Emotion"), About(names=EMOTION_NAMES, axis=", ".join(EMOTION_NAMES))] = (
        "happy"
    )
    style: Annotated[Style, Field(title="Style"), About(names=STYLE_NAMES, axis=", ".join(STYLE_NAMES))] = "casual"
    quality: Annotated[
        Quality,
        Field(
            title="Quality",
            description="Draft and Standard take the fast path where the model has one; High is the model at its best, "
            "slower.",
        ),
        About(names=QUALITY_NAMES),
    ] = "standard"
    text: Annotated[
        Text,
        Field(title="Describe your character", description="What else is in the picture."),
        About(blank="red hair, blue eyes, serafuku…"),
    ] = ""  # what the person adds to the written prompt
    prompt: Annotated[
        Text | None,
        Field(title="Prompt", description="The whole prompt; nothing is written around it."),
        About(blank="written from the other fields"),
    ] = None
    negative: Annotated[
        Text | None,
        Field(title="Negative prompt", description="What the picture shall not have."),
        About(blank="the writer's own"),
    ] = None
    on_low_confidence: Annotated[
        LowConfidence,
        Field(
            title="Doubtful prompts",
            description="For a written prompt that is less than 80% sure. run: draw it, as without this option. fixed: "
            "use the fixed template. retry: have it written up to twice more, then use the fixed template. fail: say "
            "why and draw nothing.",
        ),
    ] = "run"  # see `prompting.confidence`
    every_word: Annotated[EveryWord, About(advanced=True)] = False
    model: Annotated[
        str,
        Field(
            title="Model",
            description="embedded, a Hugging Face id, a folder in diffusers format, or a .safetensors file.",
            min_length=1,
            max_length=1024,
        ),
        About(blank="the studio's own", advanced=True),
    ] = "embedded"
    steps: Annotated[
        Steps | None,
        Field(title="Steps", description="More steps, finer picture, longer wait."),
        About(blank="automatic", infotext=Infotext("Steps"), axis="4, 10, 20", advanced=True),
    ] = None  # None: the fast path where the model has one
    guidance: Annotated[
        Guidance | None,
        Field(
            title="Guidance",
            description="How closely the picture follows the prompt. 1 turns the negative prompt off.",
        ),
        About(
            blank="automatic",
            step=0.5,
            infotext=Infotext("CFG scale", write="{:g}".format),
            axis="1, 3, 5",
            advanced=True,
        ),
    ] = None
    width: Annotated[
        Side | None,
        Field(title="Width", description="Pixels, in steps of 8."),
        About(unit="px", step=64, blank="automatic", option="", advanced=True),
    ] = None  # the command line takes both as --size
    height: Annotated[
        Side | None,
        Field(title="Height", description="Pixels, in steps of 8."),
        About(unit="px", step=64, blank="automatic", option="", advanced=True),
    ] = None
    sampler: Annotated[
        Sampler,
        Field(title="Sampler"),
        About(names=SAMPLER_NAMES, axis=", ".join(list(SAMPLERS)[:3]), advanced=True),
    ] = "auto"
    seed: Annotated[
        Seed | None,
        Field(
            title="Seed",
            description="The same seed and settings give the same picture. Picture 2 of a set has this seed + 1, and "
            "so on.",
        ),
        About(blank="random", infotext=Infotext("Seed"), axis="1, 2, 3, 4", advanced=True),
    ] = None
    count: Annotated[
        int, Field(title="Pictures", description="Pictures of each prompt, with seeds seed, seed+1, ...", ge=1, le=64)
    ] = 1
    loras: Annotated[
        tuple[LoraRef, ...], Field(title="LoRAs", max_length=MAX_LORAS), About(option="", advanced=True)
    ] = ()  # the command line takes each as --lora
    strength: Annotated[
        float,
        Field(
            title="How much may change",
            description="Low keeps the picture, high keeps little more than its colours.",
            gt=0,
            le=1,
        ),
        About(step=0.05, infotext=Infotext("Denoising strength", write="{:g}".format)),
    ] = 0.6  # of a picture that starts from `source`
    redraw: Redraw = True


class Recipe(Parameters):
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
    steps: Steps
    guidance: Guidance
    sampler: Sampler
    width: Side
    height: Side
    loras: tuple[LoraRef, ...] = ()
    lora_hashes: tuple[str, ...] = ()
    fast: bool = False  # the model's own few-step adapter is attached
    strength: float | None = None
    control_hash: Annotated[str, Field(max_length=64)] = ""
    upscaler_hash: Annotated[str, Field(max_length=64)] = ""  # of the network that enlarges, where one does
    frame: Annotated[str, Field(max_length=MAX_FRAME)] = ""  # one frame of a morph or animation: its plan, as JSON
    labels: Annotated[dict[str, str], About(in_key=False)] = Field(default_factory=dict)

    always_in_key = frozenset(
        (
            "version",
            "model",
            "model_hash",
            "prompt",
            "negative",
            "seed",
            "steps",
            "guidance",
            "sampler",
            "width",
            "height",
            "loras",
            "lora_hashes",
            "fast",
            "source",
            "strength",
            "control",
        )
    )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the finished picture, in pixels; of one with a mask: as drawn, not that of its source."""
        first = (round(self.width * self.hires), round(self.height * self.hires))
        return round(first[0] * self.upscale), round(first[1] * self.upscale)

    @property
    def all_steps(self) -> int:
        """Steps of both passes."""
        return self.steps + (self.hires_steps or 0)

    @property
    def key(self) -> str:
        """Content key of the picture, 32 hex digits: labels and file locations don't count, everything else does."""
        data: dict[str, Any] = key_data(self)
        if self.control_hash and self.control is not None:
            del data["control"]["model"]
        data["loras"] = [[digest, ref.weight] for digest, ref in zip(self.lora_hashes, self.loras, strict=True)]
        text = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]
