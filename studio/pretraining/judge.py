"""Train the judge on painted characters. It sees drawings only, some blurred or noisy, never generated ones."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from studio.evaluation.judge import Judge, JudgeNetwork
from studio.pretraining import HELD_OUT

WEIGHTS = {"emotion": 3.0, "style": 2.0, "hair_color": 2.0, "eye_color": 2.0}


def factors(meta: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The labels of each drawing; eye colour is "hidden" behind closed eyes."""
    rows = []
    for m in meta:
        row = {k: m[k] for k in ("emotion", "style", "hair_color", "gender", "hair_length", "skin", "outfit_color")}
        row["eye_color"] = m["eye_color"] if f"{m['eye_color']} eyes" in m["tags"] else "hidden"
        row["background"] = m["background"]
        rows.append(row)
    return rows


def half_size(shard: np.ndarray) -> torch.Tensor:
    """uint8 (n, 256, 256, 3) to uint8 (n, 3, 128, 128) by 2x2 averages."""
    parts = []
    for i in range(0, len(shard), 100):
        x = torch.from_numpy(np.array(shard[i : i + 100])).permute(0, 3, 1, 2).float()
        parts.append(F.avg_pool2d(x, 2).round().byte())
    return torch.cat(parts)


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """What generation may do to a picture without changing what it shows. (batch, 3, 128, 128) in -1..1."""

    def chance() -> float:
        return float(torch.rand((), generator=generator))

    dx, dy = torch.randint(-4, 5, (2,), generator=generator).tolist()
    x = torch.roll(x, (dy, dx), (2, 3))
    if chance() < 0.5:
        small = int(128 * (0.4 + 0.5 * chance()))
        x = F.interpolate(F.interpolate(x, (small, small), mode="area"), (128, 128), mode="bilinear")
    gain = 1 + 0.12 * (torch.rand(len(x), 3, 1, 1, generator=generator) - 0.5)
    shift = 0.08 * (torch.rand(len(x), 3, 1, 1, generator=generator) - 0.5)
    noise = 0.15 * chance() ** 2 * torch.randn(x.shape, generator=generator)
    return (x * gain + shift + noise).clamp(-1, 1)


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)

    # 1. drawings at 128 px and their labels
    pictures, labels, held_pictures, held_labels = [], [], [], []
    for path in sorted(args.data.glob("p*.npy"))[: args.shards]:
        shard = half_size(np.load(path, mmap_mode="r"))
        rows = factors(json.loads(path.with_name("m" + path.stem[1:] + ".json").read_text(encoding="utf-8")))
        pictures.append(shard[:-HELD_OUT])
        labels += rows[:-HELD_OUT]
        held_pictures.append(shard[-HELD_OUT:])
        held_labels += rows[-HELD_OUT:]
    x, held = torch.cat(pictures), torch.cat(held_pictures)
    values = {name: sorted({row[name] for row in labels}) for name in labels[0]}
    target = {name: torch.tensor([values[name].index(row[name]) for row in labels]) for name in values}
    print(f"{len(x)} drawings, {len(held)} held out, factors { ({k: len(v) for k, v in values.items()}) }", flush=True)

    # 2. train
    network = JudgeNetwork({name: len(words) for name, words in values.items()}).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=2e-2)
    steps, started = int(args.epochs * len(x) / args.batch), time.time()
    for step in range(steps):
        if step % (len(x) // args.batch) == 0:
            order = torch.randperm(len(x), generator=generator)
        at = step % (len(x) // args.batch) * args.batch
        chosen = order[at : at + args.batch]
        batch = augment(x[chosen].float() / 127.5 - 1, generator).contiguous(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 50) * (1 - step / steps + 0.01)
        logits = network(batch)
        loss = sum(
            (
                F.cross_entropy(logits[name], target[name][chosen], label_smoothing=0.02) * WEIGHTS.get(name, 1.0)
                for name in values
            ),
            start=torch.zeros(()),
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}/{steps}, loss {loss.item():.3f}, {time.time() - started:.0f} s", flush=True)

    # 3. measure on the held-out drawings, save
    judge = Judge(network, values)
    verdict = judge(held.float() / 127.5 - 1)
    accuracy = {
        name: float(np.mean([a == row[name] for a, row in zip(verdict.labels[name], held_labels, strict=True)]))
        for name in values
    }
    print("held-out accuracy", json.dumps({k: round(v, 4) for k, v in accuracy.items()}), flush=True)
    judge.save(args.out)
    (args.out / "accuracy.json").write_text(json.dumps({"drawings": len(held), "accuracy": accuracy}, indent=1))


def cli() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of painted shards")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--shards", type=int, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args())


if __name__ == "__main__":
    cli()
