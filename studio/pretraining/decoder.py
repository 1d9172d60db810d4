"""Go on with the autoencoder's decoder against an adversary: crisp lines and flat areas, from wrong latents too.

The encoder is frozen, so that whatever was trained on its latents stays valid. The decoder sees the paintings' own
latents, some with noise, and those that the model gets wrong (`mistakes`). Where a painting belongs to the latents it
is what is wanted, the more loosely the more they may have left it; a picture drawn from nothing has no painting, and
only has to keep the broad colours and the flat areas of what the decoder made of it before.

The discriminator (patches at three scales, hinge loss, spectral norms: 1802.05957) sees the picture, the latents, and
the picture's deviation from its own surroundings, enlarged, so that wrinkles in flat areas show. Its gradient at the
picture is as long as the reconstruction's (seraena gives it unit deviation). All randomness of a step is a function of
(seed, step): an interrupted training goes on to the same bytes. Knows no captions.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from studio.evaluation.metrics import surface
from studio.pretraining import HELD_OUT, mistakes
from studio.pretraining.parallel import average_gradients, launch
from studio.pretraining.state import load_state, optimizer_tensors, restore_optimizer, save_state
from studio.pretraining.vae import psnr, reconstruction_loss, to_tensor

CELL = 16  # pixels of a latent cell and side
CROP = 8  # latent cells and side; of them a border of one has no full surroundings and isn't looked at
ALONE = 150  # first steps, in which the discriminator learns and the decoder only reconstructs
FLAT = 2 / 127.5  # deviation of flat areas at most, in -1..1: 2 of 255
SMOOTH = 3 / 127.5  # the same in pictures of the earlier decoder, whose flat areas are never quite even
# Kinds of latents: (share, weight of the painting at it, weight of the broad colours). `mended` goes by its column.
KINDS: dict[str, tuple[float, float, float]] = {
    "clean": (0.15, 1.0, 0.0),
    "noisy": (0.15, 0.8, 0.0),
    "mended-0": (0.25, 0.6, 0.0),
    "mended-1": (0.10, 0.2, 1.0),
    "mended-2": (0.15, 0.5, 0.0),
    "drawn": (0.20, 0.0, 1.0),
}
NOISE = 0.3  # deviation at most, of noisy latents


class Discriminator(nn.Module):
    """Scores at 1/4, 1/8 and 1/16 of a picture (batch, 3, h, w) in -1..1, h and w multiples of 16."""

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        widths = (6, 32, 64, 128, 160)
        self.down = nn.ModuleList(
            spectral_norm(nn.Conv2d(into, out, 4, 2, 1)) for into, out in itertools.pairwise(widths)
        )
        self.deep = spectral_norm(nn.Conv2d(widths[-1], widths[-1], 3, 1, 1))
        self.told = nn.Conv2d(latent_channels, widths[-1], 1)
        self.scores = nn.ModuleList(spectral_norm(nn.Conv2d(width, 1, 3, 1, 1)) for width in (64, 128, 160))

    def forward(self, x: Tensor, z: Tensor, told: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(scores, activations). `z` (batch, c, h/16, w/16) is told where `told` (batch,) is 1."""
        fine = torch.tanh(12 * (x - F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5, 1)))
        h, found = torch.cat([x, fine], 1), []
        for layer in self.down:
            h = F.leaky_relu(layer(h), 0.2)
            found.append(h)
        h = h + self.told(z * told.view(-1, 1, 1, 1)) * told.view(-1, 1, 1, 1)
        h = F.leaky_relu(self.deep(h), 0.2)
        found.append(h)
        return [score(found[at]) for score, at in zip(self.scores, (1, 2, 4), strict=True)], found


def deviation(x: Tensor) -> Tensor:
    """Deviation in the 5x5 around each pixel, of the channel where it is largest: (batch, 3, h, w) to (batch, h, w)."""
    x = F.pad(x, (2, 2, 2, 2), mode="replicate")
    return (F.avg_pool2d(x.square(), 5, 1) - F.avg_pool2d(x, 5, 1).square()).clamp_min(1e-6).sqrt().amax(1)


def flatness_loss(y: Tensor, x: Tensor, most: float = FLAT) -> Tensor:
    """How uneven `y` is where `x` is flat (has at `most` this deviation), (batch,): the mean there times its share."""
    flat = (deviation(x) < most).float()
    return (deviation(y) * flat).mean((1, 2))


