"""Frozen layers that keep less: the same numbers, with less memory."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.activations import GEGLU
from peft import LoraConfig
from torch import Tensor, nn

from studio.training.runtime.saved_activations import save_fewer_activations


def learner() -> UNet2DConditionModel:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=12, attention_head_dim=2,
        norm_num_groups=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    return unet.train()


def trained(unet: UNet2DConditionModel, dtype: torch.dtype) -> tuple[Tensor, list[Tensor], int]:
    """Output, gradients, and bytes kept for the backward pass beside the weights."""
    kept: dict[int, int] = {}
    own = {p.untyped_storage()._cdata for p in unet.parameters()}

    def count(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, unet.config.in_channels, 16, 16, generator=g)
    text = torch.randn(2, 7, unet.config.cross_attention_dim, generator=g)
    with (
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
        torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
    ):
        said = unet(x, torch.tensor([3, 700]), text).sample
        loss = said.float().square().mean()
    size = sum(kept.values())
    loss.backward()
    gradients = [p.grad.clone() for p in unet.parameters() if p.grad is not None]
    unet.zero_grad(set_to_none=True)
    return said.detach(), gradients, size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_in_less_memory(dtype: torch.dtype) -> None:
    unet = learner()
    said, gradients, size = trained(unet, dtype)
    save_fewer_activations(unet)
    said_now, gradients_now, size_now = trained(unet, dtype)
    assert torch.equal(said, said_now)
    assert len(gradients) == len(gradients_now) > 4
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_now, strict=True))
    assert size_now < 0.85 * size


def test_what_learns_still_learns() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.Conv2d(4, 4, 1))
    model[0].requires_grad_(False)
    save_fewer_activations(model)
    x = torch.randn(1, 3, 6, 6, requires_grad=True)
    model(x).square().sum().backward()
    assert model[1].weight.grad is not None
    assert model[0].weight.grad is None
    assert x.grad is not None


def test_gradients_of_both_layers_by_differences() -> None:
    torch.manual_seed(0)
    gate, conv = GEGLU(3, 4).double(), nn.Conv2d(2, 4, 3, stride=2, padding=1, dilation=1, groups=2).double()
    conv.requires_grad_(False)
    save_fewer_activations(nn.ModuleList([gate, conv]))
    assert torch.autograd.gradcheck(gate, torch.randn(2, 3, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(conv, torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True))
