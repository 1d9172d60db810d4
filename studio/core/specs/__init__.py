"""What can be asked for, as frozen data. What is known of a field stands with it, once (see `core.fields`).

A `*Spec` is a request as a person makes it (blank seed, model by reference). The service resolves it at submission into
`Recipe`s: one picture each, every default filled in, files named by content. A picture can be made again from its
recipe alone. Here are a picture's request and recipe, and training runs; requests of more than one picture stand with
their features (`studio.features.*.spec`). Nothing here knows how a picture is made.
"""

from studio.core.fields import bounds
from studio.core.specs.base import (
    EMOTIONS,
    MAX_LORAS,
    MAX_PATH,
    MAX_PROMPT,
    MAX_SEED,
    QUALITIES,
    STYLES,
    AnimationFormat,
    BatchRow,
    ControlKind,
    ControlMode,
    Easing,
    Emotion,
    EveryWord,
    Keyframe,
    LowConfidence,
    MaskArea,
    MorphMethod,
    Quality,
    Request,
    RunName,
    Sampler,
    Seed,
    Side,
    Spec,
    Style,
    Text,
    by_kind,
)
from studio.core.specs.guides import ControlSpec, MaskSpec
from studio.core.specs.picture import DRAWN_LABELS, MAX_FRAME, GenerateSpec, LoraRef, Parameters, Recipe
from studio.core.specs.runs import RUN_KINDS, AnyRun, RunKindName, makes_lora
from studio.core.specs.training import ControlRunSpec, LcmSpec, LoraSpec, RunSpec

__all__ = [
    "DRAWN_LABELS",
    "EMOTIONS",
    "MAX_FRAME",
    "MAX_LORAS",
    "MAX_PATH",
    "MAX_PROMPT",
    "MAX_SEED",
    "QUALITIES",
    "RUN_KINDS",
    "STYLES",
    "AnimationFormat",
    "AnyRun",
    "BatchRow",
    "ControlKind",
    "ControlMode",
    "ControlRunSpec",
    "ControlSpec",
    "Easing",
    "Emotion",
    "EveryWord",
    "GenerateSpec",
    "Keyframe",
    "LcmSpec",
    "LoraRef",
    "LoraSpec",
    "LowConfidence",
    "MaskArea",
    "MaskSpec",
    "MorphMethod",
    "Parameters",
    "Quality",
    "Recipe",
    "Request",
    "RunKindName",
    "RunName",
    "RunSpec",
    "Sampler",
    "Seed",
    "Side",
    "Spec",
    "Style",
    "Text",
    "bounds",
    "by_kind",
    "makes_lora",
]
