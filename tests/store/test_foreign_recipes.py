"""Recipes of other programs: read in their words wherever in a file they stand, or named truthfully."""

from __future__ import annotations

import codecs
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, features
from support.foreign_recipes import SETTINGS, exif, expect, png, text_of
from support.pictures import RECIPE, encoded, image

from studio.core.errors import BadInput
from studio.core.specs import LoraRef
from studio.store import metadata
from studio.store.metadata import ReadRecipe, a1111
from studio.store.metadata.facts import HIRES, SOURCE, read_recipe

PROMPTS = (
    "1girl, blue hair",
    "青い髪の女の子, 1girl",
    "“winter” coat, 1girl",
    "señorita, café",
    "蓝色头发, 1girl",
    "🌸 1girl",
)


# --- where the text stands, and in which encoding ---------------------------------------------------------------------

COMMENTS = {
    "big-endian": lambda text: b"UNICODE\0" + text.encode("utf-16-be"),
    "little-endian": lambda text: b"UNICODE\0" + text.encode("utf-16-le"),
    "big-endian, marked": lambda text: b"UNICODE\0" + codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "little-endian, marked": lambda text: b"UNICODE\0" + codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "Exif 3": lambda text: b"UNICODE\0" + text.encode(),
    "said to be ASCII": lambda text: b"ASCII\0\0\0" + text.encode(),
    "said to be nothing": lambda text: bytes(8) + text.encode(),
    "without a code": lambda text: text.encode(),
    "with zeros behind": lambda text: b"UNICODE\0" + text.encode("utf-16-le") + b"\0\0",
}


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("way", sorted(COMMENTS))
def test_the_comment_of_a_camera_in_every_encoding(prompt: str, way: str) -> None:
    body = COMMENTS[way](text_of(prompt))
    for form in ("JPEG", "WEBP"):
        expect(metadata.read(exif(body, form)), prompt)
    expect(metadata.read(exif(body, first_directory=True)), prompt)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(PROMPTS),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp932", "cp1252", "gbk", "latin-1"]),
    st.sampled_from(["tEXt", "zTXt", "iTXt", "comment", "JPEG", "WEBP", "pasted"]),
    st.booleans(),
    st.booleans(),
)
def test_the_right_words_or_a_true_sentence(
    prompt: str, encoding: str, place: str, behind: bool, as_json: bool
) -> None:
    said = {
        "prompt": prompt,
        "negative_prompt": "lowres",
        "steps": 24,
        "seed": 4242,
        "cfg_scale": 6.5,
        "width": 256,
        "height": 320,
        "sampler": "euler_ancestral",
        "model": "x",
    }
    text = json.dumps(said, ensure_ascii=False) if as_json else text_of(prompt)
    try:
        body = text.encode(encoding)
    except UnicodeEncodeError:
        return
    if place in ("JPEG", "WEBP"):
        data = exif(b"UNICODE\0" + body, place)
    elif place == "comment":
        data = encoded(image(), "JPEG", comment=body)
    elif place == "pasted":
        data = body
    else:
        data = png({"parameters": body}, place.encode(), behind)
    try:
        found = metadata.read(data)
    except BadInput as refused:
        sentence = str(refused)
    else:
        expect(found, prompt)
        return
    assert not encoding.startswith("utf")
    assert "encoding" in sentence or "can't be read as a picture" in sentence


# --- A1111 and its family ---------------------------------------------------------------------------------------------


def read_text(text: str) -> ReadRecipe:
    return metadata.read(png({"parameters": text.encode()}, b"iTXt"))


@pytest.mark.parametrize(
    "behind",
    [
        "\nTemplate: {a|b}, 1girl\nNegative Template: lowres",
        "\nControlNet Module: canny, ControlNet Weight: 1",
        "\n\nUsed embeddings: easynegative [119b]",
        "\nPostprocess upscale by: 2",
    ],
)
def test_what_stands_behind_the_settings_is_no_prompt(behind: str) -> None:
    expect(read_text(text_of("1girl, blue hair") + behind))


def test_settings_hold_what_looks_like_settings() -> None:
    tricky = ', ADetailer prompt: "smile, Steps: 99, Seed: 1", Hashes: {"model": "0123456789", "lora:a, Seed: 3": "x"}'
    expect(read_text(text_of("1girl, blue hair", tricky)))
    one_line = f"1girl, blue hair. Negative prompt: lowres. {SETTINGS}"
    found = metadata.read(one_line.encode()).spec
    assert (found.prompt, found.negative, found.seed) == ("1girl, blue hair.", "lowres.", 4242)
    braces = read_text(text_of("{1girl}, [blue|red] hair"))
    expect(braces, "{1girl}, [blue|red] hair")


