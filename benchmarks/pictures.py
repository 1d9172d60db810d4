"""Are the embedded model's pictures as clean as the painter's: surface, distance to held-out paintings, words obeyed.

The prompts are the tags of held-out paintings, so that characters, clothes and backgrounds are spread the same, and
the figures of half of these paintings against the other half are the floor. Four steps and High beside each other.
Words are read by a linear classifier on features of the judge's network, trained here on other paintings; a word that
it doesn't read well in paintings is left out.

`python -m benchmarks.pictures --held FOLDER --pictures 500 --out DIR`; FOLDER keeps the paintings for the next time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks.embedded import LIGHT, draw, sheet
from studio.core.settings import EMBEDDED_MODEL, Settings
from studio.core.specs import STYLES
from studio.engine.engine import Engine
from studio.evaluation import metrics
from studio.evaluation.judge import Judge, JudgeNetwork
from studio.pretraining.corpus import paint_shard
from studio.pretraining.vae import to_tensor

SHARD = 160  # far from those that networks are trained on; the next ones teach the classifier
LESSONS = 2500  # paintings for it
READABLE = 0.9  # a word counts from this mean of sensitivity and specificity in held-out paintings on
RARE = 8  # of the prompts must hold a word
PATHS = {"4 steps": True, "High": False}


class Unlabelled:
    """Features of a network that nobody trained: the judge's layers with random orthogonal weights, always the same.

    Mean and deviation of every channel of every layer, (n, 720), each in units of its deviation over `reference`
    paintings: textures and colours, no idea of what is a face.
    """

    def __init__(self, reference: Tensor) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = JudgeNetwork({}).eval()
            for layer in self.network.body.modules():
                if isinstance(layer, torch.nn.Conv2d):
                    torch.nn.init.orthogonal_(layer.weight, 2**0.5)
        seen = self._features(reference)
        self.mean, self.scale = seen.mean(0), seen.std(0).clamp_min(1e-6)

    def __call__(self, pictures: Tensor) -> Tensor:
        return (self._features(pictures) - self.mean) / self.scale

    @torch.no_grad()
    def _features(self, pictures: Tensor) -> Tensor:
        found = []
        for i in range(0, len(pictures), 50):
            maps = self.network.maps(F.avg_pool2d(pictures[i : i + 50], 2))
            found.append(torch.cat([part for m in maps for part in (m.mean((2, 3)), m.std((2, 3)))], 1))
        return torch.cat(found)


class Reader:
    """Which words a picture shows: a logistic classifier per word on the judge's (64, 8, 8) map before its features."""

    def __init__(self, judge: Judge, pictures: Tensor, tags: Sequence[Sequence[str]]) -> None:
        self.judge = judge
        counts: dict[str, int] = {}
        for row in tags:
            for tag in row:
                counts[tag] = counts.get(tag, 0) + 1
        self.words = sorted(w for w, count in counts.items() if 20 <= count <= len(tags) - 20)
        x, y = self._map(pictures), self._truth(tags)
        self.mean, self.scale = x.mean(0), x.std(0).clamp_min(1e-3)
        x = (x - self.mean) / self.scale
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            self.line = torch.nn.Linear(x.shape[1], len(self.words))
            torch.nn.init.zeros_(self.line.weight)
            common = y.mean(0).clamp(1e-3, 1 - 1e-3)
            optimizer = torch.optim.AdamW(self.line.parameters(), lr=1e-3, weight_decay=0.3)
            for _ in range(12):
                for rows in torch.randperm(len(x)).split(100):
                    error = F.binary_cross_entropy_with_logits(
                        self.line(x[rows]), y[rows], pos_weight=(1 - common) / common
                    )
                    optimizer.zero_grad()
                    error.backward()
                    optimizer.step()

    def _truth(self, tags: Sequence[Sequence[str]]) -> Tensor:
        return torch.tensor([[float(word in row) for word in self.words] for row in (set(r) for r in tags)])

    @torch.no_grad()
    def _map(self, pictures: Tensor) -> Tensor:
        network = self.judge.network
        return torch.cat([F.relu(network.squeeze(network.body(F.avg_pool2d(pictures[i : i + 50], 2)))).flatten(1)
                          for i in range(0, len(pictures), 50)])  # fmt: skip

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        """(n, words) of 0 and 1."""
        return (self.line((self._map(pictures) - self.mean) / self.scale) > 0).float()

    def obeyed(self, pictures: Tensor, tags: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor, Tensor]:
        """Per word: the share that shows it where it was asked for, that doesn't where it wasn't, how often asked."""
        said, truth = self(pictures), self._truth(tags)
        asked = truth.sum(0)
        return (said * truth).sum(0) / asked, ((1 - said) * (1 - truth)).sum(0) / (1 - truth).sum(0), asked


