"""What goes wrong inside a model: numbers that overflow, and memory that an earlier sketch still holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.checkpoints import tiny_sd

from studio.core.errors import OutOfMemory, StudioError
from studio.core.settings import Settings
from studio.core.specs import ControlSpec, Recipe
from studio.engine import drawing, memory
from studio.engine.diffusion import frames, schedulers
from studio.engine.diffusion.conditioning import Conditioning
from studio.engine.engine import Engine
from studio.engine.models.components import Components


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    tiny_sd(tmp_path / "models" / "tiny", controlnet=True)
    return Engine(Settings(home=tmp_path, device="cpu", preview_every=2))


def recipe(**changes) -> Recipe:
    values = {
        "model": "tiny", "model_hash": "", "prompt": "1girl, happy", "negative": "sad", "seed": 5, "steps": 2,
        "guidance": 3.0, "sampler": "dpmpp_2m", "width": 64, "height": 64,
    }  # fmt: skip
    return Recipe(**values | changes)


def one(engine: Engine, **changes) -> np.ndarray:
    return np.asarray(dict(engine.draw([recipe(**changes)], lambda step: None))[0])


# --- numbers ---------------------------------------------------------------------------------------------------------


def spoil(parts: Components, monkeypatch: pytest.MonkeyPatch, value: float, only: torch.dtype | None = None) -> None:
    """One number of what the UNet says becomes `value`; `only` in this precision."""
    real = parts.unet.forward

    def forward(sample: torch.Tensor, *arguments, **options):
        (output,) = real(sample, *arguments, **options)
        if only in (None, sample.dtype):
            output[0, 0, 0, 0] = value
        return (output,)

    monkeypatch.setattr(parts.unet, "forward", forward)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_picture_of_no_numbers_is_a_sentence_and_not_a_grey_square(engine: Engine, monkeypatch, value) -> None:
    before = one(engine)
    spoil(engine.components("tiny"), monkeypatch, value)
    with pytest.raises(StudioError, match="numbers overflowed"):
        one(engine)
    monkeypatch.undo()
    assert np.array_equal(one(engine), before), "neither the weights nor the preview's map remember it"


def test_a_decoder_of_no_numbers_is_a_sentence_too(engine: Engine) -> None:
    with torch.no_grad():
        engine.components("tiny").vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(StudioError, match="numbers overflowed"):
        one(engine)


def test_frames_of_no_numbers_are_refused(engine: Engine, monkeypatch) -> None:
    parts = engine.components("tiny")
    spoil(parts, monkeypatch, float("nan"))
    scheduler = schedulers.make_scheduler("dpmpp_2m", parts.scheduler_config)
    timesteps = schedulers.set_timesteps(scheduler, 2)
    track = frames.Track(scheduler, timesteps, torch.zeros(1, 16, 4, 4), Conditioning(torch.zeros(1, 77, 32)))
    with pytest.raises(StudioError, match="numbers overflowed"):
        frames.advance(parts.unet, [track], None, 1.0, lambda index: torch.zeros(1, 16, 4, 4))


def test_what_overflows_in_half_precision_is_drawn_in_full(engine: Engine, monkeypatch) -> None:
    parts = engine.components("tiny")
    for part in (parts.unet, parts.text_encoder, parts.vae):
        part.half()
    parts.dtype = torch.float16
    parts.text_cache.clear()
    halves = one(engine)
    weights = {name: value.clone() for name, value in parts.unet.state_dict().items()}
    spoil(parts, monkeypatch, float("inf"), only=torch.float16)
    drawn = one(engine)
    assert np.abs(drawn.astype(int) - halves.astype(int)).mean() < 3, "the same picture, but for rounding"
    assert parts.dtype == parts.unet.dtype == parts.text_encoder.dtype == torch.float16
    assert all(torch.equal(value, weights[name]) for name, value in parts.unet.state_dict().items())


# --- memory that a sketch leaves taken ------------------------------------------------------------------------------


@pytest.fixture
def sketched(engine: Engine, tmp_path: Path) -> Engine:
    lines = Image.new("RGB", (64, 64), "white")
    lines.paste((0, 0, 0), (10, 10, 50, 20))
    lines.save(tmp_path / "lines.png")
    one(engine, control=ControlSpec(image=str(tmp_path / "lines.png"), kind="lines"))
    assert len(engine.components("tiny").controls) == 1
    return engine


def test_a_controlnet_stays_while_there_is_memory(sketched: Engine) -> None:
    one(sketched)
    assert len(sketched.components("tiny").controls) == 1


def test_a_controlnet_leaves_when_a_plain_picture_needs_its_memory(sketched: Engine, monkeypatch) -> None:
    parts = sketched.components("tiny")
    beside = memory.step_bytes(parts, 64, 64, True)
    kept, parts.controls = parts.controls, {}
    alone = max(memory.step_bytes(parts, 64, 64, True), memory.decode_bytes(parts, 64, 64))
    parts.controls = kept
    assert alone < beside, "or this test shows nothing"
    monkeypatch.setattr(memory, "free", lambda device: int((alone + beside) / 2 / memory.SHARE))
    with pytest.raises(OutOfMemory):
        memory.batch_size(parts, 64, 64, True, 1)
    one(sketched)
    assert parts.controls == {}


def test_a_card_draws_as_many_at_once_as_before_the_sketch(sketched: Engine, monkeypatch) -> None:
    parts = sketched.components("tiny")
    parts.device = torch.device("cuda")  # the figures of a card; nothing is drawn
    kept, parts.controls = parts.controls, {}
    alone = memory.step_bytes(parts, 64, 64, True)
    parts.controls = kept
    monkeypatch.setattr(memory, "free", lambda device: int(8.5 * alone / memory.SHARE))
    assert memory.batch_size(parts, 64, 64, True, 8) < 8
    drawing.make_room(parts, recipe(), 8, sketched.settings)
    assert memory.batch_size(parts, 64, 64, True, 8) == 8
