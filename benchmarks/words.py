"""Which words the embedded model really draws: each of its tags is asked for, and a small network looks for it.

The network (`Tagger`) learns the tags from the painter's own drawings, where they are labels by construction, and is
measured on drawings that it never saw: a tag that it can't tell there isn't judged. A share of pictures is corrected
for its errors (Rogan & Gladen, 1978: (seen + specificity - 1) / (sensitivity + specificity - 1)).

    python -m benchmarks.words train SHARDS HELD --out tagger.safetensors
    python -m benchmarks.words measure --tagger tagger.safetensors --out drawn.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from studio.core.settings import EMBEDDED_MODEL, Settings

SIDE = 128
COLORS = ("aqua", "black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow")
GARMENTS = ("bow", "coat", "dress", "hoodie", "jacket", "kimono", "sailor collar", "scarf", "striped shirt", "sweater",
            "t-shirt", "turtleneck", "vest")  # fmt: skip


def parts(tag: str) -> tuple[str, ...]:
    """What is looked for in a picture: of a coloured garment or ground the thing and its colour apart."""
    color, _, thing = tag.partition(" ")
    if color in COLORS and thing in GARMENTS:
        return thing, f"clothes: {color}"
    return (f"ground: {color}",) if color in COLORS and thing == "background" else (tag,)


def vocabulary() -> list[str]:
    """Everything that is looked for, sorted."""
    tags = json.loads((EMBEDDED_MODEL / "studio.json").read_text(encoding="utf-8"))["tags"]
    return sorted({part for tag in tags for part in parts(tag)})


class Tagger(nn.Module):
    """Pictures (n, 3, 128, 128) in -1..1 to logits (n, words)."""

    def __init__(self, words: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = (3, 24, 48, 96, 160, 192)
        for one, two in itertools.pairwise(widths):
            layers += [nn.Conv2d(one, two, 3, 2, 1, bias=False), nn.BatchNorm2d(two), nn.ReLU()]
        layers += [nn.Conv2d(192, 192, 3, 1, 1, bias=False), nn.BatchNorm2d(192), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(192 * 16, 256), nn.ReLU(), nn.Linear(256, words))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(pictures).flatten(1))


def pixels(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (n, 256, 256, 3) to (n, 3, 128, 128) in -1..1."""
    return F.avg_pool2d(torch.from_numpy(pictures).permute(0, 3, 1, 2).float(), 2) / 127.5 - 1


def shards(folder: Path, words: Sequence[str]) -> tuple[np.ndarray, torch.Tensor]:
    """All drawings of a folder at half size, uint8, and their labels (n, words)."""
    place = {word: number for number, word in enumerate(words)}
    pictures, labels = [], []
    for file in sorted(folder.glob("m*.json")):
        rows = json.loads(file.read_text(encoding="utf-8"))
        drawn = np.load(file.with_name(f"p{file.stem[1:]}.npy"), mmap_mode="r")[: len(rows)]
        for start in range(0, len(rows), 200):
            piece = pixels(np.array(drawn[start : start + 200]))
            pictures.append(((piece + 1) * 127.5).round().to(torch.uint8).numpy())
        truth = torch.zeros(len(rows), len(words))
        for row, one in zip(truth, rows, strict=True):
            for tag in one["tags"]:
                for part in parts(tag):
                    if part in place:
                        row[place[part]] = 1
        labels.append(truth)
    return np.concatenate(pictures), torch.cat(labels)


def train(folder: Path, held: Path, out: Path, minutes: float) -> None:
    """Learn from the shards of `folder`; `out`'s metadata say what each tag is recognised by on those of `held`."""
    torch.manual_seed(0)
    words = vocabulary()
    pictures, truth = shards(folder, words)
    model = Tagger(len(words)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.02)
    rare = (truth.mean(0).clamp(0.003, 0.5) ** -0.5).clamp(max=8)  # the rarer, the more a missed one costs
    generator, begun, step = torch.Generator().manual_seed(0), time.monotonic(), 0
    while (gone := (time.monotonic() - begun) / 60 / minutes) < 1:
        chosen = torch.randint(len(pictures), (64,), generator=generator)
        batch = torch.from_numpy(pictures[chosen.numpy()]).float() / 127.5 - 1
        shift = torch.randint(-6, 7, (2,), generator=generator).tolist()
        batch = torch.roll(batch, shift, (2, 3)) + 0.04 * torch.randn(batch.shape, generator=generator)
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * (1 - gone) + 1e-5
        loss = F.binary_cross_entropy_with_logits(model(batch), truth[chosen], pos_weight=rare)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"{step} {gone:.2f} {loss.item():.4f}", flush=True)
        step += 1
    model.eval()
    seen, known = shards(held, words)
    logits = torch.cat([scores(model, seen[i : i + 100]) for i in range(0, len(seen), 100)])
    cuts: dict[str, Any] = {}
    for number, word in enumerate(words):
        yes, no = logits[known[:, number] == 1, number], logits[known[:, number] == 0, number]
        if len(yes) < 8 or not len(no):
            continue
        at = max(
            logits[:, number].quantile(torch.linspace(0, 1, 201)).tolist(),
            key=lambda cut: (yes > cut).float().mean() - (no > cut).float().mean(),
        )
        cuts[word] = [at, (yes > at).float().mean().item(), (no <= at).float().mean().item(), len(yes)]
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        out,
        {"words": json.dumps(words), "cuts": json.dumps(cuts)},
    )
    good = [word for word, (_, sensitivity, specificity, _) in cuts.items() if sensitivity + specificity > 1.8]
    print(f"{step} steps; {len(good)} of {len(words)} words are told with J > 0.8")


