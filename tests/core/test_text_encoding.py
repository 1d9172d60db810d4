"""Texts in an encoding that nobody named: the right words or none, never other words."""

from __future__ import annotations

import codecs
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.core.text_encoding import decode, decode_together

JAPANESE = (
    "青い髪",
    "制服",
    "猫耳",
    "目",
    "薔薇",
    "帽子",
    "青髪",
    "笑顔",
    "泣き顔",
    "眼鏡",
    "ポニーテール",
    "麒麟",
    "蝶",
    "傘",
    "ソ連",
    "表情",
    "Tシャツ",
    "髪",
    "女の子",
    "セーラー服",
    "～",
    "「こんにちは」",
    "能面",
    "構図",
)
CHINESE = (
    "蓝色头发",
    "红色连衣裙",
    "双马尾",
    "校服",
    "微笑",
    "黑发",
    "金色眼睛",
    "和服",
    "樱花树下",
    "女孩",
    "白色长发",
    "看向观众",
    "杰作，高质量",
    "雨天的街",
)
WESTERN = (
    "the girl’s red scarf",
    "señorita",
    "café",
    "naïve look",
    "long hair – twintails",
    "“winter” coat",
    "grün",
    "Straße",
    "année créée",
    "coração",
    "mãe",
    "30° angle",
    "ÉTÉ chaud",
    "jalapeño…",
    "à la mode",
    "Pokémon",
    "fiancée — smiling",
    "smörgåsbord",
    "don’t",
    "rock’n’roll",
    "Ärmel",
)
ENGLISH = ("1girl", "solo", "red hair", "blue eyes", "(smile:1.2)", "school uniform")
UNICODE = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")
FOREIGN = {
    "cp1251": "синие волосы, улыбка",
    "koi8-r": "синие волосы, улыбка",
    "euc-kr": "파란 머리, 고양이 귀",
    "big5": "藍色頭髮, 貓耳",
    "euc-jp": "青い髪, 猫耳",
    "cp1253": "μπλε μαλλιά, κορίτσι",
    "cp1254": "şapka, yeşil saç, ağaç",
    "cp1250": "żółta łóżko",
    "cp850": "señorita, café",
    "mac-roman": "señorita, café",
    "cp866": "синие волосы",
    "iso2022_jp": "青い髪",
}


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n"])
def test_every_word_in_every_encoding_that_has_it(ending: str) -> None:
    for words, local in ((JAPANESE, "cp932"), (CHINESE, "gbk"), (WESTERN, "cp1252"), (ENGLISH, "ascii")):
        for encoding in (*UNICODE, local):
            for word in words:
                text = f"1girl, {word}{ending}"
                assert decode(text.encode(encoding)) == text, (encoding, word)


@settings(max_examples=300)
@given(
    st.sampled_from([(JAPANESE, "cp932"), (CHINESE, "gbk"), (WESTERN, "cp1252")]).flatmap(
        lambda kind: st.tuples(
            st.lists(st.sampled_from(kind[0] + ENGLISH), min_size=1, max_size=8), st.sampled_from((*UNICODE, kind[1]))
        )
    ),
    st.sampled_from([", ", ",", "\n", " "]),
)
def test_captions_are_right_or_none(said: tuple[list[str], str], between: str) -> None:
    text = between.join(said[0])
    data = text.encode(said[1])
    found = decode(data)
    if found is None:
        # a few ideographs in unmarked UTF-16 have nothing that tells them from the same bytes in GBK
        assert said[1] in ("gbk", "cp932", "cp1252") or not re.search("[A-Za-z]", text)
    else:
        assert found == text


@pytest.mark.parametrize("encoding", sorted(FOREIGN))
def test_what_no_candidate_is_for_is_none_and_not_other_words(encoding: str) -> None:
    for word in FOREIGN[encoding].split(", "):
        for text in (word, f"1girl, {word}", f"{word}, {word}, solo"):
            try:
                data = text.encode(encoding)
            except UnicodeEncodeError:
                continue
            assert decode(data) in (None, text), (encoding, text)


def test_foreign_alphabets_in_unicode() -> None:
    for encoding, text in FOREIGN.items():
        for word in text.split(", "):
            assert decode(word.encode("utf-8")) == word, encoding
            assert decode(f"1girl, {word}".encode("utf-16-le")) == f"1girl, {word}"


def test_words_that_were_spoilt_before_are_put_right_or_refused() -> None:
    spoilt = "the girl’s café".encode().decode("cp1252").encode()
    assert decode(spoilt) == "the girl’s café"
    assert decode("caf\ufffd".encode()) is None
    assert decode(b"a\x01b") is None
    assert decode(codecs.BOM_UTF16_LE + b"\0\xd8") is None
    assert decode(b"") == ""


def test_emoji_that_are_newer_than_python() -> None:
    for text in ("1girl, \U0001fae8", "\U0001fae9"):
        assert decode(text.encode()) == decode(text.encode("utf-16")) == decode(text.encode("utf-8-sig")) == text


def test_what_is_expected_there_decides() -> None:
    text = "ΑΒΓ ⱬ ꙮ\nSteps: 20"
    data = text.encode("utf-16-be")
    assert decode(data, lambda reading: "Steps: 20" in reading) == text


def test_names_of_one_archive_are_read_together() -> None:
    names = ["10_青髪/笑顔.png", "10_青髪/表.png", "b.png"]
    assert decode_together(name.encode("cp932") for name in names) == names
    assert decode_together(name.encode("utf-8") for name in names) == names
    candidates = ("utf-8", "cp932", "cp1252", "gbk", "cp850", "cp437")
    assert decode_together([b"M\x84dchen/a.png", b"gr\x81n.png"], candidates) == ["Mädchen/a.png", "grün.png"]
    assert decode_together([bytes(range(0xC0, 0xD0))]) is None


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_text_or_none(data: bytes) -> None:
    found = decode(data)
    assert found is None or found.encode("utf-8") is not None
