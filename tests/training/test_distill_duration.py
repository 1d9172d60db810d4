"""How long a distillation takes is said before it begins, and what it begins with depends on the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from support.checkpoints import tiny_sd

from studio.core.presets import distill_defaults
from studio.core.settings import EMBEDDED_MODEL, Settings
from studio.core.specs import LcmSpec
from studio.engine import devices
from studio.engine.devices import Card
from studio.service.runs import TrainingRuns
from studio.training.distill.duration import duration, seconds_per_call

T4 = Card("Tesla T4", "580.65", (7, 5), 15 * 2**30)
A100 = Card("NVIDIA A100", "580.65", (8, 0), 40 * 2**30)
RTX_4090_LAPTOP = Card("NVIDIA GeForce RTX 4090 Laptop GPU", "580.65", (8, 9), 16 * 2**30)


def test_calls_are_counted_as_the_trainer_makes_them() -> None:
    spec = LcmSpec(model="x", latents=100, epochs=2, steps_per_epoch=50, batch_size=4)
    told = duration(spec, teacher_steps=20, guidance=7.0, seconds_per_call=0.1)
    assert told.latents == pytest.approx(100 * 20 * 2 * 0.1)  # both branches of each step of each picture
    assert told.steps == pytest.approx(100 * 4 * 6 * 0.1)
    assert told.sentence.startswith("This run takes about 11 minutes, of which 7 minutes go by before the first step")
    assert duration(spec, 20, 1.0, 0.1).latents == told.latents / 2
    assert duration(spec.model_copy(update={"data": "pictures"}), 20, 7.0, 0.1).latents == 0
    assert duration(spec.model_copy(update={"gradient_checkpointing": True}), 20, 7.0, 0.1).steps > told.steps
    assert duration(spec.model_copy(update={"objective": "dmd"}), 20, 7.0, 0.1).steps > 1.2 * told.steps


def test_a_call_is_timed_where_the_network_is_and_draws_no_lots(tmp_path: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(tiny_sd(tmp_path / "tiny") / "unet")
    before = torch.get_rng_state()
    assert 0 < seconds_per_call(unet, 8, 77) < 5
    assert torch.equal(torch.get_rng_state(), before), "a run that is resumed makes the same steps"


@pytest.mark.parametrize(
    ("cards", "kind"),
    [((T4,), "small card"), ((RTX_4090_LAPTOP,), "small card"), ((T4, A100), "large card"), ((), "small card")],
)
def test_what_a_run_begins_with_depends_on_the_machine(monkeypatch, cards: tuple[Card, ...], kind: str) -> None:
    monkeypatch.setattr(devices, "cards", lambda: cards)
    cuda, processor = Settings(device="cuda"), Settings(device="cpu")
    assert (devices.training_kind(cuda), devices.training_kind(processor)) == (kind, "processor")
    model = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    begins = [LcmSpec(**TrainingRuns(one).defaults("lcm", model, {})) for one in (cuda, processor)]
    assert begins[0].latents == (2000 if kind == "large card" else 500)
    assert begins[1].latents < begins[0].latents
    times = [duration(spec, 20, 7.0, 1.0) for spec in begins]
    assert times[1].latents + times[1].steps < times[0].latents + times[0].steps
    assert TrainingRuns(processor).defaults("lcm", "embedded", {}) == distill_defaults("embedded"), "it is small"
    small = str(EMBEDDED_MODEL)
    assert TrainingRuns(processor).defaults("lcm", small, {}) == {"model": small}
