"""Latent consistency distillation against numbers worked by hand, and against diffusers' own schedulers."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, TCDScheduler

from studio.engine.diffusion.parameterization import NoiseSchedule, PredictionType, add_noise
from studio.training.distill import consistency as lcd
from studio.training.runtime.average import MovingAverage

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def solver_grid(alphas_cumprod: torch.Tensor, points: int = lcd.GRID) -> lcd.SolverGrid:
    return lcd.SolverGrid.over(NoiseSchedule.from_alphas_cumprod(alphas_cumprod), points)


@pytest.fixture
def grid() -> lcd.SolverGrid:
    return solver_grid(DDIMScheduler(**SCHEDULE).alphas_cumprod)


def latent(seed: int, n: int = 3) -> torch.Tensor:
    return torch.randn(n, 4, 2, 2, generator=torch.Generator().manual_seed(seed))


def as_velocity(noise: torch.Tensor, z: torch.Tensor, t: torch.Tensor, grid: lcd.SolverGrid) -> torch.Tensor:
    """v of a network that predicts `noise` at (z, t): alpha epsilon - sigma z_0."""
    alpha, sigma = lcd.spread(grid.schedule.alpha[t], z), lcd.spread(grid.schedule.sigma[t], z)
    return alpha * noise - sigma * (z - sigma * noise) / alpha


def test_the_grid_holds_the_papers_times(grid: lcd.SolverGrid) -> None:
    assert grid.points == 50
    assert grid.times.tolist() == [0, *range(19, 1000, 20)]
    assert grid.schedule.alpha[0] < 1  # index 0 is a noise level of the schedule and not a clean picture


@pytest.mark.parametrize("points", [0, 3, 1001])
def test_a_grid_that_does_not_divide_the_schedule_is_refused(points: int) -> None:
    with pytest.raises(ValueError, match="equal jumps"):
        solver_grid(torch.linspace(0.99, 0.01, 1000), points)


def test_boundary_scalings_at_the_times_that_matter() -> None:
    c_skip, c_out = lcd.boundary_scalings(torch.tensor([0, 19, 999]))
    assert (c_skip[0], c_out[0]) == (1, 0)  # exactly
    assert c_skip[1].item() == pytest.approx(0.25 / (190**2 + 0.25), rel=1e-5)
    assert c_skip[1].item() == pytest.approx(6.925e-6, rel=1e-3)
    assert c_out[1].item() == pytest.approx(0.9999965, abs=1e-7)
    assert c_skip[2].item() == pytest.approx(2.5e-9, rel=2e-2)
    assert c_out[2].item() == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("t", [0, 19, 259, 999])
def test_boundary_scalings_are_the_lcm_schedulers(t: int) -> None:
    scheduler = LCMScheduler(**SCHEDULE)
    scheduler.sigma_data = 0.5
    theirs = scheduler.get_scalings_for_boundary_condition_discrete(torch.tensor(float(t)))
    ours = lcd.boundary_scalings(torch.tensor([t]))
    torch.testing.assert_close(torch.cat(ours), torch.stack([torch.as_tensor(x) for x in theirs]).float())


@pytest.mark.parametrize(
    ("steps", "times"),
    [
        (1, [999]),
        (2, [999, 499]),
        (4, [999, 759, 499, 259]),
        (8, [999, 879, 759, 639, 499, 379, 259, 139]),
    ],
)
def test_inference_times(grid: lcd.SolverGrid, steps: int, times: list[int]) -> None:
    assert grid.inference_times(steps) == times
    for scheduler in (LCMScheduler(**SCHEDULE), TCDScheduler(**SCHEDULE)):
        scheduler.set_timesteps(steps)
        assert scheduler.timesteps.tolist() == times


@pytest.mark.parametrize("steps", [0, 51])
def test_more_steps_than_the_grid_has_are_refused(grid: lcd.SolverGrid, steps: int) -> None:
    with pytest.raises(ValueError, match="no schedule"):
        grid.inference_times(steps)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_target_at_the_lowest_pair_is_the_teachers_latent(grid: lcd.SolverGrid, kind: PredictionType) -> None:
    z_s = latent(1)
    target = lcd.consistency_function(latent(2) * 100, z_s, torch.zeros(3, dtype=torch.long), grid, kind)
    assert torch.equal(target, z_s)


def test_epsilon_and_v_prediction_agree_for_equal_networks(grid: lcd.SolverGrid) -> None:
    z, noise, t = latent(1), latent(2), torch.tensor([19, 499, 999])
    velocity = as_velocity(noise, z, t, grid)
    s, w = torch.tensor([0, 479, 979]), torch.tensor([2.0, 3.5, 5.0])
    other = latent(3)
    other_velocity = as_velocity(other, z, t, grid)
    pairs = [
        (
            lcd.consistency_function(noise, z, t, grid, "epsilon"),
            lcd.consistency_function(velocity, z, t, grid, "v_prediction"),
        ),
        (
            lcd.teacher_step(noise, other, z, t, s, w, grid, "epsilon"),
            lcd.teacher_step(velocity, other_velocity, z, t, s, w, grid, "v_prediction"),
        ),
        (
            lcd.trajectory_function(noise, z, t, s, grid, "epsilon"),
            lcd.trajectory_function(velocity, z, t, s, grid, "v_prediction"),
        ),
    ]
    for first, second in pairs:
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_teachers_step_is_guided_ddim(grid: lcd.SolverGrid, kind: PredictionType) -> None:
    scheduler = DDIMScheduler(**SCHEDULE, prediction_type=kind, clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(50)
    z_t, conditional, unconditional = latent(1, 1), latent(2, 1), latent(3, 1)
    for t, s in ((999, 979), (519, 499), (39, 19)):
        ours = lcd.teacher_step(
            conditional, unconditional, z_t, torch.tensor([t]), torch.tensor([s]), torch.tensor([3.0]), grid, kind
        )
        # the pipelines' guidance_scale is the paper's w plus one
        output = unconditional + 4.0 * (conditional - unconditional)
        torch.testing.assert_close(ours, scheduler.step(output, t, z_t).prev_sample, rtol=1e-4, atol=1e-4)


def test_a_trajectory_jump_is_a_ddim_jump(grid: lcd.SolverGrid) -> None:
    """TCD's own formula, exp(-h) and all, is `ddim_jump`."""
    z, noise = latent(1), latent(2)
    t, e = torch.tensor([999, 519, 39]), torch.tensor([499, 0, 19])
    ours = lcd.trajectory_function(noise, z, t, e, grid, "epsilon")
    for row, (at, to) in enumerate(zip(t.tolist(), e.tolist(), strict=True)):
        alpha_t, sigma_t = grid.schedule.alpha[at].double(), grid.schedule.sigma[at].double()
        alpha_e, sigma_e = grid.schedule.alpha[to].double(), grid.schedule.sigma[to].double()
        z_0 = (z[row].double() - sigma_t * noise[row]) / alpha_t
        h = torch.log(alpha_e / sigma_e) - torch.log(alpha_t / sigma_t)
        formula = sigma_e / sigma_t * z[row] - alpha_e * (torch.exp(-h) - 1) * z_0
        torch.testing.assert_close(ours[row].double(), formula, rtol=1e-4, atol=1e-4)
        assert torch.allclose(ours[row], lcd.ddim_jump(z_0[None].float(), noise[row][None], e[row : row + 1], grid)[0])
    stay = lcd.trajectory_function(noise, z, t, t, grid, "epsilon")
    torch.testing.assert_close(stay, z, rtol=1e-4, atol=1e-4)


