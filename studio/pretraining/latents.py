"""Encode the painted shards with the trained autoencoder, once, and give its latents zero mean and unit variance.

The mean and deviation of each latent channel are folded into `quant_conv` and `post_quant_conv`, so that the saved
autoencoder has `scaling_factor` 1 and nothing downstream has to know them. Knows pictures, not captions.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from studio.pretraining.parallel import launch
from studio.pretraining.vae import psnr, to_tensor

SAMPLE = 600  # drawings from which a channel's mean and deviation are estimated


@torch.no_grad()
def fold(vae: AutoencoderKL, mean: torch.Tensor, deviation: torch.Tensor) -> None:
    """Make `vae` encode to (z - mean) / deviation and decode from it. Both (channels,); in place, up to rounding."""
    channels = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:channels] /= deviation.view(-1, 1, 1, 1)
    quant.bias[:channels] = (quant.bias[:channels] - mean) / deviation
    quant.bias[channels:] -= 2 * deviation.log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= deviation.view(1, -1, 1, 1)
    vae.register_to_config(scaling_factor=1.0)


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray) -> torch.Tensor:
    """uint8 (n, 256, 256, 3) to the posterior's means (n, 16, 16, 16)."""
    return torch.cat(
        [vae.encode(to_tensor(pictures[i : i + 20])).latent_dist.mean for i in range(0, len(pictures), 20)]
    )


@torch.no_grad()
def pixel_weight(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """How much each latent channel moves the picture, (channels,), mean 1: the root mean square change of the pixels
    when that channel alone is replaced by another drawing's."""
    base, other = latents[:8], latents.roll(3, 0)[:8]
    picture = vae.decode(base).sample
    found = []
    for channel in range(latents.shape[1]):
        swapped = base.clone()
        swapped[:, channel] = other[:, channel]
        found.append((vae.decode(swapped).sample - picture).square().mean().sqrt())
    weights = torch.stack(found)
    return weights / weights.mean()


def prepare(args: argparse.Namespace) -> None:
    """Write the folded autoencoder to `out/vae` and the channels' weights beside it."""
    args.out.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKL.from_pretrained(args.vae).eval().to(memory_format=torch.channels_last)
    shards = [np.load(path, mmap_mode="r") for path in sorted(args.data.glob("p*.npy"))]
    share = SAMPLE // len(shards) + 1
    sample = np.concatenate([shard[:share] for shard in shards])
    raw = encode(vae, sample)
    fold(vae, raw.mean((0, 2, 3)), raw.std((0, 2, 3)))
    folded = encode(vae, sample[:20])
    pictures = to_tensor(sample[:20])
    with torch.no_grad():
        print(f"PSNR after folding {psnr(vae.decode(folded).sample, pictures):.2f} dB", flush=True)
    weights = pixel_weight(vae, encode(vae, sample[:: max(1, len(sample) // 16)][:16]))
    print("weight of the channels in pixels", [round(w, 2) for w in weights.tolist()], flush=True)
    vae.save_pretrained(args.out / "vae")
    (args.out / "channels.json").write_text(json.dumps({"weights": weights.tolist()}))


def encode_shards(rank: int, world: int, args: argparse.Namespace) -> None:
    vae = AutoencoderKL.from_pretrained(args.out / "vae").eval().to(memory_format=torch.channels_last)
    for path in sorted(args.data.glob("p*.npy"))[rank::world]:
        target = args.out / f"z{path.stem[1:]}.safetensors"
        if target.exists():
            continue
        started = time.time()
        latents = encode(vae, np.load(path, mmap_mode="r")).half().contiguous()
        fresh = target.with_suffix(".tmp")
        save_file({"latents": latents}, fresh)
        fresh.rename(target)
        print(
            f"{target.name}: {len(latents)} in {time.time() - started:.0f} s, deviation {latents.float().std():.3f}",
            flush=True,
        )


def load(folder: Path) -> dict[str, torch.Tensor]:
    """All latents of a folder by shard number ("007"), each (n, 16, 16, 16) float16."""
    return {path.stem[1:]: load_file(path)["latents"] for path in sorted(folder.glob("z*.safetensors"))}


def cli() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of painted shards (p*.npy)")
    parser.add_argument("--vae", type=Path, help="the trained autoencoder")
    parser.add_argument("--folded", type=Path, help="an earlier --out, whose autoencoder is taken as it is")
    parser.add_argument("--out", type=Path, required=True, help="folder for the folded autoencoder and the latents")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    if args.folded is not None and not (args.out / "channels.json").exists():
        shutil.copytree(args.folded / "vae", args.out / "vae", dirs_exist_ok=True)
        shutil.copyfile(args.folded / "channels.json", args.out / "channels.json")
    if not (args.out / "channels.json").exists():
        if args.vae is None:
            parser.error("give --vae, or --folded for what was folded before")
        prepare(args)
    launch(encode_shards, args, args.processes, port=29534)


if __name__ == "__main__":
    cli()
