"""The verbs `recipe` and `dataset`: other people's files as scripts and people see them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support.damaged import GRAPH
from support.training_sets import write_set

from studio.core.settings import settings
from studio.interfaces.cli.main import main


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STUDIO_OFFLINE", "1")
    settings.cache_clear()
    return tmp_path / "home"


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_what_a_picture_says_and_what_is_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chunks = PngInfo()
    chunks.add_text("prompt", json.dumps(GRAPH))
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png", pnginfo=chunks)
    found = answer(capsys, "recipe", tmp_path / "a.png")
    assert (found["program"], found["prompt"], found["seed"], found["model"]) == ("ComfyUI", "1girl", 4242, "a")
    assert found["request"]["model"] == "embedded"
    assert any("Its model 'a' isn't here" in note for note in found["notes"])
    assert any("sampler 'euler' isn't in this studio" in note for note in found["notes"])
    assert main(["recipe", str(tmp_path / "a.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["Made with ComfyUI.", "Prompt: 1girl"]
    assert "seed: 4242, size: 256x320, model: a" in lines[3]


@pytest.mark.parametrize("verb", ["recipe", "dataset"])
def test_a_file_that_is_not_there_or_nothing(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG nothing")
    for path in (tmp_path / "gone.png", tmp_path / "a.png"):
        assert main([verb, str(path)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert len(said.err.splitlines()) == 1


def test_what_would_be_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_set(tmp_path / "set", 2, style="7_neon")
    (folder / "7_neon" / "film.gif").write_bytes(b"GIF89a")
    found = answer(capsys, "dataset", folder, "--resolution", 64)
    assert [(p["file"], p["trigger"], p["repeats"]) for p in found["pictures"]] == [
        ("7_neon/0.png", "neon", 7), ("7_neon/1.png", "neon", 7),
    ]  # fmt: skip
    assert found["pictures"][0]["prompt"] == "neon, 1girl, sad, red hair, long hair, 0"
    assert (found["trigger_words"], found["per_epoch"]) == ({"neon": 2}, 14)
    assert [problem["file"] for problem in found["left_out"]] == ["7_neon/film.gif"]
    assert found["remarks"] == []
    assert main(["dataset", str(folder), "--resolution", "64"]) == 0
    assert "Trigger words: neon (2). Without a caption: 0. Left out: 1." in capsys.readouterr().out
