"""A studio whose pictures another one draws, over a real connection: kept here, as if they had been drawn here."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from PIL import Image, ImageDraw
from pydantic import ValidationError
from support.checkpoints import tiny_sd
from support.pages import app, sentences
from support.pictures import encoded, image

from studio.core.errors import BadInput
from studio.core.settings import Settings, settings
from studio.core.specs import ControlSpec, GenerateSpec, LoraRef, MaskSpec, Recipe, Request
from studio.core.views import JobView
from studio.features.experiment.spec import ExperimentSpec
from studio.features.inpaint.spec import InpaintSpec
from studio.features.morph.spec import MorphSpec
from studio.features.sheets.spec import SheetSpec
from studio.features.sketch.spec import SketchSpec
from studio.features.upscale.spec import UpscaleSpec
from studio.interfaces.api import app as api
from studio.interfaces.web.resources import studio as page_studio
from studio.service import Studio
from studio.service.backend import Backend

KEY = "a-key-that-is-long-enough"
PLAIN = GenerateSpec(model="tiny", prompt="red hair, happy", steps=2, seed=3)
PATIENCE = 120.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("model") / "tiny", controlnet=True)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[tuple[str, Studio]]:
    """The server that draws: its address, and the studio behind it."""
    home = tmp_path_factory.mktemp("other")
    shutil.copytree(model, home / "models" / "tiny")
    served = api.create(Settings(home=home, api_key=KEY, device="cpu", offline=True, _env_file=None))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(served, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}", served.state.studio
    server.should_exit = True
    thread.join(20)
    served.state.studio.close()


Made = Callable[..., Studio]


@pytest.fixture
def made(tmp_path: Path, model: Path, other: tuple[str, Studio]) -> Iterator[Made]:
    """Makes a studio that asks the other one."""
    shutil.copytree(model, tmp_path / "models" / "tiny")
    studios: list[Studio] = []

    def make(**changes: Any) -> Studio:
        values = {"home": tmp_path, "backend": other[0], "backend_key": KEY, "offline": True, "model": "tiny"}
        studios.append(Studio(Settings(**values | changes, _env_file=None)))
        return studios[-1]

    yield make
    for studio in studios:
        studio.close()


def finished(studio: Studio, spec: Request, owner: str = "ann") -> JobView:
    view = studio.wait(studio.submit(spec, owner).id, owner, PATIENCE)
    assert view.state == "done", view.error
    return view


def recipe(studio: Studio, id: str) -> Recipe:
    found = studio.picture(id, "ann").recipe
    assert found is not None
    return found


def pixels(data: bytes) -> bytes:
    return Image.open(BytesIO(data)).convert("RGB").tobytes()


def test_pictures_are_drawn_there_and_kept_here(made: Made, tmp_path: Path, model: Path) -> None:
    studio = made()
    ids = finished(studio, PLAIN.model_copy(update={"count": 3})).pictures
    assert [recipe(studio, id).seed for id in ids] == [3, 4, 5]
    assert [recipe(studio, id).key for id in ids] == list(ids)
    again = studio.submit(PLAIN, "bob")
    assert (again.state, again.pictures) == ("done", ids[:1]), "what is here already is asked of nobody"
    system = studio.system()
    assert (system.device, system.device_name, system.loaded) == ("backend", studio.settings.backend, False)
    shutil.copytree(model, tmp_path / "alone" / "models" / "tiny")
    alone = Studio(Settings(home=tmp_path / "alone", device="cpu", offline=True, _env_file=None))
    [same] = finished(alone, PLAIN).pictures
    assert same == ids[0], "the recipe is what it would be without another server"
    assert pixels(alone.picture_bytes(same, "ann")) == pixels(studio.picture_bytes(ids[0], "ann"))
    alone.close()


def test_what_a_picture_starts_from_and_follows_goes_along(made: Made) -> None:
    studio = made()
    [first] = finished(studio, PLAIN).pictures
    [second] = finished(studio, PLAIN.model_copy(update={"source": first, "strength": 0.5})).pictures
    assert (recipe(studio, second).source, recipe(studio, second).key) == (first, second)
    drawing = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(drawing).ellipse((10, 10, 50, 50), outline="black", width=3)
    sent = studio.upload(encoded(drawing), "ann").id
    view = finished(studio, SketchSpec(base=PLAIN, control=ControlSpec(image=sent)))
    [drawn] = [id for id in view.pictures if id != view.result["control_image"]]
    control = recipe(studio, drawn).control
    assert control is not None
    assert (control.image, recipe(studio, drawn).key) == (sent, drawn)
    over = Image.new("L", (64, 64))
    ImageDraw.Draw(over).rectangle((16, 16, 40, 40), fill=255)
    masked = MaskSpec(image=studio.upload(encoded(over.convert("RGB")), "ann").id)
    view = finished(studio, InpaintSpec(base=PLAIN, image=first, mask=masked))
    [new] = view.pictures
    assert recipe(studio, new).key == new
    assert list(view.result["seams"]) == [new]
    before, after = (Image.open(BytesIO(studio.picture_bytes(id, "ann"))) for id in (first, new))
    assert before.crop((44, 0, 64, 64)).tobytes() == after.crop((44, 0, 64, 64)).tobytes(), "what isn't masked stays"


def test_a_sheet_is_put_together_here(made: Made) -> None:
    studio = made()
    view = finished(studio, SheetSpec(base=PLAIN.model_copy(update={"prompt": None}), emotions=("happy", "sad")))
    assert len(view.result["tiles"]) == 2
    assert studio.picture(view.result["sheet"], "ann").width > 2 * 64


def test_another_version_of_the_model_is_said(made: Made, tmp_path: Path) -> None:
    studio = made()
    folder = tmp_path / "models" / "tiny"
    shutil.rmtree(folder)
    tiny_sd(folder, seed=5)
    view = finished(studio, PLAIN.model_copy(update={"seed": 70}))
    assert any("another version of the model" in note for note in view.notes)
    [id] = view.pictures
    assert recipe(studio, id).key == id, "it is kept under what it was drawn by"


@pytest.mark.parametrize(
    "spec",
    [
        MorphSpec(base=PLAIN, emotions=("happy", "sad")),
        UpscaleSpec(image="x"),
        ExperimentSpec(base=PLAIN.model_copy(update={"prompt": None, "text": "red hair"})),
    ],
    ids=lambda spec: spec.kind,
)
def test_what_is_drawn_here_only_is_refused_before_it_waits(made: Made, spec: Request) -> None:
    studio = made()
    if isinstance(spec, UpscaleSpec):
        spec = spec.model_copy(update={"image": studio.upload(encoded(image()), "ann").id})
    with pytest.raises(BadInput, match="Start a studio without STUDIO_BACKEND"):
        studio.submit(spec, "ann")
    assert studio.jobs("ann") == []


def test_a_cancelled_job_is_cancelled_there(made: Made, other: tuple[str, Studio]) -> None:
    studio = made()
    job = studio.submit(PLAIN.model_copy(update={"steps": 50, "count": 40, "seed": 500}), "ann").id
    deadline = time.monotonic() + PATIENCE
    while studio.job(job, "ann").state != "running" or not other[1]._jobs.running:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    studio.cancel(job, "ann")
    assert studio.wait(job, "ann", PATIENCE).state == "cancelled"
    while other[1]._jobs.running or other[1]._jobs.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert other[1]._jobs.totals["generate", "cancelled"].jobs >= 1


def test_who_does_not_answer_or_lets_nobody_in_is_named(made: Made, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
    for changes, said in (({"backend": nobody}, "doesn't answer"), ({"backend_key": "x" * 20}, "lets nobody in")):
        studio = made(**changes)
        view = studio.wait(studio.submit(PLAIN.model_copy(update={"seed": 800}), "ann").id, "ann", PATIENCE)
        assert view.state == "failed"
        assert said in (view.error or "")
        assert "STUDIO_BACKEND" in (view.error or "")
        studio.close()
    for address in ("example.org", "ftp://example.org", "http://example.org/v1"):
        with pytest.raises(ValidationError):
            Settings(backend=address, _env_file=None)


def test_a_lora_is_called_what_it_is_called_there(made: Made, tmp_path: Path) -> None:
    studio = made()
    (tmp_path / "models" / "loras" / "mine").mkdir(parents=True)
    file = tmp_path / "models" / "loras" / "mine" / "style.safetensors"
    file.write_bytes(b"")
    plain = Recipe(
        model="tiny", model_hash="", prompt="x", seed=1, steps=1, guidance=1, sampler="lcm", width=64, height=64
    )
    refs = (LoraRef(path=str(file)), LoraRef(path="/elsewhere/run.safetensors"), LoraRef(path="maker/lora"))
    backend = Backend(studio.settings)
    asked = backend._request(None, plain.model_copy(update={"loras": refs}), {})  # type: ignore[arg-type]
    backend.close()
    assert [ref.path for ref in asked.loras] == ["mine/style.safetensors", "run", "maker/lora"]


def test_the_pages_use_it(page_home: Path, other: tuple[str, Studio], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_BACKEND", other[0])
    monkeypatch.setenv("STUDIO_BACKEND_KEY", KEY)
    monkeypatch.setenv("STUDIO_MODEL", "embedded")
    settings.cache_clear()
    at = app("generate", gen_steps=2, gen_seed=7)
    at.button(key="gen_draw").click().run()
    assert not at.exception
    [view] = page_studio().jobs("me")
    view = page_studio().wait(view.id, "me", PATIENCE)
    assert view.state == "done", view.error
    assert page_studio().gallery_count("me") == 1
    assert len(app("gallery").button) > 0
    at = app("system")
    assert f"Pictures are drawn by {other[0]}" in sentences(at)
    assert (at.metric[0].value, at.metric[0].delta) == ("Another server", other[0])
