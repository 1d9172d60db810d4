"""What A1111's users write beside words: choices, LoRAs, schedules."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.prompting.a1111 import LoraTag, plain
from studio.prompting.dynamic import choose, has_choices


@pytest.mark.parametrize(
    ("prompt", "text", "loras"),
    [
        ("1girl, <lora:ink:0.8>, smile", "1girl, smile", [LoraTag("ink", 0.8)]),
        ("<lora:a> <lyco:b:0.5:0.5>, x", "x", [LoraTag("a", None), LoraTag("b", 0.5)]),
        ("x, (<lora:q:te=0.3:unet=0.6>:1.2), y", "x, y", [LoraTag("q", 0.6)]),
        ("x <lora:sub/dir/v1.2_offset:-1>", "x", [LoraTag("sub/dir/v1.2_offset", -1.0)]),
        ("x，＜lora：ink：0.8＞，（y：1.2）", "x,(y:1.2)", [LoraTag("ink", 0.8)]),
        ("1.3::blue hair::, x, -0.5::hat::", "(blue hair:1.3), x, (hat:-0.5)", []),
        ("smile++, (red hat)-, twin-tails, 18+, c++", "(smile:1.21), (red hat:0.9), twin-tails, 18+, (c:1.21)", []),
        ("<3, >_<, <my-token>, :d", "<3, >_<, <my-token>, :d", []),
        ("a BREAK (b:1.2), [c], \\(d\\)", "a BREAK (b:1.2), [c], \\(d\\)", []),
    ],
)
def test_loras_are_taken_out_of_a_prompt(prompt: str, text: str, loras: list[LoraTag]) -> None:
    found = plain(prompt)
    assert (found.text, list(found.loras), found.remarks) == (text, loras, ())


@pytest.mark.parametrize(
    ("prompt", "text", "said"),
    [
        ("[sad:happy:0.3], hat", "happy, hat", "'[sad:happy:0.3]' can't change halfway through a drawing: 'happy'"),
        ("[sad:happy:0.7]", "sad", "'sad' is drawn"),
        ("x, [hat:0.7]", "x", "left out"),
        ("[hat::16], x", "hat, x", "'hat' is drawn"),
        ("[(hat:1.2):b:12], [solo]", "(hat:1.2), [solo]", "halfway"),
        ("[a:[b:c:0.3]:0.1]", "c", "halfway"),
        ("a [cow|horse] in a field", "a cow, horse in a field", "alternate"),
        ("red hair AND blue eyes :1.2 AND hat", "red hair, blue eyes, hat", "AND"),
        ("<hypernet:x:1>, hat", "hat", "hypernetwork 'x'"),
        ("embedding:EasyNegative, lowres", "lowres", "embedding 'EasyNegative'"),
        ("(embedding:easy.pt:1.2), embedding:easy.pt:0.5, hat", "hat", "embedding 'easy.pt'"),
        ("<segment:face> smile", "smile", "'<segment:face>' can't be used"),
        ("<random[2]:red, blue> hat", "hat", "'<random[2]:red, blue>' can't be used"),
        ("(a hat, a cat).blend(0.5, 0.5)", "(a hat, a cat)", "'.blend(0.5, 0.5)' can't be used"),
        ("x, <lora:ink:0.8:0.6>", "x", "the first, 0.8, counts for all of it"),
        ("x, <lora:ink:-7>", "x", "The weight -7 of the LoRA 'ink' is more than can be used; -2 is"),
    ],
)
def test_what_cant_be_drawn_is_left_out_with_one_remark(prompt: str, text: str, said: str) -> None:
    found = plain(prompt)
    assert found.text == text
    assert len(found.remarks) == 1
    assert said in found.remarks[0]
    assert plain(found.text).remarks == ()


@given(st.text(alphabet="ab[]():|0.5,<>lora \\", max_size=60))
def test_any_prompt_can_be_taken_apart(prompt: str) -> None:
    found = plain(prompt)
    assert plain(found.text).text == found.text or found.remarks or found.loras


@pytest.fixture
def wildcards(tmp_path: Path) -> Path:
    folder = tmp_path / "wildcards"
    (folder / "clothes").mkdir(parents=True)
    (folder / "color.txt").write_text("# colours\nred\n\nblue\n", encoding="utf-8-sig")
    (folder / "clothes" / "dress.txt").write_text("__color__ dress\n{long|short} skirt\n")
    (folder / "髪.txt").write_bytes("黒髪\n".encode("cp932"))
    (folder / "mantel.TXT").write_bytes("grüner Mantel\n".encode("cp1252"))
    (folder / "notepad.txt").write_bytes("黒髪\n".encode("utf-16"))
    (folder / "spoilt.txt").write_bytes("синие волосы\n".encode("koi8-r"))
    (folder / "loop.txt").write_text("__loop__, a\n")
    (tmp_path / "secret.txt").write_text("secret\n")
    return folder


def test_choices_are_made_by_the_seed(wildcards: Path) -> None:
    assert {choose("{red|blue} hair", seed, None).text for seed in range(20)} == {"red hair", "blue hair"}
    assert choose("{a|b|c|d}", 5, None) == choose("{a|b|c|d}", 5, None)
    assert {choose("{0::a|9::b}", seed, None).text for seed in range(20)} == {"b"}
    assert {choose("{2$$a|b|c}", seed, None).text for seed in range(60)} == {
        "a, b", "a, c", "b, a", "b, c", "c, a", "c, b",
    }  # fmt: skip
    assert choose("{3$$ and $$a|b|c}", 1, None).text.count(" and ") == 2
    assert {choose("{a|{b|c}}", seed, None).text for seed in range(30)} == {"a", "b", "c"}
    assert choose("{{beautiful}} eyes, x}", 1, None).text == "beautiful eyes, x"
    assert {choose("{<lora:x:1>|b}", seed, None).text for seed in range(20)} == {"<lora:x:1>", "b"}
    drawn = {choose("__clothes/dress__", seed, wildcards).text for seed in range(40)}
    assert drawn == {"red dress", "blue dress", "long skirt", "short skirt"}
    assert {choose("__dress__", seed, wildcards).text for seed in range(40)} == drawn
    assert choose("__髪__", 1, wildcards).text == choose("__notepad__", 1, wildcards).text == "黒髪"
    assert choose("__mantel__", 1, wildcards).text == "grüner Mantel"
    assert {choose("__col*__", seed, wildcards).text for seed in range(20)} == {"red", "blue"}


def test_what_cant_be_chosen_is_named_and_never_drawn(wildcards: Path) -> None:
    found = choose("hat, __missing__, __../secret__, smile", 1, wildcards)
    assert found.text == "hat, smile"
    assert found.missing == ["missing", "../secret"]
    assert choose("__color__, x", 1, None).text == "x"
    spoilt = choose("hat, __spoilt__", 1, wildcards)
    assert (spoilt.text, spoilt.missing, spoilt.unreadable) == ("hat", [], ["spoilt"])
    assert len(choose("__loop__", 1, wildcards).text) < 200
    (wildcards / "wide.txt").write_text("x __wide__ __wide__ __wide__\n")
    begun = time.process_time()
    assert len(choose("__wide__", 1, wildcards).text.split()) <= 501  # and not three to the power of twelve
    assert time.process_time() - begun < 2
    assert "{" not in choose("{" * 400 + "a|b" + "}" * 300, 1, None).text
    assert not has_choices("1girl, (smile:1.2), :d, ^__^, long_hair")
