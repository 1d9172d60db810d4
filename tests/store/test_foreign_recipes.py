"""Recipes of other programs: read in their words wherever in a file they stand, or named truthfully."""

from __future__ import annotations

import codecs
import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.foreign_recipes import SETTINGS, exif, expect, hidden, png, text_of, with_json
from support.pictures import RECIPE, encoded, image

from studio.core.errors import BadInput
from studio.core.specs import LoraRef
from studio.store import metadata
from studio.store.metadata import Read, a1111
from studio.store.metadata.facts import HIRES, SOURCE, settled

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


@pytest.mark.parametrize("magic", [b"stealth_pnginfo", b"stealth_pngcomp", b"stealth_rgbinfo", b"stealth_rgbcomp"])
def test_text_in_the_bits_of_the_pixels(magic: bytes) -> None:
    expect(metadata.read(hidden(text_of("1girl, blue hair"), magic)))
    novelai = {"Comment": json.dumps(NOVELAI), "Description": "1girl, blue hair", "Software": "NovelAI"}
    found = metadata.read(hidden(json.dumps(novelai), magic))
    expect(found)
    assert found.program == "NovelAI"


# --- A1111 and its family ---------------------------------------------------------------------------------------------


def read_text(text: str) -> Read:
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


def test_hires_fix_started_from_no_picture() -> None:
    more = ", Denoising strength: 0.45, Hires upscale: 2, Hires steps: 10, Hires upscaler: Latent"
    found = read_text(text_of("1girl, blue hair", more))
    expect(found)
    assert found.notes == (HIRES,)
    assert found.spec.strength == 0.6  # the field's own default: nothing was taken over
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
    found = settled(a1111.read(metadata.parameters(recipe, 'A model: 2nd, "best"')))
    spec = found.spec
    assert (spec.prompt, spec.negative, spec.seed, spec.sampler) == (prompt, negative, seed, sampler)
    assert (spec.steps, spec.guidance, spec.width, spec.height) == (20, 3.5, 256, 320)
    assert (spec.model, found.model_hash) == ('A model: 2nd, "best"', "a" * 10)
    assert (spec.loras, found.lora_hashes) == ((LoraRef(path="ink style", weight=0.8),), ("b" * 12,))


# --- programs that write JSON -----------------------------------------------------------------------------------------

NOVELAI = {
    "prompt": "1girl, blue hair",
    "uc": "lowres",
    "steps": 24,
    "seed": 4242,
    "scale": 6.5,
    "width": 256,
    "height": 320,
    "sampler": "k_euler_ancestral",
}
FOOOCUS = {
    "prompt": "1girl, blue hair",
    "negative_prompt": "lowres",
    "steps": 24,
    "seed": "4242",
    "guidance_scale": 6.5,
    "base_model": "someMix_v3",
    "resolution": "(256, 320)",
    "sampler": "euler_ancestral",
    "metadata_scheme": "fooocus",
    "loras": [["ink.safetensors", 0.6, "0a0b0c0d0e"]],
}
INVOKEAI = {
    "positive_prompt": "1girl, blue hair",
    "negative_prompt": "lowres",
    "seed": 4242,
    "steps": 24,
    "cfg_scale": 6.5,
    "width": 256,
    "height": 320,
    "scheduler": "euler_a",
    "model": {"name": "someMix_v3", "key": "k"},
    "loras": [{"model": {"name": "ink"}, "weight": 0.6}],
}
SWARM = {
    "sui_image_params": {
        "prompt": "1girl, blue hair",
        "negativeprompt": "lowres",
        "model": "sd/someMix_v3.safetensors",
        "seed": 4242,
        "steps": 24,
        "cfgscale": 6.5,
        "width": 256,
        "height": 320,
        "sampler": "euler_ancestral",
        "loras": ["ink"],
        "loraweights": ["0.6"],
    }
}
TENSORART = {
    "prompt": "1girl, blue hair",
    "negativePrompt": "lowres",
    "steps": 24,
    "cfgScale": 6.5,
    "seed": "4242",
    "width": 256,
    "height": 320,
    "samplerName": "Euler a",
    "baseModel": {"modelFileName": "someMix_v3"},
    "models": [{"type": "LORA", "modelFileName": "ink", "weight": 0.6}],
}
DRAWTHINGS = {
    "c": "1girl, blue hair",
    "uc": "lowres",
    "steps": 24,
    "seed": 4242,
    "scale": 6.5,
    "size": "256x320",
    "sampler": "Euler Ancestral",
    "model": "someMix_v3",
    "strength": 1,
}
RUINED = {
    "Prompt": "1girl, blue hair",
    "Negative": "lowres",
    "steps": 24,
    "cfg": 6.5,
    "width": 256,
    "height": 320,
    "seed": 4242,
    "sampler_name": "euler_ancestral",
    "base_model_name": "someMix_v3.safetensors",
    "software": "RuinedFooocus",
}
FLAT = {
    "prompt": "1girl, blue hair",
    "negative-prompt": "lowres",
    "steps": "24",
    "seed": "4242",
    "scale": "6.5",
    "width": "256",
    "height": "320",
    "sampler": "k_euler_a",
    "model": "someMix_v3",
}
DREAM = '"1girl, blue hair [lowres]" -s {0}24 -S {0}4242 -W {0}256 -H {0}320 -C {0}6.5 -A {0}k_euler_a'
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><exif:UserComment><rdf:Alt><rdf:li xml:lang="x-default">{}</rdf:li>'
    "</rdf:Alt></exif:UserComment></rdf:RDF></x:xmpmeta>"
)
FILES: dict[str, tuple[str, bytes]] = {
    "Fooocus": ("fooocus", with_json(FOOOCUS, fooocus_scheme="fooocus")),
    "Fooocus in a JPEG": ("fooocus", exif(b"UNICODE\0" + json.dumps(FOOOCUS).encode("utf-16-be"))),
    "RuinedFooocus": ("fooocus", with_json(RUINED)),
    "SwarmUI": ("swarmui", with_json(SWARM)),
    "SwarmUI in a WebP": ("swarmui", exif(b"ASCII\0\0\0" + json.dumps(SWARM).encode(), "WEBP")),
    "InvokeAI": ("invokeai", with_json(INVOKEAI, "invokeai_metadata")),
    "InvokeAI 1": ("invokeai", png({"Dream": DREAM.format("").encode()})),
    "InvokeAI 1, at first": ("invokeai", png({"Dream": DREAM.replace(" {0}", "").encode()})),
    "InvokeAI 2": (
        "invokeai",
        with_json(
            {
                "model_weights": "someMix_v3",
                "image": {
                    "prompt": [{"prompt": "1girl, blue hair [lowres]", "weight": 1}],
                    "steps": 24,
                    "seed": 4242,
                    "cfg_scale": 6.5,
                    "width": 256,
                    "height": 320,
                    "sampler": "k_euler_a",
                },
            },
            "sd-metadata",
        ),
    ),
    "NovelAI": (
        "novelai",
        with_json(NOVELAI, "Comment", Software="NovelAI", Source="NovelAI Diffusion V3", Description="x"),
    ),
    "NovelAI 4": (
        "novelai",
        with_json(
            NOVELAI
            | {
                "prompt": "",
                "uc": "",
                "v4_prompt": {"caption": {"base_caption": "1girl", "char_captions": [{"char_caption": "blue hair"}]}},
                "v4_negative_prompt": {"caption": {"base_caption": "lowres", "char_captions": []}},
            },
            "Comment",
            Software="NovelAI",
        ),
    ),
    "TensorArt": ("tensorart", png({"generation_data": json.dumps(TENSORART).encode() + b"\0"})),
    "Draw Things": (
        "drawthings",
        png({"XML:com.adobe.xmp": XMP.format(json.dumps(DRAWTHINGS).replace('"', "&quot;")).encode()}, b"iTXt"),
    ),
    "kohya": ("other", png({name: text.encode() for name, text in FLAT.items()})),
    "pasted": ("other", json.dumps(FLAT).encode()),
    "ComfyUI": ("comfyui", b""),
}


