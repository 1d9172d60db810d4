"""A character that is kept: decided once, shown, and drawn on every page until it is let go."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from support.pages import MAIN, STEPS, app, draw, finish, sentences, to

from studio.interfaces.web import character
from studio.interfaces.web.resources import studio
from studio.prompting.traits import character_in, with_character

HER = ("red hair", "glasses", "blue eyes", "fair skin", "straight hair", "red hoodie")


def chips(at: AppTest, prefix: str) -> dict[str, str]:
    start = f"{prefix}_chip_"
    return {
        button.key.removeprefix(start): button.label.replace("\\", "")
        for button in at.button
        if button.key and button.key.startswith(start)
    }


def test_who_is_in_a_prompt() -> None:
    drawn = (
        "1girl, solo, looking at viewer, upper body, happy, smile, casual clothes, red hair, glasses, petals, "
        "(blue eyes:1.2), fair skin, straight hair, red hoodie, tears, running, zorvax, masterpiece"
    )
    assert character_in(drawn) == HER
    assert character_in(drawn, "red hair, zorvax") == (*HER, "zorvax")
    assert character_in("1boy, black hair") == ("1boy", "black hair")


def test_what_is_typed_goes_before_the_character_that_is_kept() -> None:
    assert with_character("", HER) == ", ".join(HER)
    assert with_character("blue hair, running", HER) == (
        "blue hair, running, glasses, blue eyes, fair skin, straight hair, red hoodie"
    )
    assert "hoodie" not in with_character("wearing a white dress", HER)
    assert with_character("red hair, glasses", HER).count("red hair") == 1
    assert with_character("x" * 3999, HER) == "x" * 3999


def test_a_drawn_character_is_kept_on_every_page(page_home: Path) -> None:
    at = app(gen_steps=STEPS)
    at.text_input(key="gen_text").set_value("glasses").run()
    at.button(key="gen_draw").click().run()
    job = finish(at)
    picture = studio().picture(job.pictures[0], "me")
    decided = picture.recipe.labels["decided"]
    assert character.TEXT["decided"] in sentences(at)
    assert all(word in sentences(at) for word in decided.split(", "))
    at.button(key=f"keep_large_{picture.id}").click().run()
    assert not at.exception
    who = ("glasses", *decided.split(", "))
    assert set(at.session_state["character"]) == set(who)
    assert chips(at, "gen")["character"].startswith("Same character: ")
    at.button(key="gen_draw").click().run()  # another seed, the same character
    again = studio().picture(finish(at).pictures[0], "me").recipe
    assert "decided" not in again.labels
    assert all(word in again.prompt for word in who)
    assert at.text_input(key="gen_text").value == "glasses"

    to(at, "emotion_morph")
    assert "character" in chips(at, "morph")
    at.number_input(key="morph_steps").set_value(STEPS)
    at.button(key="morph_draw").click().run()
    assert not at.exception
    morph = studio().job_spec(at.session_state["job:emotion_morph"], "me")
    assert all(word in morph.base.text for word in who)
    studio().cancel(at.session_state["job:emotion_morph"], "me")

    to(at, "sketch_to_character")
    assert "character" in chips(at, "sk")
    to(at, "img2img_animation")
    at.button(key="anim_chip_character").click().run()
    assert "character" not in at.session_state
    to(at, "generate")
    assert "character" not in chips(at, "gen")


@pytest.mark.parametrize("page", ["generate", "sketch_to_character", "emotion_morph", "gallery"])
def test_a_kept_character_survives_a_reload(page_home: Path, page: str) -> None:
    at = app(page, character=HER)
    said = at.query_params["keep"]
    fresh = AppTest.from_file(MAIN, default_timeout=90)
    fresh.session_state["owner"] = "me"
    fresh.query_params["keep"] = said
    to(fresh, page)
    assert tuple(fresh.session_state["character"]) == HER
    if page == "generate":
        assert fresh.query_params["keep"] == said
        fresh.button(key="gen_chip_character").click().run()
        assert "keep" not in fresh.query_params
        assert "character" not in fresh.session_state


def test_a_reload_after_a_picture_keeps_character_and_words_apart(page_home: Path) -> None:
    at = app(character=HER, gen_steps=STEPS)
    at.text_input(key="gen_text").set_value("running").run()
    at.button(key="gen_draw").click().run()
    job = finish(at)
    assert "glasses" in studio().job_spec(job.id, "me").text
    fresh = AppTest.from_file(MAIN, default_timeout=90)
    fresh.session_state["owner"] = "me"
    for name in ("keep", "job"):
        fresh.query_params[name] = at.query_params[name]
    fresh.run()
    assert tuple(fresh.session_state["character"]) == HER
    assert fresh.text_input(key="gen_text").value == "running"


def test_a_recipe_brings_a_character_of_its_own(page_home: Path) -> None:
    picture = draw("me", seed=60, text="pink hair")
    at = app(send={"page": "generate", "picture": picture, "as": "recipe"}, character=HER)
    assert "character" not in chips(at, "gen")
    assert at.text_input(key="gen_text").value == "pink hair"


def test_a_prompt_of_one_s_own_is_drawn_as_it_stands(page_home: Path) -> None:
    at = app(character=HER, gen_own=True, gen_own_prompt="1girl, pink hair", gen_own_negative="", gen_steps=STEPS)
    assert "character" not in chips(at, "gen")
    at.button(key="gen_draw").click().run()
    assert studio().picture(finish(at).pictures[0], "me").recipe.prompt == "1girl, pink hair"


@pytest.mark.parametrize(("page", "prefix"), [
    ("sketch_to_character", "sk"), ("emotion_morph", "morph"), ("img2img_animation", "anim"),
])  # fmt: skip
def test_what_was_changed_stands_as_chips_on_every_page_that_draws(page_home: Path, page: str, prefix: str) -> None:
    at = app(page)
    assert not chips(at, prefix)
    at.number_input(key=f"{prefix}_steps").set_value(3)
    at.number_input(key=f"{prefix}_seed").set_value(7)
    if prefix == "sk":
        at.slider(key="sk_weight").set_value(0.5)
        at.slider(key="sk_span").set_value((0.0, 0.5))
    else:
        at.number_input(key=f"{prefix}_fps").set_value(12)
    at.run()
    assert {"steps", "seed", "reset"} < set(chips(at, prefix))
    assert ({"weight", "sk_span"} if prefix == "sk" else {"fps"}) < set(chips(at, prefix))
    at.button(key=f"{prefix}_chip_reset").click().run()
    assert not at.exception
    assert not chips(at, prefix)
    assert at.number_input(key=f"{prefix}_steps").value is None
