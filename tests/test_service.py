"""The whole way of a request, on a real (tiny) model: submit, draw, store, find again."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from studio.errors import BadInput, NotFound
from studio.service import Studio, parse_spec
from studio.settings import Settings
from studio.specs import Axis, BatchRow, BatchSpec, GenerateSpec, GridSpec, SheetSpec
from tests.checkpoints import tiny_sd

WAIT = 120  # seconds: a cold import of torch on a busy machine


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_sd(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory):
    studio = Studio(Settings(home=tmp_path_factory.mktemp("home"), _env_file=None))
    yield studio
    studio.close()


def drawn(studio: Studio, spec, owner: str = "me"):
    view = studio.wait(studio.submit(spec, owner).id, owner, WAIT)
    assert view.state == "done", view.error
    return view


def test_a_picture_from_request_to_gallery(studio: Studio, model: str) -> None:
    spec = GenerateSpec(emotion="sad", text="red hair", model=model, steps=2, seed=5, count=2)
    view = drawn(studio, spec)
    assert len(view.pictures) == 2
    assert view.fraction == 1
    first, second = (studio.picture(id, "me") for id in view.pictures)
    assert first.recipe is not None
    assert second.recipe is not None
    assert (first.recipe.seed, second.recipe.seed) == (5, 6)
    assert (first.width, first.height) == (64, 64)
    assert "red hair" in first.recipe.prompt
    assert first.recipe.labels["emotion"] == "sad"
    with Image.open(BytesIO(studio.picture_bytes(first.id, "me"))) as image:
        assert image.format == "PNG"
        assert len(image.getcolors(64 * 64) or []) > 16
    assert {picture.id for picture in studio.gallery("me", query="red sad")} >= set(view.pictures)
    found = studio.read_recipe(studio.picture_bytes(second.id, "me"))
    assert found.origin == "studio"
    assert studio.submit(found.spec, "me").pictures == (second.id,)
