"""A/B comparison of prompts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from studio.core.fields import About
from studio.core.specs import EMOTIONS, Emotion, GenerateSpec, Request

COMPARE = {
    "template_engine": "Fixed template against prompt engine",
    "plain_hardened": "As typed against corrected",
    "clean_attacked": "Clean against misspelt",
    "clean_worst": "Clean against its worst misspelling",
}
ATTACKS = {"typo": "Typing errors", "glyph": "Look-alike letters", "phonetic": "Sound-alikes", "mixed": "All kinds"}


class ExperimentSpec(Request):
    """A/B comparison of prompts from the same seeds, judged (see `features.experiment.report`)."""

    kind: Literal["experiment"] = "experiment"
    base: GenerateSpec = GenerateSpec()
    # clean_worst takes the base's own prompt and emotion; the others write their prompts from the base's words
    compare: Annotated[
        Literal["template_engine", "plain_hardened", "clean_attacked", "clean_worst"],
        Field(title="Compare"),
        About(names=COMPARE),
    ] = "template_engine"
    emotions: Annotated[
        tuple[Emotion, ...],
        Field(title="Emotions", description="In turn; none: the picture's own alone.", max_length=5),
    ] = EMOTIONS
    seeds: Annotated[int, Field(title="Seeds", ge=2, le=1000)] = 20
    attack: Annotated[
        Literal["typo", "glyph", "phonetic", "mixed"], Field(title="Kind of misspelling"), About(names=ATTACKS)
    ] = "mixed"
    share: Annotated[
        float, Field(title="Words misspelt", description="The share of the words, by chance.", gt=0, le=1)
    ] = 0.2
    words: Annotated[int, Field(title="Words", description="clean_worst: how many are misspelt.", ge=1, le=4)] = 2
    candidates: Annotated[
        int, Field(title="Spellings", description="clean_worst: spellings that are tried of each word.", ge=1, le=8)
    ] = 4
