"""Lists of prompts as they are pasted, and sheets as they are laid out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pictures import image

from studio.core.errors import BadInput
from studio.core.specs import BatchRow
from studio.store import prompt_list
from studio.store.layout import grid_picture


def test_prompt_lists() -> None:
    plain = prompt_list.parse("a cat, red\n\n# a remark\n  1girl, smile  \n")
    assert [row.prompt for row in plain] == ["a cat, red", "1girl, smile"]
    table = prompt_list.parse('\ufeffseed;prompt;emotion\n5;"a; cat";sad\n;dog;\n')
    assert [(row.seed, row.prompt, row.emotion) for row in table] == [(5, "a; cat", "sad"), (None, "dog", None)]
    quoted = prompt_list.parse('prompt,seed\n"1girl, smile\nsecond line",3\n')
    assert (quoted[0].prompt, quoted[0].seed) == ("1girl, smile\nsecond line", 3)
    assert prompt_list.parse("prompt\nonly one")[0].prompt == "only one"


def test_bad_lines_are_named() -> None:
    with pytest.raises(BadInput) as caught:
        prompt_list.parse("prompt,seed,emotion\ncat,nan,sad\ndog,1,grumpy\n,2,sad\na,b,c,d\nfine,3,sad")
    for part in ("line 2: the seed 'nan'", "line 3: the emotion 'grumpy'", "line 4: no prompt", "line 5: 4 columns"):
        assert part in str(caught.value)
    for empty in ("", "\n\n", "# only\n", "prompt,seed\n"):
        with pytest.raises(BadInput, match="no prompts"):
            prompt_list.parse(empty)
    with pytest.raises(BadInput, match="1001"):
        prompt_list.parse("x\n" * 1001)


def test_a_quote_that_is_not_closed_does_not_swallow_the_rows_after_it() -> None:
    for table, line in (('prompt,seed\na,1\n"b,2\nc,3\nd,4', 3), ('prompt,seed\n"a cat" red,1\nb,2', 2)):
        with pytest.raises(BadInput, match=f"line {line}: a quote"):
            prompt_list.parse(table)


@pytest.mark.parametrize(
    ("text", "table", "said"),
    [("foo,bar\na,b", True, "it says 'foo, bar'"), ("seed,emotion\n1,sad", False, "has to be prompt"),
     ("prompt,foo\na,b", False, "no column 'foo'"), ("prompt,prompt\na,b", True, "twice")],
)  # fmt: skip
def test_a_header_with_an_unknown_column_is_no_prompt(text: str, table: bool, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        prompt_list.parse(text, table)
    assert prompt_list.parse("a cat\na dog", table=True)[0].prompt == "a cat"
    assert prompt_list.parse("foo, bar\na, b")[0].prompt == "foo, bar"  # pasted: tags


@settings(max_examples=80)
@given(st.text(max_size=200))
def test_any_text_is_a_list_or_refused(text: str) -> None:
    try:
        rows = prompt_list.parse(text)
    except BadInput:
        return
    assert rows


def test_a_sheet_has_its_tiles_in_place() -> None:
    tiles = [image(colour, (64, 48)) for colour in ("red", "lime", "blue", "yellow")]
    sheet = grid_picture(tiles, ["a", "a label that is far too long for its tile"], ["x", "y"])
    colours = [colour for count, colour in sheet.getcolors(100_000) if count == 64 * 48]
    assert set(colours) == {(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)}
    huge = grid_picture([image("red", (2048, 2048))] * 6, list("abcdef"))
    assert max(huge.size) <= 8192 + 200


def test_options_of_a1111_s_prompts_from_file() -> None:
    text = '--prompt "1girl, blue hair" --negative_prompt "lowres" --steps 6 --seed 5\n1girl, red hair\n'
    first, second = prompt_list.parse(text)
    assert (first.prompt, first.negative, first.steps, first.seed) == ("1girl, blue hair", "lowres", 6, 5)
    assert second == BatchRow(prompt="1girl, red hair")
    (row,) = prompt_list.parse('a cat --cfg_scale 6.5 --sampler_name "DPM++ 2M Karras" --width 256 --height 320')
    assert (row.prompt, row.guidance, row.sampler, row.width, row.height) == ("a cat", 6.5, "dpmpp_2m_karras", 256, 320)
    (row,) = prompt_list.parse("--prompt x --scheduler Simple")  # what a sampler has anyway needs none
    assert row == BatchRow(prompt="x")
    assert prompt_list.parse("a cat -- no, -5, twin--tails, a++")[0].prompt == "a cat -- no, -5, twin--tails, a++"
    for line, said in (
        ("--tiling --prompt x", "no option --tiling here, only --prompt"),
        ("a cat --v 5 --ar 3:2", "no option --v here"),
        ('--prompt "x', "a quote is opened"),
        ("--prompt x --steps 900", "the steps '900' isn't one"),
        ("--prompt x --sampler_name Heun", "the sampler 'Heun' isn't in this studio"),
        ("--prompt x --scheduler Karras", "--scheduler Karras says nothing without --sampler_name"),
        ("--prompt x --sampler_name DDIM --scheduler Exponential", "the schedule 'Exponential' isn't in this studio"),
    ):
        with pytest.raises(BadInput, match=said):
            prompt_list.parse(line)


def test_sample_prompts_of_kohya() -> None:
    said = r"1girl, the girl's (hat:1.2), \(x\) --n lowres, bad hands --w 256 --h 320 --d 5 --l 6.5 --s 24 --ss ddim"
    (row,) = prompt_list.parse(said)
    assert row == BatchRow(
        prompt=r"1girl, the girl's (hat:1.2), \(x\)", negative="lowres, bad hands", width=256, height=320, seed=5,
        guidance=6.5, steps=24, sampler="ddim",
    )  # fmt: skip
    toml = (
        '[prompt]\nwidth = 256\nseed = 5\n[[prompt.subset]]\nprompt = "a"\n[[prompt.subset]]\nprompt = "b"\nseed = 6\n'
    )
    assert prompt_list.parse(toml) == (
        BatchRow(prompt="a", width=256, seed=5), BatchRow(prompt="b", width=256, seed=6),
    )  # fmt: skip


def test_generation_data_of_a1111() -> None:
    one = (
        "1girl, blue hair,\nhat <lora:ink:0.6>\nNegative prompt: lowres,\nbad hands\n"
        "Steps: 24, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 5, Size: 256x320, Model: x\n"
    )
    row = BatchRow(
        prompt="1girl, blue hair,\nhat <lora:ink:0.6>", negative="lowres,\nbad hands", steps=24, seed=5, guidance=6.5,
        sampler="dpmpp_2m_karras", width=256, height=320,
    )  # fmt: skip
    other = BatchRow(prompt="a cat", negative="", steps=20, seed=6)
    assert prompt_list.parse(one) == (row,)
    assert prompt_list.parse(f"{one}\na cat\nSteps: 20, Seed: 6\n{one}") == (row, other, row)
    with pytest.raises(BadInput, match="the sampler 'Heun' isn't in this studio"):
        prompt_list.parse(one.replace("DPM++ 2M, Schedule type: Karras", "Heun"))


def test_lists_in_json() -> None:
    row = {"prompt": "1girl, hat", "negative_prompt": "lowres", "seed": 5, "sample_steps": 24, "scale": 6.5}
    ours = BatchRow(prompt="1girl, hat", negative="lowres", seed=5, steps=24, guidance=6.5)
    for text in (
        json.dumps([row]),
        json.dumps({"prompts": [row]}, indent=1),
        json.dumps(row),
        json.dumps(row) + "\n\n",
    ):
        assert prompt_list.parse(text) == (ours,)
    assert prompt_list.parse(f"{json.dumps(row)}\n{json.dumps({'text': 'a cat'})}")[1] == BatchRow(prompt="a cat")
    assert prompt_list.parse('["a, b", "c"]') == (BatchRow(prompt="a, b"), BatchRow(prompt="c"))
    assert prompt_list.parse("[hat:0.5], x")[0].prompt == "[hat:0.5], x"
    assert prompt_list.parse("{red|blue} hair")[0].prompt == "{red|blue} hair"
    for text, said in (
        ('[{"prompt": "a", "controlnet": 1}]', "line 1: there is no 'controlnet'"),
        ("[1, 2]", "line 1: a prompt is a text"),
        ('[{"seed": 1}]', "line 1: no prompt"),
        ("[]", "no prompts"),
    ):
        with pytest.raises(BadInput, match=said):
            prompt_list.parse(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp932"])
def test_lists_in_every_encoding(encoding: str) -> None:
    text = '1girl, 青い髪\n--prompt "笑顔" --seed 5\n'
    rows = prompt_list.parse(prompt_list.decoded(text.encode(encoding)))
    assert [row.prompt for row in rows] == ["1girl, 青い髪", "笑顔"]
    assert prompt_list.decoded("1girl, the girl’s scarf".encode("cp1252")) == "1girl, the girl’s scarf"
    with pytest.raises(BadInput, match="encoding that can't be told"):
        prompt_list.decoded("синие волосы".encode("koi8-r"))
