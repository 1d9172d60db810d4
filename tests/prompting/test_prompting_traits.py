"""One character for several pictures: what is left open about a face is decided once."""

from __future__ import annotations

from pathlib import Path

from support.checkpoints import tiny_sd

from studio.core.settings import Settings
from studio.core.specs import GenerateSpec
from studio.features.morph.spec import MorphSpec
from studio.features.sheets.spec import Axis, GridSpec, SheetSpec
from studio.prompting.traits import TRAITS, decide_traits
from studio.service import Studio


def test_only_what_was_left_open_is_decided_and_the_same_for_a_seed() -> None:
    every = decide_traits("1girl, happy", 5)
    assert [word in words for word, words in zip(every, TRAITS.values(), strict=True)] == [True] * 4
    assert decide_traits("1girl, happy", 5) == every
    assert len({decide_traits("1girl", seed) for seed in range(30)}) > 20
    # what is said, also by a synonym or with a weight, is left alone, and changes none of the others
    assert decide_traits("1girl, (pink hair:1.2), twintails", 5) == every[1:]
    assert decide_traits("brunette, azure eyes", 5) == (every[1], every[3])
    assert decide_traits("pink hair, long hair, blue eyes, pale skin", 5) == ()


def test_every_tile_of_a_sheet_asks_for_the_same_character(tmp_path: Path) -> None:
    model = str(tiny_sd(tmp_path / "m"))
    studio = Studio(Settings(home=tmp_path / "home", _env_file=None))
    try:
        base = GenerateSpec(model=model, text="hat", seed=5)
        for spec in (SheetSpec(base=base), GridSpec(base=base, x=Axis(name="emotion", values=("happy", "sad")))):
            plan = studio._resolver.plan(spec, "me")
            words = decide_traits("hat", 5)
            assert all(set(words) <= set(recipe.prompt.split(", ")) for recipe in plan.recipes)
            assert any(", ".join(words) in note for note in plan.notes)
        own = SheetSpec(base=base.model_copy(update={"prompt": "1girl, happy, pink hair"}), emotions=("happy", "sad"))
        assert studio._resolver.plan(own, "me").recipes[0].prompt == "1girl, happy, pink hair"  # stays as it is
        morph = studio._resolver.plan(MorphSpec(base=base, emotions=("happy", "sad")), "me")
        assert set(words) <= set(morph.recipes[0].prompt.split(", "))
        seeds = GridSpec(base=base, x=Axis(name="seed", values=("1", "2")))  # the same words already
        assert not any(word in studio._resolver.plan(seeds, "me").recipes[0].prompt for word in words)
    finally:
        studio.close()