@torch.no_grad()
def scores(model: Tagger, small: np.ndarray) -> torch.Tensor:
    return model(torch.from_numpy(small).float() / 127.5 - 1)


def load(path: Path) -> tuple[Tagger, list[str], dict[str, list[float]]]:
    """A trained tagger, its words, and for each word the logit from which it is seen, sensitivity, specificity, n."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        said = file.metadata()
    words = json.loads(said["words"])
    model = Tagger(len(words))
    model.load_state_dict(load_file(path))
    return model.eval(), words, json.loads(said["cuts"])


def looked(tagger: tuple[Tagger, list[str], dict[str, list[float]]], images: Sequence[Image.Image]) -> list[set[str]]:
    """The words that are seen in each picture."""
    model, words, cuts = tagger
    drawn = np.stack([np.asarray(image.convert("RGB").resize((2 * SIDE, 2 * SIDE))) for image in images])
    found = scores(model, ((pixels(drawn) + 1) * 127.5).round().to(torch.uint8).numpy())
    return [{word for word, score in zip(words, row, strict=True) if word in cuts and score > cuts[word][0]}
            for row in found.tolist()]  # fmt: skip


def true_share(seen: float, sensitivity: float, specificity: float) -> float:
    """The share of pictures that show a thing, from the share in which it was seen."""
    return min(1.0, max(0.0, (seen + specificity - 1) / max(0.05, sensitivity + specificity - 1)))


def measure(tagger: Path, out: Path, count: int, fast: bool, only: Sequence[str] = ()) -> None:
    """Draw `count` pictures for every tag, as Generate does, and write how often each part of it was there."""
    from benchmarks.embedded import draw
    from studio.engine.engine import Engine
    from studio.prompting.writers import OfflineWriter, PromptRequest

    known = load(tagger)
    tags = list(only) or json.loads((EMBEDDED_MODEL / "studio.json").read_text(encoding="utf-8"))["tags"]
    engine, writer = Engine(Settings(_env_file=None)), OfflineWriter()
    rows: dict[str, Any] = {}
    for tag in tags:
        rng = random.Random(tag)
        prompts = []
        for number in range(count):
            emotion = ("happy", "calm", "sad", "surprised", "angry")[number % 5]
            style = rng.choice(("casual", "casual", "formal", "artistic", "realistic"))
            result = writer.write(PromptRequest(emotion=emotion, style=style, text=tag))
            prompts.append((result.positive_prompt, result.negative_prompt))
        images, _ = draw(engine, prompts, fast=fast)
        seen = looked(known, images)
        found = {}
        for part in parts(tag):
            if part in known[2]:
                _, sensitivity, specificity, _ = known[2][part]
                share = sum(part in one for one in seen) / count
                found[part] = [round(true_share(share, sensitivity, specificity), 2), round(share, 2),
                               round(sensitivity, 2), round(specificity, 2)]  # fmt: skip
        rows[tag] = found
        print(tag, found, flush=True)
        out.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    learn = verbs.add_parser("train")
    learn.add_argument("folder", type=Path)
    learn.add_argument("held", type=Path)
    learn.add_argument("--out", type=Path, required=True)
    learn.add_argument("--minutes", type=float, default=15)
    look = verbs.add_parser("measure")
    look.add_argument("--tagger", type=Path, required=True)
    look.add_argument("--out", type=Path, required=True)
    look.add_argument("--count", type=int, default=15)
    look.add_argument("--slow", action="store_true", help="20 steps with guidance instead of four")
    look.add_argument("--only", nargs="*", default=())
    options = parser.parse_args()
    if options.verb == "train":
        train(options.folder, options.held, options.out, options.minutes)
    else:
        measure(options.tagger, options.out, options.count, not options.slow, options.only)


if __name__ == "__main__":
    main()