@pytest.mark.parametrize(
    ("more", "program"),
    [(", Version: f2.0.1v1.10.1", "Forge"), (", App: SD.Next, Pipeline: StableDiffusion", "SD.Next"), ("", "A1111")],
)
def test_the_family_is_told_apart(more: str, program: str) -> None:
    found = read_text(f"1girl, blue hair\nNegative prompt: lowres\n{SETTINGS}{more}")
    expect(found)
    assert (found.origin, found.program) == ("a1111", program)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (', TI hashes: "easynegative: c74b4e810b03"', "Its embedding 'easynegative' isn't used here."),
        (', Hashes: {"embed:easynegative": "c74b4e810b"}', "Its embedding 'easynegative' isn't used here."),
        ("\n\nUsed embeddings: easynegative [119b]", "Its embedding 'easynegative' isn't used here."),
        (", ADetailer model: face_yolov8n.pt, ADetailer confidence: 0.3",
         "ADetailer, which draws faces and hands again, isn't repeated here."),
        (", Refiner: other [0123], Refiner switch at: 0.8", "Its refiner isn't repeated here."),
        (", Variation seed: 3, Variation seed strength: 0.1", "Its variation of the seed isn't repeated here."),
    ],
)  # fmt: skip
def test_what_draws_beside_the_model_is_said(more: str, said: str) -> None:
    found = read_text(text_of("1girl, blue hair", more))
    expect(found)
    assert found.notes == (said,)


def test_a_line_with_the_steps_alone_is_no_prompt() -> None:
    assert read_text("1girl, smile\nSteps: 20").spec.prompt == "1girl, smile"


def test_hires_fix_started_from_no_picture() -> None:
    more = ", Denoising strength: 0.45, Hires upscale: 2, Hires steps: 10, Hires upscaler: Latent"
    found = read_text(text_of("1girl, blue hair", more))
    expect(found)
    assert found.notes == ()
    spec = found.spec
    assert (spec.hires, spec.hires_steps, spec.hires_strength, spec.upscaler) == (2, 10, 0.45, "Latent")
    assert spec.strength == 0.6  # the field's own default: nothing was taken over
    same = read_text(text_of("1girl, blue hair", ", Denoising strength: 0.45, Hires upscale: 1.5, Hires steps: 0"))
    assert (same.spec.hires, same.spec.hires_steps) == (1.5, same.spec.steps)
    old = read_text(text_of("1girl, blue hair", ", Denoising strength: 0.7, First pass size: 0x0"))
    assert old.notes == (HIRES,)
    started = read_text(text_of("1girl, blue hair", ", Denoising strength: 0.45, Mask blur: 4"))
    assert started.notes == (SOURCE,)
    assert started.spec.strength == 0.45


def test_civitai_names_model_and_loras_as_resources() -> None:
    resources = [
        {"type": "checkpoint", "modelVersionId": 111, "modelName": "Some Mix, Seed: 5", "modelVersionName": "v3"},
        {"type": "lora", "weight": 0.6, "modelVersionId": 222, "modelName": "Ink Lines", "modelVersionName": "v1"},
        {"type": "embed", "modelVersionId": 3, "modelName": "EasyNegative"},
    ]
    text = (
        "1girl, blue hair\nNegative prompt: lowres\nSteps: 24, Sampler: Euler a, CFG scale: 6.5, Seed: 4242, "
        "Size: 256x320, Created Date: 2025-01-02T03:04:05.1Z, "
        f"Civitai resources: {json.dumps(resources)}, Civitai metadata: {{}}"
    )
    found = read_text(text)
    expect(found)
    assert (found.program, found.spec.model) == ("Civitai", "Some Mix, Seed: 5")
    assert found.spec.loras == (LoraRef(path="Ink Lines", weight=0.6),)
    assert found.notes == ("Its embed 'EasyNegative' isn't used here.",)
    extra = {
        "prompt": "1girl, blue hair",
        "negativePrompt": "lowres",
        "steps": 24,
        "cfgScale": 6.5,
        "seed": 4242,
        "width": 256,
        "height": 320,
        "sampler": "euler_ancestral",
        "resources": [{"modelVersionId": 9, "strength": 0.5}],
    }
    comfy = {"resource-stack": {"class_type": "x", "inputs": {}}, "extraMetadata": json.dumps(extra)}
    found = metadata.read(exif(b"UNICODE\0" + json.dumps(comfy).encode("utf-16-le")))
    expect(found)
    assert found.spec.loras == (LoraRef(path="version 9", weight=0.5),)


@pytest.mark.parametrize(
    ("tag", "weight"),
    [
        ("<lora:a b:0.7>", 0.7),
        ("<lora:a b>", 1.0),
        ("<lora:a b:1:0.5>", 1.0),
        ("<LoRA:a b:te=0.2:unet=0.9>", 0.9),
        ("<lyco:a b:0.7>", 0.7),
    ],
)
def test_weights_of_lora_tags(tag: str, weight: float) -> None:
    assert read_text(text_of(f"1girl, {tag}")).spec.loras == (LoraRef(path="a b", weight=weight),)


