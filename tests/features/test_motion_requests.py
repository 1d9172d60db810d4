"""What morph, animation and sprites ask for: the character that is shown, a method that fits, a file that was named."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest
from support.pages import app

from studio.core.errors import BadInput
from studio.core.fields import describe
from studio.core.specs import GenerateSpec, MorphMethod
from studio.engine import judging
from studio.features import characters
from studio.features.animate.spec import SpritesSpec
from studio.features.morph.spec import MorphSpec
from studio.interfaces.cli import terminal
from studio.interfaces.cli.main import main
from studio.interfaces.web import motion_stage
from studio.interfaces.web.resources import studio
from studio.service import Studio

Run = Callable[..., tuple[int, str]]


def page(**state: object) -> AppTest:
    return app("emotion_morph", **state)


def captions(at: AppTest) -> list[str]:
    return [part.value for part in at.caption]


def upload() -> str:
    buffer = BytesIO()
    Image.new("RGB", (64, 64), "pink").save(buffer, "PNG")
    return studio().upload(buffer.getvalue(), "me", "her.png").id


def labels(at: AppTest) -> list[str]:
    return [button.label for button in at.get("download_button")]


# --- the page ---------------------------------------------------------------------------------------------------------


def test_sprites_show_the_character_on_the_page_beside_its_morph(page_home: Path) -> None:
    at = page(morph_frames=3, morph_steps=2, morph_words="red hair")
    at.button(key="morph_draw").click().run()
    morph = at.session_state["job:emotion_morph"]
    assert studio().wait(morph, "me", 120).state == "done"
    at.run()
    assert "Happy" in "".join(said for said in captions(at) if " \u00b7 " in said)
    shown = studio().job_spec(morph, "me")
    assert isinstance(shown, MorphSpec)
    for _ in range(2):  # a set of a set is of the same character too
        at.button(key="morph_sprites").click().run()
        job = at.session_state["job:emotion_morph"]
        spec = studio().job_spec(job, "me")
        assert isinstance(spec, SpritesSpec)
        assert (spec.base.seed, spec.base.text) == (shown.base.seed, shown.base.text)
        assert studio().wait(job, "me", 120).state == "done"
        at.run()
        assert not at.exception
        assert {motion_stage.TEXT["sprites_keep"], motion_stage.TEXT["filmstrip_keep"]} <= set(labels(at))


def test_sprites_of_another_picture_are_of_that_one(page_home: Path) -> None:
    made = studio().submit(MorphSpec(base=GenerateSpec(model=studio().settings.model, steps=2, seed=8), frames=3), "me")
    assert studio().wait(made.id, "me", 120).state == "done"
    picture = upload()
    at = page(morph_picture=picture, morph_steps=2, **{"job:emotion_morph": made.id})
    at.button(key="morph_sprites").click().run()
    spec = studio().job_spec(at.session_state["job:emotion_morph"], "me")
    assert isinstance(spec, SpritesSpec)
    assert spec.image == picture
    studio().cancel(at.session_state["job:emotion_morph"], "me")


def test_an_upload_is_kept_and_the_page_says_why(page_home: Path) -> None:
    at = page(morph_method="prompt")
    assert at.segmented_control(key="morph_method").value == "prompt"
    at.session_state["morph_picture"] = upload()
    at.run()
    assert at.segmented_control(key="morph_method").value == "picture"
    assert "Redraw" not in at.segmented_control(key="morph_method").options
    assert characters.TEXT["uploaded"] in captions(at)


def test_what_keeping_a_picture_cant_heed_is_said_before(page_home: Path) -> None:
    image = upload()
    base = GenerateSpec(model=studio().settings.model, steps=10, sampler="euler_a", guidance=1)
    for spec in (MorphSpec(base=base, image=image), SpritesSpec(base=base, image=image)):
        [note] = [note for note in studio()._resolver.plan(spec, "me").notes if "back to noise" in note]
        assert all(said in note for said in ("32 steps", "10 steps", "the sampler Euler a", "guidance 1"))
    heeded = base.model_copy(update={"steps": 40, "sampler": "ddim", "guidance": 2.0})
    assert studio()._resolver.plan(MorphSpec(base=heeded, image=image), "me").notes == ()
    assert studio()._resolver.plan(MorphSpec(base=base), "me").spec.base.steps == 10  # drawn anew: no note is needed
    at = page(morph_picture=image, morph_steps=10)
    assert at.session_state["morph_method"] == "picture"
    assert at.number_input(key="morph_steps").value == 32
    assert any("taken back to noise in small steps" in said.value for said in at.toast)
    assert any("in 32 steps or more" in said for said in captions(at))


@pytest.mark.parametrize(("sure", "noted"), [(0.3, True), (0.9, False)])
def test_a_judge_that_sees_no_face_says_so(monkeypatch: pytest.MonkeyPatch, sure: float, noted: bool) -> None:
    said: list[str] = []
    job: Any = SimpleNamespace(note=said.append, picture=lambda id: SimpleNamespace(recipe=None), image=lambda id: None)
    monkeypatch.setattr(characters, "resolve", lambda *given, **more: SimpleNamespace(judge=Path(), title="It"))
    monkeypatch.setattr(judging, "describe", lambda *given: judging.Description("sad", "casual", ["1girl"], sure))
    characters.character(SimpleNamespace(settings=None), job, GenerateSpec(), "noise")
    assert (characters.TEXT["no_face"] in said) is noted


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def run(page_home: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, capfd.readouterr().err.strip()

    return call


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []

    def submit(self: Studio, spec: Any, owner: str) -> None:
        found.append(spec)
        raise BadInput("Only asked.")

    monkeypatch.setattr(Studio, "submit", submit)
    return found


def test_out_names_a_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "new" / "m.webp"
    code, said = run("morph", "--frames", 3, "--steps", 1, "--seed", 3, "--out", file)
    assert code == 0, said
    with Image.open(file) as made:
        assert made.format == "WEBP"
        assert made.n_frames > 1
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("verb", ["morph", "animate"])
def test_the_format_is_that_of_the_file(run: Run, asked: list[Any], tmp_path: Path, verb: str) -> None:
    for suffix, form in terminal.BY_SUFFIX.items():
        run(verb, "--out", tmp_path / f"m{suffix}")
        assert asked[-1].format == form
    assert not list(tmp_path.glob("m.*"))


def test_a_file_that_cant_be_written_is_one_sentence(run: Run, asked: list[Any], tmp_path: Path) -> None:
    (tmp_path / "there.gif").write_bytes(b"mine")
    for arguments, sentence in (
        (["morph", "--out", tmp_path / "there.gif"], "is there already"),
        (["animate", "--format", "mp4", "--out", tmp_path / "a.gif"], "don't go together"),
        (["sprites", "--out", tmp_path / "a.gif"], "this makes a ZIP"),
        (["animate", "--keyframe", "99:sad", "--frames", 4], "at frame 99 is past the end, there are 4 frames."),
        (["animate", "--keyframe", "99:sad", "--frames", 100], "frames should be less than or equal to 64"),
    ):
        code, said = run(*arguments)
        assert (code, len(said.splitlines())) == (2, 1)
        assert sentence in said
    assert not asked
    assert (tmp_path / "there.gif").read_bytes() == b"mine"


def test_sprites_are_written_to_the_zip_that_was_named(run: Run, tmp_path: Path) -> None:
    code, said = run("sprites", "--steps", 1, "--seed", 3, "--out", tmp_path / "s.zip")
    assert code == 0, said
    assert (tmp_path / "s.zip").read_bytes().startswith(b"PK")


def test_every_method_has_a_name() -> None:
    assert set(describe(MorphSpec, "method").about.names) == set(get_args(MorphMethod))
