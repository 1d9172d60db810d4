"""A small network that says what a character picture shows: emotion, style, hair and eye colour, and so on.

It was trained on drawings whose labels are true by construction, and never on generated pictures, so it can measure
them. Its 256 features, before the heads, are the space of the Frechet and perceptual distances. It knows one kind of
picture (a character's head and shoulders in this studio's drawing styles) and says nothing useful about others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

SIDE = 128  # px; at 64 px expressions are lost
FEATURES = 256


class JudgeNetwork(nn.Module):
    """Five strided convolutions, one hidden layer, a linear head per factor.

    `heads` maps a factor's name to its number of values. Input (batch, 3, 128, 128) in -1..1.
    """

    def __init__(self, heads: dict[str, int]) -> None:
        super().__init__()

        def block(into: int, out: int, stride: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())

        self.body = nn.Sequential(
            block(3, 24, 2), block(24, 48, 2), block(48, 64, 1), block(64, 96, 2), block(96, 128, 2)
        )  # (batch, 128, 8, 8)
        self.squeeze = nn.Conv2d(128, 64, 1)
        self.hidden = nn.Linear(64 * 8 * 8, FEATURES)
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, count) for name, count in heads.items()})

    def maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Activations after each convolution, for a perceptual distance."""
        outputs = []
        for layer in self.body:
            x = layer(x)
            outputs.append(x)
        return outputs

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, 256), non-negative."""
        x = F.relu(self.squeeze(self.body(x))).flatten(1)
        return F.relu(self.hidden(F.dropout(x, 0.2, self.training)))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.features(x)
        return {name: head(features) for name, head in self.heads.items()}


@dataclass(frozen=True)
class Verdict:
    """What the judge saw in n pictures.

    `labels[factor]` has n words, `probabilities[factor]` is (n, values) with columns in the order of `Judge.values`,
    `features` is (n, 256).
    """

    labels: dict[str, list[str]]
    probabilities: dict[str, torch.Tensor]
    features: torch.Tensor


class Judge:
    """The network with the names of its answers."""

    def __init__(self, network: JudgeNetwork, values: dict[str, list[str]]) -> None:
        self.network = network.eval()
        self.values = values

    @classmethod
    def load(cls, folder: Path) -> Judge:
        """Read `config.json` and `model.safetensors`. Raises FileNotFoundError where there is no judge."""
        values: dict[str, list[str]] = json.loads((folder / "config.json").read_text(encoding="utf-8"))["values"]
        network = JudgeNetwork({name: len(words) for name, words in values.items()})
        tensors = load_file(folder / "model.safetensors")
        network.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in tensors.items()})
        return cls(network.to(memory_format=torch.channels_last), values)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: t.half().contiguous() if t.is_floating_point() else t.clone()
            for name, t in self.network.state_dict().items()
        }
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"side": SIDE, "values": self.values}, indent=1))

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image] | torch.Tensor, batch: int = 64) -> Verdict:
        """Judge PIL pictures of any size, or a tensor (n, 3, h, w) in -1..1."""
        logits: dict[str, list[torch.Tensor]] = {name: [] for name in self.values}
        features = []
        for x in self._batches(pictures, batch):
            seen = self.network.features(x)
            features.append(seen)
            for name, head in self.network.heads.items():
                logits[name].append(head(seen))
        probabilities = {name: torch.cat(parts).softmax(1) for name, parts in logits.items()}
        labels = {
            name: [self.values[name][i] for i in table.argmax(1).tolist()] for name, table in probabilities.items()
        }
        return Verdict(labels, probabilities, torch.cat(features))

    @torch.no_grad()
    def distance(
        self, a: Sequence[Image.Image] | torch.Tensor, b: Sequence[Image.Image] | torch.Tensor
    ) -> torch.Tensor:
        """Perceptual distance of a[i] and b[i], (n,), 0 for equal pictures.

        As LPIPS (1801.03924, eq. 1) without its learnt weights: unit-normalised activations of every layer,
        squared difference, averaged over positions, summed over layers.
        """
        distances = []
        for x, y in zip(self._batches(a, 16), self._batches(b, 16), strict=True):
            total = torch.zeros(len(x))
            for p, q in zip(self.network.maps(x), self.network.maps(y), strict=True):
                total += (F.normalize(p, dim=1) - F.normalize(q, dim=1)).square().sum(1).mean((1, 2))
            distances.append(total)
        return torch.cat(distances)

    def _batches(self, pictures: Sequence[Image.Image] | torch.Tensor, batch: int) -> Iterable[torch.Tensor]:
        for i in range(0, len(pictures), batch):
            part = pictures[i : i + batch]
            x = part if isinstance(part, torch.Tensor) else reduced(part)
            if x.shape[-1] != SIDE or x.shape[-2] != SIDE:
                x = F.interpolate(x, (SIDE, SIDE), mode="area")
            yield x.contiguous(memory_format=torch.channels_last)


def reduced(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """PIL pictures of any sizes to (n, 3, 128, 128) in -1..1, reduced by area averaging."""
    rows = []
    for picture in pictures:
        x = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None].float() / 127.5 - 1
        rows.append(x if x.shape[-2:] == (SIDE, SIDE) else F.interpolate(x, (SIDE, SIDE), mode="area"))
    return torch.cat(rows)
