"""Recipes that come back in files: LoRAs found again, uploads that keep theirs, and forged ones that do no harm."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file
from support.checkpoints import tiny_sd

from studio.core.errors import BadInput, NotFound
from studio.core.settings import Settings
from studio.core.specs import ControlSpec, GenerateSpec, LoraRef, Recipe
from studio.core.views import JobView
from studio.features.morph.spec import MorphSpec
from studio.features.sketch.spec import SketchSpec
from studio.service import Studio
from studio.store import metadata

LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


def lora(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = torch.Generator().manual_seed(seed)
    down, up = torch.randn(2, 32, generator=draw), torch.randn(32, 2, generator=draw)
    save_file({f"{LAYER}.lora_down.weight": down, f"{LAYER}.lora_up.weight": up}, path)
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("known")
    tiny_sd(home / "models" / "tiny", controlnet=True)
    lora(home / "models" / "loras" / "ink.safetensors")
    return home


@pytest.fixture(scope="module")
def studio(home: Path) -> Iterator[Studio]:
    studio = Studio(Settings(home=home, device="cpu", preview_every=0, model="tiny", offline=True, _env_file=None))
    yield studio
    studio.close()


def done(studio: Studio, spec: Any, owner: str = "me") -> JobView:
    job = studio.wait(studio.submit(spec, owner).id, owner, 120)
    assert job.state == "done", job.error
    return job


def base(**changes: Any) -> GenerateSpec:
    return GenerateSpec(**{"model": "tiny", "steps": 2, "guidance": 3, "seed": 4, "text": "red hair"} | changes)


def forged(data: bytes, **changes: Any) -> bytes:
    """The picture in `data` with another recipe of ours in it."""
    with Image.open(io.BytesIO(data)) as image:
        made = json.loads(image.info[metadata.CHUNK]) | changes
        chunks, stream = PngInfo(), io.BytesIO()
        chunks.add_itxt(metadata.CHUNK, json.dumps(made))
        image.convert("RGB").save(stream, "PNG", pnginfo=chunks)
    return stream.getvalue()


# --- LoRAs ------------------------------------------------------------------------------------------------------------


def test_a_dropped_picture_brings_its_lora(studio: Studio, home: Path, tmp_path: Path) -> None:
    place = home / "models" / "loras" / "ink.safetensors"
    id = done(studio, base(loras=(LoraRef(path="ink", weight=0.7),))).pictures[0]
    data = studio.picture_bytes(id, "me")
    found = studio.read_recipe(data)
    assert found.spec.loras == (LoraRef(path=str(place), weight=0.7),)
    assert found.notes == ()
    assert studio.submit(found.spec, "me").pictures == (id,)

    renamed = place.rename(place.with_name("brush.safetensors"))
    for again in (studio.read_recipe(data), studio.recipe_of(id, "me")):
        assert again.spec.loras == (LoraRef(path=str(renamed), weight=0.7),)
        assert again.notes == ()
    kept = Path(shutil.move(renamed, tmp_path / "brush.safetensors"))
    for gone in (studio.read_recipe(data), studio.recipe_of(id, "me")):
        assert gone.spec.loras == ()
        assert ["'ink.safetensors' isn't here" in note for note in gone.notes] == [True]
    theirs = studio.read_recipe(b"1girl <lora:ink:0.6>\nSteps: 20, Sampler: DDIM, CFG scale: 7, Size: 64x64")
    assert any("'ink' isn't here" in note for note in theirs.notes)
    shutil.move(kept, place)
    theirs = studio.read_recipe(b"1girl <lora:ink:0.6>\nSteps: 20, Sampler: DDIM, CFG scale: 7, Size: 64x64")
    assert theirs.spec.loras == (LoraRef(path=str(place), weight=0.6),)


def test_a_lora_outside_of_the_list_is_found_where_it_was(studio: Studio, tmp_path: Path) -> None:
    path = lora(tmp_path / "mine.safetensors", seed=3)
    id = done(studio, base(loras=(LoraRef(path=str(path)),))).pictures[0]
    assert studio.recipe_of(id, "me").spec.loras == (LoraRef(path=str(path)),)
    assert any("'mine.safetensors' isn't here" in n for n in studio.read_recipe(studio.picture_bytes(id, "me")).notes)


# --- uploads ----------------------------------------------------------------------------------------------------------


def test_a_picture_from_here_that_is_uploaded_morphs_as_itself(studio: Studio) -> None:
    id = done(studio, base(loras=(LoraRef(path="ink", weight=0.7),))).pictures[0]
    stored = studio.upload(studio.picture_bytes(id, "me"), "me", "x.png")
    assert stored.id != id
    assert stored.kind == "upload"
    assert stored.recipe is not None
    assert "notes" not in stored.details
    assert studio.spec_of(stored.id, "me") == studio.spec_of(id, "me")
    asked = MorphSpec(base=base(), image=id, frames=3, method="prompt")
    redrawn = [done(studio, asked.model_copy(update={"image": image})) for image in (id, stored.id)]
    assert redrawn[0].result["frames"] == redrawn[1].result["frames"]
    kept = [done(studio, asked.model_copy(update={"image": image, "method": None})) for image in (id, stored.id)]
    assert not any("uploaded picture" in note for job in (*redrawn, *kept) for note in job.notes)
    for own, same in zip(*(job.result["frames"] for job in kept), strict=True):  # each names the picture it began with
        with Image.open(studio.picture_path(own, "me")) as a, Image.open(studio.picture_path(same, "me")) as b:
            assert a.tobytes() == b.tobytes()


def test_its_recipe_is_its_owner_s_alone(studio: Studio) -> None:
    id = done(studio, base(text="a secret")).pictures[0]
    data = studio.picture_bytes(id, "me")
    stored = studio.upload(data, "me")
    with Image.open(io.BytesIO(data)) as image:
        plain = io.BytesIO()
        image.convert("RGB").save(plain, "PNG")
    theirs = studio.upload(plain.getvalue(), "somebody else")
    assert theirs.id == stored.id  # one file
    assert theirs.recipe is None
    assert b"secret" not in studio.picture_bytes(stored.id, "somebody else")
    assert studio.picture(stored.id, "me").recipe == stored.recipe
    with pytest.raises(NotFound):
        studio.picture(id, "somebody else")
    with pytest.raises(BadInput):
        studio.spec_of(theirs.id, "somebody else")


def test_a_made_up_picture_is_not_found_under_the_recipe_it_claims(studio: Studio) -> None:
    data = studio.picture_bytes(done(studio, base(seed=70)).pictures[0], "me")
    stored = studio.upload(forged(data, seed=71), "me")
    assert stored.recipe is not None
    job = studio.submit(base(seed=71), "somebody else")
    assert job.cached == ()
    assert stored.id not in studio.wait(job.id, "somebody else", 120).pictures


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_hash": "a" * 64}, "model"),
        ({"model_hash": "a" * 64, "model": "embedded"}, "model"),
        ({"model_hash": "", "model": "/etc/passwd"}, "model"),
        ({"loras": [{"path": "ink.safetensors"}], "lora_hashes": ["f" * 64]}, "ink.safetensors"),
        ({"loras": [{"path": "/etc/gone.safetensors"}], "lora_hashes": [""]}, "gone.safetensors"),
        ({"source": "0" * 32, "strength": 0.5}, "started from"),
        ({"control": {"image": "0" * 32}}, "started from"),
        ({"width": 128}, ""),
        ({"labels": {"text": "x" * 5000}}, ""),
    ],
)
def test_a_recipe_that_is_not_of_this_studio_is_left_behind(studio: Studio, changes: dict[str, Any], said: str) -> None:
    data = studio.picture_bytes(done(studio, base(seed=80)).pictures[0], "me")
    stored = studio.upload(forged(data, **changes), "me")
    assert stored.recipe is None
    notes = " ".join(stored.details.get("notes", ()))
    assert said in notes
    assert bool(notes) == bool(said)
    assert "/etc" not in notes


def test_somebody_else_s_picture_is_no_source_and_no_drawing(studio: Studio, home: Path) -> None:
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).ellipse((10, 10, 50, 50), outline="black", width=3)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    mine = studio.upload(stream.getvalue(), "me").id
    (sketched,) = [
        id for id in done(studio, SketchSpec(base=base(), control=ControlSpec(image=mine))).pictures
        if studio.picture(id, "me").kind == "picture"
    ]  # fmt: skip
    redrawn = done(studio, base(source=mine, width=64, height=64)).pictures[0]
    for id in (sketched, redrawn):
        data = studio.picture_bytes(id, "me")
        kept = studio.upload(data, "me").recipe
        assert kept is not None
        assert kept.key == _recipe(studio, id).key
        assert studio.upload(data, "somebody else").recipe is None
    net = {"control": {"image": mine, "model": str(home / "models" / "tiny" / "controlnet")}, "control_hash": "0" * 64}
    assert studio.upload(forged(studio.picture_bytes(sketched, "me"), **net), "me").recipe is None


def _recipe(studio: Studio, id: str) -> Recipe:
    recipe = studio.picture(id, "me").recipe
    assert recipe is not None
    return recipe


def test_paths_in_a_file_never_reach_the_stored_recipe(studio: Studio, home: Path) -> None:
    id = done(studio, base(seed=90, loras=(LoraRef(path="ink"),))).pictures[0]
    claims = {"model": "/somewhere/evil/model", "loras": [{"path": "/somewhere/evil.safetensors"}]}
    kept = studio.upload(forged(studio.picture_bytes(id, "me"), **claims), "me").recipe
    assert kept is not None
    assert kept.model == "tiny"
    assert kept.loras == (LoraRef(path=str(home / "models" / "loras" / "ink.safetensors")),)
    labels = studio.upload(forged(studio.picture_bytes(id, "me"), labels={"x": "y" * 100_000}), "me").recipe
    assert labels is not None
    assert "x" not in labels.labels
