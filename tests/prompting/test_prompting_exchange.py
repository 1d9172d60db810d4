"""A prompt for another emotion: whoever wrote the old one's words, none of them stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.core.settings import Settings
from studio.core.specs import EMOTIONS, Emotion, GenerateSpec
from studio.prompting.exchange import belonging, replace_layer
from studio.prompting.lexicon import layer_words, normal
from studio.service.prompts import PromptService
from studio.service.resolving import Resolver

SAD = ("sad", "tearful")


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("1girl, laughing, joy, red hair", "1girl, sad, tearful, red hair"),  # other words of the writer
        ("1girl, beaming, Overjoyed, hat", "1girl, sad, tearful, hat"),  # synonyms
        ("happy_expression, red hair", "sad, tearful, red hair"),
        ("1girl, (laughing:1.3), [joy], hat", "1girl, sad, tearful, hat"),
        ("1girl, (laughing, joy:1.2), hat", "1girl, sad, tearful, hat"),
        ("1girl, (laughing, red hair:1.3), hat", "1girl, sad, tearful, (red hair:1.3), hat"),
        ("(red hair, joy:1.3), hat", "(red hair:1.3), sad, tearful, hat"),
        ("1girl, red hair", "1girl, red hair, sad, tearful"),  # edited away: at the end
        ("1girl, sad, happy, hat", "1girl, sad, tearful, hat"),  # not twice
        ("1girl, happy hour sign", "1girl, happy hour sign, sad, tearful"),  # more than the emotion
    ],
)
def test_every_word_of_the_old_emotion_goes(prompt: str, wanted: str) -> None:
    assert replace_layer(prompt, "emotion", "happy", "sad", SAD) == wanted


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_the_lexicon_says_what_belongs_to_an_emotion(emotion: Emotion) -> None:
    words = layer_words()["emotion"][emotion]
    assert belonging("emotion", emotion) >= {normal(word) for word in (*words["first"], *words["more"])}
    assert not belonging("emotion", emotion) & {"red hair", "1girl", "long hair", "solo"}


def test_what_was_written_with_other_words_keeps_nothing_of_them(tmp_path: Path) -> None:
    resolver = Resolver(Settings(home=tmp_path), lambda id, owner: None, PromptService(Settings(home=tmp_path)))  # type: ignore[arg-type, return-value]
    spec = GenerateSpec(prompt="1girl, laughing, excited, bright smile, casual, blue hair", emotion="happy")
    changed = resolver.wording.prompted(spec, "sad", "formal")
    assert changed.prompt is not None
    said = changed.prompt.split(", ")
    assert said[0] == "1girl"
    assert said[-1] == "blue hair"
    assert not {"laughing", "excited", "bright smile", "casual"} & set(said)
    assert {"sad", "formal style"} <= set(said)
