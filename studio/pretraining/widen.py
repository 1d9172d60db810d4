"""Go on with an earlier model in a wider UNet and with a larger vocabulary, instead of from nothing.

Each channel of the first level becomes two (Net2Net, 1511.05641, section 2.2): both are computed alike, and what reads
them splits each weight at random, so that the network draws as before and the two learn different things from then on.
Where a norm's groups mix these channels with others the groups fall otherwise, and where both levels are as wide now
the projection between them is gone: there it draws nearly as before.
A new token begins as the mean of those that stood for it. Knows state dicts and tokenizers, no data and no training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer


def sources(name: str, dim: int, new: int, old: int) -> Tensor:
    """Which of the `old` channels along `dim` of parameter `name` each of the `new` ones copies, (new,)."""
    index = torch.arange(new)
    if (".to_out." in name) if dim == 1 else name.rpartition(".attn")[2][2:6] in ("to_q", "to_k", "to_v"):
        return index % old  # whole heads
    if new == 2 * old:
        return index // 2  # neighbours, so that groups of a norm keep their statistics
    kept = 2 * old - new  # of the other level come first in what is put together of both
    return torch.where(index < kept, index, kept + (index - kept) // 2)


def widened(old: UNet2DConditionModel, channels: tuple[int, ...], seed: int = 0) -> UNet2DConditionModel:
    """The same network with `channels`, of which the first is twice as many as before, in fp32.

    Raises ValueError for channels that differ elsewhere.
    """
    was = tuple(old.config.block_out_channels)
    if channels[1:] != was[1:] or channels[0] != 2 * was[0]:
        raise ValueError(f"{channels} aren't {was} with twice as many in the first level.")
    head = was[0] // old.config.attention_head_dim[0]
    heads = [count // head for count in channels]
    config = {**old.config, "block_out_channels": channels, "attention_head_dim": heads}
    unet = UNet2DConditionModel.from_config(config)
    generator, before, state = torch.Generator().manual_seed(seed), old.float().state_dict(), unet.state_dict()
    for name, parameter in state.items():
        value = before[name]
        if name == "time_embedding.linear_1.weight":  # sines: every second frequency is an old one
            wide = torch.zeros(value.shape[0], parameter.shape[1])
            wide[:, ::2] = value
            value = wide
        for dim in range(value.ndim):
            new, count = parameter.shape[dim], value.shape[dim]
            if new == count:
                continue
            index = sources(name, dim, new, count)
            value = value.index_select(dim, index)
            if dim == 1:  # read by this weight: the copies share what they had
                value = value * shares(index, value.shape, generator)
        parameter.copy_(value)
    unet.load_state_dict(state)
    return unet


def shares(index: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Factors for a weight of `shape` whose second dimension copies channels `index`: those of one channel add up to 1,
    and are between .2 and .8 where there are two."""
    factor = torch.ones(shape)
    for channel in index.unique():
        places = (index == channel).nonzero().flatten().tolist()
        if len(places) == 2:
            part = 0.2 + 0.6 * torch.rand(shape[0], *shape[2:], generator=generator)
            factor[:, places[0]], factor[:, places[1]] = part, 1 - part
    return factor


@torch.no_grad()
def retold(tower: CLIPTextModel, old: CLIPTokenizer, new: CLIPTokenizer) -> CLIPTextModel:
    """The tower for another tokenizer, in fp32: tokens of both keep their vectors."""
    table = tower.float().get_input_embeddings().weight
    vocabulary = old.get_vocab()
    fresh = torch.nn.Embedding(len(new), table.shape[1])
    for token, index in new.get_vocab().items():
        if token in vocabulary:
            fresh.weight[index] = table[vocabulary[token]]
        else:
            ids = old(token.replace("</w>", ""), add_special_tokens=False).input_ids
            fresh.weight[index] = table[ids].mean(0)
    tower.set_input_embeddings(fresh)
    tower.config.vocab_size = len(new)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(tower.config, name, getattr(new, name))
    return tower


def cli() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unet", type=Path, required=True)
    parser.add_argument("--text-encoder", type=Path, required=True)
    parser.add_argument("--old-tokenizer", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for `unet` and `text_encoder`")
    parser.add_argument("--channels", type=int, nargs="+", default=(128, 128, 192))
    args = parser.parse_args()
    unet = UNet2DConditionModel.from_pretrained(args.unet)
    widened(unet, tuple(args.channels)).save_pretrained(args.out / "unet")
    old, new = (CLIPTokenizer.from_pretrained(folder) for folder in (args.old_tokenizer, args.tokenizer))
    retold(CLIPTextModel.from_pretrained(args.text_encoder), old, new).save_pretrained(args.out / "text_encoder")


if __name__ == "__main__":
    cli()
