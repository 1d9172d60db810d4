"""One character for several pictures: what is left open about a face is decided once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.checkpoints import tiny_sd

from studio.core.settings import Settings
from studio.core.specs import GenerateSpec
from studio.features.morph.spec import MorphSpec
from studio.features.sheets.spec import Axis, GridSpec, SheetSpec
from studio.prompting.traits import CLOTHES, TRAITS, decide_traits
from studio.service import Studio
from studio.service.knowing import KnowledgeBase


def test_only_what_was_left_open_is_decided_and_the_same_for_a_seed() -> None:
    every = decide_traits("1girl, happy", 5)
    assert list(every) == [*TRAITS, "clothes"]
    assert all(every[group] in words for group, words in TRAITS.items())
    assert decide_traits("1girl, happy", 5) == every
    assert len({tuple(decide_traits("1girl", seed).values()) for seed in range(30)}) > 25

    def without(*groups: str) -> dict[str, str]:
        return {group: words for group, words in every.items() if group not in groups}

    # what is said, also by a synonym, with a weight or in a sentence, is left alone, and changes none of the others
    assert decide_traits("1girl, (pink hair:1.2), twintails", 5) == without("hair_color", "hairdo")
    assert decide_traits("brunette, azure eyes", 5) == without("hair_color", "eye_color")
    assert decide_traits("a girl with red hair in a white dress", 5) == without("hair_color", "clothes")
    assert decide_traits("pink hair, long hair, blue eyes, pale skin, wavy hair, suit", 5) == {}
    assert decide_traits("1girl, casual style, casual clothes", 5) == every  # words of the style dress nobody


def test_clothes_fit_the_style_and_who_wears_them() -> None:
    for style, (both, girls) in CLOTHES.items():
        worn = {decide_traits("1girl", seed, style)["clothes"].split(" ", 1)[1] for seed in range(120)}
        assert worn == {*both, *girls}
        assert {decide_traits("1boy", seed, style)["clothes"].split(" ", 1)[1] for seed in range(80)} == set(both)


def test_every_word_is_one_that_the_embedded_model_was_taught() -> None:
    knowledge = KnowledgeBase(Settings(_env_file=None)).of("embedded")
    for seed in range(100):
        for style in CLOTHES:
            words = ", ".join(decide_traits("1girl", seed, style).values())
            assert all(knowledge.knows(word) for word in words.split(", ")), words


def test_a_single_picture_decides_by_its_seed_and_says_so(studio: Studio) -> None:
    spec = GenerateSpec(model=str(studio.settings.home.parent / "m"), text="red hair", seed=5, count=3)
    recipes = studio._resolver.plan(spec, "me").recipes
    assert len({recipe.labels["decided"] for recipe in recipes}) == 3
    for recipe in recipes:
        assert set(recipe.labels["decided"].split(", ")) <= set(recipe.prompt.split(", "))
        assert recipe.labels["text"] == "red hair"
        assert "casual clothes" not in recipe.prompt
    sad = studio._resolver.plan(spec.model_copy(update={"emotion": "sad"}), "me").recipes
    assert [recipe.labels["decided"] for recipe in sad] == [recipe.labels["decided"] for recipe in recipes]
    assert studio.as_drawn(spec).positive_prompt == recipes[0].prompt
    assert ", ".join(studio.traits(spec).values()) == recipes[0].labels["decided"]
    locked = spec.model_copy(update={"text": f"red hair, {recipes[0].labels['decided']}", "seed": 99})
    assert studio.traits(locked) == {}
    own = studio._resolver.plan(spec.model_copy(update={"prompt": "1girl"}), "me").recipes
    assert all("decided" not in recipe.labels for recipe in own)


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    tiny_sd(tmp_path / "m")
    studio = Studio(Settings(home=tmp_path / "home", _env_file=None))
    yield studio
    studio.close()


def test_every_tile_of_a_sheet_asks_for_the_same_character(tmp_path: Path) -> None:
    model = str(tiny_sd(tmp_path / "m"))
    studio = Studio(Settings(home=tmp_path / "home", _env_file=None))
    try:
        base = GenerateSpec(model=model, text="hat", seed=5)
        for spec in (SheetSpec(base=base), GridSpec(base=base, x=Axis(name="emotion", values=("happy", "sad")))):
            plan = studio._resolver.plan(spec, "me")
            words = ", ".join(decide_traits("hat", 5).values()).split(", ")
            assert all(set(words) <= set(recipe.prompt.split(", ")) for recipe in plan.recipes)
            assert any(", ".join(words[:5]) in note for note in plan.notes)
        own = SheetSpec(base=base.model_copy(update={"prompt": "1girl, happy, pink hair"}), emotions=("happy", "sad"))
        assert studio._resolver.plan(own, "me").recipes[0].prompt == "1girl, happy, pink hair"  # stays as it is
        morph = studio._resolver.plan(MorphSpec(base=base, emotions=("happy", "sad")), "me")
        assert set(words) <= set(morph.recipes[0].prompt.split(", "))
        seeds = GridSpec(base=base, x=Axis(name="seed", values=("1", "2")))  # each seed its own character
        assert len({recipe.labels["decided"] for recipe in studio._resolver.plan(seeds, "me").recipes}) == 2
        styles = studio._resolver.plan(SheetSpec(base=base, styles=("casual", "formal")), "me").recipes
        assert len({recipe.labels["decided"] for recipe in styles}) == 2  # clothes go by the style, nothing else
    finally:
        studio.close()