def test_one_training_step_by_hand(grid: lcd.SolverGrid) -> None:
    """A 2x2 latent of one channel, t = 519 and s = 499, every number worked with plain floats."""
    beta = [(math.sqrt(0.00085) + i / 999 * (math.sqrt(0.012) - math.sqrt(0.00085))) ** 2 for i in range(1000)]

    def abar(t: int) -> float:
        return math.prod(1 - b for b in beta[: t + 1])

    z_0, noise = [0.5, -1.0, 0.25, 2.0], [0.1, 0.2, -0.3, 0.4]
    says = {
        "student": [0.2, 0.1, -0.1, 0.3],
        "c": [0.3, 0.0, 0.1, 0.2],
        "u": [0.1, 0.1, 0.0, 0.1],
        "ema": [0.0, 0.4, 0.2, 0.1],
    }
    w, c = 2.5, 1e-3
    alpha, sigma = math.sqrt(abar(519)), math.sqrt(1 - abar(519))
    alpha_s, sigma_s = math.sqrt(abar(499)), math.sqrt(1 - abar(499))
    skip, out = 0.25 / (5190**2 + 0.25), 5190 / math.sqrt(5190**2 + 0.25)
    skip_s, out_s = 0.25 / (4990**2 + 0.25), 4990 / math.sqrt(4990**2 + 0.25)
    huber = squares = 0.0
    for i in range(4):
        z_t = alpha * z_0[i] + sigma * noise[i]
        f = skip * z_t + out * (z_t - sigma * says["student"][i]) / alpha
        epsilon = says["c"][i] + w * (says["c"][i] - says["u"][i])
        z_s = alpha_s * (z_t - sigma * epsilon) / alpha + sigma_s * epsilon
        target = skip_s * z_s + out_s * (z_s - sigma_s * says["ema"][i]) / alpha_s
        huber += (math.sqrt((f - target) ** 2 + c * c) - c) / 4
        squares += (f - target) ** 2 / 4

    def tensor(values: list[float]) -> torch.Tensor:
        return torch.tensor(values).view(1, 1, 2, 2)

    t, s = torch.tensor([519]), torch.tensor([499])
    z_t = add_noise(tensor(z_0), tensor(noise), *grid.schedule.at(t))
    f = lcd.consistency_function(tensor(says["student"]), z_t, t, grid, "epsilon")
    z_s = lcd.teacher_step(tensor(says["c"]), tensor(says["u"]), z_t, t, s, torch.tensor([w]), grid, "epsilon")
    target = lcd.consistency_function(tensor(says["ema"]), z_s, s, grid, "epsilon")
    assert lcd.distance(f, target, "huber", c).item() == pytest.approx(huber, rel=1e-4)
    assert lcd.distance(f, target, "l2").item() == pytest.approx(squares, rel=1e-4)


