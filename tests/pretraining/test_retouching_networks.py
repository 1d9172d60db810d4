"""The programs that train the upscaler and the network of parts: a few steps, gone on with, written and read again."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from studio.core.settings import EMBEDDED_MODEL
from studio.engine.media import upscaling
from studio.evaluation.parts import Parts
from studio.pretraining import segmentation, upscaler
from studio.pretraining.painter import PARTS, paint, sample_spec


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    made = AutoencoderKL.from_pretrained(EMBEDDED_MODEL / "vae", torch_dtype=torch.float32)
    return made.eval().requires_grad_(False)


def run(monkeypatch: pytest.MonkeyPatch, program, out: Path, *more: str) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "--out", str(out), "--held-out", "1", "--minutes", "60", *more])
    program.cli()


def test_the_upscaler_learns_goes_on_and_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("--channels", "8", "--depth", "2", "--crops", "4")
    run(monkeypatch, upscaler, tmp_path, *small, "--steps", "2")
    before = upscaling.load(tmp_path / "upscaler.safetensors").state_dict()
    run(monkeypatch, upscaler, tmp_path, *small, "--steps", "4")
    made = upscaling.load(tmp_path / "upscaler.safetensors")
    assert json.loads((tmp_path / "figures.json").read_text())["step"] == 4
    assert any(not torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(figures) == set(upscaler.KINDS)
    assert all(value["lanczos"] > 15 for value in figures.values())


def test_what_goes_in_is_the_painting_itself_worn(vae: AutoencoderKL) -> None:
    spec = sample_spec(random.Random(1))
    picture = paint(spec, 256, 1)
    difference = {
        kind: np.abs(np.asarray(upscaler.worn(picture, kind, vae, random.Random(1))).astype(int) - picture).mean()
        for kind in dict.fromkeys(upscaler.KINDS)
    }
    assert difference.pop("clean") == 0
    assert all(0.2 < value < 12 for value in difference.values()), difference
    pool = upscaler.Pool(vae, size=1)
    pool.add(3)
    x, y = pool.crops(2, random.Random(1))
    assert (x.shape, y.shape) == ((2, 3, 64, 64), (2, 3, 128, 128))
    reduced = torch.nn.functional.avg_pool2d(y, 2)
    assert (reduced - x).abs().mean() < 0.05  # the same place of the same character


def test_the_network_of_parts_learns_goes_on_and_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, segmentation, tmp_path, "--batch", "2", "--steps", "2")
    run(monkeypatch, segmentation, tmp_path, "--batch", "2", "--steps", "3")
    assert json.loads((tmp_path / "figures.json").read_text())["step"] == 3
    assert (tmp_path / "model.safetensors").stat().st_size < 2_000_000
    parts = Parts.load(tmp_path)
    assert parts.names == list(PARTS)
    seen = parts(Image.new("RGB", (300, 200), "red"))
    assert seen.labels.shape == (200, 300)
    assert seen.alpha.size == parts.mask(seen, "hair", "eyes").size == (300, 200)


def test_examples_are_the_painters(vae: AutoencoderKL) -> None:
    x, labels, alpha = segmentation.batch(range(2), vae, torch.Generator().manual_seed(0))
    assert (x.shape, labels.shape, alpha.shape) == ((2, 3, 256, 256), (2, 256, 256), (2, 256, 256))
    assert labels.unique().tolist()[:6] == [0, 1, 2, 3, 4, 5]
    assert ((labels > 0).float() - alpha).abs().mean() < 0.02
    logits = torch.nn.functional.one_hot(labels, len(PARTS)).permute(0, 3, 1, 2).float() * 20
    right = segmentation.loss_of(logits, torch.logit(alpha.clamp(1e-4, 1 - 1e-4))[:, None], labels, alpha)
    wrong = segmentation.loss_of(logits.roll(1, 1), torch.zeros(2, 1, 256, 256), labels, alpha)
    assert right < 0.01
    assert wrong > 1
