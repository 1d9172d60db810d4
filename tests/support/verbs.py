"""The command line, called in this process: what a verb printed, and its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import tiny_sd

from studio.core.settings import settings
from studio.interfaces.cli.main import main


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_sd(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def run(
    home: Path, model: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Done]]:
    monkeypatch.setenv("STUDIO_HOME", str(home))
    monkeypatch.setenv("STUDIO_MODEL", model)
    for name in ("ANTHROPIC_API_KEY", "STUDIO_ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)  # the developer's own: no test may spend it
    monkeypatch.chdir(home)
    settings.cache_clear()

    def call(*arguments: object) -> Done:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Done(code, out, err)

    yield call
    settings.cache_clear()


def one_sentence(done: Done) -> str:
    assert "Traceback" not in done.err
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert done.out == ""
    assert len(lines) == 1, done.err
    return lines[0]
