"""What all specs are made of: their base, and the types that several of them have."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, Union, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from studio.core.fields import About
from studio.core.samplers import SAMPLERS

Emotion = Literal["happy", "angry", "sad", "surprised", "calm"]
Style = Literal["casual", "formal", "artistic", "realistic"]
Quality = Literal["draft", "standard", "high"]
if TYPE_CHECKING:
    Sampler: TypeAlias = str
else:
    Sampler = Literal[("auto", *SAMPLERS)]
Prediction = Literal["auto", "epsilon", "v", "v_zero_snr"]
ControlKind = Literal["canny", "lines"]
ControlMode = Literal["both", "sketch", "prompt"]
MaskArea = Literal["auto", "whole", "masked"]
AnimationFormat = Literal["gif", "apng", "webp", "mp4", "zip"]
MorphMethod = Literal["latent", "prompt", "picture", "direction"]
Easing = Literal["linear", "ease", "ease_in", "ease_out"]
LowConfidence = Literal["retry", "fixed", "run", "fail"]

EMOTIONS: tuple[Emotion, ...] = get_args(Emotion)
STYLES: tuple[Style, ...] = get_args(Style)
QUALITIES: tuple[Quality, ...] = get_args(Quality)

MAX_SEED = 2**32 - 1
MAX_PROMPT = 4000  # characters: about ten times the longest prompt in common use
MAX_PATH = 4096  # characters
MAX_LORAS = 8  # of one picture


def no_nul(text: object) -> object:
    """Refuse what no file and no database could keep. Raises ValueError."""
    if isinstance(text, str) and "\x00" in text:
        raise ValueError("text can't contain NUL characters")
    if isinstance(text, str) and not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair
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


# Bounds stand before what looks at the value first: behind it they would be missing from the JSON schema.
Text = Annotated[str, Field(max_length=MAX_PROMPT), BeforeValidator(no_nul)]
Reference = Annotated[str, Field(min_length=1, max_length=1024), BeforeValidator(no_nul)]  # a name, hub id or path
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), BeforeValidator(_whole)]
RunName = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_run_name)]
# 8 is the coarsest step that every family accepts for its latents; the engine rounds further where a family needs it.
Side = Annotated[int, Field(ge=64, le=2048, multiple_of=8)]
Steps = Annotated[int, Field(ge=1, le=50)]
EveryWord = Annotated[
    bool,
    Field(
        title="Every word",
        description="Also those that the model can't draw. They are left out of a written prompt otherwise: left in, "
        "they spoil the rest of the picture.",
    ),
]
Guidance = Annotated[float, Field(ge=0, le=30, allow_inf_nan=False)]


class Spec(BaseModel):
    """Frozen, closed, comparable: the base of everything that crosses a room. How fields are written: `core.fields`.

    `always_in_key`: fields that are in a content key even with their default (see `fields.key_data`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    always_in_key: ClassVar[frozenset[str]] = frozenset()


class Request(Spec):
    """What a job is asked for. `kind` says which of them it is, and is the name of its feature."""

    kind: str


def by_kind(what: str, specs: Sequence[type[Spec]]) -> Any:
    """The union of `specs`, told apart by their `kind`; what has none is the first of them.

    `what` names them in the sentence for an unknown kind (see `errors.sentence`).
    """

    def tag(given: Any) -> str:
        kind = given.get("kind", kinds[0]) if isinstance(given, dict) else getattr(given, "kind", kinds[0])
        return f"kind:{what}:{str(kind)[:40]}"

    kinds = [spec.model_fields["kind"].default for spec in specs]
    members = tuple(Annotated[spec, Tag(f"kind:{what}:{kind}")] for spec, kind in zip(specs, kinds, strict=True))
    return Annotated[Union[members], Discriminator(tag)]  # noqa: UP007 - made from a list


class Keyframe(Spec):
    """A frame of an animation that is set by hand; what lies between two of them is worked out."""

    emotion: Annotated[Emotion, Field(title="Emotion")]
    frame: Annotated[int, Field(title="Frame", ge=0)]  # the animation says how many there are
    strength: Annotated[
        float | None, Field(title="Strength", gt=0, le=1), About(step=0.05, blank="the ramp's at this frame")
    ] = None
    hold: Annotated[
        int, Field(title="Stays for", description="For how many frames' time it stays on the screen.", ge=1, le=32)
    ] = 1


class BatchRow(Spec):
    """One line of a prompt list: a prompt, and what it has of its own; all else is the batch's."""

    prompt: Text
    seed: Seed | None = None
    emotion: Emotion | None = None
    negative: Text | None = None
    steps: Steps | None = None
    guidance: Guidance | None = None
    sampler: Sampler | None = None
    width: Side | None = None
    height: Side | None = None
