"""Epsilon, v and x_0: every conversion is undone by its inverse and agrees with diffusers' schedulers."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from studio.core.errors import BadInput
from studio.engine.diffusion import parameterization as p

KINDS: tuple[p.PredictionType, ...] = ("epsilon", "v_prediction", "sample")
CONFIG = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x_0, epsilon = torch.randn(2, 3, 4, 8, 8, generator=generator)
    return x_0, epsilon, torch.tensor([20, 500, 900])


@pytest.mark.parametrize("kind", KINDS)
def test_x0_and_epsilon_come_back_from_what_a_perfect_network_says(kind: p.PredictionType, batch: tuple) -> None:
    x_0, epsilon, t = batch
    alpha, sigma = p.NoiseSchedule.from_config(CONFIG).at(t)
    x_t = p.add_noise(x_0, epsilon, alpha, sigma)
    output = p.from_x0_and_epsilon(x_0, epsilon, alpha, sigma, kind)
    torch.testing.assert_close(p.to_x0(output, x_t, alpha, sigma, kind), x_0, rtol=0, atol=2e-5)
    torch.testing.assert_close(p.to_epsilon(output, x_t, alpha, sigma, kind), epsilon, rtol=0, atol=2e-5)


def test_noise_and_velocity_are_those_of_diffusers(batch: tuple) -> None:
    x_0, epsilon, t = batch
    scheduler = DDPMScheduler(**CONFIG)
    schedule = p.NoiseSchedule.from_config(CONFIG)
    alpha, sigma = schedule.at(t)
    assert len(schedule) == 1000
    torch.testing.assert_close(p.add_noise(x_0, epsilon, alpha, sigma), scheduler.add_noise(x_0, epsilon, t))
    velocity = p.from_x0_and_epsilon(x_0, epsilon, alpha, sigma, "v_prediction")
    torch.testing.assert_close(velocity, scheduler.get_velocity(x_0, epsilon, t))


@pytest.mark.parametrize("kind", KINDS)
def test_x0_is_the_estimate_that_a_scheduler_makes_of_the_same_output(kind: p.PredictionType, batch: tuple) -> None:
    x_t, output, _ = batch
    scheduler = DDIMScheduler(**CONFIG, prediction_type=kind, clip_sample=False)
    scheduler.set_timesteps(10)
    t = scheduler.timesteps[4]
    alpha, sigma = p.NoiseSchedule.from_alphas_cumprod(scheduler.alphas_cumprod).at(t[None])
    expected = scheduler.step(output, int(t), x_t).pred_original_sample
    torch.testing.assert_close(p.to_x0(output, x_t, alpha, sigma, kind), expected, rtol=1e-5, atol=1e-5)


def test_a_schedule_that_ends_in_pure_noise_has_no_signal_there() -> None:
    schedule = p.NoiseSchedule.from_config(CONFIG | {"rescale_betas_zero_snr": True})
    t = torch.tensor([0, 999])
    assert schedule.alpha[-1] == 0
    assert schedule.sigma[-1] == 1
    assert schedule.snr(t)[1] == 0
    assert schedule.snr(t)[0] > 1000


def test_an_unknown_prediction_is_refused_and_a_missing_one_is_epsilon() -> None:
    assert p.prediction_type({}) == "epsilon"
    assert p.prediction_type({"prediction_type": "v_prediction"}) == "v_prediction"
    with pytest.raises(BadInput, match="flow_prediction"):
        p.prediction_type({"prediction_type": "flow_prediction"})
