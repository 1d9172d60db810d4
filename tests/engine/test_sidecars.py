"""What other programs leave beside a LoRA gives its trigger words and weight, and never makes it unusable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from studio.core.settings import Settings
from studio.engine.models import catalogue

A1111 = {"description": "", "sd version": "SD1", "activation text": "inkline, 1girl", "preferred weight": 0.7}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def lora(settings: Settings, **beside: bytes) -> catalogue.LoraInfo:
    """A LoRA called `mine` with these files beside it (`_` in a suffix means a point)."""
    place = settings.models_dir / "loras"
    place.mkdir(parents=True)
    save_file({"unet.x.lora_down.weight": np.zeros((1, 1), np.float32)}, place / "mine.safetensors")
    for suffix, data in beside.items():
        (place / f"mine.{suffix.replace('_', '.')}").write_bytes(data)
    assert not catalogue.refused_loras(settings)
    return catalogue.find_lora("mine", settings)


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[1]", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"weight": 1e999, "trigger_words": {"a": 1}}',
     b'{"fast": {"steps": 1e999}, "with": 3, "title": ["x"]}'],
)  # fmt: skip
def test_what_cannot_be_read_is_passed_over(settings: Settings, data: bytes) -> None:
    found = lora(settings, json=data, civitai_info=data, metadata_json=data)
    assert (found.title, found.trigger_words, found.weight) == ("mine", (), 1.0)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp932"])
def test_the_note_of_a1111_gives_words_and_weight(settings: Settings, encoding: str) -> None:
    note = json.dumps(A1111 | {"activation text": "インク線, 1girl"}, ensure_ascii=False)
    found = lora(settings, json=note.encode(encoding))
    assert (found.trigger_words, found.weight, found.base) == (("インク線",), 0.7, "SD1")


def test_a_weight_of_zero_in_a_note_of_a1111_was_never_chosen(settings: Settings) -> None:
    assert lora(settings, json=json.dumps(A1111 | {"preferred weight": 0}).encode()).weight == 1.0


@pytest.mark.parametrize(
    ("suffix", "note"),
    [
        ("civitai_info", {"trainedWords": ["ink style", "line"], "baseModel": "SD 1.5"}),
        ("metadata_json", {"base_model": "SD 1.5", "civitai": {"trainedWords": ["ink style", "line"]}}),
        ("cm-info_json", {"TrainedWords": ["ink style", "line"], "BaseModel": "SD 1.5"}),
        ("rgthree-info_json", {"trainedWords": [{"word": "ink style"}, {"word": "line"}], "baseModel": "SD 1.5"}),
    ],
)
def test_managers_of_downloads_give_the_trained_words(settings: Settings, suffix: str, note: dict) -> None:
    found = lora(settings, **{suffix: json.dumps(note).encode()})
    assert (found.trigger_words, found.base) == (("ink style", "line"), "SD 1.5")


def test_what_the_user_wrote_comes_before_what_the_download_said(settings: Settings) -> None:
    note = {"trainedWords": ["other"], "baseModel": "SD 1.5"}
    found = lora(settings, json=json.dumps(A1111).encode(), civitai_info=json.dumps(note).encode())
    assert (found.trigger_words, found.base) == (("inkline",), "SD 1.5")