@pytest.mark.parametrize(
    ("more", "program", "loras"),
    [
        (', Lora hashes: "ink: 0123456789", Lora weights: "ink: 0.6", Version: Fooocus v2.5', "Fooocus", {"ink": 0.6}),
        (', App: SD.Next, Pipeline: StableDiffusion, LoRA networks: "ink:0.6, b:1.0"', "SD.Next", {"ink": 0.6, "b": 1}),
        (", AddNet Enabled: True, AddNet Module 1: LoRA, AddNet Model 1: ink(0123456789ab), AddNet Weight A 1: 0.6",
         "A1111", {"ink": 0.6}),
    ],
)  # fmt: skip
def test_loras_among_the_settings(more: str, program: str, loras: dict[str, float]) -> None:
    found = read_text(f"1girl, blue hair\nNegative prompt: lowres\n{SETTINGS}{more}")
    expect(found)
    assert (found.program, {ref.path: ref.weight for ref in found.spec.loras}) == (program, loras)
    twice = read_text(f"1girl <lora:ink:0.9>\n{SETTINGS}{more}")
    assert [ref.weight for ref in twice.spec.loras if ref.path == "ink"] == [0.9], "what was in the prompt counts"


def test_a_lora_with_two_weights_is_said() -> None:
    found = read_text(text_of("1girl, <lora:ink:0.8:0.6>"))
    assert found.spec.loras == (LoraRef(path="ink", weight=0.8),)
    assert found.notes == ("The LoRA 'ink' has two weights (0.8 and 0.6); here the first counts for all of it.",)
    assert read_text(text_of("1girl, <lora:ink:0.8:0.8>")).notes == ()


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_the_comment_in_an_avif() -> None:
    entries = Image.Exif()
    entries[ExifTags.Base.Software] = "x"
    entries.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + text_of("1girl, 青い髪").encode(
        "utf-16-be"
    )
    expect(metadata.read(encoded(image(), "AVIF", exif=entries)), "1girl, 青い髪")


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("way", [*sorted(COMMENTS), "JIS", "Shift-JIS"])
def test_the_order_of_bytes_of_the_file_is_not_that_of_the_comment(endian: str, way: str) -> None:
    japanese = {"JIS": "iso2022_jp", "Shift-JIS": "cp932"}
    text = text_of("青い髪の女の子, 1girl")
    entries = Image.Exif()
    entries.endian = endian
    body = b"JIS\0\0\0\0\0" + text.encode(japanese[way]) if way in japanese else COMMENTS[way](text)
    entries.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = body
    expect(metadata.read(encoded(image(), "JPEG", exif=entries)), "青い髪の女の子, 1girl")


# what the text can't say apart: a line that begins as its own do, tags, and blanks at the ends
plain = (
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)
    .map(str.strip)
    .filter(
        lambda text: (
            text
            and not any(part in text for part in ("prompt:", "Steps:", "<", "\u2028", "\u2029", "\x85"))
            and not text.endswith(",")
        )
    )
)


@settings(max_examples=100, deadline=None)
@given(
    plain,
    plain,
    st.integers(0, 2**32 - 1),
    st.sampled_from(["euler_a", "dpmpp_2m_karras", "ddim", "unipc", "lcm", "tcd"]),
)
def test_what_we_write_in_a1111_s_words_comes_back(prompt: str, negative: str, seed: int, sampler: str) -> None:
    recipe = RECIPE.model_copy(
        update={
            "prompt": prompt,
            "negative": negative,
            "seed": seed,
            "sampler": sampler,
            "loras": (LoraRef(path="/x/ink style.safetensors", weight=0.8),),
            "lora_hashes": ("b" * 64,),
        }
    )
    found = read_recipe(a1111.read(metadata.parameters(recipe, 'A model: 2nd, "best"')))
    spec = found.spec
    assert (spec.prompt, spec.negative, spec.seed, spec.sampler) == (prompt, negative, seed, sampler)
    assert (spec.steps, spec.guidance, spec.width, spec.height) == (20, 3.5, 256, 320)
    assert (spec.model, found.model_hash) == ('A model: 2nd, "best"', "a" * 10)
    assert (spec.loras, found.lora_hashes) == ((LoraRef(path="ink style", weight=0.8),), ("b" * 12,))


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt"])
def test_half_of_a_recipe_is_none(kind: bytes) -> None:
    """A number that is cut in two is another number."""
    data = png({"parameters": text_of("1girl, blue hair").encode()}, kind)
    start = data.index(b"parameters")
    whole = data.index(b"IDAT", start) - 8
    for end in range(start + 30, whole - 4, 7):
        with pytest.raises(BadInput, match="is cut off in the middle"):
            metadata.read(data[:end])
    expect(metadata.read(data[:whole]))


def test_a_chunk_after_the_pixels_and_a_damaged_one_before() -> None:
    data = bytearray(png({"parameters": text_of("1girl, blue hair").encode()}, b"iTXt", behind=True))
    expect(metadata.read(bytes(data)))
    with Image.open(io.BytesIO(bytes(data))) as opened:
        opened.load()
    cut = bytes(data[:40]) + bytes(data[-12:])
    with pytest.raises(BadInput):
        metadata.read(cut)
