"""The repair that `validate` proposes for a contradictory prompt: it must not contradict itself."""

from __future__ import annotations

import itertools

import pytest

from studio.core.specs import EMOTIONS
from studio.prompting.lexicon import layer_words
from studio.prompting.validation import validate

PAIRS = list(itertools.permutations(EMOTIONS, 2))


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize(
    "form",
    ["1girl, {}, {}", "{}, (({})), red hair", "({}, {}:1.2)", "{}++, {}++", "<lora:x:1> {}, [{}:0.8]", "{} BREAK {}"],
)
def test_the_repair_of_two_emotions_has_no_conflict(first: str, second: str, form: str) -> None:
    for word in (second, *layer_words()["emotion"][second]["first"][1:3]):
        found = validate(form.format(first, word))
        again = validate(found.repaired)
        assert again.conflicts.score == 0, found.repaired
        assert first in found.repaired
        assert again.repaired == found.repaired, "a repaired prompt needs no repair"
        assert "+++" not in found.repaired
        assert ", ," not in found.repaired


def test_what_is_added_goes_with_what_stays() -> None:
    assert validate("1girl, sad, happy").repaired == "1girl, sad, sorrowful, unhappy, tearful"
    assert validate("1girl, happy, sad").repaired == "1girl, happy, joyful, smiling, cheerful"


@pytest.mark.parametrize(
    ("prompt", "repaired"),
    [
        ("lengthy hair, cropped hair", "lengthy hair"),  # synonyms of two tags that exclude each other
        ("long hair, short hair, medium hair", "long hair"),
        ("blue hair, pink hair, two-tone hair", "blue hair, pink hair, two-tone hair"),
        ("long hair, (short hair:1.2), tree", "long hair, tree"),
        ("long hair, (short hair, tree:1.2)", "long hair, (tree:1.2)"),
        ("long hair, (tree, short hair:1.2)", "long hair, (tree:1.2)"),
        ("long hair, <lora:x:1>, ((short hair))", "long hair, <lora:x:1>"),
        ("long hair\nshort hair\ntree", "long hair\n\ntree"),
    ],
)
def test_the_later_tag_goes_with_its_weight(prompt: str, repaired: str) -> None:
    assert validate(prompt).repaired == repaired


def test_a_trigger_word_is_never_taken_out() -> None:
    assert "happy" in validate("1girl, sad, happy", protected=("happy",)).repaired.split(", ")
