"""What was drawn and typed before: found again, restored, compared; the prompt undone and redone."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.pages import STEPS, app, draw, sentences

from studio.interfaces.web import history


def test_the_prompt_is_undone_and_redone(page_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = app()
    assert at.button(key="gen_prompt_undo").disabled
    monkeypatch.setattr(history, "PAUSE", 0.0)
    at.text_input(key="gen_text").set_value("red hair").run()
    at.text_input(key="gen_text").set_value("red hair, blue eyes").run()
    at.button(key="gen_whole").click().run()
    at.text_area(key="gen_own_prompt").set_value("1girl, hat").run()
    at.button(key="gen_prompt_undo").click().run()
    assert at.text_area(key="gen_own_prompt").value != "1girl, hat"
    at.button(key="gen_prompt_undo").click().run()
    assert not at.session_state["gen_own"]
    assert at.text_input(key="gen_text").value == "red hair, blue eyes"
    at.button(key="gen_prompt_undo").click().run()
    assert at.text_input(key="gen_text").value == "red hair"
    at.button(key="gen_prompt_undo").click().run()
    assert at.text_input(key="gen_text").value == ""
    for _ in range(4):
        at.button(key="gen_prompt_redo").click().run()
    assert not at.exception
    assert at.text_area(key="gen_own_prompt").value == "1girl, hat"
    assert at.button(key="gen_prompt_redo").disabled
    at.button(key="gen_prompt_undo").click().run()
    at.text_area(key="gen_own_prompt").set_value("1boy").run()  # another way on: nothing is left to redo
    assert at.button(key="gen_prompt_redo").disabled


def test_what_is_typed_without_a_pause_is_one_step_and_memory_has_an_end(
    page_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = app()
    for typed in ("r", "re", "red"):
        at.text_input(key="gen_text").set_value(typed).run()
    at.button(key="gen_prompt_undo").click().run()
    assert at.text_input(key="gen_text").value == ""
    monkeypatch.setattr(history, "PAUSE", 0.0)
    monkeypatch.setattr(history, "MOST", 5)
    for number in range(8):
        at.text_input(key="gen_text").set_value(f"{number} hats").run()
    assert len(at.session_state["gen_prompt_past"]["steps"]) == 5


def test_every_prompt_is_found_restored_and_compared(page_home: Path) -> None:
    red, blue = draw("me", text="red hair", seed=5), draw("me", text="blue hair", seed=6, emotion="sad")
    draw("somebody else", text="red hair", seed=9)
    at = app(gen_steps=STEPS)
    assert {button.key for button in at.button if "past_restore" in str(button.key)} == {
        f"past_restore_{red}", f"past_restore_{blue}",
    }  # fmt: skip
    at.text_input(key="gen_past_query").set_value("sad, blue hair").run()
    assert not at.exception
    assert not [button for button in at.button if button.key == f"past_restore_{red}"]
    at.button(key=f"past_restore_{blue}").click().run()
    assert at.text_input(key="gen_text").value == "blue hair"
    assert at.session_state["gen_emotion"] == "sad"
    at.text_input(key="gen_past_query").set_value("nobody drew this").run()
    assert history.TEXT["nothing"] in sentences(at)
    at.text_input(key="gen_past_query").set_value("").run()
    assert at.button(key="past_compare").disabled
    for id in (red, blue):
        at.checkbox(key=f"past_pick_{id}").check().run()
    at.button(key="past_compare").click().run()
    assert not at.exception
    assert "What differs" in sentences(at)
