"""Languages: which one is spoken, tables of messages, sentences that were written in English and kept."""

from __future__ import annotations

import threading

import pytest

from studio.core import i18n
from studio.core.i18n import negotiate, speak, texts, translated


@pytest.fixture
def catalogue(tmp_path, monkeypatch):
    """Japanese with a few messages."""
    (tmp_path / "ja").mkdir()
    (tmp_path / "ja" / "messages.po").write_text(
        """
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\\n"
"Plural-Forms: nplurals=1; plural=0;\\n"
"X-Language-Name: 日本語\\n"

msgid "Draw"
msgstr "描く"

msgid "There is no model {name}."
msgstr "モデル「{name}」はありません。"

msgid "{field} should be at most {limit}."
msgstr "{field}は{limit}以下です。"

msgid "Steps"
msgstr "ステップ数"

msgid "{count} picture"
msgid_plural "{count} pictures"
msgstr[0] "{count}枚"

msgid "{} of {} frames"
msgstr "{}/{}フレーム"
""",
        encoding="utf-8",
    )
    monkeypatch.setattr(i18n, "LOCALE", tmp_path)
    caches = (i18n._entries, i18n._catalogue, i18n._patterns, i18n._names, i18n._translated)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_the_first_language_that_there_is_is_taken(catalogue):
    assert negotiate("ja-JP") == negotiate("ja_JP.UTF-8") == negotiate("fr,ja;q=0.8") == "ja"
    assert negotiate("en-US,en;q=0.9,ja;q=0.8") == "en"
    assert negotiate("fr") is None
    assert negotiate("") is None
    assert negotiate("C.UTF-8") is None


def test_languages_are_called_by_their_own_names(catalogue):
    assert i18n.languages() == {"en": "English", "ja": "日本語"}


def test_a_table_speaks_the_language_of_whoever_takes_a_message_out(catalogue):
    table = texts({"draw": "Draw", "page": ("Draw", ":material/draw:")})
    assert table["draw"] == "Draw"
    with speak("ja"):
        assert (table["draw"], table.get("draw"), table["page"][0]) == ("描く",) * 3
        assert dict(table.items())["draw"] == next(iter(table.values())) == "描く"
        assert table.get("none") is None
    assert table["draw"] == "Draw"


def test_another_thread_speaks_english(catalogue):
    said = []
    with speak("ja"):
        thread = threading.Thread(target=lambda: said.append(i18n._("Draw")))
        thread.start()
        thread.join()
    assert said == ["Draw"]


@pytest.mark.parametrize(
    ("english", "japanese"),
    [
        ("Draw", "描く"),
        ("There is no model my {odd} one.", "モデル「my {odd} one」はありません。"),
        ("Steps should be at most 50.", "ステップ数は50以下です。"),  # what is filled in is a message itself
        ("1 picture", "1枚"),
        ("1,200 pictures", "1,200枚"),
        ("3 of 8 frames", "3/8フレーム"),
        ("There is no model a. There is no model b.", "モデル「a」はありません。モデル「b」はありません。"),
        ("Nobody wrote this down.", "Nobody wrote this down."),
    ],
)
def test_a_sentence_that_was_kept_in_english_is_shown_in_japanese(catalogue, english, japanese):
    with speak("ja"):
        assert translated(english) == japanese
    assert translated(english) == english
