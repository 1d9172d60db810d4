"""Train the network of parts and alpha (`studio.evaluation.parts`) on the painter's own masks.

Every step paints characters that nobody has seen; half of them come through the autoencoder with latents a little
wrong, as drawn pictures do. Loss: cross entropy of the parts (rare ones weigh more), and of the alpha the mean absolute
difference with that of its gradients (Deep Image Matting, 1703.03872). AdamW, cosine.

    python -m studio.pretraining.segmentation --out DIR --minutes 120       # again: goes on from DIR/state
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from studio.core.settings import EMBEDDED_MODEL
from studio.evaluation.parts import SIDE, Parts, PartsNetwork
from studio.pretraining.painter import PARTS, masks, paint, sample_spec
from studio.pretraining.state import load_state, optimizer_tensors, restore_optimizer, save_state

HELD_OUT_SEED = 980_000  # far from every shard's
WEIGHTS = {"background": 0.5, "eyes": 2.0, "mouth": 3.0, "accessory": 1.5}
WRONG = 0.12  # deviation of the latents' error, in units of theirs


def example(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """One painting (3, SIDE, SIDE) in -1..1, its labels (SIDE, SIDE) and its alpha (SIDE, SIDE) in 0..1."""
    spec = sample_spec(random.Random(seed))
    picture, found = paint(spec, SIDE, seed), masks(spec, SIDE, seed)
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1
    return x, torch.from_numpy(found.labels.astype(np.int64)), torch.from_numpy(np.array(found.alpha)).float() / 255


def batch(seeds: range, vae: AutoencoderKL, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Examples of these seeds, together; the second half as drawn pictures look, and all in other light."""
    x, labels, alpha = (torch.stack(part) for part in zip(*map(example, seeds), strict=True))
    half = len(x) // 2
    with torch.no_grad():
        z = vae.encode(x[half:]).latent_dist.mode()
        z = z + WRONG * torch.rand((), generator=generator) * z.std() * torch.randn(z.shape, generator=generator)
        x[half:] = vae.decode(z, return_dict=False)[0]
    gain = 1 + 0.2 * (torch.rand(len(x), 3, 1, 1, generator=generator) - 0.5)
    shift = 0.15 * (torch.rand(len(x), 3, 1, 1, generator=generator) - 0.5)
    x = (x * gain + shift + 0.03 * torch.randn(x.shape, generator=generator)).clamp(-1, 1)
    if torch.rand((), generator=generator) < 0.5:
        x, labels, alpha = x.flip(3), labels.flip(2), alpha.flip(2)
    return x, labels, alpha


def loss_of(parts: Tensor, cover: Tensor, labels: Tensor, alpha: Tensor) -> Tensor:
    """Of logits (n, parts, h, w) and (n, 1, h, w) against labels and alpha (n, h, w)."""
    weights = torch.tensor([WEIGHTS.get(name, 1.0) for name in PARTS])
    made = cover[:, 0].sigmoid()
    edges = sum((made.diff(dim=axis) - alpha.diff(dim=axis)).abs().mean() for axis in (1, 2))
    return F.cross_entropy(parts, labels, weights) + (made - alpha).abs().mean() + edges


@torch.no_grad()
def measure(parts: Parts, count: int) -> dict[str, float]:
    """On held-out paintings: mean IoU and that of each part, mean absolute and gradient error of the alpha."""
    both, either = np.zeros(len(PARTS)), np.zeros(len(PARTS))
    errors, edges = [], []
    for number in range(count):
        x, labels, alpha = example(HELD_OUT_SEED + number)
        logits, cover = parts.network(x[None])
        found, made = logits.argmax(1)[0], cover[0, 0].sigmoid()
        for place in range(len(PARTS)):
            a, b = found == place, labels == place
            both[place] += int((a & b).sum())
            either[place] += int((a | b).sum())
        errors.append(float((made - alpha).abs().mean()))
        edges.append(float(sum((made.diff(dim=axis) - alpha.diff(dim=axis)).abs().mean() for axis in (0, 1))))
    shares = both / np.maximum(either, 1)
    figures = {"mean_iou": float(shares.mean()), "alpha_error": float(np.mean(errors))}
    figures |= {"alpha_gradient_error": float(np.mean(edges))}
    return figures | {f"iou_{name}": float(share) for name, share in zip(PARTS, shares, strict=True)}


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    vae = AutoencoderKL.from_pretrained(args.vae, torch_dtype=torch.float32).eval().requires_grad_(False)
    network = PartsNetwork(len(PARTS))
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.rate, weight_decay=1e-2)
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
        first = args.seed * 10_000_000 + step * args.batch
        x, labels, alpha = batch(range(first, first + args.batch), vae, generator)
        parts_logits, cover = network.train()(x)
        loss = loss_of(parts_logits, cover, labels, alpha)
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1, (step + 1) / 50) * 0.5 * (1.02 + math.cos(math.pi * share()))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if step % 50 == 0:
            print(f"step {step}, loss {loss.item():.4f}, {spent + time.time() - began:.0f} s", flush=True)
        if time.time() - saved > 240:
            keep()
            saved = time.time()
    keep()
    parts = Parts(network, list(PARTS))
    figures = measure(parts, args.held_out)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}), flush=True)
    parts.save(args.out)
    (args.out / "figures.json").write_text(json.dumps({"step": step} | figures, indent=1), encoding="utf-8")


def cli() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vae", type=Path, default=EMBEDDED_MODEL / "vae")
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--held-out", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    main(parser.parse_args())


if __name__ == "__main__":
    cli()
