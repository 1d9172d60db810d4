"""Train the upscaler (2x) on paintings: what the model's pictures really are, made larger.

The painter draws any size exactly, so the target is a painting of twice the size, and never an enlarged one. What goes
in is the small painting as pictures come to people: clean, through the autoencoder (with latents a little wrong, as
drawn ones are), blurred, or as JPEG. Loss: mean absolute difference of pixels and of their gradients, Adam, cosine.

    python -m studio.pretraining.upscaler --out DIR --minutes 120       # again: goes on from DIR/state
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from torch import Tensor

from studio.core.settings import EMBEDDED_MODEL
from studio.engine.media.upscaling import CompactNetwork, tiled
from studio.pretraining.painter import paint, sample_spec
from studio.pretraining.state import load_state, optimizer_tensors, restore_optimizer, save_state

SIDE = 256  # of what goes in
CROP = 64  # of what is trained on, in it
HELD_OUT_SEED = 970_000  # far from every shard's
KINDS = ("clean", "autoencoder", "autoencoder", "jpeg", "blur")
WRONG = 0.12  # deviation of the latents' error, in units of theirs


def painting(seed: int) -> tuple[Image.Image, Image.Image]:
    """The same character of `SIDE` pixels and of twice as many."""
    spec = sample_spec(random.Random(seed))
    return paint(spec, SIDE, seed), paint(spec, 2 * SIDE, seed)


def pixels(image: Image.Image) -> Tensor:
    """(1, 3, height, width) in 0..1."""
    return torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32)).permute(2, 0, 1)[None] / 255


@torch.no_grad()
def worn(image: Image.Image, kind: str, vae: AutoencoderKL, rng: random.Random) -> Image.Image:
    """A painting as it would come to somebody; `kind` is one of `KINDS`."""
    if kind == "jpeg":
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=rng.randint(60, 95))
        return Image.open(stream).convert("RGB")
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    if kind == "autoencoder":
        z = vae.encode(pixels(image) * 2 - 1).latent_dist.mode()
        grain = torch.randn(z.shape, generator=torch.Generator().manual_seed(rng.randrange(2**31)))
        z = z + rng.uniform(0, WRONG) * z.std() * grain
        out = (vae.decode(z, return_dict=False)[0][0] / 2 + 0.5).clamp(0, 1)
        return Image.fromarray((out.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    return image


class Pool:
    """The last `size` paintings, worn and large: one costs as much as a step, and a step wants crops of several."""

    def __init__(self, vae: AutoencoderKL, size: int = 64) -> None:
        self.vae, self.size = vae, size
        self.kept: list[tuple[Tensor, Tensor]] = []

    def add(self, seed: int) -> None:
        """A new painting; the oldest goes."""
        rng = random.Random(seed)
        small, large = painting(seed)
        self.kept.append((pixels(worn(small, rng.choice(KINDS), self.vae, rng)), pixels(large)))
        del self.kept[: -self.size]

    def crops(self, count: int, rng: random.Random) -> tuple[Tensor, Tensor]:
        """Crops of any of them, (count, 3, CROP, CROP) and (count, 3, 2 CROP, 2 CROP) in 0..1."""
        found = []
        for _ in range(count):
            x, y = rng.choice(self.kept)
            top, left = rng.randrange(SIDE - CROP + 1), rng.randrange(SIDE - CROP + 1)
            one = x[..., top : top + CROP, left : left + CROP]
            two = y[..., 2 * top : 2 * (top + CROP), 2 * left : 2 * (left + CROP)]
            turn = [2, 3][: rng.randrange(3)]
            found.append((one.flip(turn), two.flip(turn)))
        x, y = torch.cat([one for one, _ in found]), torch.cat([two for _, two in found])
        return x.contiguous(memory_format=torch.channels_last), y.contiguous(memory_format=torch.channels_last)


def loss_of(made: Tensor, wanted: Tensor) -> Tensor:
    """Pixels and their gradients, mean absolute difference."""
    lines = sum((made.diff(dim=axis) - wanted.diff(dim=axis)).abs().mean() for axis in (2, 3))
    return (made - wanted).abs().mean() + lines


def decibels(made: Tensor, wanted: Tensor) -> float:
    """PSNR of pictures in 0..1."""
    return float(-10 * torch.log10((made.clamp(0, 1) - wanted).square().mean()))


@torch.no_grad()
def measure(network: CompactNetwork, vae: AutoencoderKL, count: int) -> dict[str, dict[str, float]]:
    """PSNR on held-out paintings by kind, of the network and of Lanczos."""
    found: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(KINDS):
        ours, lanczos = [], []
        for number in range(count):
            small, large = painting(HELD_OUT_SEED + number)
            small = worn(small, kind, vae, random.Random(number))
            ours.append(decibels(tiled(network, pixels(small)), pixels(large)))
            plain = small.resize(large.size, Image.Resampling.LANCZOS)
            lanczos.append(decibels(pixels(plain), pixels(large)))
        found[kind] = {"network": float(np.mean(ours)), "lanczos": float(np.mean(lanczos))}
    return found


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    vae = AutoencoderKL.from_pretrained(args.vae, torch_dtype=torch.float32).eval().requires_grad_(False)
    network = CompactNetwork(args.channels, args.depth).to(memory_format=torch.channels_last)
    pool = Pool(vae)
    optimizer = torch.optim.Adam(network.parameters(), lr=args.rate, betas=(0.9, 0.99))
    step, spent, began, saved = 0, 0.0, time.time(), time.time()
    if (state := load_state(args.out / "state")) is not None:
        network.load_state_dict({name[2:]: t for name, t in state[0].items() if name.startswith("n.")})
        restore_optimizer(optimizer, state[0])
        step, spent = int(state[1]["step"]), float(state[1]["seconds"])

    def share() -> float:
        return min(1.0, max((spent + time.time() - began) / (60 * args.minutes), step / args.steps))

    def keep() -> None:
        tensors = {f"n.{name}": t for name, t in network.state_dict().items()} | optimizer_tensors(optimizer)
        save_state(args.out / "state", tensors, {"step": step, "seconds": spent + time.time() - began})

    args.out.mkdir(parents=True, exist_ok=True)
    while share() < 1:
        if step % args.each == 0 or not pool.kept:
            pool.add(args.seed * 1_000_000 + step)
        x, y = pool.crops(args.crops, random.Random(f"{args.seed} {step}"))
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            made = network(x)
        loss = loss_of(made.float(), y)
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1, (step + 1) / 100) * 0.5 * (1.02 + math.cos(math.pi * share()))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if step % 200 == 0:
            print(f"step {step}, loss {loss.item():.4f}, {spent + time.time() - began:.0f} s", flush=True)
        if time.time() - saved > 240:
            keep()
            saved = time.time()
    keep()
    figures = measure(network.eval(), vae, args.held_out)
    print(json.dumps(figures), flush=True)
    weights = {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, args.out / "upscaler.safetensors", {"license": "CC0-1.0"})
    (args.out / "figures.json").write_text(json.dumps({"step": step, "psnr": figures}, indent=1), encoding="utf-8")


def cli() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vae", type=Path, default=EMBEDDED_MODEL / "vae")
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--crops", type=int, default=12, help="in a step")
    parser.add_argument("--each", type=int, default=3, help="steps to a new painting")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--depth", type=int, default=10)
    parser.add_argument("--bf16", action="store_true", help="convolutions in bfloat16: faster where the CPU has it")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--held-out", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    main(parser.parse_args())


if __name__ == "__main__":
    cli()