@dataclass(frozen=True)
class Batch:
    """`x` (batch, 3, 128, 128) paintings, `z` (batch, c, 8, 8) latents, the rest (batch,); `trim` cuts pixels off the
    borders that aren't the picture's own: left, right, top, bottom."""

    x: Tensor
    z: Tensor
    painting: Tensor  # weight of the painting
    broad: Tensor  # weight of the broad colours
    told: Tensor  # whether the discriminator sees the latents
    trim: tuple[int, int, int, int]

    def seen(self, t: Tensor, per_cell: int = CELL) -> Tensor:
        """What is looked at of pictures, or of latents with `per_cell` 1."""
        left, right, top, bottom = (cells * per_cell for cells in self.trim)
        return t[..., top : t.shape[-2] - bottom, left : t.shape[-1] - right]


class Corpus:
    """Paintings and their latents, those at the end of each shard left out."""

    def __init__(self, data: Path, latents: Path) -> None:
        self.shards = [
            (np.load(data / f"p{number}.npy", mmap_mode="r"), tensors)
            for number, tensors in mistakes.shards(latents).items()
        ]
        if not self.shards:
            raise SystemExit(f"No latents in {latents}: run studio.pretraining.mistakes first.")

    def batch(self, size: int, seed: int, step: int, rank: int = 0) -> Batch:
        """Of step `step`, a function of (seed, step, rank) alone; one place for all, half of the time at the face."""
        rng = np.random.default_rng((seed, step, rank))
        side = 256 // CELL
        if rng.random() < 0.5:
            top, left = int(rng.integers(4, 7)), int(rng.integers(2, 7))
        else:
            top, left = (int(v) for v in rng.integers(0, side + 1 - CROP, 2))
        kinds = list(KINDS)
        chosen = rng.choice(len(kinds), size, p=[KINDS[kind][0] for kind in kinds])
        x, z = [], []
        for kind in (kinds[k] for k in chosen):
            painted, tensors = self.shards[rng.integers(len(self.shards))]
            row = int(rng.integers(len(painted) - HELD_OUT))
            x.append(painted[row, top * CELL : (top + CROP) * CELL, left * CELL : (left + CROP) * CELL])
            name, _, column = kind.partition("-")
            found = tensors["clean" if name == "noisy" else name][row]
            cells = (found[int(column)] if column else found)[:, top : top + CROP, left : left + CROP].float()
            if name == "noisy":
                noise = torch.from_numpy(rng.standard_normal(cells.shape, np.float32))
                cells = cells + float(rng.uniform(0, NOISE)) * noise
            z.append(cells)
        weights = torch.tensor([KINDS[kinds[k]][1:] for k in chosen])
        told = torch.from_numpy((rng.random(size) < 0.5).astype(np.float32)) * (weights[:, 0] > 0)
        trim = (int(left > 0), int(left + CROP < side), int(top > 0), int(top + CROP < side))
        latents = torch.stack(z).contiguous(memory_format=torch.channels_last)
        return Batch(to_tensor(np.stack(x)), latents, weights[:, 0], weights[:, 1], told, trim)

    def held(self, count: int) -> tuple[np.ndarray, dict[str, Tensor]]:
        """`count` held-out paintings, evenly of all shards, and their latents."""
        each = -(-count // len(self.shards))
        painted = np.concatenate([p[-HELD_OUT:][:each] for p, _ in self.shards])[:count]
        names = self.shards[0][1]
        return painted, {
            name: torch.cat([t[name][-HELD_OUT:][:each] for _, t in self.shards])[:count].float() for name in names
        }


def painting_loss(y: Tensor, batch: Batch, before: Tensor | None, sharpness: float, flatness: float) -> Tensor:
    """What `y` lacks to be the paintings, or to keep the broad colours (8x8 averages) and flat areas of `before`.

    `y` is cut to what is seen; `before` belongs to the rows with a weight of broad colours.
    """
    x, loss = batch.seen(batch.x), torch.zeros(())
    for weight, row, wanted in zip(batch.painting, y, x, strict=True):
        if weight > 0:
            loss = loss + weight * reconstruction_loss(row[None], wanted[None], sharpness)
    loss = loss + flatness * (batch.painting * flatness_loss(y, x)).sum()
    if before is not None:
        rows = batch.broad > 0
        broad = F.avg_pool2d(y[rows] - before, 8).abs().mean((1, 2, 3))
        smooth = flatness_loss(y[rows], before, SMOOTH)  # or lines are invented where nothing was meant
        loss = loss + (batch.broad[rows] * (broad + flatness * smooth)).sum()
    return loss / len(y)


def discriminator_loss(judge: Discriminator, x: Tensor, y: Tensor, z: Tensor, told: Tensor) -> Tensor:
    """Hinge loss (1705.02894) of all scales."""
    scores, _ = judge(torch.cat([x, y]), torch.cat([z, z]), torch.cat([told, told]))
    halves = [score.chunk(2) for score in scores]
    return torch.stack([F.relu(1 - real).mean() + F.relu(1 + fake).mean() for real, fake in halves]).mean()


def adversary_loss(judge: Discriminator, x: Tensor, y: Tensor, z: Tensor, told: Tensor, painting: Tensor) -> Tensor:
    """-score, and the distance of the activations from the painting's (feature matching) by its weight."""
    scores, seen = judge(y, z, told)
    with torch.no_grad():
        _, wanted = judge(x, z, told)
    matched = torch.stack([(a - b).abs().mean((1, 2, 3)) for a, b in zip(seen, wanted, strict=True)]).sum(0)
    return 2 * (painting * matched).mean() - torch.stack([score.mean() for score in scores]).mean()


def balanced(y: Tensor, wanted: Tensor, adversary: Tensor | None, share: float) -> Tensor:
    """Gradient at `y` of both losses, the adversary's scaled to `share` of the other's length."""
    (gradient,) = torch.autograd.grad(wanted, y)
    if adversary is None:
        return gradient
    (pull,) = torch.autograd.grad(adversary, y)
    return gradient + share * pull * (gradient.norm() / pull.norm().clamp_min(1e-12))


def rate_at(step: int, args: argparse.Namespace) -> float:
    """Share of the peak learning rate: up in 100 steps, constant, down over the last third."""
    return min(1.0, (step + 1) / 100) * min(1.0, 0.02 + 3 * (1 - step / args.steps))


def rows_of(pictures: Tensor) -> np.ndarray:
    """Pictures (n, 3, h, w) in -1..1 beside each other, uint8."""
    return np.concatenate(list(((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()), 1)


@torch.no_grad()
def look(vae: AutoencoderKL, before: AutoencoderKL, corpus: Corpus, path: Path, count: int = 24) -> dict[str, object]:
    """Figures of held-out paintings, of their round trips and of pictures drawn from nothing; a sheet at `path`.

    Rows of the sheet: paintings, their round trips, the student's second last steps, and drawn pictures twice, with the
    earlier decoder first.
    """
    painted, latents = corpus.held(count)
    x = to_tensor(painted)
    found: dict[str, object] = {}
    shown = [x[:8]]
    for name, network, z in (
        ("round trip", vae, latents["clean"]), ("mended", vae, latents["mended"][:, 0]),
        ("drawn before", before, latents["drawn"]), ("drawn", vae, latents["drawn"]),
    ):  # fmt: skip
        y = torch.cat([network.decode(z[i : i + 8]).sample for i in range(0, len(z), 8)])
        found[name] = {key: round(float(v.mean()), 3) for key, v in surface(y).items()}
        if not name.startswith("drawn"):
            found[f"{name}, dB"] = round(psnr(y, x), 2)
        shown.append(y[:8])
    found["paintings"] = {key: round(float(v.mean()), 3) for key, v in surface(x).items()}
    Image.fromarray(np.concatenate([rows_of(row) for row in shown])).save(path)
    return found


def main(rank: int, world: int, args: argparse.Namespace) -> None:
    # 1. paintings and latents, the decoder as it was, the one that learns, its adversary
    corpus = Corpus(args.data, args.latents)
    before = AutoencoderKL.from_pretrained(args.vae).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    vae = AutoencoderKL.from_pretrained(args.init or args.vae).train().to(memory_format=torch.channels_last)
    vae.encoder.requires_grad_(False), vae.quant_conv.requires_grad_(False)
    named = {name: p for name, p in vae.named_parameters() if p.requires_grad}
    average = {name: p.detach().clone() for name, p in named.items()}
    torch.manual_seed(args.seed)
    judge = Discriminator(vae.config.latent_channels).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(named.values(), lr=args.rate, betas=(0.5, 0.99), weight_decay=1e-3)
    judge_optimizer = torch.optim.AdamW(judge.parameters(), lr=args.judge_rate, betas=(0.5, 0.99))

    # 2. what an earlier session left
    step = 0
    if found := load_state(args.out / "state"):
        tensors, meta = found
        with torch.no_grad():
            for name, p in named.items():
                p.copy_(tensors[f"decoder.{name}"])
                average[name].copy_(tensors[f"ema.{name}"])
        judge.load_state_dict({n.removeprefix("judge."): t for n, t in tensors.items() if n.startswith("judge.")})
        for prefix, each in (("g.", optimizer), ("d.", judge_optimizer)):
            restore_optimizer(each, {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        step = meta["step"]
        print(f"goes on at step {step}", flush=True)

    def save() -> None:
        tensors = {f"decoder.{n}": p for n, p in named.items()} | {f"ema.{n}": p for n, p in average.items()}
        tensors |= {f"judge.{n}": t for n, t in judge.state_dict().items()}
        tensors |= {f"g.{n}": t for n, t in optimizer_tensors(optimizer).items()}
        tensors |= {f"d.{n}": t for n, t in optimizer_tensors(judge_optimizer).items()}
        save_state(args.out / "state", tensors, {"step": step})

    def evaluate() -> None:
        live = {name: p.detach().clone() for name, p in named.items()}
        with torch.no_grad():
            for name, p in named.items():
                p.copy_(average[name])
            vae.eval()
            print(step, json.dumps(look(vae, before, corpus, args.out / f"sheet-{step:06d}.png")), flush=True)
            vae.save_pretrained(args.out / "vae")
            vae.train()
            for name, p in named.items():
                p.copy_(live[name])

    # 3. the loop
    bf16 = torch.autocast("cpu", torch.bfloat16, enabled=args.bf16)
    began, run = time.time(), [0.0, 0.0, 0.0]
    while step < args.steps:
        batch = corpus.batch(args.batch, args.seed, step, rank)
        x, z = batch.seen(batch.x), batch.seen(batch.z, 1)
        anchors = batch.broad > 0
        with bf16:
            y = batch.seen(vae.decode(batch.z).sample)
            with torch.no_grad():
                kept = batch.seen(before.decode(batch.z[anchors]).sample).float() if anchors.any() else None
        shown = y.detach().float().requires_grad_()
        wanted = painting_loss(shown, batch, kept, args.sharpness, args.flatness)
        adversary = None
        if step >= ALONE:
            judge.requires_grad_(False)
            with bf16:
                adversary = adversary_loss(judge, x, shown, z, batch.told, batch.painting)
            judge.requires_grad_(True)
        gradient = balanced(shown, wanted, adversary, args.share)
        for group in optimizer.param_groups:
            group["lr"] = args.rate * rate_at(step, args)
        optimizer.zero_grad(set_to_none=True)
        y.backward(gradient.to(y.dtype))
        average_gradients(list(named.values()), world)
        torch.nn.utils.clip_grad_norm_(list(named.values()), 1.0)
        optimizer.step()
        with bf16:
            fooled = discriminator_loss(judge, x, shown.detach(), z, batch.told)
        judge_optimizer.zero_grad(set_to_none=True)
        fooled.backward()
        average_gradients(list(judge.parameters()), world)
        judge_optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                list(average.values()),
                [p.detach() for p in named.values()],
                1 - min(args.ema, (step + 1) / (step + 20)),
            )
        step += 1
        now = [wanted.item(), adversary.item() if adversary is not None else 0.0, fooled.item()]
        run = [0.98 * a + 0.02 * b if a else b for a, b in zip(run, now, strict=True)]
        if rank:
            continue  # the first process alone writes
        if step % 50 == 0:
            speed = (time.time() - began) / 60
            print(
                f"{step}: {speed:.1f} min, painting {run[0]:.4f}, adversary {run[1]:.3f}, hinge {run[2]:.3f}",
                flush=True,
            )
        if step % args.look == 0 or step == args.steps:
            save()
            evaluate()
        elif step % args.save == 0:
            save()


def cli() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of painted shards (p*.npy)")
    parser.add_argument("--latents", type=Path, required=True, help="folder that `mistakes` wrote")
    parser.add_argument("--vae", type=Path, required=True, help="the autoencoder whose latents these are")
    parser.add_argument("--init", type=Path, help="go on from this one's decoder instead")
    parser.add_argument("--out", type=Path, required=True, help="folder for state, weights and sheets")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=6, help="crops per process")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--judge-rate", type=float, default=1e-3, help="of the discriminator")
    parser.add_argument("--share", type=float, default=0.4, help="length of the adversary's gradient, the painting's 1")
    parser.add_argument("--sharpness", type=float, default=1.0)
    parser.add_argument("--flatness", type=float, default=8.0)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--bf16", action="store_true", help="faster where the processor has it")
    parser.add_argument("--look", type=int, default=500, help="steps between two looks")
    parser.add_argument("--save", type=int, default=100, help="steps between two saves")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    launch(main, args, args.processes, port=29541)


if __name__ == "__main__":
    cli()
