"""Recipes inside picture files: ours, A1111's, and whatever else claims to be one."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sd_parsers import ParserManager
from sd_parsers.data import Generators
from support.pictures import RECIPE, encoded, image

from studio.core.errors import BadInput
from studio.core.specs import EMOTIONS, MAX_SEED, ControlSpec, GenerateSpec, LoraRef
from studio.store import metadata
from studio.store.metadata import a1111
from studio.store.metadata.facts import read_recipe

LORA = RECIPE.model_copy(
    update={
        "loras": (LoraRef(path="/home/someone/loras/ink style.safetensors", weight=0.8),),
        "lora_hashes": ("b" * 64,),
    }
)


def test_sd_parsers_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(metadata.png(image(), LORA, "My model, 2nd"))
    found = ParserManager().parse(path)
    assert found is not None
    assert found.generator == Generators.AUTOMATIC1111
    [sampler] = found.samplers
    assert sampler.name == "DPM++ 2M"
    assert sampler.parameters["scheduler"] == "Karras"
    assert sampler.parameters["seed"] == "7"
    assert sampler.parameters["steps"] == "20"
    assert sampler.parameters["cfg_scale"] == "3.5"
    assert sampler.model is not None
    assert sampler.model.hash == "a" * 10
    assert found.metadata["Size"] == "256x320"
    assert [prompt.value for prompt in sampler.prompts] == [RECIPE.prompt + " <lora:ink style:0.8>"]
    assert [prompt.value for prompt in sampler.negative_prompts] == [RECIPE.negative]


def test_our_own_recipe_comes_back_exactly_but_for_folders() -> None:
    found = metadata.read(metadata.png(image(), LORA))
    assert found.origin == "studio"
    spec = found.spec
    assert (spec.prompt, spec.negative, spec.seed, spec.steps) == (RECIPE.prompt, RECIPE.negative, 7, 20)
    assert (spec.width, spec.height, spec.sampler, spec.guidance) == (256, 320, "dpmpp_2m_karras", 3.5)
    assert (spec.emotion, spec.style) == ("happy", "casual")
    assert spec.loras == (LoraRef(path="ink style.safetensors", weight=0.8),)


def test_a_frame_says_that_its_recipe_alone_draws_another_picture() -> None:
    found = metadata.read(metadata.png(image(), RECIPE.model_copy(update={"frame": '{"morph": "prompt"}'})))
    assert found.recipe is None
    assert found.notes == (metadata.FRAME,)
    assert metadata.read(metadata.png(image(), RECIPE)).notes == ()


def test_no_folder_of_this_machine_is_in_the_file() -> None:
    recipe = LORA.model_copy(update={"model": "/home/someone/models/x.safetensors"})
    data = metadata.png(image(), recipe)
    assert b"/home/" not in data
    assert b"someone" not in data
    hub = RECIPE.model_copy(update={"model": "stable-diffusion-v1-5/stable-diffusion-v1-5"})
    assert metadata.portable(hub) == hub


A1111 = (
    "masterpiece, 1girl, <lora:ink:0.6> (smile:1.2),\nsecond line\nNegative prompt: lowres,\nbad hands\n"
    "Steps: 28, Sampler: {sampler}, CFG scale: 7.5, Seed: 123456, Size: 512x768, Model hash: 0123456789, "
    'Model: "some, model", Clip skip: 2, Lora hashes: "ink: 0a0b0c0d0e0f", Version: v1.10.1'
)


@pytest.mark.parametrize(
    ("sampler", "ours"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M, Schedule type: Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M, Schedule type: Automatic", "dpmpp_2m"),
        ("Euler a", "euler_a"),
        ("LCM", "lcm"),
        ("DPM++ SDE Karras", "auto"),
    ],
)
def test_a1111_text_is_read(sampler: str, ours: str) -> None:
    chunks = PngInfo()
    chunks.add_text("parameters", A1111.format(sampler=sampler))
    found = metadata.read(encoded(image(), pnginfo=chunks))
    assert found.origin == "a1111"
    assert found.spec.prompt == "masterpiece, 1girl,  (smile:1.2),\nsecond line"
    assert found.spec.negative == "lowres,\nbad hands"
    assert (found.spec.steps, found.spec.guidance, found.spec.seed) == (28, 7.5, 123456)
    assert (found.spec.width, found.spec.height, found.spec.model) == (512, 768, "some, model")
    assert found.spec.loras == (LoraRef(path="ink", weight=0.6),)
    assert found.spec.sampler == ours
    assert found.model_hash == "0123456789"
    assert found.spec.clip_skip == 2
    assert any("sampler" in note for note in found.notes) == (ours == "auto")


def test_a1111_text_in_jpeg_and_pasted() -> None:
    text = A1111.format(sampler="DDIM")
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode("utf-16-be")
    for data in (encoded(image(), "JPEG", exif=exif), encoded(image(), "WEBP", exif=exif), text.encode()):
        assert metadata.read(data).spec.sampler == "ddim"


@pytest.mark.parametrize("data", [b"", b"nonsense", encoded(image()), b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"Steps"])
def test_files_without_a_recipe_get_one_sentence(data: bytes) -> None:
    with pytest.raises(BadInput):
        metadata.read(data)


@settings(max_examples=60)
@given(st.text(max_size=300))
def test_any_parameters_text_is_read_or_refused(text: str) -> None:
    chunks = PngInfo()
    chunks.add_itxt("parameters", text.replace("\0", "").encode("utf-8", "ignore").decode() or "x")
    try:
        found = metadata.read(encoded(image(), pnginfo=chunks))
    except BadInput:
        assert not text.strip("\0\n ") or text.lstrip()[0] in "{["
        return
    assert GenerateSpec.model_validate(found.spec.model_dump()) == found.spec


printable = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=80)


@settings(max_examples=60)
@given(
    prompt=printable,
    negative=printable,
    seed=st.integers(0, MAX_SEED),
    guidance=st.floats(0, 30),
    emotion=st.sampled_from(EMOTIONS),
)
def test_every_recipe_survives_its_own_file(
    prompt: str, negative: str, seed: int, guidance: float, emotion: str
) -> None:
    recipe = RECIPE.model_copy(
        update={
            "prompt": prompt,
            "negative": negative,
            "seed": seed,
            "guidance": guidance,
            "labels": {"emotion": emotion},
        }
    )
    spec = metadata.read(metadata.png(image(), recipe)).spec
    assert (spec.prompt, spec.negative, spec.seed, spec.guidance, spec.emotion) == (
        prompt,
        negative,
        seed,
        guidance,
        emotion,
    )


def test_a_made_up_recipe_of_a_megabyte_takes_no_time() -> None:
    for text in ("<lora:" * 150_000, "a b" * 300_000 + "\nSteps: 1", "x" * 900_000 + ": 1, Steps: 2, Seed: 3"):
        started = time.process_time()  # whatever else the machine does
        read_recipe(a1111.read(text))
        assert time.process_time() - started < 5


def test_what_each_lora_was_goes_with_its_name() -> None:
    assert metadata.read(metadata.png(image(), LORA)).lora_hashes == ("b" * 64,)
    chunks = PngInfo()
    chunks.add_text("parameters", A1111.format(sampler="DDIM"))
    assert metadata.read(encoded(image(), pnginfo=chunks)).lora_hashes == ("0a0b0c0d0e0f",)


def test_more_loras_than_a_request_takes_are_said() -> None:
    text = "1girl " + " ".join(f"<lora:l{k}:0.5>" for k in range(9)) + "\nSteps: 20, Sampler: DDIM, CFG scale: 7"
    found = metadata.read(text.encode())
    assert len(found.spec.loras) == len(found.lora_hashes) == 8
    assert any("first 8 LoRAs" in note for note in found.notes)


@dataclass(frozen=True)
class File:
    path: Path
    title: str
    hash: str


def test_loras_are_found_by_hash_then_by_name_and_else_named() -> None:
    found = metadata.read(metadata.png(image(), LORA))
    moved = File(Path("/here/other name.safetensors"), "Other", "b" * 64)
    named = File(Path("/here/ink style.safetensors"), "Ink", "c" * 64)
    notes: list[str] = []
    assert metadata.known_loras(found, [named, moved], notes) == (LoraRef(path=str(moved.path), weight=0.8),)
    assert notes == []
    assert metadata.known_loras(found, [named], notes) == (LoraRef(path=str(named.path), weight=0.8),)
    assert "'ink style.safetensors' here is another file" in notes.pop()
    assert metadata.known_loras(found, [], notes) == ()
    assert "Its LoRA 'ink style.safetensors' isn't here" in notes.pop()
    theirs = metadata.read((A1111.format(sampler="DDIM")).encode())
    ink = File(Path("/here/ink.safetensors"), "Ink 2", "d" * 64)  # A1111 hashes a file's tensors alone
    assert metadata.known_loras(theirs, [ink], notes) == (LoraRef(path=str(ink.path), weight=0.6),)
    assert notes == []


def test_no_path_to_a_controlnet_is_in_the_file() -> None:
    control = ControlSpec(image="x", model="/home/someone/nets/lines.safetensors")
    data = metadata.png(image(), RECIPE.model_copy(update={"control": control, "control_hash": "d" * 64}))
    assert b"someone" not in data
    found = metadata.read(data)
    assert found.spec.control == control.model_copy(update={"model": "lines.safetensors"})


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": {"text": "x" * 5000}},
        {"loras": [{"path": "/"}], "lora_hashes": ["a"]},
        {"loras": [{"path": "a"}] * 9, "lora_hashes": ["a"] * 9},
        {"loras": [{"path": "a"}], "lora_hashes": []},
        {"model": "x" * 2000},
        {"source": "x", "strength": 7.0},
        {"seed": -1},
        {"more": 1},
    ],
)
def test_a_forged_recipe_is_one_sentence(changes: dict[str, object]) -> None:
    for made in (json.dumps(RECIPE.model_dump(mode="json") | changes), "[]", "[" * 100_000, "null"):
        chunks = PngInfo()
        chunks.add_itxt(metadata.CHUNK, made)
        data = encoded(image(), pnginfo=chunks)
        with pytest.raises(BadInput, match="recipe in this picture"):
            metadata.read(data)
        assert metadata.own(data) is None


def test_only_a_plain_picture_is_its_recipe_s_result() -> None:
    assert metadata.own(metadata.png(image(), RECIPE)) is not None
    assert metadata.own(metadata.png(image(), RECIPE, extra={"tiles": []})) is None  # a sheet of several
    assert metadata.own(metadata.png(image(), RECIPE.model_copy(update={"frame": "{}"}))) is None  # one of a morph
    assert metadata.own(metadata.png(image(), None)) is None
