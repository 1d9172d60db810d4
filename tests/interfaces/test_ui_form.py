"""The form of the Generate page in `AppTest`: what it puts right, what it says, what it remembers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from fastapi.exceptions import RequestValidationError
from streamlit.testing.v1 import AppTest
from support.browser import REPOSITORY
from support.pages import MAIN, STEPS, app, draw, finish, prompt_of, sentences

from studio.core.errors import BadInput
from studio.core.specs import EMOTIONS, GenerateSpec, Recipe
from studio.engine.models.catalogue import FastPath
from studio.engine.models.families import SD15
from studio.features.sheets.spec import SheetSpec
from studio.interfaces.api import problems
from studio.interfaces.web import frame, request, text
from studio.interfaces.web.resources import studio
from studio.service import parse_spec
from studio.service.resolving import sampling


def toasts(at: AppTest) -> str:
    return " ".join(part.value for part in at.toast).replace("\\", "")


def test_numbers_that_no_request_can_have_become_the_nearest_that_it_can(page_home: Path) -> None:
    at = app()
    at.number_input(key="gen_width").set_value(257).run()
    assert not at.exception
    assert at.number_input(key="gen_width").value == 256
    assert "Width can't be 257, so it is 256 now: from 64 to 2048, in steps of 8." in toasts(at)
    at.number_input(key="gen_guidance").set_value(99.0)
    at.number_input(key="gen_height").set_value(9)
    at.number_input(key="gen_count").set_value(0).run()
    assert not at.exception
    values = [at.number_input(key=f"gen_{name}").value for name in ("guidance", "height", "count")]
    assert values == [30.0, 64, 1]
    assert "Guidance can't be 99" in toasts(at)
    at.run()
    assert not toasts(at)  # said once
    with pytest.raises(BadInput, match="steps should be"):
        request.Fields("happy", "casual", "draft", "", 1, {"steps": 900}, ()).spec(None, None)


def test_a_refusal_is_said_beside_draw_and_alone(page_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = draw("me", seed=50)

    def fails(*_: object) -> None:
        raise BadInput("It failed.")

    def refuses(*_: object) -> None:
        raise BadInput("Refused.")

    with monkeypatch.context() as patch:
        patch.setitem(studio()._jobs._kinds, "generate", fails)
        job = studio().submit(GenerateSpec(model=studio().settings.model, steps=STEPS, seed=51), "me")
        studio().wait(job.id, "me", 60)
    at = app(**{"job:generate": job.id})
    assert "It failed." in sentences(at)
    assert f"new_large_{picture}" in [button.key for button in at.button]  # the last picture stays
    with monkeypatch.context() as patch:
        patch.setattr(studio(), "submit", refuses)
        at.button(key="gen_draw").click().run()
    assert not at.exception
    assert [part.value for part in at.error] == ["Refused\\."]
    assert "Refused." in toasts(at)


def test_words_that_wait_for_a_loaded_prompt_are_said_to(page_home: Path) -> None:
    picture = draw("me", seed=52, prompt="1girl, my own words", negative="")
    at = app(send={"page": "generate", "picture": picture, "as": "recipe"})
    assert at.text_area(key="gen_own_prompt").value == "1girl, my own words"
    assert "written anew" not in sentences(at)
    at.button_group(key="gen_emotion").set_value("sad").run()
    assert "wait until it is written anew" in sentences(at)
    at.button(key="gen_own_anew").click().run()
    assert "wait until" not in sentences(at)
    assert "sad" in prompt_of(at)


def test_a_reload_while_a_job_works_brings_the_form_back(page_home: Path) -> None:
    at = app(gen_steps=STEPS)
    at.text_input(key="gen_text").set_value("green hair")
    at.button_group(key="gen_quality").set_value("high")
    at.number_input(key="gen_count").set_value(2)
    at.button(key="gen_draw").click().run()
    job = finish(at)
    again = AppTest.from_file(MAIN, default_timeout=60)
    again.session_state["owner"] = "me"
    again.query_params["job"] = job.id
    again.run()
    assert not again.exception
    assert again.text_input(key="gen_text").value == "green hair"
    assert again.button_group(key="gen_quality").value == "high"
    assert [again.number_input(key=f"gen_{name}").value for name in ("count", "steps", "seed")] == [2, STEPS, None]
    again.button_group(key="gen_emotion").set_value("angry").run()
    assert "angry" in prompt_of(again)  # the fields decide, as they did


def test_tiles_are_called_by_their_own_emotion(page_home: Path) -> None:
    base = GenerateSpec(model=studio().settings.model, steps=STEPS, seed=53, prompt="1girl, happy, joyful, casual")
    job = studio().wait(studio().submit(SheetSpec(base=base), "me").id, "me", 60)
    names = [text.name(studio().picture(id, "me")) for id in job.pictures]
    own = [f"{text.EMOTION_NAMES[emotion]}, casual" for emotion in EMOTIONS]
    assert [name.rsplit(" · ", 1)[-1] for name in names] == [*own, "5 emotions"]
    picture = studio().picture(job.pictures[1], "me").model_copy(update={"title": "happy, casual"})
    assert text.name(picture) == own[1]  # a title that says what the sheet began with
    typed = text.name(studio().picture(draw("me", seed=54, text="red hair", emotion="sad"), "me"))
    assert typed == "red hair · Sad, casual"


def test_addresses_of_what_is_not_there_are_said(page_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = AppTest.from_file(str(REPOSITORY / "pages" / "gallery.py"), default_timeout=60)
    at.session_state["owner"] = "me"
    at.query_params["picture"] = "zzz"
    at.run()
    assert "The picture that the address names isn't here" in sentences(at)
    for url, unknown in (("http://x/nopage", "nopage"), ("http://x/", None), ("http://x", None), (None, None)):
        monkeypatch.setattr(type(frame.st.context), "url", url)
        assert frame.unknown_page() == unknown


@pytest.mark.parametrize("quality", ["draft", "standard", "high"])
@pytest.mark.parametrize("fast", [None, FastPath("fast.safetensors", 4, 1.0, "lcm")])
def test_the_grey_numbers_are_what_is_drawn_with(page_home: Path, quality: str, fast: FastPath | None) -> None:
    info = dataclasses.replace(studio().models.list()[0], fast=fast, steps=20, guidance=6.0)
    spec = GenerateSpec(quality=quality)
    assert request.automatic(quality, info) == sampling(spec, info)[:2]
    assert request.automatic("high", info) == (20, 6.0)


def test_mistakes_are_said_without_the_library_s_idiom() -> None:
    for request_, said in (
        ({"text": "x" * 55_000}, "text: this is too long, at most 4000 characters are taken"),
        (b'{"text": ', "This isn't valid JSON ("),
    ):
        with pytest.raises(BadInput) as caught:
            parse_spec(request_)
        assert str(caught.value).startswith(said)
    json = {"type": "json_invalid", "loc": ("body", 1), "msg": "JSON decode error", "ctx": {"error": "Expecting value"}}
    answer = problems._invalid(None, RequestValidationError([json]))  # type: ignore[arg-type]
    assert b'"error":"This isn\'t valid JSON (Expecting value)."' in answer.body


def test_how_often_a_picture_was_drawn_is_said_beside_it() -> None:
    fields = {"model": "m", "model_hash": "h", "prompt": "p", "seed": 1, "steps": 4, "guidance": 1, "sampler": "lcm"}
    recipe = Recipe(**fields, width=256, height=256)  # type: ignore[arg-type]
    assert "drawn" not in text.summary(recipe)
    again = recipe.model_copy(update={"labels": {"attempts": "3"}})
    assert text.summary(again).endswith("drawn 3 times, the best one kept")
    assert again.key == recipe.key


def test_few_steps_are_offered_to_a_model_that_has_none_here(page_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(page_home / "hub"))
    at = app()
    assert not [button for button in at.button if button.key == "gen_fast"], "none fits the small model"
    at.session_state["gen_model"] = SD15.default_model
    at.run()
    assert not at.exception
    said = " ".join(caption.value for caption in at.caption).replace("\\", "")
    assert f"in 4 steps instead of 20, with {SD15.fast[0].said}." in said
    assert at.number_input(key="gen_steps").placeholder == "20"
    at.button(key="gen_fast").click().run()
    assert not at.exception
    assert at.session_state["gen_loras"] == [SD15.fast[0].reference]
    assert at.number_input(key="gen_steps").placeholder == "4"
    assert not [button for button in at.button if button.key == "gen_fast"]
