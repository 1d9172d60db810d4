"""Recipes that programs keep as JSON or in fields of their own: SwarmUI, Fooocus, InvokeAI, NovelAI and others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.foreign_recipes import exif, expect, hidden, png, text_of, with_json
from support.pictures import encoded, image

from studio.core.errors import BadInput
from studio.core.specs import LoraRef
from studio.store import metadata

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


@pytest.mark.parametrize("magic", [b"stealth_pnginfo", b"stealth_pngcomp", b"stealth_rgbinfo", b"stealth_rgbcomp"])
def test_text_in_the_bits_of_the_pixels(magic: bytes) -> None:
    expect(metadata.read(hidden(text_of("1girl, blue hair"), magic)))
    novelai = {"Comment": json.dumps(NOVELAI), "Description": "1girl, blue hair", "Software": "NovelAI"}
    found = metadata.read(hidden(json.dumps(novelai), magic))
    expect(found)
    assert found.program == "NovelAI"


EASY = (
    "1girl, blue hair\nWidth: 256\nHeight: 320\nSeed: 4242\nSteps: 24\nGuidance Scale: 6.5\nPrompt Strength: 0.8\n"
    "Use Face Correction: None\nSampler: euler_a\nNegative Prompt: lowres\nStable Diffusion model: someMix_v3\n"
    "LoRA model: ink\nLoRA strength: 0.6"
)


@pytest.mark.parametrize(
    "data",
    [
        EASY.encode(),
        EASY.encode("utf-16"),
        exif(b"UNICODE\0" + EASY.encode("utf-16-be")),
        png({
            "prompt": b"1girl, blue hair", "Negative Prompt": b"lowres", "Seed": b"4242", "Width": b"256",
            "Height": b"320", "Number of inference steps": b"24", "Guidance Scale": b"6.5", "Sampler": b"euler_a",
            "Stable Diffusion model": b"someMix_v3", "LoRA model": b"ink", "LoRA strength": b"0.6",
        }),
        json.dumps({
            "prompt": "1girl, blue hair", "negative_prompt": "lowres", "seed": 4242, "width": 256, "height": 320,
            "num_inference_steps": 24, "guidance_scale": 6.5, "sampler_name": "euler_a", "use_lora_model": ["ink"],
            "use_stable_diffusion_model": "someMix_v3", "lora_alpha": [0.6],
        }).encode(),
    ],
    ids=["text", "UTF-16", "JPEG", "PNG", "JSON"],
)  # fmt: skip
def test_easy_diffusion_in_each_of_its_forms(data: bytes) -> None:
    found = metadata.read(data)
    expect(found)
    assert (found.program, found.spec.model) == ("Easy Diffusion", "someMix_v3")
    assert found.spec.loras == (LoraRef(path="ink", weight=0.6),)


def test_fooocus_says_each_lora_in_two_ways() -> None:
    found = metadata.read(with_json(FOOOCUS | {"lora_combined_1": "ink : 0.6", "lora_combined_2": "b : 0.2"}))
    assert found.spec.loras == (LoraRef(path="ink", weight=0.6), LoraRef(path="b", weight=0.2))


def test_invokeai_s_pictures_of_other_models_are_read_as_far_as_they_say() -> None:
    flux = {key: INVOKEAI[key] for key in ("positive_prompt", "seed", "steps", "width", "height", "model")}
    found = metadata.read(with_json(flux | {"generation_mode": "flux_txt2img", "guidance": 3.5}, "invokeai_metadata"))
    spec = found.spec
    assert (found.program, spec.prompt, spec.seed, spec.model) == ("InvokeAI", "1girl, blue hair", 4242, "someMix_v3")


MOCHI = (
    "Include in Image: 1girl; blue hair; Exclude from Image: lowres; Model: someMix_v3; Steps: 24; "
    "Guidance Scale: 6.5; Seed: 4242; Size: 256x320; Scheduler: Euler a; ML Compute Unit: CPU; "
    "Generator: Mochi Diffusion 4.0"
)
DESCRIBED = (
    '<x:xmpmeta><rdf:RDF><rdf:Description><dc:description><rdf:Alt><rdf:li xml:lang="x-default">'
    f"{MOCHI}</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>"
)


@pytest.mark.parametrize(
    "data", [png({"Description": MOCHI.encode()}), png({"XML:com.adobe.xmp": DESCRIBED.encode()}, b"iTXt")]
)
def test_mochi_diffusion_s_one_line(data: bytes) -> None:
    found = metadata.read(data)
    assert found.program == "Mochi Diffusion"
    spec = found.spec
    assert (spec.prompt, spec.negative, spec.model) == ("1girl; blue hair", "lowres", "someMix_v3")
    assert (spec.steps, spec.seed, spec.guidance, spec.width, spec.height) == (24, 4242, 6.5, 256, 320)


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
        (png({"Description": b"How to climb. Steps: 20 of them"}), "a text (Description), but no recipe"),
        (b"<html><body>Steps: 20</body></html>", "can't be read as a picture"),
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
