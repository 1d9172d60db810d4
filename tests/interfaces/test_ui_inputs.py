"""Forms are made from what the specs know of their fields: nothing of a field stands in a page as well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from streamlit.testing.v1 import AppTest
from support.browser import PATIENCE, Server, open_page, settle
from support.pages import app

from studio.core.fields import describe, fields
from studio.core.specs import GenerateSpec
from studio.core.views import ImportedRecipe
from studio.features.experiment.spec import ExperimentSpec
from studio.interfaces.web import inputs, parameters
from studio.interfaces.web.resources import studio

expect.set_options(timeout=PATIENCE)


def other(name: str) -> object:
    """A value of a field that is neither its default nor blank."""
    known = describe(GenerateSpec, name)
    if known.choices:
        return known.choices[-1]
    if known.type is bool:
        return not known.default
    if known.type in (int, float):
        low = known.bounds.get("ge", known.bounds.get("gt", 0))
        high = known.bounds.get("le", low + 8)
        return next(low + step for step in (8, 2, 1) if low + step <= high and low + step != known.default)
    return str(studio().settings.model)


def test_every_setting_is_in_the_form_and_filled_from_a_recipe(page_home: Path) -> None:
    advanced = {name for name, field in fields(GenerateSpec).items() if field.about.advanced}
    assert set(parameters.KNOWN) == advanced
    names = advanced - {"loras"}
    given = {name: other(name) for name in names}
    assert all(given[name] not in (None, describe(GenerateSpec, name).default) for name in names)
    spec = GenerateSpec(**given)
    at = app(gen_load=ImportedRecipe(spec=spec, origin="studio"))
    widgets = {part.key: part for kind in ("number_input", "selectbox", "toggle") for part in at.get(kind)}
    for name in names:
        known = describe(GenerateSpec, name)
        widget = widgets[f"gen_{name}"]
        assert widget.value == getattr(spec, name), name
        assert widget.label == inputs.label(known)
        if name not in ("model", "sampler"):
            assert known.help in widget.help


@pytest.mark.parametrize("page", ["emotion_morph", "img2img_animation", "sketch_to_character"])
def test_settings_of_other_pages_come_from_the_same_fields(page_home: Path, page: str) -> None:
    prefix = {"emotion_morph": "morph", "img2img_animation": "anim", "sketch_to_character": "sk"}[page]
    at = app(page)
    keys = {part.key for kind in ("number_input", "selectbox", "toggle") for part in at.get(kind)}
    left_out = {"loras", "width", "height"} | (set() if prefix == "sk" else {"guidance", "sampler", *parameters.HIRES})
    assert {f"{prefix}_{name}" for name in set(parameters.KNOWN) - left_out} <= keys


def _one_of_each() -> None:
    from typing import Annotated, Literal

    import streamlit as st
    from pydantic import Field

    from studio.core.fields import About
    from studio.core.specs import Spec
    from studio.interfaces.web import inputs

    class Toy(Spec):
        size: Annotated[
            int, Field(title="Size", description="How large.", ge=8, le=64, multiple_of=8), About(unit="px")
        ] = 16
        share: Annotated[float | None, Field(title="Share", gt=0, le=1), About(step=0.1, blank="all")] = None
        way: Annotated[Literal["a", "b"], Field(title="Way"), About(names={"a": "One", "b": "Other"})] = "b"
        mirror: Annotated[bool, Field(title="Mirror", description="Left is right.")] = True
        name: Annotated[str | None, Field(title="Name", max_length=5), About(blank="nobody")] = None

    st.session_state["toy"] = {name: inputs.field(Toy, name, f"toy_{name}") for name in Toy.model_fields}


def test_a_field_gets_the_widget_that_suits_it() -> None:
    at = AppTest.from_function(_one_of_each, default_timeout=30).run()
    assert not at.exception
    assert at.session_state["toy"] == {"size": 16, "share": None, "way": "b", "mirror": True, "name": None}
    assert (at.number_input(key="toy_size").label, at.number_input(key="toy_size").help) == ("Size (px)", "How large.")
    assert at.number_input(key="toy_share").placeholder == "all"
    assert at.selectbox(key="toy_way").options == ["One", "Other"]
    assert at.toggle(key="toy_mirror").help == "Left is right."
    assert (at.text_input(key="toy_name").placeholder, at.text_input(key="toy_name").max_chars) == ("nobody", 5)
    at.number_input(key="toy_size").set_value(99)
    at.text_input(key="toy_name").set_value("  Mio ").run()
    assert at.session_state["toy"] | {"size": 64, "name": "Mio"} == at.session_state["toy"]
    assert "Size can't be 99, so it is 64 now: from 8 to 64, in steps of 8." in at.toast[0].value.replace("\\", "")


@pytest.mark.browser
def test_what_is_opened_late_still_holds_its_defaults(server: Server, visitor: Callable[..., Page]) -> None:
    page = visitor(width=1300)
    open_page(page, server.url)
    for style in ("Formal", "Artistic"):  # runs of the page in which nobody has seen the fields yet
        page.get_by_role("radio", name=style).click()
        settle(page)
    page.get_by_role("button", name="Test", exact=True).click()
    seeds = page.get_by_label(describe(ExperimentSpec, "seeds").label, exact=True)
    expect(seeds).to_have_value(str(describe(ExperimentSpec, "seeds").default))
    page.get_by_text("Worst case").click()
    settle(page)
    assert page.get_by_test_id("stToast").count() == 0
    expect(seeds).to_have_value(str(describe(ExperimentSpec, "seeds").default))
