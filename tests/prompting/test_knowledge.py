"""What a model was taught: its own words count, gibberish is never sure, and what a person says wins."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.core.settings import Settings
from studio.prompting.confidence import judged
from studio.prompting.knowledge import RELIABLE, Knowledge, known_share, unknown_words
from studio.prompting.leaving_out import leave_out
from studio.prompting.lexicon import Lexicon
from studio.prompting.writers import OfflineWriter, PromptRequest, PromptResult
from studio.service.knowing import KnowledgeBase
from studio.service.prompts import PromptService

EMBEDDED = KnowledgeBase(Settings(_env_file=None)).of("embedded")
NOBODY_KNOWS = Knowledge()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> PromptService:
    return PromptService(Settings(home=tmp_path_factory.mktemp("home"), offline=True, _env_file=None))


def written(service: PromptService, text: str, model: str = "embedded", **more: str) -> PromptResult:
    return service.write_prompt(PromptRequest.model_validate({"text": text, "model": model} | more))


def test_words_that_do_little_are_named_with_the_nearest_that_works(service: PromptService) -> None:
    found = written(service, "silver hair, red eyes, black school uniform, smiling, cherry blossoms")
    assert [(one.word, one.instead) for one in found.unknown_words] == [
        ("black school uniform", ("serafuku, black sailor collar",)), ("cherry blossoms", ()),
    ]  # fmt: skip
    assert found.doubtful
    assert "school uniform" in found.notes[-1]
    better = written(service, "silver hair, red eyes, serafuku, black sailor collar, smiling")
    assert (better.unknown_words, better.confidence) == ((), 0.95)


@pytest.mark.parametrize(
    "text", ["xyzzy blorple quux", "dragon on shoulder", "a spaceship over a burning castle", "wwqqz", "ドラゴン, flrb"]
)
def test_what_no_picture_shows_is_never_sure(service: PromptService, text: str) -> None:
    found = written(service, text)
    assert found.confidence < 0.6
    assert found.unknown_words
    gibberish = written(service, "xyzzy blorple quux", "a/model-that-nobody-knows")
    assert gibberish.confidence < 0.6
    assert [one.word for one in gibberish.unknown_words] == ["xyzzy", "blorple", "quux"]
    assert written(service, "a dragon on her shoulder, hatsune miku", "a/model-that-nobody-knows").confidence == 0.95


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("crimson hair", "red hair"),
        ("navy turtleneck", "blue turtleneck"),
        ("red jumper", "red turtleneck"),
        ("leather jacket", "black coat"),
        ("red hoodie", "red turtleneck"),
        ("night", "starry sky"),
    ],
)
def test_the_nearest_word_is_one_that_the_model_knows(text: str, instead: str) -> None:
    [found] = unknown_words(text, EMBEDDED)
    assert instead in found.instead
    parts = [part for option in found.instead for part in option.split(", ")]
    assert all(EMBEDDED.knows(part) and EMBEDDED.share(part) >= RELIABLE for part in parts)


@pytest.mark.parametrize(
    ("text", "kept", "left"),
    [
        ("boy with messy brown hair and glasses, red scarf", "boy with brown hair", ("messy", "glasses", "red scarf")),
        ("(glasses:1.2), silver hair", "silver hair", ("glasses",)),
        ("(red scarf, blue hair:1.3)", "(blue hair:1.3)", ("red scarf",)),
        ("dark skin, dark, red hair", "dark skin, red hair", ("dark",)),
        ("{glasses|red hair}, <lora:hat:1>, hat", "{glasses|red hair}, <lora:hat:1>", ("hat",)),
        ("メガネ, 赤い髪", "red hair", ("glasses",)),
        ("xyzzy blorple quux", "", ("xyzzy blorple quux",)),
        ("sunset, starry sky, wavy hair", "sunset, wavy hair", ("starry sky",)),
        ("Red_Hair, smile", "Red_Hair, smile", ()),
    ],
)
def test_what_the_model_cant_draw_is_left_out_of_a_written_prompt(
    service: PromptService, text: str, kept: str, left: tuple[str, ...]
) -> None:
    found = written(service, text)
    assert (found.layers.text, found.left_out) == (kept, left)
    assert kept in found.positive_prompt
    assert not left or all(word in found.notes[-1] for word in left)
    fixed = service.write_fixed(PromptRequest(text=text, model="embedded"))
    assert all(f", {word}," not in fixed.positive_prompt for word in left)
    every = service.write_prompt(PromptRequest(text=text, model="embedded", every_word=True))
    assert every.left_out == ()
    assert every.unknown_words == found.unknown_words
    assert set(left) <= {one.word for one in unknown_words(every.layers.text, EMBEDDED)}
    assert written(service, text, "a/model-that-nobody-knows").left_out == ()


def test_the_ideas_that_a_page_offers_can_be_drawn() -> None:
    page = Path(__file__).resolve().parents[2] / "pages" / "generate.py"
    ideas = next(
        line.value for line in ast.parse(page.read_text()).body
        if isinstance(line, ast.Assign) and getattr(line.targets[0], "id", "") == "IDEAS"
    )  # fmt: skip
    assert isinstance(ideas, ast.Dict)
    assert ideas.values
    for idea in map(ast.literal_eval, ideas.values):
        assert unknown_words(idea, EMBEDDED) == ()


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["glasses", "(", ")", ",", "red hair", ":1.2", "{", "}", "with"])).map(" ".join)
)
def test_any_text_can_be_left_without_words(text: str) -> None:
    unknown = unknown_words(text, EMBEDDED)
    kept, left = leave_out(text, unknown, EMBEDDED, Lexicon.load())
    assert set(left) <= {one.word for one in unknown}
    assert unknown or left == ()
    assert "\ue000" not in kept


def test_every_tag_and_every_word_of_its_captions_is_known() -> None:
    for tag in EMBEDDED.tags - EMBEDDED.unreliable:
        assert unknown_words(tag, EMBEDDED) == (), tag
    for tag, words in EMBEDDED.synonyms.items():
        for word in words if tag not in EMBEDDED.unreliable else ():
            assert unknown_words(word, EMBEDDED) == (), word
    for tag in EMBEDDED.unreliable:
        assert "often missing" in unknown_words(tag, EMBEDDED)[0].reason
    plain = OfflineWriter().write(PromptRequest(emotion="sad", quality="high", style="artistic"))
    assert unknown_words(plain.positive_prompt, EMBEDDED) == ()


def test_sentences_syntax_and_trigger_words() -> None:
    found = unknown_words(
        "a girl with blue eyes and a parrot, <lora:x:1>, (smile:1.2), ohwx", EMBEDDED, None, ("ohwx",)
    )
    assert [one.word for one in found] == ["parrot"]
    assert known_share("", EMBEDDED) == 1
    assert unknown_words("sks dog", Knowledge(tags=EMBEDDED.tags, added=frozenset(("sks dog",)))) == ()


def test_what_is_seldom_seen_is_said_too() -> None:
    knowledge = Knowledge(tags=frozenset(("hat", "red hair")), synonyms={"hat": ("cap",)}, shares={"hat": 0.4})
    assert [one.word for one in unknown_words("cap, red hair", knowledge)] == ["cap"]
    assert "40%" in unknown_words("hat", knowledge)[0].reason
    assert known_share("hat, red hair", knowledge) == pytest.approx(0.7)


@given(st.text(max_size=80))
def test_any_text_can_be_judged(text: str) -> None:
    for knowledge in (EMBEDDED, NOBODY_KNOWS):
        assert 0 <= known_share(text, knowledge) <= 1
    result = OfflineWriter().write(PromptRequest(text=text.replace("\x00", "")))
    assert judged(result, result.layers.text, EMBEDDED).confidence <= result.confidence


def test_what_a_person_says_wins_over_style_and_template(service: PromptService) -> None:
    for clothes in ("white dress", "a girl in a kimono", "serafuku, black sailor collar", "水着"):
        assert "casual clothes" not in written(service, clothes).positive_prompt
        assert "formal wear" not in written(service, clothes, style="formal").positive_prompt
    assert "casual clothes" in written(service, "red hair").positive_prompt
    assert "casual clothes" in written(service, "red scarf, boots").positive_prompt
    # a style that nobody chose gives way to clothes that are never worn in it; one that was chosen stays
    assert "casual style" not in written(service, "blue jacket, suit").positive_prompt
    assert "casual style" in written(service, "blue hoodie").positive_prompt
    assert "formal style" in written(service, "red kimono", style="formal").positive_prompt


def test_check_tells_the_same_truth(service: PromptService) -> None:
    found = service.validate("1girl, happy, black school uniform, xyzzy", model="embedded")
    assert set(found.rare_words.words) >= {"black school uniform", "xyzzy"}
    assert found.rare_words.score >= 4
    assert "serafuku, black sailor collar" in found.repaired
    assert service.validate("1girl, happy, joyful, smiling, red hair", model="embedded").rare_words.score == 0


def test_the_words_of_a_lora_are_known(tmp_path: Path) -> None:
    from studio.engine.models.catalogue import LoraInfo

    lora = LoraInfo(path=tmp_path / "none.safetensors", title="x", hash="", trigger_words=("zorvax, parrot",))
    knowledge = KnowledgeBase(Settings(_env_file=None)).of("embedded", [lora])
    assert unknown_words("zorvax, parrot, smile", knowledge) == ()


def test_what_this_model_knows_is_listed(service: PromptService) -> None:
    found = service.known_words("embedded")
    assert "petals" in found["background"]
    assert "red hair" in found["hair"]
    assert "black sailor collar" in found["clothes"]
    assert sum(map(len, found.values())) == len(EMBEDDED.tags)
    assert service.known_words("a/model-that-nobody-knows") == {}


def test_a_ribbon_for_the_hair_is_no_hair() -> None:
    found = {one.word: one.reason for one in unknown_words("pink hair ribbon, brown hair", EMBEDDED)}
    assert list(found) == ["pink", "hair ribbon"]
    assert unknown_words("long pink hair and green eyes", EMBEDDED)[0].word == "long"


def test_of_two_backgrounds_the_second_is_named() -> None:
    [found] = unknown_words("sunset, starry sky, wavy hair", EMBEDDED)
    assert (found.word, found.reason) == ("starry sky", "There is one background: 'sunset'.")
    assert unknown_words("blue hair, brown eyes", EMBEDDED) == ()


def test_garments_that_are_seldom_drawn_are_named_in_every_colour() -> None:
    for text in ("white dress", "red scarf", "grey jacket", "halo", "cat ears"):
        assert [one.word for one in unknown_words(f"silver hair, {text}", EMBEDDED)] == [text]
    assert unknown_words("blue kimono, red striped shirt, suit", EMBEDDED) == ()
