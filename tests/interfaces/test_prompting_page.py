"""Claude, suggestions and tag lists on the pages, against a server on this machine that speaks the Messages API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from streamlit.testing.v1 import AppTest
from support.claude_server import GOOD, REVIEW, FakeClaude, failure, message, reply, unsure
from support.pages import app, prompt_of, sentences

from studio.core.errors import Busy
from studio.core.settings import settings
from studio.interfaces.web import words
from studio.interfaces.web.resources import studio
from studio.prompting.claude import ClaudeWriter


@pytest.fixture
def keyed(claude: FakeClaude, page_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeClaude]:
    """The pages' studio with a key and the server in the place of Anthropic's."""
    monkeypatch.setenv("STUDIO_OFFLINE", "false")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")
    monkeypatch.setenv("STUDIO_ANTHROPIC_BASE_URL", claude.url)
    settings.cache_clear()
    claude.script = [reply(200, message(GOOD))]
    yield claude
    if isinstance(studio().prompts._writer, ClaudeWriter) and "client" in vars(studio().prompts._writer):
        studio().prompts._writer.client.close()


def keys(at: AppTest) -> set[str]:
    return {button.key for button in at.button if button.key}


def test_typing_never_asks_claude_and_the_button_does(keyed: FakeClaude) -> None:
    at = app()
    for typed in ("r", "red", "red ha", "red hair"):
        at.text_input(key="gen_text").set_value(typed).run()
    at.button_group(key="gen_emotion").set_value("sad").run()
    assert not keyed.requests
    assert "Written here" in prompt_of(at)
    at.button(key="gen_ask").click().run()
    assert not at.exception
    assert len(keyed.requests) == 1
    assert json.loads(keyed.requests[0]["messages"][0]["content"])["text"] == "red hair"
    assert "tears" in prompt_of(at)
    assert "gen_ask" not in keys(at)
    at.text_input(key="gen_text").set_value("blue hair").run()
    assert "Written here" in prompt_of(at)
    at.text_input(key="gen_text").set_value("red hair").run()  # what Claude wrote is kept for its input
    assert "tears" in prompt_of(at)
    assert len(keyed.requests) == 1


def test_draw_asks_claude_once_and_draws_what_it_wrote(keyed: FakeClaude) -> None:
    at = app(gen_steps=2, gen_emotion="sad")
    at.button(key="gen_draw").click().run()
    job = studio().wait(at.session_state["job:generate"], "me", 60)
    recipe = studio().picture(job.pictures[0], "me").recipe
    assert recipe
    assert "tears" in recipe.prompt
    at.run()
    at.button(key="gen_draw").click().run()
    assert len(keyed.requests) == 1


def test_an_edited_prompt_is_drawn_as_it_is(keyed: FakeClaude) -> None:
    at = app(gen_steps=2)
    layer = next(field for field in at.text_input if field.key and field.key.startswith("gen_layer_emotion"))
    layer.set_value("furious").run()
    assert "gen_ask" not in keys(at)
    at.button(key="gen_draw").click().run()
    assert not at.exception
    assert not keyed.requests


def test_what_it_cost_stays_on_the_page(keyed: FakeClaude) -> None:
    at = app("generate", gen_emotion="sad")
    at.button(key="gen_ask").click().run()
    for _ in range(2):
        at.run()
        assert "800 + 120 tokens" in sentences(at)
    assert any("800 + 120 tokens in 1 call" in (caption.help or "") for caption in at.caption)
    at = app("system")
    assert "800 + 120 tokens in 1 call" in sentences(at)


def test_a_failure_is_said_and_not_repeated_with_every_click(keyed: FakeClaude) -> None:
    keyed.script = [failure(404, "not_found_error")]
    at = app()
    for _ in range(3):
        at.button(key="gen_ask").click().run()
        assert "doesn't offer the model" in sentences(at)
        at.text_input(key="gen_text").set_value("red hair").run()
        at.text_input(key="gen_text").set_value("").run()
    assert len(keyed.requests) == 1


def test_write_it_again_asks_claude_again(keyed: FakeClaude) -> None:
    keyed.script = [unsure(0.4), reply(200, message(GOOD))]
    at = app(gen_emotion="sad")
    at.button(key="gen_draw").click().run()
    assert "only 40% sure" in sentences(at).replace(" %", "%")
    at.button(key="gen_doubt_again").click().run()
    assert len(keyed.requests) == 2
    assert not studio().jobs("me")
    assert at.session_state["gen_writer_seed"] == 1
    at.text_input(key="gen_text").set_value("red hair").run()
    assert at.session_state["gen_writer_seed"] == 0


def test_claude_reviews_beside_the_word_lists(keyed: FakeClaude) -> None:
    at = app()
    at.button(key="gen_ask").click().run()
    bars = len(at.get("html"))
    keyed.script = [reply(200, message(REVIEW))]
    at.button(key="gen_review").click().run()
    assert not at.exception
    assert len(at.get("html")) == bars + 1
    assert "Word lists" in sentences(at)
    assert "gen_review" not in keys(at)
    at.run()
    assert len(keyed.requests) == 2


def test_without_a_key_nothing_offers_claude(page_home: Path) -> None:
    at = app(gen_steps=2)
    assert not {"gen_ask", "gen_review"} & keys(at)
    at.text_input(key="gen_text").set_value("crying, frown, long hair, short hair").run()
    at.button(key="gen_draw").click().run()
    assert "gen_doubt_again" not in keys(at), "what is written here is as sure of every wording"
    at.button(key="gen_doubt_repaired").click().run()
    assert at.text_input(key="gen_text").value == "crying, long hair"
    assert not at.text_area  # it is no prompt of one's own: what is typed next is drawn
    at.text_input(key="gen_text").set_value("green eyes").run()
    at.button(key="gen_draw").click().run()
    job = studio().wait(at.session_state["job:generate"], "me", 60)
    assert job.state == "done"
    assert "green eyes" in studio().picture(job.pictures[0], "me").recipe.prompt


def test_a_repair_that_adds_words_lasts_until_the_description_changes(page_home: Path) -> None:
    at = app(gen_steps=2)
    at.session_state["gen_own"], at.session_state["gen_own_prompt"] = True, "1girl, sad, red hair"
    at.session_state["gen_own_negative"], at.session_state["gen_own_until"] = "", ("happy", "casual", "")
    at.run()
    assert at.text_area(key="gen_own_prompt").value == "1girl, sad, red hair"
    at.text_input(key="gen_text").set_value("green eyes").run()
    assert not at.text_area
    assert "green eyes" in prompt_of(at)


@pytest.mark.parametrize(
    ("typed", "tag", "whole"),
    [("red hair, twint", "twintails", "red hair, twintails, "), ("青い髪、笑", "smile", "青い髪、smile, ")],
)
def test_the_last_tag_is_completed(page_home: Path, typed: str, tag: str, whole: str) -> None:
    at = app()
    assert not [key for key in keys(at) if key.startswith("gen_suggest")]
    at.text_input(key="gen_text").set_value(typed).run()
    button = next(one for one in at.button if one.key and one.key.startswith("gen_suggest_") and tag in one.label)
    button.click().run()
    assert at.text_input(key="gen_text").value == whole
    assert not [key for key in keys(at) if key.startswith("gen_suggest")]


def test_a_tag_list_of_one_s_own(page_home: Path) -> None:
    at = app("system")
    data = 'zorvaxia_(game),3,500,"zorvax"\nbroken,x,1,\nqwendolin,4,20,\n'
    at.file_uploader(key="system_tags").set_value(("mine.csv", data.encode(), "text/csv")).run()
    at.button(key="system_tags_add").click().run()
    assert not at.exception
    assert "2 tags" in sentences(at)
    assert "Line 2" in sentences(at)
    at = app()
    at.text_input(key="gen_text").set_value("qwen").run()
    assert at.button(key="gen_suggest_0").label == "qwendolin"
    at = app("system")
    at.button(key="system_tags_drop_mine").click().run()
    assert not studio().prompts.tag_lists()
    assert not studio().prompts.complete("qwen")


def test_a_file_that_is_no_tag_list_is_a_sentence(page_home: Path) -> None:
    at = app("system")
    at.file_uploader(key="system_tags").set_value(("x.csv", b"a,b,c\n", "text/csv")).run()
    at.button(key="system_tags_add").click().run()
    assert not at.exception
    assert "No tag could be read" in at.error[0].value


def test_words_that_do_little_are_grey_and_one_click_puts_the_nearest_there(page_home: Path) -> None:
    at = app(gen_model="embedded")
    at.text_input(key="gen_text").set_value("silver hair, black school uniform, xyzzy").run()
    assert not at.exception
    assert " :gray[~~black school uniform~~]" in prompt_of(at)
    assert "]:gray" not in prompt_of(at)  # a space inside the brackets would be lost
    assert ":gray[~~xyzzy~~]" in prompt_of(at)
    assert words.TEXT["left"] in prompt_of(at)
    at.button(key="gen_text_instead_0").click().run()
    assert at.text_input(key="gen_text").value == "silver hair, serafuku, black sailor collar, xyzzy"
    assert "~~xyzzy~~" in prompt_of(at)
    at.text_input(key="gen_text").set_value("silver hair, red eyes").run()
    assert "~~" not in prompt_of(at)


def test_what_the_model_cant_draw_is_left_out_unless_somebody_says_otherwise(page_home: Path) -> None:
    at = app(gen_model="embedded")
    at.text_input(key="gen_text").set_value("red hair, glasses, {hat|halo}").run()
    layer = next(one.key for one in at.text_input if str(one.key).startswith("gen_layer_text_"))
    assert at.text_input(key=layer).value == "red hair, {hat|halo}"
    assert words.TEXT["left"] in prompt_of(at)
    assert words.TEXT["little"] in prompt_of(at)  # the choice stays as it is
    at.button(key="gen_text_every").click().run()
    assert not at.exception
    assert any(one.key != layer and one.value == "red hair, glasses, {hat|halo}" for one in at.text_input
               if str(one.key).startswith("gen_layer_text_"))  # fmt: skip
    assert words.TEXT["left"] not in prompt_of(at)
    assert words.TEXT["kept"] in prompt_of(at)
    at.button(key="gen_chip_every_word").click().run()
    assert words.TEXT["left"] in prompt_of(at)
    at.button(key="gen_whole").click().run()  # a prompt of one's own is drawn as it stands
    at.text_area(key="gen_own_prompt").set_value("1girl, glasses").run()
    assert words.TEXT["kept"] in prompt_of(at)


def test_what_this_model_knows_is_listed_and_a_click_adds_a_word(page_home: Path) -> None:
    at = app(gen_model="embedded")
    at.text_input(key="gen_text").set_value("red hair").run()
    at.selectbox(key="gen_knows_about").set_value("background").run()
    at.button(key="gen_knows_petals").click().run()
    assert not at.exception
    assert at.text_input(key="gen_text").value == "red hair, petals"


def test_a_word_is_exchanged_in_the_layer_that_it_was_written_into(page_home: Path) -> None:
    at = app(gen_model="embedded")
    at.text_input(key="gen_text").set_value("silver hair").run()
    layer = next(one.key for one in at.text_input if str(one.key).startswith("gen_layer_text_"))
    at.text_input(key=layer).set_value("silver hair, black school uniform").run()
    at.button(key=f"{layer}_instead_0").click().run()
    assert not at.exception
    assert at.text_input(key=layer).value == "silver hair, serafuku, black sailor collar"
    assert at.text_input(key="gen_text").value == "silver hair"


def test_a_word_that_stands_in_no_box_has_no_button(page_home: Path) -> None:
    folder = settings().home / "wildcards"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "garment.txt").write_text("black school uniform\n")
    at = app(gen_model="embedded")
    at.text_input(key="gen_text").set_value("silver hair, __garment__").run()
    assert not at.exception
    assert "black school uniform" in " ".join(part.value for part in at.get("badge") or at.markdown)
    assert "gen_text_instead_0" not in keys(at)


def test_a_lora_with_a_long_phrase_can_be_used(page_home: Path) -> None:
    lora = settings().models_dir / "loras" / "wordy.safetensors"
    lora.parent.mkdir(parents=True, exist_ok=True)
    half = np.zeros((1, 1), np.float32)
    phrase = ", ".join(f"zorvax{number} dress" for number in range(30))
    save_file(
        {"lora_unet_x.lora_down.weight": half, "lora_unet_x.lora_up.weight": half}, lora,
        metadata={"modelspec.trigger_phrase": phrase},
    )  # fmt: skip
    at = app(gen_loras=[str(lora)])
    at.text_input(key="gen_text").set_value("red hair, zorvax7 dress").run()
    assert not at.exception
    assert "zorvax7 dress" in prompt_of(at)
    assert "~~" not in prompt_of(at)


def test_pictures_of_all_words_are_followed_and_drawn_once(page_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise Busy("The queue is full.")

    held = threading.Event()

    def waits(*_: object) -> Iterator[None]:
        held.wait(60)
        yield

    at = app(gen_model="embedded")
    with monkeypatch.context() as patch:
        patch.setattr(studio(), "submit", refuses)
        at.button(key="gen_knows_draw").click().run()
    assert not at.exception
    assert [part.value for part in at.error] == ["The queue is full\\."]
    assert "gen_draw" in keys(at)  # the page goes on
    monkeypatch.setitem(studio()._jobs._kinds, "batch", waits)
    at.button(key="gen_knows_draw").click().run()
    assert not at.exception
    job = at.session_state["job:generate"]
    assert studio().job(job, "me").active
    assert at.button(key="gen_knows_draw").disabled
    studio().cancel(job, "me")
    held.set()
