"""DMD2's adversary on a UNet small enough to learn in seconds."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

from studio.training.distill import adversary
from studio.training.distill.student import LoraStudent


@pytest.fixture
def critic() -> LoraStudent:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=2, out_channels=2, block_out_channels=(8, 16), layers_per_block=1,
        cross_attention_dim=8, attention_head_dim=2, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    return LoraStudent(unet, ("to_q", "conv1"), 2)


def ask(critic: LoraStudent, z: torch.Tensor) -> torch.Tensor:
    return adversary.features(critic, z, torch.full((len(z),), 100), torch.zeros(len(z), 3, 8), torch.ones(len(z)))


def test_features_are_the_middle_of_the_unet_and_nothing_is_left_on_it(critic: LoraStudent) -> None:
    z, seen = torch.randn(2, 2, 8, 8), []
    handle = critic.unet.mid_block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    critic.student(z, torch.full((2,), 100), torch.zeros(2, 3, 8), torch.ones(2))
    handle.remove()
    assert torch.equal(ask(critic, z), seen[0])
    assert not critic.unet.mid_block._forward_hooks


def test_gradients_reach_latents_and_critic(critic: LoraStudent) -> None:
    head, z = adversary.make_head(critic), torch.randn(2, 2, 8, 8, requires_grad=True)
    adversary.student_loss(head(ask(critic, z))).backward()
    assert z.grad is not None
    assert float(z.grad.abs().max()) > 0
    reached = [name for name, p in critic.trainable.items() if p.grad is not None and float(p.grad.abs().max()) > 0]
    assert any("mid_block" in name for name in reached)
    assert not any("up_blocks" in name for name in reached)


def test_the_losses_by_hand() -> None:
    zero = torch.zeros(3, 1, 2, 2)
    assert float(adversary.student_loss(zero)) == pytest.approx(0.6931, abs=1e-4)  # ln 2
    assert float(adversary.head_loss(zero, zero)) == pytest.approx(2 * 0.6931, abs=1e-4)
    assert float(adversary.head_loss(zero + 20, zero - 20)) == pytest.approx(0, abs=1e-6)
    assert float(adversary.student_loss(zero - 20)) == pytest.approx(20, abs=1e-4)


def test_what_is_drawn_is_led_to_what_is_real(critic: LoraStudent) -> None:
    """Real latents are +1 with grain; drawn ones begin at -1 and follow the head."""
    head, generator = adversary.make_head(critic), torch.Generator().manual_seed(0)
    drawn = torch.full((1, 2, 1, 1), -1.0, requires_grad=True)
    learns = torch.optim.Adam([*head.parameters(), *critic.trainable.values()], lr=3e-3)
    moves = torch.optim.Adam([drawn], lr=5e-2, betas=(0.0, 0.99))

    def grain() -> torch.Tensor:
        return 0.3 * torch.randn(4, 2, 8, 8, generator=generator)

    for _ in range(80):
        real, made = 1 + grain(), drawn + grain()
        learns.zero_grad()
        adversary.head_loss(head(ask(critic, real)), head(ask(critic, made.detach()))).backward()
        learns.step()
        moves.zero_grad()
        adversary.student_loss(head(ask(critic, made))).backward()
        moves.step()
    assert float(drawn.detach().mean()) > 0
