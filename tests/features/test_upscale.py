"""Pictures made larger: as a job, while drawing, by a second pass, and what is refused with a sentence."""

from __future__ import annotations

import base64
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image, ImageDraw
from pydantic import ValidationError
from safetensors.torch import save_file
from support.checkpoints import tiny_sd

from studio.core.errors import BadInput, StudioError
from studio.core.settings import Settings, settings
from studio.core.specs import GenerateSpec
from studio.engine.media.upscaling import CompactNetwork
from studio.features.animate.spec import AnimateSpec
from studio.features.upscale.spec import UpscaleSpec
from studio.interfaces.api import app
from studio.interfaces.cli.main import main
from studio.service import Studio
from studio.service.sizes import enlarged, fits
from studio.store import metadata

BLANK = GenerateSpec(model="tiny", steps=2, seed=5)


def png(image: Image.Image, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


def picture(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    image = Image.new("RGB", (width, height), (90, 150, 200))
    ImageDraw.Draw(image).ellipse((4, 4, width - 6, height - 5), fill=(240, 200, 180))
    return image.convert(mode)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("upscale")
    tiny_sd(home / "models" / "tiny")
    (home / "models" / "upscalers").mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CompactNetwork(4, 1, 4)
    save_file({n: t.contiguous() for n, t in network.state_dict().items()}, home / "models/upscalers/four.safetensors")
    (home / "models/upscalers/bad.safetensors").write_bytes(pickle.dumps({"params": 1}))
    save_file({"transformer.weight": torch.zeros(4, 4)}, home / "models/upscalers/other.safetensors")
    return home


@pytest.fixture(scope="module")
def studio(home: Path):
    made = Studio(Settings(home=home, model="tiny", device="cpu", preview_every=0, offline=True))
    yield made
    made.close()


def done(studio: Studio, spec):
    view = studio.wait(studio.submit(spec, "me").id, "me", 120)
    assert view.state == "done", view.error
    return view


def pixels(studio: Studio, id: str) -> np.ndarray:
    with Image.open(io.BytesIO(studio.picture_bytes(id, "me"))) as image:
        return np.asarray(image.convert("RGB"))


def drawn(studio: Studio, **fields):
    view = done(studio, BLANK.model_copy(update=fields))
    return studio.picture(view.pictures[0], "me"), view


def test_enlarged_while_drawing_or_afterwards_is_one_picture(studio: Studio) -> None:
    plain, _ = drawn(studio)
    later = studio.picture(done(studio, UpscaleSpec(image=plain.id)).pictures[0], "me")
    assert (later.width, later.height) == (2 * plain.width, 2 * plain.height)
    assert later.recipe is not None
    assert (later.recipe.upscale, len(later.recipe.upscaler_hash)) == (2, 64)
    at_once, view = drawn(studio, upscale=2.0)
    assert at_once.id == later.id
    assert view.pictures == view.cached  # nothing was drawn again
    other, _ = drawn(studio, upscale=2.0, seed=6)
    small, _ = drawn(studio, seed=6)
    assert done(studio, UpscaleSpec(image=small.id)).cached == ()
    assert studio.wait(studio.submit(UpscaleSpec(image=small.id), "me").id, "me", 60).pictures == (other.id,)
    twice = studio.picture(done(studio, UpscaleSpec(image=later.id)).pictures[0], "me")
    assert twice.recipe.upscale == 4
    filtered, _ = drawn(studio, upscale=2.0, upscaler="lanczos")
    reduced = Image.fromarray(pixels(studio, plain.id)).resize((128, 128), Image.Resampling.LANCZOS)
    assert np.array_equal(pixels(studio, filtered.id), np.asarray(reduced))
    assert not np.array_equal(pixels(studio, filtered.id), pixels(studio, later.id))


def test_the_recipe_says_it_and_is_read_again(studio: Studio) -> None:
    made, _ = drawn(studio, hires=1.5, hires_strength=0.5, upscale=2.0, upscaler="four.safetensors")
    assert (made.width, made.height) == made.recipe.size == (192, 192)
    assert (made.recipe.upscaler, made.recipe.hires_steps) == ("four", 2)
    data = studio.picture_bytes(made.id, "me")
    text = metadata.parameters(made.recipe)
    said = (
        "Postprocess upscale by: 2, Hires upscale: 1.5, Hires steps: 2, Denoising strength: 0.5, Hires upscaler: four"
    )
    assert said in text
    assert "Size: 64x64" in text
    for read in (studio.read_recipe(data), studio.read_recipe(text.encode())):
        spec = read.spec
        assert (spec.hires, spec.hires_strength, spec.upscaler) == (1.5, 0.5, "four")
    assert done(studio, studio.spec_of(made.id, "me")).pictures == (made.id,)
    again = studio.upload(data, "you")  # with the same files here its recipe is believed
    assert again.recipe is not None
    elsewhere = studio.read_recipe(text.replace("upscaler: four", "upscaler: R-ESRGAN 4x+").encode())
    assert elsewhere.spec.upscaler == "embedded"
    assert any("Its upscaler 'R-ESRGAN 4x+' isn't here" in note for note in elsewhere.notes)


def test_a_second_pass_draws_over_the_first(studio: Studio) -> None:
    larger, _ = drawn(studio, upscale=2.0)
    hires, view = drawn(studio, hires=2.0, steps=4)
    assert (hires.width, hires.height) == (128, 128)
    assert view.total == 8
    assert any("The second pass draws 128 x 128 pixels" in note for note in view.notes)
    assert not np.array_equal(pixels(studio, larger.id), pixels(studio, hires.id))
    stronger, _ = drawn(studio, hires=2.0, steps=4, hires_strength=0.9)
    assert not np.array_equal(pixels(studio, stronger.id), pixels(studio, hires.id))
    with pytest.raises(ValidationError, match="hires fix begins from words alone"):
        GenerateSpec(source=hires.id, hires=2)


def test_sizes_beyond_the_model_are_drawn_smaller(studio: Studio) -> None:
    made, view = drawn(studio, width=192, height=192)
    assert (made.width, made.height) == (192, 192)
    assert fits(made.recipe.width, made.recipe.height, 64)
    assert any("draws well: drawn in" in note for note in view.notes)
    for asked, native in (((512, 768), 256), ((600, 400), 256), ((1024, 1024), 512), ((1536, 640), 512)):
        small = enlarged(*asked, native)
        assert small is not None
        assert fits(*small[:2], native)
        assert tuple(round(side * small[2]) for side in small[:2]) == asked
    assert enlarged(2048, 2048, 64) is None  # more than four times
    assert enlarged(256, 128, 64) is None  # half of that is too small to draw
    width, height, times = enlarged(520, 584, 256)  # no smaller size has this shape: nearly as asked
    assert abs(width * times - 520) <= 8
    assert abs(height * times - 584) <= 8


def test_frames_of_an_animation_are_enlarged(studio: Studio) -> None:
    base = BLANK.model_copy(update={"upscale": 2.0, "hires": 2.0})
    view = done(studio, AnimateSpec(base=base, emotions=("happy", "sad"), frames=2))
    assert {pixels(studio, id).shape for id in view.result["frames"]} == {(128, 128, 3)}
    assert any("Hires fix is for single pictures" in note for note in view.notes)


@pytest.mark.parametrize("mode", ["RGBA", "CMYK", "L"])
def test_pictures_of_any_mode(studio: Studio, mode: str) -> None:
    source = studio.upload(png(picture(mode=mode), "JPEG" if mode == "CMYK" else "PNG"), "me")
    view = done(studio, UpscaleSpec(image=source.id, scale=1.5))
    made = studio.picture(view.pictures[0], "me")
    assert (made.width, made.height, made.recipe) == (60, 45, None)
    assert made.details["source"] == source.id
    assert view.pictures == done(studio, UpscaleSpec(image=source.id, scale=1.5)).pictures


def test_what_cannot_be_enlarged_is_a_sentence(studio: Studio) -> None:
    small = studio.upload(png(picture()), "me").id
    wide = studio._pictures.save(Image.new("RGB", (8000, 16)), None, "me").id
    for image, upscaler, sentence in (
        (wide, "embedded", "8000 x 16 pixels 2 times as large are more than 8192 on a side; choose less."),
        (small, "bad", "bad.safetensors is a pickle under another name"),
        (small, "other", "other.safetensors is not an upscaler that the studio knows"),
        (small, "none", "There is no upscaler 'none'"),
        ("0" * 32, "embedded", ""),
    ):
        with pytest.raises(StudioError) as refused:
            studio.submit(UpscaleSpec(image=image, upscaler=upscaler), "me")
        assert sentence in str(refused.value)
    with pytest.raises(BadInput, match="is not an upscaler that the studio knows"):
        studio.submit(BLANK.model_copy(update={"upscale": 2.0, "upscaler": "other"}), "me")
    huge = studio.upload(png(Image.new("RGB", (8000, 300))), "me")
    assert any("2048" in note for note in studio._resolver.plan(UpscaleSpec(image=huge.id), "me").notes)
    film = done(studio, AnimateSpec(base=BLANK, emotions=("happy", "sad"), frames=2)).result["animation"]
    with pytest.raises(BadInput, match="make the animation again"):
        studio.submit(UpscaleSpec(image=film), "me")


def test_the_command_line(home: Path, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setenv("STUDIO_HOME", str(home))
    settings.cache_clear()
    (tmp_path / "in.png").write_bytes(png(picture()))
    command = ["upscale", "--image", str(tmp_path / "in.png"), "--out", str(tmp_path / "out"), "--json"]
    assert main([*command, "--scale", "3"]) == 0
    settings.cache_clear()
    [image] = json.loads(capsys.readouterr().out.splitlines()[-1])["images"]
    assert (image["width"], image["height"]) == (120, 90)
    with Image.open(image["path"]) as made:
        assert made.size == (120, 90)


def test_over_http(home: Path) -> None:
    server = app.create(Settings(home=home, model="tiny", device="cpu", preview_every=0, offline=True))
    client = TestClient(server, base_url="http://localhost")
    names = [row["name"] for row in client.get("/sdapi/v1/upscalers").json()]
    assert names == ["None", "The studio's own", "Lanczos", "four"]
    listed = client.get("/models").json()["upscalers"]
    assert [row["reference"] for row in listed] == ["embedded", "lanczos", "four"]
    body = {"image": base64.b64encode(png(picture())).decode(), "upscaling_resize": 2}
    made = set()
    for name in ("four", "None", "The studio's own"):
        answer = client.post("/sdapi/v1/extra-single-image", json=body | {"upscaler_1": name})
        assert answer.status_code == 200, answer.text
        with Image.open(io.BytesIO(base64.b64decode(answer.json()["image"]))) as image:
            assert image.size == (80, 60)
            made.add(np.asarray(image.convert("RGB")).tobytes())
    assert len(made) == 3
    asked = {"prompt": "1girl", "steps": 2, "seed": 1, "width": 64, "height": 64, "enable_hr": True, "hr_scale": 2,
             "denoising_strength": 0.5, "hr_upscaler": "Latent"}  # fmt: skip
    answer = client.post("/sdapi/v1/txt2img", json=asked).json()
    with Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))) as image:
        assert image.size == (128, 128)
    assert "Hires upscale: 2" in json.loads(answer["info"])["infotexts"][0]
    server.state.studio.close()
