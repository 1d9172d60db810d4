"""Train the head that tells clean latents from melted ones, for the gate before a picture is shown.

The labels are true by construction: a painting's latents are clean, what the few-step student draws for its caption is
not, and between them lie paintings of which it drew the last steps. Captions and styles are the same in all, so what is
shown says nothing. The threshold is where a chosen share of drawn pictures falls.

Not a step of `build`: it tells drawn from painted (99.8% of 400 pairs), but among drawn pictures its order isn't that
of the eye, so no head ships. The same holds for one taught how many of the student's steps were drawn.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from studio.evaluation.quality import GRAIN, Quality, QualityNetwork
from studio.pretraining import HELD_OUT, mistakes

# How clean each kind of latents is; `mended` by column
TARGETS = {
    "clean": 1.0,
    "mended-0": 0.5,
    "mended-1": 0.25,
    "drawn": 0.0,
}


def rows_of(tensors: dict[str, Tensor], kind: str, rows: Tensor) -> Tensor:
    """Latents of `kind` (see `TARGETS`) in these rows, fp32."""
    name, _, column = kind.partition("-")
    return (tensors[name][rows, int(column)] if column else tensors[name][rows]).float()


def turned(z: Tensor, generator: torch.Generator) -> Tensor:
    """Latents shifted by up to two cells, and with grain: what says nothing about how clean they are."""
    dy, dx = torch.randint(-2, 3, (2,), generator=generator).tolist()
    return torch.roll(z, (dy, dx), (2, 3)) + GRAIN * torch.randn(z.shape, generator=generator)


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    shards = list(mistakes.shards(args.latents).values())
    if not shards:
        raise SystemExit(f"No latents in {args.latents}: run studio.pretraining.mistakes first.")
    tensors = {name: torch.cat([s[name][:-HELD_OUT] for s in shards]) for name in ("clean", "mended", "drawn")}
    held = {name: torch.cat([s[name][-HELD_OUT:] for s in shards]) for name in ("clean", "mended", "drawn")}
    network = QualityNetwork(tensors["clean"].shape[1])
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.rate, weight_decay=1e-2)
    kinds, count, began = list(TARGETS), len(tensors["clean"]), time.time()
    for step in range(args.steps):
        rows = torch.randint(count, (args.batch,), generator=generator)
        z = torch.cat([rows_of(tensors, kind, rows) for kind in kinds])
        wanted = torch.tensor([TARGETS[kind] for kind in kinds]).repeat_interleave(len(rows))
        loss = F.binary_cross_entropy_with_logits(network(turned(z, generator)), wanted)
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1, (step + 1) / 50) * (1 - step / args.steps + 0.01)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 200 == 0:
            print(f"step {step}, loss {loss.item():.4f}, {time.time() - began:.0f} s", flush=True)
    quality = Quality(network, 0.0)
    every = torch.arange(len(held["clean"]))
    scores = {kind: torch.tensor(quality(rows_of(held, kind, every))) for kind in kinds}
    for kind, values in scores.items():
        print(f"{kind}: {values.mean():.3f}, deviation {values.std():.3f}")
    quality.threshold = float(scores["drawn"].quantile(args.refused))
    told = float((scores["drawn"] < scores["clean"]).float().mean())
    print(f"drawn below its painting in {told:.1%} of {len(every)}; threshold {quality.threshold:.3f}")
    quality.save(args.out)


def cli() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=Path, required=True, help="folder that `mistakes` wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--refused", type=float, default=0.12, help="share of drawn pictures below the threshold")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=16, help="captions, each with all kinds of latents")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args())


if __name__ == "__main__":
    cli()
