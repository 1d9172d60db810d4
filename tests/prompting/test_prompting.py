"""The lexicon, the offline writer, validation, tag lists and the prompt cache."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from studio.core.errors import BadInput, NotFound
from studio.core.specs import EMOTIONS, MAX_PROMPT, QUALITIES, STYLES
from studio.prompting import syntax, tag_csv
from studio.prompting.cache import PromptCache
from studio.prompting.lexicon import FOLDER, JAPANESE, Lexicon, layer_words, normal
from studio.prompting.validation import validate
from studio.prompting.writers import OfflineWriter, PromptRequest, fixed_template

LEXICON = Lexicon.load()
WRITER = OfflineWriter()
NASTY = st.one_of(
    st.text(max_size=300),
    st.text(alphabet="()[]{}:<>\\|,._-+\"' \n1.3asmile", max_size=120),
    st.text(alphabet="\u200b\u200c\u200d\u2060\ufeff\u202e\u2066\u2069\u00ad ", max_size=40),
    st.text(alphabet="שלום مرحبا 👩‍🚀🌙😀笑顔の女子 ", max_size=60),
    st.sampled_from(
        [
            "",
            " ",
            ",,,",
            "((smile:1.3",
            "((((",
            "))))",
            "[\\",
            "(=)",
            "<lora:",
            "a" * MAX_PROMPT,
            "ok " * 1300,
            "\x0bsmile",
        ]
    ),
)


def write(**fields: object) -> str:
    return WRITER.write(PromptRequest(**fields)).positive_prompt  # type: ignore[arg-type]


# --- the lexicon ------------------------------------------------------------------------------------------------------


def test_the_lexicon_is_as_large_as_it_says() -> None:
    plain = [tag for tag in LEXICON.tags.values() if not re.match(r"(?:white|black|grey|red|blue|green) ", tag.name)]
    assert len(plain) >= 800
    for category in (
        "expression", "hair", "eyes", "clothes", "accessory", "pose", "composition", "light", "background", "medium",
        "quality", "negative",
    ):  # fmt: skip
        assert sum(tag.category == category for tag in LEXICON.tags.values()) >= 20, category


def test_every_tag_is_complete() -> None:
    groups = {tag.group for tag in LEXICON.tags.values()}
    for tag in LEXICON.tags.values():
        assert tag.name == normal(tag.name)
        assert tag.japanese, tag.name
        assert all(JAPANESE.search(word) or not word.isascii() or word.isupper() for word in tag.japanese[:1]), tag.name
        assert tag.synonyms, tag.name
        assert all(word == normal(word) for word in tag.synonyms), tag.name
        assert all(other in LEXICON.tags for other in tag.conflicts), tag.name
        assert all(group in groups for group in tag.lifts), tag.name


def test_no_synonym_is_a_tag_or_said_twice() -> None:
    seen: dict[str, str] = {}
    for tag in LEXICON.tags.values():
        for synonym in tag.synonyms:
            assert synonym not in LEXICON.tags, (synonym, tag.name)
            assert synonym not in seen, (synonym, tag.name, seen.get(synonym))
            seen[synonym] = tag.name


def test_the_words_of_the_layers_are_known() -> None:
    layers = layer_words()
    words = {*layers["core"], *layers["core_more"], *layers["fixed"]["negative"]}
    for table in (layers["emotion"], layers["style"]):
        for entry in table.values():
            words |= {*entry["first"], *entry["more"]}
    for table in (layers["quality"], layers["negative"]):
        for entry in table.values():
            words |= set(entry)
    assert all(word in LEXICON for word in words)
    assert set(layers["emotion"]) == set(EMOTIONS)
    assert set(layers["style"]) == set(STYLES)
    assert set(layers["quality"]) == set(QUALITIES) == set(layers["negative"])


def test_the_embedded_model_was_trained_on_the_words_that_are_written() -> None:
    """Words it never read would do nothing; the list of the training captions is the measure."""
    from studio.pretraining import captions

    trained = captions.words()
    layers = layer_words()
    for table in (layers["emotion"], layers["style"]):
        for entry in table.values():
            assert {*entry["first"], *entry["more"]} <= trained
    for quality in QUALITIES:
        assert {*layers["quality"][quality], *layers["negative"][quality]} <= trained
    assert {*layers["core"], *layers["core_more"]} <= trained


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("blue e", "blue eyes"), ("twin", "twintails"), ("eyes", "blue eyes"), ("joyf", "happy"), ("青", "blue hair"),
     ("blue_h", "blue hair"), ("SMI", "smile")],
)  # fmt: skip
def test_completion(prefix: str, expected: str) -> None:
    assert expected in [found.tag for found in LEXICON.complete(prefix, 30)]


def test_completion_is_ordered_and_bounded() -> None:
    assert LEXICON.complete("smile")[0].tag == "smile"
    assert len(LEXICON.complete("s", 7)) == 7
    assert LEXICON.complete("") == []
    assert LEXICON.complete("zzzzqq") == []
    assert LEXICON.complete("s", 0) == []


@pytest.mark.parametrize(
    ("tags", "count"),
    [
        (["long hair", "short hair"], 1),
        (["lengthy hair", "cropped hair"], 1),
        (["blue hair", "pink hair"], 1),
        (["blue hair", "pink hair", "two-tone hair"], 0),
        (["heterochromia", "red eyes", "blue eyes"], 0),
        (["closed eyes", "wide-eyed"], 1),
        (["happy", "tears"], 1),
        (["1girl", "smile", "red dress"], 0),
        (["long hair", "long hair"], 0),
        (["nonesuch", "other"], 0),
    ],
)
def test_conflicts(tags: list[str], count: int) -> None:
    assert len(LEXICON.conflicts(tags)) == count


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("青い髪の女の子", "blue hair, 1girl"),
        ("猫耳、笑顔", "cat ears, smile"),
        ("金髪の少年, sunset", "blonde hair, 1boy, sunset"),
        ("red hair", "red hair"),
        ("<lora:青:1> 笑顔", "<lora:青:1> smile"),
        ("(青い髪:1.3), [笑顔]", "(blue hair:1.3), [smile]"),
        ("桜の木の下で本を読む女の子", "cherry blossoms, tree, reading, 1girl"),
    ],
)
def test_japanese_becomes_tags(text: str, expected: str) -> None:
    assert LEXICON.translate(text).text == expected


def test_japanese_that_is_not_known_is_named() -> None:
    found = LEXICON.translate("青い髪、未知語彙")
    assert LEXICON.translate("木曜日").tags == ()
    assert found.unknown == ("未知語彙",)
    assert found.text == "blue hair"


# --- tag lists of the user's own --------------------------------------------------------------------------------------


def test_a_tag_list_is_read_and_its_bad_rows_named(tmp_path: Path) -> None:
    path = tmp_path / "danbooru.csv"
    path.write_text(
        'name,type,count,aliases\n1girl,0,4114588,"1girls,sole_female"\nblue_archive,3,120000,\n'
        'hatsune_miku,4,90000,"miku,初音ミク"\nbad_type,x,1,\nbad_count,0,many,\n,0,1,\n1girl,0,5,\n'
        'open,0,1,"never closed\na,b,c,d,e,f\ninvisible\u200btag,0,1,\n^_^,0,50,\n',
        encoding="utf-8",
    )
    found = tag_csv.read(path)
    assert [row.name for row in found.rows] == ["1girl", "blue archive", "hatsune miku", "bad count", "^_^"]
    assert found.rows[0].aliases == ("1girls", "sole female")
    assert found.rows[2].category == "character"
    assert [bad.line for bad in found.bad] == [5, 7, 8, 9, 10, 11]
    assert all(bad.reason for bad in found.bad)
    lexicon = Lexicon.load([path])
    assert lexicon.complete("hatsune")[0].count == 90000
    assert lexicon.complete("初音")[0].tag == "hatsune miku"
    assert len(lexicon) == len(LEXICON) + 4
    assert "hatsune miku" not in LEXICON


def test_files_that_are_no_tag_lists(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no tag list"):
        tag_csv.read(tmp_path / "none.csv")
    (tmp_path / "nul.csv").write_bytes(b"a\x00b,0,1")
    with pytest.raises(BadInput, match="UTF-8"):
        tag_csv.read(tmp_path / "nul.csv")
    (tmp_path / "utf16.csv").write_bytes("a,0,1".encode("utf-16"))  # as some editors save it
    assert [row.name for row in tag_csv.read(tmp_path / "utf16.csv").rows] == ["a"]
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(BadInput, match="No tag could be read"):
        Lexicon.load([tmp_path / "empty.csv"])


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes_as_a_tag_list(data: bytes) -> None:
    try:
        found = tag_csv.parse(data)
    except BadInput:
        return
    assert all(row.name for row in found.rows)


# --- the offline writer -----------------------------------------------------------------------------------------------


def test_the_plain_prompt() -> None:
    assert write(text="red scarf") == (
        "1girl, solo, anime character, detailed face, happy, joyful, smiling, cheerful, casual style, casual clothes, "
        "red scarf, masterpiece, best quality, highly detailed"
    )


@pytest.mark.parametrize("emotion", EMOTIONS)
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_each_emotion_is_said_in_several_near_synonyms(emotion: str, seed: int) -> None:
    result = WRITER.write(PromptRequest(emotion=emotion, seed=seed))  # type: ignore[arg-type]
    assert result.layers.emotion[0] == emotion
    assert len(set(result.layers.emotion)) == 4
    assert result.confidence >= 0.8
    assert not LEXICON.conflicts([*result.layers.core, *result.layers.emotion, *result.layers.style])


def test_the_same_request_gives_the_same_prompt() -> None:
    prompts = {seed: write(seed=seed) for seed in range(6)}
    assert prompts == {seed: OfflineWriter().write(PromptRequest(seed=seed)).positive_prompt for seed in range(6)}
    assert len(set(prompts.values())) > 3


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("", "1girl, solo"),
        ("a boy with glasses", "1boy, solo"),
        ("young man, beard", "1boy, solo"),
        ("the prince at the window", "1boy, solo"),
        ("男の子", "1boy, solo"),
        ("a woman", "1girl, solo"),
        ("2girls, beach", "anime character"),
        ("1boy, black hair", "solo, anime character"),
    ],
)
def test_the_core_follows_the_subject(text: str, start: str) -> None:
    prompt = write(text=text)
    assert prompt.startswith(start)
    assert not {"1girl", "1boy"} <= set(prompt.split(", "))


def test_two_people_are_not_solo() -> None:
    assert "solo" not in write(text="1girl, 1boy, holding hands").split(", ")
    assert "solo" not in write(text="2girls").split(", ")


@pytest.mark.parametrize(
    "text",
    ["(smile:1.3)", "<lora:my char:0.8>, sks", 'a sign that says "Welcom"', "Rei Ayanami", "Ünïcödé", "a\\(b\\)"],
)
def test_the_person_s_text_stands_literally(text: str) -> None:
    assert text in write(text=text)


def test_no_tag_twice() -> None:
    parts = write(text="masterpiece, smiling, solo").split(", ")
    assert len(parts) == len(set(parts))


def test_what_is_asked_for_is_not_in_the_negative() -> None:
    result = WRITER.write(PromptRequest(text="text, blurry"))
    assert not {"text", "blurry"} & set(result.negative_prompt.split(", "))


def test_open_brackets_stay_inside_the_person_s_text() -> None:
    result = WRITER.write(PromptRequest(text="((smile:1.3"))
    assert "((smile:1.3)), masterpiece" in result.positive_prompt
    assert "never closed" in result.notes[0]


def test_confidence_falls_with_a_reason() -> None:
    sure = WRITER.write(PromptRequest(text="red hair"))
    assert sure.confidence >= 0.9
    assert sure.notes == ()
    for text in ("crying, tears, long hair, short hair", "smlie, bleu eyse, lnog hiar", "未知語彙"):
        doubtful = WRITER.write(PromptRequest(text=text))
        assert doubtful.confidence < 0.8, text
        assert doubtful.notes


def test_trigger_words_are_no_mistakes() -> None:
    assert WRITER.write(PromptRequest(text="smyle girl", trigger_words=("smyle",))).confidence >= 0.9


def test_a_japanese_trigger_word_survives_translation() -> None:
    assert "初音" in write(text="初音、青い髪", trigger_words=("初音",))


def test_the_fixed_template() -> None:
    result = fixed_template(PromptRequest(emotion="sad", style="formal", text="boy"))
    assert result.positive_prompt == (
        "1boy, anime character, detailed face, sad, formal style, boy, masterpiece, best quality"
    )
    assert result.writer == "fixed"


@settings(max_examples=100)
@given(text=NASTY.filter(lambda text: "\x00" not in text), emotion=st.sampled_from(EMOTIONS))
def test_any_text_gives_a_prompt(text: str, emotion: str) -> None:
    result = WRITER.write(PromptRequest(text=text, emotion=emotion))  # type: ignore[arg-type]
    assert emotion in result.positive_prompt
    assert 0 <= result.confidence <= 1
    assert "\n" not in result.positive_prompt
    assert not syntax.balance(result.positive_prompt), result.positive_prompt
    assert not set("\u200b\u202e\u2066\ufeff\x0b") & set(result.positive_prompt)


def test_what_a_request_refuses() -> None:
    for text in ("a\x00b", "word " * 10_000):
        with pytest.raises(ValidationError):
            PromptRequest(text=text)


# --- syntax and validation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a, (b:1.2), [c], {d}", ["a", "b", "c", "d"]),
        ("watercolor (medium), x", ["watercolor (medium)", "x"]),
        ("<lora:x:1>, y", ["y"]),
        ("red hair++, ((z))", ["red hair", "z"]),
        (", ,", []),
    ],
)
def test_segments(prompt: str, parts: list[str]) -> None:
    found = syntax.segments(prompt)
    assert [part.text for part in found] == parts
    assert all(prompt[part.start : part.end] == part.text for part in found)


@settings(max_examples=100)
@given(NASTY)
def test_repaired_brackets_match(prompt: str) -> None:
    assert syntax.balance(syntax.repair_brackets(prompt)) == []
    if not syntax.balance(prompt):
        assert syntax.repair_brackets(prompt) == prompt


def test_a_good_prompt_has_low_scores() -> None:
    found = validate(write(text="red scarf"))
    assert found.worst <= 3
    assert found.repaired == found.prompt


def test_each_fault_is_found_named_and_repaired() -> None:
    found = validate("1girl, happy, long hair, short hair, nice bow, bow, smlie, zorvaxia, ((blush")
    assert found.ambiguity.score >= 2
    assert "bow" in found.ambiguity.words
    assert found.conflicts.score >= 5
    assert {"long hair", "short hair"} <= set(found.conflicts.words)
    assert {"smlie", "zorvaxia"} <= set(found.rare_words.words)
    assert found.attackability.score >= 6
    assert "happy" in found.attackability.words
    assert "short hair" not in found.repaired
    assert "smile" in found.repaired
    assert "joyful" in found.repaired
    assert "((blush))" in found.repaired
    again = validate(found.repaired)
    assert again.conflicts.score == 0
    assert again.attackability.score < 3


def test_redundancy_lowers_attackability() -> None:
    once, often = validate("1girl, calm"), validate("1girl, calm, serene, peaceful, relaxed")
    assert often.attackability.score + 4 < once.attackability.score


@settings(max_examples=100)
@given(NASTY)
def test_any_text_is_judged(prompt: str) -> None:
    found = validate(prompt)
    assert 0 <= found.worst <= 10
    assert found.prompt == prompt


# --- the cache --------------------------------------------------------------------------------------------------------


def test_the_cache_keeps_bounds_and_counts(tmp_path: Path) -> None:
    cache = PromptCache(tmp_path / "deep" / "prompts.db", max_rows=3)
    for name in "abc":
        cache.put(name, name * 2)
    assert cache.get("a") == "aa"
    cache.put("d", "dd")
    assert cache.get("b") is None, "the least recently used goes"
    assert [cache.get(name) for name in "acd"] == ["aa", "cc", "dd"]
    cache.add_spent("m", 10, 20, 0.5)
    cache.add_spent("m", 1, 2, 0.25)
    cache.add_spent("n", 1, 1, 0.25)
    spent = PromptCache(cache.path).spent()
    assert (spent.calls, spent.tokens_in, spent.tokens_out, spent.cost_usd) == (3, 12, 23, 1.0)


def test_a_damaged_cache_is_a_miss(tmp_path: Path) -> None:
    path = tmp_path / "prompts.db"
    path.write_bytes(b"this is not a database" * 100)
    cache = PromptCache(path)
    assert cache.get("a") is None
    cache.put("a", "b")
    assert cache.get("a") == "b"


def test_a_cache_that_cannot_be_written_is_a_miss(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = PromptCache(tmp_path / "file" / "prompts.db")
    cache.put("a", "b")
    assert cache.get("a") is None
    assert cache.spent().calls == 0


def test_threads_and_processes_share_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "prompts.db"
    code = (
        "import sys; from pathlib import Path; from studio.prompting.cache import PromptCache\n"
        "c = PromptCache(Path(sys.argv[1]))\n"
        "for i in range(20): c.put(f'{sys.argv[2]}-{i}', 'x'); c.add_spent('m', 1, 1, 0.0)"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(path), str(n)]) for n in range(2)]
    cache = PromptCache(path)

    def work(n: int) -> None:
        for i in range(20):
            cache.put(f"t{n}-{i}", "x")
            cache.add_spent("m", 1, 1, 0.0)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [child.wait(120) for child in children] == [0, 0]
    assert cache.spent().calls == 80
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT COUNT(*) FROM answers").fetchone()[0] == 80
    db.close()


def test_the_data_files_are_small_and_licensed() -> None:
    assert (FOLDER / "words.txt").stat().st_size < 1_500_000
    assert "Kevin Atkinson" in (FOLDER / "words.LICENSE.txt").read_text(encoding="utf-8")
