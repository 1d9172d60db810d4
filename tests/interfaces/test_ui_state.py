"""Nothing that shapes a picture is hidden: chips beside Draw, what a reload brings back, what captions say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from streamlit.testing.v1 import AppTest
from support.browser import PATIENCE, Server, open_page, settle
from support.pages import MAIN, STEPS, app, draw, finish, prompt_of, sentences

from studio.core.specs import BatchRow, GenerateSpec
from studio.features.sheets.spec import BatchSpec
from studio.interfaces.web import text
from studio.interfaces.web.resources import studio
from studio.service.sizes import largest_side

expect.set_options(timeout=PATIENCE)


def chips(at: AppTest) -> dict[str, str]:
    return {
        button.key.removeprefix("gen_chip_"): button.label.replace("\\", "")
        for button in at.button
        if button.key and button.key.startswith("gen_chip_")
    }


def test_what_was_changed_stands_beside_draw_and_is_undone_there(page_home: Path) -> None:
    at = app()
    assert not chips(at)
    at.number_input(key="gen_steps").set_value(7)
    at.number_input(key="gen_seed").set_value(42)
    at.selectbox(key="gen_sampler").set_value("ddim").run()
    assert {name: label.rsplit(" :", 1)[0] for name, label in chips(at).items() if name != "reset"} == {
        "steps": "Steps: 7",
        "seed": "Seed: 42",
        "sampler": "Sampler: DDIM",
    }
    at.button(key="gen_chip_steps").click().run()
    assert at.number_input(key="gen_steps").value is None
    at.button(key="gen_chip_reset").click().run()
    assert not chips(at)
    assert (at.number_input(key="gen_seed").value, at.selectbox(key="gen_sampler").value) == (None, "auto")


def test_a_picture_to_start_from_and_a_prompt_of_one_s_own_are_chips(page_home: Path) -> None:
    picture = draw("me", seed=60, prompt="1girl, my own words", negative="")
    at = app(send={"page": "generate", "picture": picture, "as": "source"})
    assert "Draw starts from this picture now" in sentences(at)
    assert "Starts from a picture" in chips(at)["source"]
    at.button(key="gen_chip_source").click().run()
    assert not chips(at)
    at = app(send={"page": "generate", "picture": picture, "as": "recipe"})
    assert {"own", "steps", "seed"} <= set(chips(at))
    at.button(key="gen_chip_reset").click().run()
    assert not chips(at)
    assert not at.text_area
    layer = next(field for field in at.text_input if field.key and field.key.startswith("gen_layer_emotion"))
    layer.set_value("furious").run()
    assert "edited" in chips(at)
    at.button(key="gen_chip_edited").click().run()
    assert "furious" not in prompt_of(at)


def again(at: AppTest) -> AppTest:
    """The page after a reload: the address is all that is left."""
    fresh = AppTest.from_file(MAIN, default_timeout=90)
    fresh.session_state["owner"] = "me"
    for name, values in at.query_params.items():
        fresh.query_params[name] = values
    return fresh.run()


def test_a_variation_is_no_part_of_the_form_that_a_reload_brings_back(page_home: Path) -> None:
    at = app(gen_steps=STEPS)
    at.text_input(key="gen_text").set_value("red hair").run()
    at.button(key="gen_draw").click().run()
    first = finish(at)
    at.button(key=f"vary_large_{first.pictures[0]}").click().run()
    variation = finish(at)
    assert studio().job_spec(variation.id, "me").source == first.pictures[0]
    fresh = again(at)
    assert fresh.session_state["job:generate"] == variation.id  # it is shown all the same
    assert fresh.text_input(key="gen_text").value == "red hair"
    assert set(chips(fresh)) == {"steps"}
    fresh.button(key="gen_draw").click().run()
    assert studio().job_spec(finish(fresh).id, "me").source is None


def test_a_variation_of_a_picture_from_before_brings_nothing_into_the_form(page_home: Path) -> None:
    picture = draw("me", seed=61, text="pink hair", quality="high")
    at = app()
    at.button(key=f"vary_large_{picture}").click().run()
    finish(at)
    fresh = again(at)
    assert not chips(fresh)
    assert fresh.text_input(key="gen_text").value == ""


def test_pictures_are_called_by_what_was_drawn(page_home: Path) -> None:
    model = studio().settings.model
    base = GenerateSpec(model=model, steps=STEPS, seed=5, emotion="calm", text="pink hair")
    rows = (BatchRow(prompt="1girl, red hair, glasses"), BatchRow(prompt="1boy, (furious:1.2), casual clothes"))
    done = studio().wait(studio().submit(BatchSpec(base=base, rows=rows), "me").id, "me", 60)
    recipes = [studio().picture(id, "me").recipe for id in done.pictures]
    assert [recipe.labels for recipe in recipes] == [
        {"quality": "standard"},
        {"style": "casual", "quality": "standard"},
    ]
    assert [text.description(recipe) for recipe in recipes] == ["1girl, red hair, glasses", "casual"]
    own = studio().picture(draw("me", seed=62, text="pink hair", prompt="1girl, happy, red hair"), "me")
    assert "pink" not in text.name(own)
    assert own.recipe.labels["emotion"] == "happy"
    assert studio().gallery("me", query="pink") == []
    kept = studio().picture(draw("me", seed=63, text="pink hair", prompt="1girl, happy, pink hair"), "me")
    assert kept.recipe.labels["text"] == "pink hair"


def test_sizes_beyond_the_model_are_drawn_smaller_and_enlarged(page_home: Path) -> None:
    assert [largest_side(256), largest_side(256, 256), largest_side(256, 384)] == [312, 384, 256]
    at = app(gen_model="embedded")
    assert "made for 256 × 256 pixels" in at.number_input(key="gen_width").help
    at.number_input(key="gen_width").set_value(512)
    at.number_input(key="gen_height").set_value(512).run()
    assert [at.number_input(key=f"gen_{side}").value for side in ("width", "height")] == [512, 512]
    assert not at.toast
    plan = studio()._resolver.plan(GenerateSpec(model="embedded", width=512, height=512, seed=1), "me")
    assert any("drawn in 256 x 256 and enlarged 2 times" in note for note in plan.notes)
    assert (plan.recipes[0].width, plan.recipes[0].upscale, plan.recipes[0].size) == (256, 2, (512, 512))
    plan = studio()._resolver.plan(GenerateSpec(model="embedded", width=512, height=512, hires=2, seed=1), "me")
    assert any("more than this model was made for" in note for note in plan.notes)


@pytest.mark.browser
@pytest.mark.parametrize("width", [1300, 390])
def test_chips_stand_beside_draw(server: Server, visitor: Callable[..., Page], width: int) -> None:
    page = visitor(width=width)
    open_page(page, server.url)
    page.get_by_text("More settings", exact=True).click()
    for label, value in (("Steps", "3"), ("Seed", "7")):
        page.get_by_label(label, exact=True).fill(value)
        page.get_by_label(label, exact=True).press("Enter")
        settle(page)
    bar = page.get_by_test_id("stBottom")
    steps = bar.get_by_role("button", name="Steps: 3")
    expect(steps).to_be_visible()
    box = steps.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    steps.click()
    expect(page.get_by_label("Steps", exact=True)).to_have_value("")
    expect(bar.get_by_role("button", name="Steps")).to_have_count(0)
    expect(bar.get_by_role("button", name="Seed: 7")).to_be_visible()
