"""Suggestions for the last tag, and people's own tag lists: kept, bounded, seen by every process, never corrected."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from studio.core.errors import BadInput, DiskFull, NotFound
from studio.core.settings import Settings
from studio.prompting import tag_csv, tag_lists
from studio.prompting.lexicon import Lexicon
from studio.prompting.tag_lists import TagLists
from studio.service.prompts import PromptService

LEXICON = Lexicon.load()
MINE = b'zorvaxia,3,500,"zorvax"\nqwendolin,4,20,\nrem_(re:zero),4,9000,"rem"\nblue_hair,0,77,\n'


@pytest.fixture
def desk(tmp_path: Path) -> PromptService:
    return PromptService(Settings(home=tmp_path / "home", offline=True, _env_file=None))


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("twint", "twintails, "),
        ("red hair,blue ey", "red hair,blue eyes, "),
        ("a girl with blue e", "a girl with blue eyes, "),
        ("(twint", "(twintails, "),
        ("red hair\nTWINT", "red hair\ntwintails, "),
        ("red hair BREAK twint", "red hair BREAK twintails, "),
        ("joyf", "happy, "),
        ("blue_ey", "blue eyes, "),
        ("青い髪、笑", "青い髪、smile, "),
        ("猫耳の女の", "猫耳の, 1girl, "),
        ("えがお", "smile, "),
    ],
)
def test_the_last_tag_is_suggested(typed: str, expected: str) -> None:
    assert expected in [one.text for one in LEXICON.suggest(typed)]


@pytest.mark.parametrize("typed", ["", " ", "s", "red hair, ", "smile,", "<lora:twin", "zzqq", "twintails", "x" * 4000])
def test_where_nothing_is_suggested(typed: str) -> None:
    assert [one for one in LEXICON.suggest(typed) if one.tag in ("smile", "twintails", "red hair")] == []


def test_suggestions_are_bounded() -> None:
    assert len(LEXICON.suggest("bl", 4)) == 4
    assert LEXICON.suggest("bl", 0) == []


def test_a_list_is_used_from_then_on(desk: PromptService) -> None:
    assert desk.complete("zorv") == []
    assert desk.harden("zorvaxia, qwendolin smiles").changes == ()
    found = desk.add_tags(MINE + b"bad,x,1,\n,0,1,\n", "C:\\my tags.CSV")
    assert len(found.rows) == 4
    assert [bad.line for bad in found.bad] == [5, 6]
    assert desk.complete("zorv")[0].text == "zorvaxia, "
    assert desk.complete("REM")[0].text == "rem \\(re:zero\\), ", "its brackets are no weight"
    assert desk.complete("blue hai")[0].count == 77
    assert [(one.tags, one.size > 50) for one in desk.tag_lists()] == [(4, True)]
    assert desk._lexicon is desk._lexicon, "built once"
    desk.drop_tags(desk.tag_lists()[0].name)
    assert desk.complete("zorv") == []
    with pytest.raises(NotFound):
        desk.drop_tags("../studio")


def test_words_of_a_list_are_left_alone_and_nothing_becomes_one(desk: PromptService) -> None:
    assert desk.harden("bule hiar").text == "blue hair"
    desk.add_tags(b"bule,4,9,\nsmlie,4,9,\n")
    assert desk.harden("bule hiar, smlie").text == "bule hair, smlie"
    assert desk.harden("smlei").text == "smile"
    assert desk._lexicon.words == LEXICON.words


def test_another_process_sees_the_list(desk: PromptService) -> None:
    code = (
        "import sys; from pathlib import Path; from studio.service.prompts import PromptService\n"
        "from studio.core.settings import Settings\n"
        "PromptService(Settings(home=Path(sys.argv[1]), _env_file=None)).add_tags(b'zorvaxia,3,500,\\n')"
    )
    assert desk.complete("zorv") == []
    subprocess.run([sys.executable, "-c", code, str(desk.settings.home)], check=True, timeout=120)
    assert desk.complete("zorv")


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = TagLists(tmp_path / "tags")
    with pytest.raises(BadInput, match="line 2: the type"):
        lists.add(b"# mine\nabcde,x,1,\n", "x.csv")
    monkeypatch.setattr(tag_lists, "MAX_TAGS", 3)
    lists.add(b"aaaa,0,1,\nbbbb,0,1,\n", "one.csv")
    lists.add(b"aaaa,0,1,\ncccc,0,1,\ndddd,0,1,\n", "one.csv")  # takes the place of the first
    with pytest.raises(BadInput, match="together may have 3 tags"):
        lists.add(b"eeee,0,1,\n", "two.csv")
    monkeypatch.setattr(tag_lists, "MAX_BYTES", 10)
    with pytest.raises(BadInput, match="larger than"):
        lists.add(b"aaaa,0,1,\nbbbb,0,1,\n", "three.csv")
    monkeypatch.setattr(tag_lists, "MAX_LISTS", 1)
    with pytest.raises(BadInput, match="remove one first"):
        lists.add(b"aa,0,1,\n", "four.csv")
    assert sorted(path.name for path in (tmp_path / "tags").iterdir()) == ["one.csv"]


def test_a_damaged_list_does_not_stop_the_others(tmp_path: Path) -> None:
    lists = TagLists(tmp_path / "tags")
    lists.add(b"zorvaxia,0,1,\n", "good.csv")
    (tmp_path / "tags" / "bad.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "tags" / "empty.csv").write_bytes(b"")
    assert "zorvaxia" in lists.lexicon()
    assert {one.name: one.tags for one in lists.lists()} == {"bad": 0, "empty": 0, "good": 1}


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "tags").write_text("in the way")
    with pytest.raises(DiskFull, match="couldn't be written"):
        TagLists(tmp_path / "tags").add(b"zorvaxia,0,1,\n", "x.csv")


def test_words_where_the_count_stands_are_no_count(desk: PromptService) -> None:
    found = desk.add_tags(
        b"masterpiece,5,Quality tag,,\nnewest,5,Time tag,,\nvery_aesthetic,5,,\n", "my-quality-tags.csv"
    )
    assert [(row.name, row.category, row.count) for row in found.rows] == [
        ("masterpiece", "meta", 0), ("newest", "meta", 0), ("very aesthetic", "meta", 0),
    ]  # fmt: skip
    assert found.bad == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp932"])
def test_a_tag_list_in_the_encoding_of_its_system(encoding: str) -> None:
    found = tag_csv.parse('blue_hair,0,100,"青い髪,青髪"\n'.encode(encoding))
    assert [(row.name, row.aliases) for row in found.rows] == [("blue hair", ("青い髪", "青髪"))]
    with pytest.raises(BadInput, match="encoding that can't be told"):
        tag_csv.parse("синие_волосы,0,1".encode("koi8-r"), "x.csv")
