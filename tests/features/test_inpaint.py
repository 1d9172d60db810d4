"""A part of a picture drawn anew, as a job, on the command line and over HTTP; and what is refused with a sentence."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageDraw
from support.checkpoints import tiny_sd

from studio.core.errors import BadInput, NotFound
from studio.core.settings import Settings, settings
from studio.core.specs import GenerateSpec, LoraSpec, MaskSpec
from studio.features.inpaint.spec import InpaintSpec
from studio.interfaces.api import app
from studio.interfaces.cli.main import main
from studio.prompting.exchange import with_words
from studio.prompting.lexicon import Lexicon
from studio.service import Studio
from studio.store import metadata

BLANK = GenerateSpec(model="tiny", steps=2)


def png(image: Image.Image, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


def picture(width: int = 64, height: int = 64, mode: str = "RGB") -> Image.Image:
    image = Image.new("RGB", (width, height), (90, 150, 200))
    ImageDraw.Draw(image).ellipse((10, 10, width - 12, height - 8), fill=(240, 200, 180))
    return image.convert(mode)


def mask(width: int = 64, height: int = 64) -> Image.Image:
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).rectangle((width // 4, height // 4, width // 2, height // 2), fill=255)
    return image


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("inpaint")
    tiny_sd(home / "models" / "tiny")
    return home


@pytest.fixture(scope="module")
def studio(home: Path):
    made = Studio(Settings(home=home, model="tiny", device="cpu", preview_every=0, offline=True))
    yield made
    made.close()


def stored(studio: Studio, image: Image.Image) -> str:
    return studio.upload(png(image), "me").id


def request(studio: Studio, image: Image.Image | str, over: Image.Image, **fields) -> InpaintSpec:
    picture_id = image if isinstance(image, str) else stored(studio, image)
    base = fields.pop("base", BLANK)
    return InpaintSpec(
        base=base, image=picture_id, mask=MaskSpec(image=stored(studio, over), **fields.pop("mask", {})), **fields
    )


def done(studio: Studio, spec: InpaintSpec | GenerateSpec):
    view = studio.wait(studio.submit(spec, "me").id, "me", 120)
    assert view.state == "done", view.error
    return view


def pixels(studio: Studio, id: str) -> np.ndarray:
    with Image.open(io.BytesIO(studio.picture_bytes(id, "me"))) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("size", [(64, 64), (70, 45)])
def test_several_versions_each_a_picture_with_its_source_in_the_recipe(studio: Studio, size: tuple[int, int]) -> None:
    before, over = picture(*size), mask(*size)
    base = BLANK.model_copy(update={"count": 2, "prompt": "1girl, blue hair", "seed": 5})
    view = done(studio, request(studio, before, over, base=base, mask={"area": "whole"}))
    outside = np.asarray(over) == 0
    assert len(view.pictures) == len(set(view.pictures)) == 2
    for id in view.pictures:
        made = studio.picture(id, "me")
        assert (made.width, made.height) == size
        assert np.array_equal(pixels(studio, id)[outside], np.asarray(before)[outside])
        assert made.recipe is not None
        assert made.recipe.source == view.result["source"]
        assert made.recipe.mask is not None
        assert made.recipe.mask.area == "whole"
        assert float(made.recipe.labels["seam"]) == view.result["seams"][id] > 0
    again = done(studio, studio.job_spec(view.id, "me"))
    assert set(again.cached) == set(view.pictures)
    assert again.result["seams"] == view.result["seams"]


def test_its_file_makes_it_again_and_the_words_of_the_picture_stay(studio: Studio) -> None:
    first = done(studio, BLANK.model_copy(update={"prompt": "1girl, red hair, blue eyes, hoodie", "seed": 3})).pictures[
        0
    ]
    changed = BLANK.model_copy(update={"text": "blue hair", "seed": 4})
    view = done(studio, request(studio, first, mask(), base=changed))
    recipe = studio.picture(view.pictures[0], "me").recipe
    assert recipe is not None
    assert recipe.prompt == "1girl, blue hair, blue eyes, hoodie"
    assert any("“red hair”" in note for note in view.notes)
    assert "Denoising strength: 1" in metadata.writing.parameters(recipe)
    found = studio.read_recipe(studio.picture_bytes(view.pictures[0], "me"))
    assert found.spec.mask == recipe.mask
    back = studio.upload(studio.picture_bytes(view.pictures[0], "me"), "me")  # as a stranger would send it
    assert back.recipe is not None
    assert back.recipe.key == recipe.key
    same = done(studio, studio.spec_of(view.pictures[0], "me"))
    assert same.pictures == view.pictures
    step = done(
        studio, request(studio, view.pictures[0], mask(), base=changed.model_copy(update={"text": "pink hair"}))
    )
    parent = studio.picture(step.pictures[0], "me").recipe
    assert parent is not None
    assert parent.source == view.pictures[0]  # the way back to any earlier state


def test_only_the_masked_area_is_drawn_at_the_models_size(studio: Studio) -> None:
    big, over = picture(300, 200), Image.new("L", (300, 200))
    ImageDraw.Draw(over).ellipse((200, 120, 240, 160), fill=255)
    view = done(studio, request(studio, big, over))  # too large for a model of 64 pixels
    made = studio.picture(view.pictures[0], "me")
    assert made.recipe is not None
    assert made.recipe.mask is not None
    assert (made.recipe.mask.area, made.recipe.width, made.recipe.height) == ("masked", 64, 64)
    assert (made.width, made.height) == (300, 200)
    outside = np.asarray(over) == 0
    assert np.array_equal(pixels(studio, made.id)[outside], np.asarray(big)[outside])


@pytest.mark.parametrize(
    ("image", "over", "sentence"),
    [
        (picture(), Image.new("L", (64, 64)), "The mask is empty"),
        (picture(), mask(64, 72), "The mask is 64 x 72 pixels and the picture 64 x 64"),
        (picture(), Image.new("L", (64, 64), 255), None),
        (picture(mode="CMYK"), mask(), None),
        (picture(mode="LA"), mask(), None),
    ],
)
def test_bad_pictures_and_masks(studio: Studio, image: Image.Image, over: Image.Image, sentence: str | None) -> None:
    form = "TIFF" if image.mode == "CMYK" else "PNG"
    if image.mode == "CMYK":
        form = "JPEG"
    before = studio.upload(png(image, form), "me").id
    spec = request(studio, before, over)
    if sentence is None:
        view = done(studio, spec)
        full = np.asarray(over).min() == 255
        assert any("covers the whole picture" in note for note in view.notes) == full
    else:
        jobs = len(studio.jobs("me", 200))
        with pytest.raises(BadInput, match=sentence):
            studio.submit(spec, "me")
        assert len(studio.jobs("me", 200)) == jobs


def test_a_transparent_picture_and_a_huge_one_say_what_was_done(studio: Studio) -> None:
    clear = picture(mode="RGBA")
    clear.putalpha(mask().point(lambda level: 255 - level))
    notes = studio.upload(png(clear), "me").details["notes"]
    assert any("transparent" in note for note in notes)
    huge = Image.new("RGB", (8000, 400), "white")
    kept = studio.upload(png(huge), "me")
    assert (kept.width, kept.height) == (2048, 102)
    over = Image.new("L", (8000, 400))
    ImageDraw.Draw(over).rectangle((100, 100, 300, 300), fill=255)
    view = done(studio, request(studio, kept.id, over))
    assert studio.picture(view.pictures[0], "me").width == 2048


def test_what_does_not_go_together(studio: Studio) -> None:
    with pytest.raises(ValueError, match="a mask needs the picture"):
        GenerateSpec(mask=MaskSpec(image="x"))
    sized = BLANK.model_copy(update={"width": 128, "height": 128})
    with pytest.raises(BadInput, match="the picture's own size, 64 x 64"):
        studio.submit(request(studio, picture(), mask(), base=sized, mask={"area": "whole"}), "me")
    with pytest.raises(NotFound):
        studio.submit(request(studio, "nobody's", mask()), "me")


def test_a_model_for_masks_is_refused_everywhere_else(studio: Studio, home: Path) -> None:
    folder = tiny_sd(home / "models" / "filler")
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 33}))  # what is asked before loading
    with pytest.raises(BadInput, match="only fills a mask in a picture"):
        studio.submit(BLANK.model_copy(update={"model": "filler"}), "me")
    data = home / "set"
    data.mkdir()
    picture().save(data / "one.png")
    with pytest.raises(BadInput, match="only fills a mask in a picture"):
        studio.runs.start(LoraSpec(name="run", data=str(data), model="filler"))


def test_on_the_command_line(home: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("STUDIO_HOME", str(home))
    monkeypatch.setenv("STUDIO_MODEL", "tiny")
    settings.cache_clear()
    picture().save(tmp_path / "picture.png")
    mask().save(tmp_path / "mask.png")
    files = ["--image", str(tmp_path / "picture.png"), "--mask", str(tmp_path / "mask.png")]
    common = [*files, "--text", "blue hair", "--steps", "2", "--seed", "1", "--json"]
    assert main(["inpaint", *common, "--feather", "2", "--count", "2", "--out", str(tmp_path / "out")]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(answer["images"]) == len(list((tmp_path / "out").glob("*.png"))) == 2
    assert all(image["seam"] > 0 for image in answer["images"])
    Image.new("L", (64, 64)).save(tmp_path / "mask.png")
    assert main(["inpaint", *common]) == 2
    assert "The mask is empty" in capsys.readouterr().err
    settings.cache_clear()


def test_over_http(tmp_path: Path) -> None:
    tiny_sd(tmp_path / "models" / "tiny")
    server = app.create(Settings(home=tmp_path, model="tiny", device="cpu", preview_every=0, offline=True))
    client, studio = TestClient(server, base_url="http://localhost"), server.state.studio
    ids = [
        client.post("/images", files={"file": ("a.png", png(image), "image/png")}).json()["id"]
        for image in (picture(), mask())
    ]
    body = {"kind": "inpaint", "base": {"model": "tiny", "steps": 2}, "image": ids[0], "mask": {"image": ids[1]}}
    answer = client.post("/jobs", json=body)
    assert answer.status_code == 202
    assert studio.wait(answer.json()["id"], "local", 60).state == "done"
    refused = client.post("/jobs", json=body | {"mask": {"image": ids[1], "feather": 900}})
    assert refused.status_code == 422
    assert "feather" in refused.json()["error"]
    studio.close()


@pytest.mark.parametrize(
    ("prompt", "words", "expected", "gone"),
    [
        ("1girl, red hair, smile", "blue hair", "1girl, blue hair, smile", ["red hair"]),
        ("1girl, (red hair:1.2), pink hair tips", "silver hair", "1girl, silver hair", ["red hair", "pink hair tips"]),
        ("1girl, hoodie, red scarf", "kimono", "1girl, kimono", ["hoodie", "red scarf"]),
        ("1girl, smile", "glasses", "1girl, smile, glasses", []),
        ("1girl, blue hair", "blue hair", "1girl, blue hair", []),
        ("1girl", "", "1girl", []),
    ],
)
def test_new_words_take_the_place_of_what_they_contradict(
    prompt: str, words: str, expected: str, gone: list[str]
) -> None:
    assert with_words(prompt, words, Lexicon.load()) == (expected, gone)
