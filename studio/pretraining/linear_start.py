"""Start the autoencoder as the best linear one: principal components down, least squares up.

A random start spends most of a CPU's budget on finding colours; this one begins where a linear code ends (24 dB for 16
components of a 16x16 patch) and learns only what is not linear. The residual branches are silent (`conv2` = 0), so the
linear path runs through the shortcuts, the resampling convolutions and the outer layers. Where a GroupNorm and a SiLU
lie across that path, each feature x goes through as a pair (x, -x), because silu(x) - silu(-x) = x, beside a constant
pair that dominates the group's variance and so makes the norm a fixed scale. Knows pictures, nothing of training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

RIDGE = 1e-3


def blocks_of_four(x: torch.Tensor) -> torch.Tensor:
    """(n, c, h, w) to rows (n h/2 w/2, 4c): every 2x2 block, channels first as in a convolution's weight."""
    return F.unfold(x, 2, stride=2).transpose(1, 2).reshape(-1, 4 * x.shape[1])


def components(x: torch.Tensor, keep: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (keep, c, 2, 2) and bias (keep,) of the stride-2 convolution onto the first principal components."""
    rows = blocks_of_four(x)
    mean = rows.mean(0)
    _, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    basis = vectors[:, -keep:].flip(1).T
    return basis.view(keep, x.shape[1], 2, 2), -(basis @ mean)


def upsampling(coarse: torch.Tensor, fine: torch.Tensor, rows: int = 200_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (out, in, 3, 3) and bias (out,) of the convolution after a nearest-neighbour upsampling that best gives
    `fine` (n, out, 2h, 2w) from `coarse` (n, in, h, w): ridge regression on at most `rows` positions."""
    width = 9 * coarse.shape[1] + 1
    normal, right = torch.zeros(width, width), torch.zeros(width, fine.shape[1])
    share = rows / (len(coarse) * fine.shape[-1] * fine.shape[-2])
    generator = torch.Generator().manual_seed(0)
    for x, y in zip(coarse.split(8), fine.split(8), strict=True):
        patches = F.unfold(F.interpolate(x, scale_factor=2, mode="nearest"), 3, padding=1).transpose(1, 2).flatten(0, 1)
        wanted = y.flatten(2).transpose(1, 2).flatten(0, 1)
        chosen = torch.rand(len(patches), generator=generator) < share
        patches, wanted = F.pad(patches[chosen], (0, 1), value=1.0), wanted[chosen]
        normal += patches.T @ patches
        right += patches.T @ wanted
    normal += RIDGE * normal.diagonal().mean() * torch.eye(width)
    solution = torch.linalg.solve(normal, right).T
    return solution[:, :-1].reshape(-1, coarse.shape[1], 3, 3).contiguous(), solution[:, -1].contiguous()


def _identity(conv: torch.nn.Conv2d, rows: int) -> None:
    """The first `rows` outputs copy the first inputs; a 1x1 or 3x3 convolution."""
    conv.weight[:rows] = 0
    conv.bias[:rows] = 0
    middle = conv.kernel_size[0] // 2
    for i in range(rows):
        conv.weight[i, i, middle, middle] = 1


def _pairs(conv: torch.nn.Conv2d, source: torch.Tensor, bias: torch.Tensor, group: int, constant: float) -> None:
    """Outputs 0..group-1 of a 1x1 convolution: (x, -x) for each row of `source`, then the constant pair, then zeros."""
    conv.weight[:group] = 0
    conv.bias[:group] = 0
    for i, row in enumerate(source):
        conv.weight[2 * i, : len(row), 0, 0], conv.bias[2 * i] = row, bias[i]
        conv.weight[2 * i + 1, : len(row), 0, 0], conv.bias[2 * i + 1] = -row, -bias[i]
    conv.bias[2 * len(source)], conv.bias[2 * len(source) + 1] = constant, -constant


def _read_pairs(conv: torch.nn.Conv2d, count: int, scale: float) -> None:
    """A 3x3 convolution that puts `count` pairs together again."""
    conv.weight[:count] = 0
    conv.bias[:count] = 0
    for i in range(count):
        conv.weight[i, 2 * i, 1, 1], conv.weight[i, 2 * i + 1, 1, 1] = scale, -scale


@torch.no_grad()
def start(vae: AutoencoderKL, pictures: torch.Tensor) -> None:
    """Set the weights of a fresh `vae` from pictures (n, 3, 256, 256) in -1..1, in place."""
    widths = tuple(vae.config.block_out_channels)
    latent = vae.config.latent_channels
    encoder, decoder = vae.encoder, vae.decoder
    # down: 2x2 blocks onto their principal components, level by level
    _identity(encoder.conv_in, 3)
    features = [pictures]
    for level, block in enumerate(encoder.down_blocks[:-1]):
        x = features[-1]
        if block.resnets[0].conv_shortcut is not None:
            _identity(block.resnets[0].conv_shortcut, x.shape[1])
        keep = min(4 * x.shape[1], widths[level])
        weight, bias = components(x, keep)
        conv = block.downsamplers[0].conv
        conv.weight[:keep] = 0
        conv.weight[:keep, : x.shape[1], :2, :2] = weight
        conv.bias[:keep] = bias
        features.append(F.conv2d(x, weight, bias, stride=2))
    deepest = features[-1]
    scale = deepest[:, :latent].std((0, 2, 3))
    group, constant = widths[-1] // vae.config.norm_num_groups, 20.0
    rows = torch.eye(deepest.shape[1])[:latent] / scale[:, None]
    _pairs(encoder.down_blocks[-1].resnets[0].conv_shortcut, rows, torch.zeros(latent), group, constant)
    _read_pairs(encoder.conv_out, latent, ((2 * latent + 2 * constant**2) / group) ** 0.5)
    _identity(vae.quant_conv, latent)
    # up: each level's features from the coarser ones
    _identity(vae.post_quant_conv, latent)
    _identity(decoder.conv_in, latent)
    x = deepest[:, :latent] / scale[:, None, None]
    for block, fine in zip(decoder.up_blocks[:-1], reversed(features[:-1]), strict=True):
        if block.resnets[0].conv_shortcut is not None:
            _identity(block.resnets[0].conv_shortcut, x.shape[1])
        weight, bias = upsampling(x, fine)
        conv = block.upsamplers[0].conv
        conv.weight[: len(weight)] = 0
        conv.weight[: len(weight), : x.shape[1]] = weight
        conv.bias[: len(weight)] = bias
        x = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)
    group, constant = widths[0] // vae.config.norm_num_groups, 6.0
    _pairs(decoder.up_blocks[-1].resnets[0].conv_shortcut, torch.eye(3), torch.zeros(3), group, constant)
    _read_pairs(decoder.conv_out, 3, ((2 * 0.8 + 2 * constant**2) / group) ** 0.5)