@pytest.mark.parametrize("program", [name for name in FILES if name != "ComfyUI"])
def test_programs_with_json(program: str) -> None:
    origin, data = FILES[program]
    found = metadata.read(data)
    expect(found)
    assert found.origin == origin
    if origin != "novelai" and not program.startswith("InvokeAI 1"):
        assert found.spec.model == "someMix_v3"
    loras = {"Fooocus", "SwarmUI", "SwarmUI in a WebP", "InvokeAI", "TensorArt", "Fooocus in a JPEG"}
    assert found.spec.loras == ((LoraRef(path="ink", weight=0.6),) if program in loras else ())


# --- what isn't read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (with_json({"1": {"class_type": "Note", "inputs": {}}}, "prompt", workflow="{}"), "a recipe of ComfyUI"),
        (png({"invokeai_graph": b"{}"}), "a recipe of InvokeAI"),
        (png({"Dream": b"nothing"}), "a recipe of InvokeAI"),
        (
            png({"Description": b"a cat --v 5 --ar 3:2 Job ID: 12345678-1234-1234-1234-123456789012"}),
            "a recipe of Midjourney",
        ),
        (png({"Comment": b"Created with GIMP"}), "a text (Comment), but no recipe"),
        (encoded(image()), "carries no recipe."),
        (png({"parameters": "синие волосы, улыбка".encode("koi8-r")}), "in an encoding that can't be told"),
    ],
)
def test_what_is_not_read_is_named_truthfully(data: bytes, said: str) -> None:
    with pytest.raises(BadInput) as refused:
        metadata.read(data)
    assert said in str(refused.value)


def test_paths_in_a_file_are_names_here() -> None:
    found = metadata.read(with_json(FOOOCUS | {"base_model": "/etc/passwd", "loras": [["../../x.safetensors", 1]]}))
    assert found.spec.model == "passwd"
    assert found.spec.loras == (LoraRef(path="x"),)


def test_a_chunk_after_the_pixels_and_a_damaged_one_before() -> None:
    data = bytearray(png({"parameters": text_of("1girl, blue hair").encode()}, b"iTXt", behind=True))
    expect(metadata.read(bytes(data)))
    with Image.open(io.BytesIO(bytes(data))) as opened:
        opened.load()
    cut = bytes(data[:40]) + bytes(data[-12:])
    with pytest.raises(BadInput):
        metadata.read(cut)


@pytest.mark.parametrize("value", [1e308, float("nan"), [], {}, None, ["3", 0], {"a": 1}, True, "\ud800", -1])
@pytest.mark.parametrize("key", ["positive_prompt", "negative_prompt", "scheduler", "model", "loras", "seed", "width"])
def test_values_of_another_kind_are_no_traceback(key: str, value: Any) -> None:
    for data, name in (
        (INVOKEAI, "invokeai_metadata"),
        (SWARM["sui_image_params"], "parameters"),
        (FLAT, "parameters"),
    ):
        changed = dict(data) | {key: value}
        named = {"model_name": value, "name": value} if key == "model" else value
        for made in (changed, changed | {key: named}):
            try:
                metadata.read(with_json(made, name))
            except BadInput:
                continue