def test_huber_is_square_when_small_and_absolute_when_large() -> None:
    zero = torch.zeros(1)
    assert lcd.distance(torch.tensor([1e-5]), zero, "huber").item() == pytest.approx(1e-10 / (2 * 1e-3), rel=1e-2)
    assert lcd.distance(torch.tensor([10.0]), zero, "huber").item() == pytest.approx(10.0 - 1e-3, rel=1e-4)


def test_no_guidance_is_the_conditional_output() -> None:
    conditional, unconditional = latent(1), latent(2)
    assert torch.equal(lcd.guided(conditional, unconditional, torch.zeros(3)), conditional)


def test_the_target_moves_towards_the_student() -> None:
    student = {"w": torch.ones(2, requires_grad=True)}
    target = MovingAverage(student, 0.75, constant=True, tensors={"w": torch.zeros(2)})
    target.update(0)
    target.update(1)
    torch.testing.assert_close(target.tensors["w"], torch.full((2,), 1 - 0.75**2))
    assert not target.tensors["w"].requires_grad


def test_a_student_consistent_everywhere_knows_where_the_teacher_ends(grid: lcd.SolverGrid) -> None:
    """On Gaussian data the guided teacher is linear; then so is the student whose loss is zero on all 50 pairs.

    Anchored at t = 0 only, it says at t = 999 in one step what the teacher finds in 50.
    """
    w = torch.tensor([1.5])

    def teacher(z: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        alpha, sigma = lcd.spread(grid.schedule.alpha[t], z), lcd.spread(grid.schedule.sigma[t], z)
        conditional = sigma * z / (0.6 * alpha.square() + sigma.square())  # exact for variance 0.6
        return lcd.teacher_step(conditional, 0.9 * conditional, z, t, s, w, grid, "epsilon")

    def student(z: torch.Tensor, t: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        said = (z - lcd.spread(grid.schedule.alpha[t], z) * gain * z) / lcd.spread(
            grid.schedule.sigma[t], z
        )  # so that z_0-hat = gain z
        return lcd.consistency_function(said, z, t, grid, "epsilon")

    one, gain = torch.ones(1, 1, 1, 1), torch.ones(1)
    start = latent(1, 1)
    for n in range(grid.points):
        t, s = grid.times[n + 1].view(1), grid.times[n].view(1)
        below, gain = gain, gain * teacher(one, t, s).view(1)  # the gain at t that makes this pair's loss zero
        loss = lcd.distance(student(start, t, gain), student(teacher(start, t, s), s, below), "l2")
        assert loss.item() < 1e-6
    z = start
    for n in reversed(range(grid.points)):
        z = teacher(z, grid.times[n + 1].view(1), grid.times[n].view(1))
    torch.testing.assert_close(student(start, torch.tensor([999]), gain), z, rtol=1e-3, atol=1e-4)


def test_phases_end_where_the_steps_of_drawing_do() -> None:
    """PCM: four phases on a grid of 40 are DDIM's jumps with "trailing" steps; the lowest of each is a boundary."""
    scheduler = DDIMScheduler(**SCHEDULE, timestep_spacing="trailing")
    scheduler.set_timesteps(4)
    grid = solver_grid(scheduler.alphas_cumprod, 40)
    n = torch.arange(40)
    ends = lcd.phase_end(n, grid, 4)
    assert sorted({int(grid.times[end]) for end in ends}) == [0, 249, 499, 749]
    assert [int(t) for t in scheduler.timesteps] == [999, 749, 499, 249]
    assert torch.all(ends <= n)
    assert torch.equal(ends[[0, 10, 20, 30]], n[[0, 10, 20, 30]])  # there the target is z_s itself
    asked = lcd.drawn_from(n, grid, 4)
    assert sorted({int(grid.times[place + 1]) for place in asked}) == [124, 249, 374, 499, 624, 749, 874, 999]
    assert torch.equal(lcd.phase_end(asked, grid, 4), ends)  # nobody changes phase
    with pytest.raises(ValueError, match="equal phases"):
        lcd.phase_end(n, grid, 3)
