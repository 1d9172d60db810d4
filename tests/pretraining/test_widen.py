"""A wider network that draws as the narrow one did, and new words that begin as what stood for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from studio.pretraining.text_tower import tokens
from studio.pretraining.tokenizer import build
from studio.pretraining.unet import quicken
from studio.pretraining.widen import retold, widened


def narrow() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 96), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=16, attention_head_dim=(1, 3), norm_num_groups=8, addition_embed_type="text",
        addition_embed_type_num_heads=4, resnet_time_scale_shift="scale_shift",
    )  # fmt: skip


@torch.no_grad()
def asked(unet: UNet2DConditionModel) -> torch.Tensor:
    torch.manual_seed(1)
    return unet.eval()(torch.randn(3, 4, 8, 8), torch.tensor([5, 300, 900]), torch.randn(3, 7, 16)).sample


def unnormed(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Without the norms over channels of two levels, whose groups fall otherwise in a wider network."""
    for block, places in ((unet.up_blocks[0], (1,)), (unet.up_blocks[1], (0,))):
        for place in places:
            block.resnets[place].norm1 = torch.nn.Identity()
    return unet


def test_a_wider_network_draws_as_before_and_its_copies_part() -> None:
    unet = narrow()
    wide = widened(unet, (64, 96))
    before, after = asked(unnormed(unet)), asked(unnormed(wide))
    assert float((after - before).abs().max()) < 1e-5
    wide.train()
    wide(torch.randn(2, 4, 8, 8), 10, torch.randn(2, 7, 16)).sample.square().mean().backward()
    gradient = wide.down_blocks[0].resnets[0].conv1.weight.grad
    assert gradient is not None
    assert not torch.allclose(gradient[0], gradient[1])  # or both would stay the same for ever


def test_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="twice as many in the first level"):
        widened(narrow(), (64, 128))


def test_words_keep_their_vectors_and_new_ones_begin_as_what_stood_for_them(tmp_path: Path) -> None:
    old = build(["red hair", "snow"], [], tmp_path / "old")
    new = build(["red hair", "snow", "cherry blossoms"], [], tmp_path / "new")
    tower = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(old), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            bos_token_id=old.bos_token_id, eos_token_id=old.eos_token_id, pad_token_id=old.pad_token_id,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        before = tower(tokens(old, ["red hair, snow"])).last_hidden_state
        spelled = (
            tower.get_input_embeddings().weight[old("cherry blossoms", add_special_tokens=False).input_ids].mean(0)
        )
        after = retold(tower, old, new)(tokens(new, ["red hair, snow"])).last_hidden_state
    assert torch.equal(before, after)
    (token,) = new("cherry blossoms", add_special_tokens=False).input_ids
    assert torch.allclose(tower.get_input_embeddings().weight[token], spelled)


def test_half_precision_stays_close() -> None:
    unet = narrow()
    before = asked(unet)
    quicken(unet)
    with torch.autocast("cpu", torch.bfloat16):
        assert float((asked(unet).float() - before).abs().mean()) < 0.03 * float(before.abs().mean())
