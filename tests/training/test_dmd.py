"""Distribution matching against hand-worked numbers, and on a world small enough to know its answer."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from pydantic import ValidationError
from torch import Tensor

from studio.core.specs import LcmSpec
from studio.engine.diffusion.parameterization import NoiseSchedule
from studio.training.distill import adversary, dmd
from studio.training.distill import consistency as lcd
from studio.training.distill.student import LoraStudent

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TARGETS = ("to_q", "to_v", "conv1")


@pytest.fixture
def grid() -> lcd.SolverGrid:
    return lcd.SolverGrid.over(NoiseSchedule.from_config(SCHEDULE), 50)


def test_the_direction_by_hand() -> None:
    z_0 = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
    teacher = torch.tensor([0.0, 0.0]).view(1, 1, 1, 2)
    critic = torch.tensor([4.0, -2.0]).view(1, 1, 1, 2)
    assert dmd.direction(z_0, teacher, critic).flatten().tolist() == [2.0, -1.0]  # over mean |z_0 - teacher| = 2
    assert dmd.direction(z_0, teacher, teacher).abs().max() == 0


def test_chance_is_a_function_of_seed_and_step() -> None:
    shape = torch.Size([4, 8, 8])
    a, b = (dmd.step_noise(6, shape, 4, 1, 7) for _ in range(2))
    other = dmd.step_noise(6, shape, 4, 1, 8)
    assert a.last == b.last
    for name in ("noise", "t", "epsilon", "critic_t", "critic_epsilon"):
        assert torch.equal(getattr(a, name), getattr(b, name))
        assert not torch.equal(getattr(a, name), getattr(other, name))
    part = a.part(slice(2, 5), torch.device("cpu"))
    assert torch.equal(part.noise, a.noise[2:5])
    assert part.last == a.last
    assert {dmd.step_noise(1, shape, 4, 1, step).last for step in range(40)} == {0, 1, 2, 3}
    assert int(a.t.min()) >= dmd.LOWEST
    assert int(a.critic_t.max()) < dmd.HIGHEST


class Point:
    """A student whose every picture is one colour, `value`; its teacher's pictures are all of another one."""

    def __init__(self, grid: lcd.SolverGrid, value: float, teacher: float) -> None:
        self.grid, self.value, self.colour = grid, torch.tensor(value, requires_grad=True), teacher

    def student(self, z: Tensor, t: Tensor, text: Tensor, w: Tensor) -> Tensor:
        return self.value.expand_as(z)

    def teacher(self, z: Tensor, t: Tensor, text: Tensor, empty: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(z, self.colour), torch.full_like(z, self.colour)


def test_a_student_is_led_to_its_teacher_and_then_left_alone(grid: lcd.SolverGrid) -> None:
    student, critic = Point(grid, -1.0, 0.5), Point(grid, -1.0, 0.0)
    networks = dmd.Networks(student, critic, grid, "sample", [999, 759, 499, 259], torch.zeros(1, 3, 2), torch.float32)  # type: ignore[arg-type]
    learns = torch.optim.SGD([student.value], lr=0.2)
    follows = torch.optim.SGD([critic.value], lr=0.4)
    text, w = torch.zeros(4, 3, 2), torch.ones(4)
    for step in range(120):
        chance = dmd.step_noise(4, torch.Size([1, 2, 2]), 4, 0, step)
        loss, z_0 = networks.student_loss(chance, text, w)
        assert not z_0.requires_grad
        learns.zero_grad()
        loss.backward()
        assert critic.value.grad is None  # the student's loss teaches nobody else
        learns.step()
        learns.zero_grad()
        for k in range(dmd.CRITIC_STEPS):
            follows.zero_grad()
            networks.critic_loss(k, z_0, chance, text, w).backward()
            follows.step()
        assert student.value.grad is None
        follows.zero_grad()
    assert student.value.item() == pytest.approx(0.5, abs=0.1)
    assert critic.value.item() == pytest.approx(student.value.item(), abs=0.1)


def test_drawing_asks_from_pure_noise_down(grid: lcd.SolverGrid) -> None:
    asked: list[tuple[int, float]] = []

    class Listener(Point):
        def student(self, z: Tensor, t: Tensor, text: Tensor, w: Tensor) -> Tensor:
            asked.append((int(t[0]), float(z.std())))
            return super().student(z, t, text, w)

    networks = dmd.Networks(
        Listener(grid, 0.0, 0.0),
        Point(grid, 0.0, 0.0),
        grid,
        "sample",
        [999, 759, 499, 259],
        torch.zeros(1, 3, 2),
        torch.float32,
    )  # type: ignore[arg-type]
    step = next(k for k in range(40) if dmd.step_noise(64, torch.Size([1, 8, 8]), 4, 0, k).last == 3)
    networks.generate(dmd.step_noise(64, torch.Size([1, 8, 8]), 4, 0, step), torch.zeros(64, 3, 2), torch.ones(64))
    assert [t for t, _ in asked] == [999, 759, 499, 259]
    for t, spread in asked[1:]:  # of a black picture nothing is left but the noise of its time
        assert spread == pytest.approx(float(grid.schedule.sigma[t]), rel=0.05)
    assert asked[0][1] == pytest.approx(1, rel=0.05)


def test_a_critic_takes_no_second_unet() -> None:
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, cross_attention_dim=8, attention_head_dim=2,
        norm_num_groups=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    before = dict(unet.named_parameters())
    critic = dmd.make_critic(unet, TARGETS, 2)
    names = dict(unet.named_parameters())
    assert names.keys() == before.keys()
    assert {p.data_ptr() for p in names.values()} < {p.data_ptr() for p in critic.unet.parameters()}
    assert all("lora" in name for name in critic.trainable)
    assert critic.average.tensors == {}  # nobody draws with it


def test_a_whole_model_is_not_matched() -> None:
    with pytest.raises(ValidationError, match="DMD makes a LoRA"):
        LcmSpec(form="full", objective="dmd")


@pytest.mark.parametrize("asked", [{"objective": "dmd"}, {"objective": "pcm", "data": "pictures"}])
def test_an_adversary_needs_pictures(asked: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="an adversary needs the method DMD, and pictures of your own"):
        LcmSpec.model_validate(asked | {"adversarial_weight": 0.003})
    assert LcmSpec(objective="dmd", data="pictures", adversarial_weight=0.003).adversarial_weight == 0.003


def test_real_pictures_lead_a_student_on_where_its_teacher_has_no_more_to_say(grid: lcd.SolverGrid) -> None:
    """The teacher's pictures are 0, as the student's; the real ones are 1."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=4, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1,
        cross_attention_dim=8, attention_head_dim=2, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    critic = LoraStudent(unet, TARGETS, 4, averaged=False)
    head, student = adversary.make_head(critic), Point(grid, 0.0, 0.0)
    times, empty = [999, 759, 499, 259], torch.zeros(1, 3, 8)
    learning = [*critic.trainable.values(), *head.parameters()]
    follows = torch.optim.Adam(learning, lr=1e-2)
    text, w, real = torch.zeros(8, 3, 8), torch.ones(8), torch.ones(8, 1, 4, 4)
    alone, led = (
        dmd.Networks(student, critic, grid, "sample", times, empty, torch.float32, head, weight)  # type: ignore[arg-type]
        for weight in (0.0, 1.0)
    )
    for step in range(40):
        follows.zero_grad()
        led.critic_loss(0, torch.zeros(8, 1, 4, 4), chance(step), text, w, real).backward()
        follows.step()
    follows.zero_grad()

    def pull(networks: dmd.Networks) -> float:
        """The mean gradient at the student's value."""
        student.value.grad = None
        for step in range(40, 48):
            networks.student_loss(chance(step), text, w)[0].backward()
        assert student.value.grad is not None
        return float(student.value.grad)

    assert pull(led) < pull(alone) - 1e-3  # up, to the real ones
    assert all(p.grad is None for p in learning)  # the student's loss teaches nobody else


def chance(step: int) -> dmd.StepNoise:
    return dmd.step_noise(8, torch.Size([1, 4, 4]), 4, 0, step)