def groups(words: Sequence[str]) -> dict[str, list[str]]:
    """Words by what they are about: clothes kind and colour, accessories, background, hair style."""
    clothes = {"hoodie", "jacket", "kimono", "sailor collar", "scarf", "shirt", "sweater", "t-shirt", "turtleneck",
               "vest", "coat", "dress", "suit", "serafuku", "necktie", "frills", "dress shirt", "bow"}  # fmt: skip
    accessories = {"glasses", "hat", "hair ribbon", "hair flower", "hairclip", "headphones", "horns", "halo",
                   "cat ears", "earrings", "choker", "bandaid on face", "mole under eye", "freckles"}  # fmt: skip
    scenes = {"sky, clouds", "starry sky", "sunset", "bokeh", "petals", "paint splatter", "simple background"}
    hair = {"ponytail", "twintails", "twin braids", "double bun", "bob cut", "ahoge", "messy hair", "spiky hair",
            "straight hair", "wavy hair", "blunt bangs", "crossed bangs", "parted bangs", "short bangs", "swept bangs",
            "gradient hair", "hair between eyes"}  # fmt: skip
    found: dict[str, list[str]] = {"clothes": [], "accessories": [], "background": [], "hair style": []}
    for word in words:
        if word in scenes or word.endswith(" background"):
            found["background"].append(word)
        elif word in accessories:
            found["accessories"].append(word)
        elif word in hair:
            found["hair style"].append(word)
        elif word in clothes or any(word.endswith(f" {piece}") for piece in clothes):
            found["clothes"].append(word)
    return found


def surface(pictures: Tensor, styles: Sequence[str]) -> dict[str, dict[str, float]]:
    """`metrics.surface` of all and by style."""
    figures, found = metrics.surface(pictures), {}
    for style in ("all", *STYLES):
        rows = torch.tensor([style in ("all", s) for s in styles])
        found[style] = {name: float(values[rows].mean()) for name, values in figures.items() if rows.any()}
    return found


def distances(features: dict[str, Tensor], real: dict[str, Tensor]) -> dict[str, float]:
    """Of pictures to paintings, in each space of features."""
    found: dict[str, float] = {}
    for name, made in features.items():
        found[f"frechet ({name})"] = metrics.frechet_distance(made, real[name])
        found[f"kernel ({name})"] = metrics.kernel_distance(made, real[name])
        found[f"precision ({name})"], found[f"recall ({name})"] = metrics.precision_recall(made, real[name])
    return found


