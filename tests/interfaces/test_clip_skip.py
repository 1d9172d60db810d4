"""One field of a request, written once, on every way in and out: what `Clip skip` shows, holds for the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from support.pages import STEPS, app, draw, finish

from studio.core.errors import BadInput
from studio.core.specs import GenerateSpec, Recipe
from studio.features.sheets.spec import AXES
from studio.interfaces.api import app as api
from studio.interfaces.cli.main import main
from studio.interfaces.web.resources import studio
from studio.service import Studio, parse_spec
from studio.store.metadata import parameters, read, request_of


def recipe_of(spec: Any) -> Recipe:
    return studio()._resolver.plan(spec, "me").recipes[0]


def pixels(id: str) -> bytes:
    with Image.open(studio().picture_path(id, "me")) as image:
        return image.tobytes()


def test_it_reaches_the_pixels_and_changes_no_key_while_it_is_1(page_home: Path) -> None:
    plain, same, other = (
        draw("me", prompt="1girl", seed=4, **more) for more in ({}, {"clip_skip": 1}, {"clip_skip": 2})
    )
    assert plain == same
    assert pixels(plain) != pixels(other)


def test_it_is_written_into_a_picture_and_read_from_it(page_home: Path) -> None:
    base = {"model": studio().settings.model, "prompt": "1girl", "negative": "", "seed": 4, "steps": STEPS}
    recipe = recipe_of(GenerateSpec(**base, clip_skip=2))
    assert "Clip skip: 2" in parameters(recipe)
    assert "Clip skip" not in parameters(recipe_of(GenerateSpec(**base)))
    assert request_of(recipe).clip_skip == 2
    assert read(parameters(recipe).encode()).spec.clip_skip == 2  # as another program wrote it
    id = draw("me", prompt="1girl", seed=4, clip_skip=2)
    assert studio().read_recipe(studio().picture_bytes(id, "me")).spec.clip_skip == 2
    assert studio().recipe_of(id, "me").spec.clip_skip == 2
    theirs = read(
        b"1girl\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Clip skip: 2, Version: v1.9.4"
    )
    assert theirs.spec.clip_skip == 2
    assert not any("Clip skip" in note for note in theirs.notes)
    beyond = read(
        b"1girl\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Clip skip: 12, Version: v1.9.4"
    )
    assert beyond.spec.clip_skip == 1
    assert any("Clip skip 12 is outside" in note for note in beyond.notes)


def test_more_than_the_model_has_is_refused_before_anything_waits(page_home: Path) -> None:
    before = len(studio().jobs("me", 1000))
    with pytest.raises(BadInput, match="too small for a Clip skip of 4; take 2 or less"):
        studio().submit(GenerateSpec(model=studio().settings.model, prompt="1girl", clip_skip=4), "me")
    assert len(studio().jobs("me", 1000)) == before


def test_another_model_does_without_that_of_a_recipe(page_home: Path) -> None:
    text = "1girl\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Clip skip: 2, Model: elsewhere"
    found = studio().read_recipe(text.encode())
    assert found.spec.clip_skip == 1
    assert any("Clip skip of 2 belongs to its own model" in note for note in found.notes)


def test_the_verbs_have_it(page_home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    asked: list[Any] = []

    def submit(self: Studio, spec: Any, owner: str) -> None:
        asked.append(spec)
        raise BadInput("Only asked.")

    monkeypatch.setattr(Studio, "submit", submit)
    Image.linear_gradient("L").resize((64, 64)).save("drawing.png")
    for verb in (
        ["generate", "--prompt", "x"],
        ["morph"],
        ["animate"],
        ["sprites"],
        ["sketch", "--image", "drawing.png"],
    ):
        main([*verb, "--clip-skip", "2"])
        base = asked.pop()
        assert getattr(base, "base", base).clip_skip == 2, verb
    assert main(["generate", "--prompt", "x", "--clip-skip", "5"]) == 2
    assert "clip_skip should be less than or equal to 4" in capfd.readouterr().err


def test_http_has_it(page_home: Path) -> None:
    settings = studio().settings.model_copy(update={"named_only": True})
    settings.models_dir.mkdir(exist_ok=True)
    (settings.models_dir / "linked").symlink_to(settings.model)
    service = Studio(settings)
    base = {"model": "linked", "prompt": "1girl", "steps": STEPS, "seed": 4}
    with TestClient(api.create(service.settings, service), base_url="http://127.0.0.1") as client:
        id = client.post("/jobs", json=base | {"clip_skip": 2}).json()["id"]
        assert service.wait(id, "local", 90).state == "done"
        [picture] = client.get(f"/jobs/{id}").json()["pictures"]
        assert client.get(f"/images/{picture}/info").json()["recipe"]["clip_skip"] == 2
        assert client.post("/jobs", json=base | {"clip_skip": 0}).status_code == 422
        documented = client.get("/openapi.json").json()["components"]["schemas"]["GenerateSpec"]["properties"]
        assert documented["clip_skip"]["title"] == "Clip skip"
    service.close()


def test_a_grid_has_it(page_home: Path) -> None:
    assert AXES["clip_skip"].about.axis == "1, 2"
    base = {"model": studio().settings.model, "prompt": "1girl", "steps": STEPS, "seed": 4}
    spec = parse_spec({"kind": "grid", "base": base, "x": {"name": "clip_skip", "values": ["1", "2"]}})
    assert [recipe.clip_skip for recipe in studio()._resolver.plan(spec, "me").recipes] == [1, 2]


def test_the_page_has_it_and_takes_it_from_a_picture(page_home: Path) -> None:
    at = app(gen_steps=STEPS)
    assert at.number_input(key="gen_clip_skip").value == 1
    at.number_input(key="gen_clip_skip").set_value(2).run()
    at.button(key="gen_draw").click().run()
    job = finish(at)
    [picture] = [studio().picture(id, "me") for id in job.pictures]
    assert picture.recipe is not None
    assert picture.recipe.clip_skip == 2
    loaded = app(send={"page": "generate", "picture": picture.id, "as": "recipe"})
    assert not loaded.exception
    assert loaded.number_input(key="gen_clip_skip").value == 2
