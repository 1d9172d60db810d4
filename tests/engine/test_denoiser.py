"""The denoiser on tiny real UNets: everything that a UNet can be told arrives there, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from studio.engine.diffusion.conditioning import Conditioning
from studio.engine.diffusion.control import Control
from studio.engine.diffusion.denoiser import Denoiser, embed_guidance

POOLED, IDS = 12, 8  # widths of the second encoder's summary and of each embedded size


def tiny_unet(**config: object) -> UNet2DConditionModel:
    torch.manual_seed(0)
    made = UNet2DConditionModel(**{
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 24, "attention_head_dim": 4, "norm_num_groups": 4, **config,
    })  # fmt: skip
    return made.eval().requires_grad_(False)


def sdxl_unet(**config: object) -> UNet2DConditionModel:
    """With the added conditions of SDXL: a pooled text and six sizes."""
    return tiny_unet(
        addition_embed_type="text_time", addition_time_embed_dim=IDS,
        projection_class_embeddings_input_dim=POOLED + 6 * IDS, **config,
    )  # fmt: skip


def words(seed: int, rows: int = 2, sdxl: bool = False) -> Conditioning:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(rows, 7, 24, generator=generator)
    if not sdxl:
        return Conditioning(embeddings)
    sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(rows, -1)
    return Conditioning(embeddings, torch.randn(rows, POOLED, generator=generator), {"time_ids": sizes})


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(9))


T = torch.tensor(321)


@torch.no_grad()
def test_pooled_text_and_sizes_reach_the_unet(x: torch.Tensor) -> None:
    unet, text = sdxl_unet(), words(1, sdxl=True)
    expected = unet(
        x, T, text.embeddings, added_cond_kwargs={"text_embeds": text.pooled, "time_ids": text.added["time_ids"]}
    ).sample
    assert torch.equal(Denoiser(unet, text)(x, T), expected)
    other = replace(text, pooled=text.pooled + 1)
    cropped = replace(text, added={"time_ids": text.added["time_ids"] + 8})
    assert not torch.allclose(Denoiser(unet, other)(x, T), expected)
    assert not torch.allclose(Denoiser(unet, cropped)(x, T), expected)


@pytest.mark.parametrize("sdxl", [False, True])
@torch.no_grad()
def test_guidance_is_between_and_beyond_the_two_branches(sdxl: bool, x: torch.Tensor) -> None:
    unet, text, empty = sdxl_unet() if sdxl else tiny_unet(), words(1, sdxl=sdxl), words(2, 1, sdxl)
    conditional, unconditional = Denoiser(unet, text)(x, T), Denoiser(unet, empty)(x, T)
    both = Denoiser(unet, text, empty, 5.0)
    torch.testing.assert_close(both.branches(x, T), (unconditional, conditional))
    torch.testing.assert_close(both(x, T), unconditional + 5.0 * (conditional - unconditional))
    assert torch.equal(Denoiser(unet, text, empty, 1.0)(x, T), conditional)
    each = Denoiser(unet, text, empty, torch.tensor([0.0, 3.0]))(x, T)
    torch.testing.assert_close(each[0], unconditional[0])
    torch.testing.assert_close(each[1], (unconditional + 3.0 * (conditional - unconditional))[1])


@torch.no_grad()
def test_every_row_may_have_its_own_time(x: torch.Tensor) -> None:
    unet, text, empty = tiny_unet(), words(1), words(2, 1)
    times = torch.tensor([100, 800])
    joined = Denoiser(unet, text, empty, 4.0)(x, times)
    for row in range(2):
        alone = Denoiser(unet, text[row : row + 1], empty, 4.0)(x[row : row + 1], times[row])
        torch.testing.assert_close(joined[row : row + 1], alone)


@torch.no_grad()
def test_a_unet_with_a_guidance_input_is_told_the_scale_in_one_branch(x: torch.Tensor) -> None:
    unet, text = tiny_unet(time_cond_proj_dim=32), words(1)
    w = torch.tensor([6.5, 1.0])
    denoiser = Denoiser(unet, text, words(2), w + 1)
    assert not denoiser.guided
    expected = unet(x, T, text.embeddings, timestep_cond=embed_guidance(w, 32)).sample
    torch.testing.assert_close(denoiser(x, T), expected)
    one = Denoiser(unet, text, words(2), 7.5)(x, T)
    assert torch.equal(one[:1], unet(x, T, text.embeddings, timestep_cond=embed_guidance(w[[0, 0]], 32)).sample[:1])
    assert not torch.allclose(one[1], expected[1])


@pytest.mark.parametrize("sdxl", [False, True])
@torch.no_grad()
def test_a_controlnet_steers_with_the_same_conditioning(sdxl: bool, x: torch.Tensor) -> None:
    unet, text, empty = sdxl_unet() if sdxl else tiny_unet(), words(1, sdxl=sdxl), words(2, 1, sdxl)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8)).eval().requires_grad_(False)
    for layer in [*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out]:
        torch.nn.init.normal_(layer.weight, std=0.3)  # they begin at zero, as if there were no drawing
    lines = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    added = text.added_cond_kwargs
    down, middle = net(
        x, T, text.embeddings, controlnet_cond=lines.expand(2, -1, -1, -1), conditioning_scale=0.5,
        added_cond_kwargs=added, return_dict=False,
    )  # fmt: skip
    expected = unet(
        x, T, text.embeddings, added_cond_kwargs=added, down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
    ).sample  # fmt: skip
    steered = Denoiser(unet, text, control=Control(net, lines, 0.5, start=0.5))
    plain = Denoiser(unet, text)
    assert torch.equal(steered(x, T), expected)
    assert not torch.allclose(expected, plain(x, T), atol=1e-3)
    assert torch.equal(steered.at_step(0, 4)(x, T), plain(x, T))
    assert torch.equal(steered.at_step(2, 4)(x, T), expected)
    guided = replace(steered, negative=empty, guidance=3.0)
    unconditional, conditional = guided.branches(x, T)
    torch.testing.assert_close(conditional, expected)
    torch.testing.assert_close(unconditional, replace(steered, conditioning=empty)(x, T))


@torch.no_grad()
def test_an_inpainting_unet_reads_more_channels_in_both_branches(x: torch.Tensor) -> None:
    unet, text, empty = tiny_unet(in_channels=9), words(1), words(2, 1)
    mask = torch.rand(1, 5, 8, 8, generator=torch.Generator().manual_seed(5))
    read = torch.cat([x, mask.expand(2, -1, -1, -1)], dim=1)
    conditional = unet(read, T, text.embeddings).sample
    unconditional = unet(read, T, empty.expand(2).embeddings).sample
    denoiser = Denoiser(unet, text, empty, 2.0, extra_channels=mask)
    torch.testing.assert_close(denoiser(x, T), unconditional + 2.0 * (conditional - unconditional))


def test_gradients_reach_the_weights_and_the_text(x: torch.Tensor) -> None:
    unet = sdxl_unet()
    unet.conv_out.requires_grad_(True)
    text = words(1, sdxl=True)
    assert text.pooled is not None
    text.embeddings.requires_grad_(True)
    text.pooled.requires_grad_(True)
    Denoiser(unet, text)(x, T).square().mean().backward()
    assert all(grad.abs().sum() > 0 for grad in (unet.conv_out.weight.grad, text.embeddings.grad, text.pooled.grad))


def test_a_wrapped_unet_is_called_through_its_wrapper(x: torch.Tensor) -> None:
    class Wrapper(torch.nn.Module):  # as DistributedDataParallel does: attributes of the model are behind `module`
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module, self.calls = module, 0

        def forward(self, *args: object, **kwargs: object) -> object:
            self.calls += 1
            return self.module(*args, **kwargs)

    unet, text = tiny_unet(), words(1)
    wrapper = Wrapper(unet)
    assert torch.equal(Denoiser(wrapper, text)(x, T), Denoiser(unet, text)(x, T))
    assert wrapper.calls == 1


def test_rows_of_a_conditioning_are_taken_joined_and_blended_with_all_that_belongs_to_them() -> None:
    a, b = words(1, 1, sdxl=True), words(2, 1, sdxl=True)
    both = Conditioning.cat([a, b])
    assert len(both) == 2
    for again, original in zip(both.split(), (a, b), strict=True):
        assert torch.equal(again.embeddings, original.embeddings)
        assert torch.equal(again.pooled, original.pooled)
    middle, mean = a.lerp(b, 0.5), both.mean()
    torch.testing.assert_close(middle.pooled, (a.pooled + b.pooled) / 2)
    torch.testing.assert_close(middle.embeddings, mean.embeddings)
    assert torch.equal(middle.added["time_ids"], a.added["time_ids"])
    assert len(a.expand(5)) == len(a.expand(5).added["time_ids"]) == 5
    assert both.to(torch.float16).pooled.dtype == torch.float16
    with pytest.raises(RuntimeError):
        both.expand(3)