def held_out(folder: Path, count: int, shard: int = SHARD) -> tuple[Tensor, list[dict[str, Any]]]:
    """`count` paintings that no network has seen, painted into `folder` unless they are there, and their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = folder / f"m{shard:03d}.json"
    if not labels.exists() or len(json.loads(labels.read_text(encoding="utf-8"))) < count:
        paint_shard(folder, shard, count, "full")
    pictures = np.load(folder / f"p{shard:03d}.npy", mmap_mode="r")[:count]
    return to_tensor(pictures), json.loads(labels.read_text(encoding="utf-8"))[:count]


def measure(
    held: Path, count: int, out: Path | None = None, model: Path = EMBEDDED_MODEL, again: bool = False
) -> dict[str, Any]:
    """All figures: `painter`, `4 steps` and `High`, of `count` pictures each. `again`: of the pictures that an earlier
    call left in `out`."""
    judge, engine = Judge.load(EMBEDDED_MODEL / "judge"), Engine(Settings())
    x, rows = held_out(held, count)
    other, _ = held_out(held, count, SHARD + 1)
    unlabelled = Unlabelled(other)
    lessons, taught = held_out(held, LESSONS, SHARD + 2)
    reader = Reader(judge, lessons, [row["tags"] for row in taught])
    tags, styles = [row["tags"] for row in rows], [row["style"] for row in rows]

    def features(pictures: Tensor) -> dict[str, Tensor]:
        return {"judge": judge(pictures).features, "unlabelled": unlabelled(pictures)}

    shown, unshown, asked = reader.obeyed(x, tags)
    balance = (shown + unshown) / 2
    readable = [w for w, b, n in zip(reader.words, balance.tolist(), asked.tolist(), strict=True)
                if b >= READABLE and n >= RARE]  # fmt: skip
    real = features(other)
    found: dict[str, Any] = {"pictures": count, "model": str(model.name)}
    sets: dict[str, tuple[Tensor, float]] = {"painter": (x, 0.0)}
    for name, fast in PATHS.items():
        if again and out:
            drawn, seconds = left(out / name.replace(" ", "-")), float("nan")
        else:
            drawn, seconds = draw(engine, [(", ".join(row), "") for row in tags], fast=fast, model=model)
        sets[name] = to_tensor(np.stack([np.asarray(p.convert("RGB")) for p in drawn])), seconds
        if out and not again:
            keep(out / name.replace(" ", "-"), drawn, judge)
    for name, (pictures, seconds) in sets.items():
        verdict = judge(pictures)
        shown, _, _ = reader.obeyed(pictures, tags)
        obeyed = dict(zip(reader.words, shown.tolist(), strict=True))
        truth = [{k: row[k] for k in ("emotion", "style", "hair_color", "gender", "hair_length", "outfit_color",
                                      "background", "skin")} for row in rows]  # fmt: skip
        found[name] = {
            "surface": surface(pictures, styles),
            "distance": distances(features(pictures), real),
            "factors": {f: float(np.mean([a == t[f] for a, t in zip(verdict.labels[f], truth, strict=True)]))
                        for f in truth[0]},
            "words": {g: {w: round(obeyed[w], 3) for w in words} for g, words in groups(readable).items()},
            "seconds": seconds,
        }  # fmt: skip
    return found


def keep(folder: Path, pictures: list[Image.Image], judge: Judge) -> None:
    """Leave the pictures to look at, named as `benchmarks.faces` wants them, and a sheet of the first hundred."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, (picture, skin) in enumerate(zip(pictures, judge(pictures).labels["skin"], strict=True)):
        picture.save(folder / f"{'light' if skin in LIGHT else 'other'}-{k:03d}.png")
    sheet(pictures[:100], 10).save(folder.with_suffix(".png"))


def left(folder: Path) -> list[Image.Image]:
    """The pictures that `keep` left in a folder, in their order."""
    return [Image.open(path) for path in sorted(folder.glob("*.png"), key=lambda p: int(p.stem.partition("-")[2]))]


def table(found: dict[str, Any]) -> str:
    """The figures as one Markdown table; surface figures also as shares of the painter's."""
    columns = ["painter", *PATHS]
    lines = [f"| {found['pictures']} pictures | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for style in found["painter"]["surface"]:
        for name in ("flat", "strong", "lines"):
            values = [found[c]["surface"][style].get(name, float("nan")) for c in columns]
            cells = [f"{v:.1f}" if name == "lines" else f"{v:.3f}" for v in values]
            cells = [cells[0], *(f"{c} ({v / values[0]:.2f})" for c, v in zip(cells[1:], values[1:], strict=True))]
            lines.append(f"| {name}, {style} | " + " | ".join(cells) + " |")
    for name in found["painter"]["distance"]:
        lines.append(f"| {name} | " + " | ".join(f"{found[c]['distance'][name]:.3g}" for c in columns) + " |")
    for name in found["painter"]["factors"]:
        lines.append(f"| {name} | " + " | ".join(f"{found[c]['factors'][name]:.1%}" for c in columns) + " |")
    for group, words in found["painter"]["words"].items():
        if words:
            means = [np.mean(list(found[c]["words"][group].values())) for c in columns]
            lines.append(f"| {group}, {len(words)} words | " + " | ".join(f"{m:.1%}" for m in means) + " |")
    lines.append("| seconds | " + " | ".join(f"{found[c]['seconds']:.2f}" for c in columns) + " |")
    return "\n".join(lines)


def run(quick: bool = True) -> dict[str, Any]:
    """Figures of the embedded model on 60 (quick) or 500 pictures."""
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder), 60 if quick else 500)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--held", type=Path, required=True, help="folder for held-out paintings")
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL, help="another folder to measure")
    parser.add_argument("--out", type=Path, help="leave pictures, sheets and figures there")
    parser.add_argument("--again", action="store_true", help="measure what an earlier run left in --out")
    args = parser.parse_args()
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    figures = measure(args.held, args.pictures, args.out, args.model, args.again)
    if args.out:
        (args.out / "pictures.json").write_text(json.dumps(figures, indent=1))
    print(table(figures))
