"""A small network that says of every pixel which part of a character it shows, and how much of it is the character.

Trained on paintings whose masks are true by construction (`studio.pretraining.segmentation`); it knows that kind of
picture and says little about others. Knows no job and no file of a picture.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

SIDE = 256  # px on which parts are told; the alpha is worked out in the picture's own size
STEP = 16  # sides that the network takes are multiples of this
WIDTHS = (16, 32, 48, 64, 96)


def _block(into: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
        nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
    )  # fmt: skip


class PartsNetwork(nn.Module):
    """A U-Net (1505.04597) with one body and two heads: logits of `parts` classes, and one of the alpha.

    Input (batch, 3, h, w) in -1..1, sides multiples of `STEP`; output (batch, parts, h, w) and (batch, 1, h, w).
    """

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.first = _block(3, WIDTHS[0])
        self.down = nn.ModuleList(_block(a, b, 2) for a, b in itertools.pairwise(WIDTHS))
        self.up = nn.ModuleList(_block(a + b, a) for a, b in itertools.pairwise(WIDTHS))
        self.parts = nn.Conv2d(WIDTHS[0], parts, 1)
        self.alpha = nn.Conv2d(WIDTHS[0], 1, 3, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skips = [self.first(x)]
        for layer in self.down:
            skips.append(layer(skips[-1]))
        x = skips.pop()
        for layer in reversed(self.up):
            x = layer(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skips.pop()], dim=1))
        return self.parts(x), self.alpha(x)


@dataclass(frozen=True, eq=False)
class Seen:
    """One picture: `labels` (height, width) uint8, places in `Parts.names`; `alpha` (L)."""

    labels: np.ndarray
    alpha: Image.Image


class Parts:
    """The network with the names of its parts."""

    def __init__(self, network: PartsNetwork, names: list[str]) -> None:
        self.network = network.eval()
        self.names = names

    @classmethod
    def load(cls, folder: Path) -> Parts:
        """Read `config.json` and `model.safetensors`. Raises FileNotFoundError where there is none."""
        names: list[str] = json.loads((folder / "config.json").read_text(encoding="utf-8"))["parts"]
        network = PartsNetwork(len(names))
        tensors = load_file(folder / "model.safetensors")
        network.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in tensors.items()})
        return cls(network, names)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: t.half().contiguous() if t.is_floating_point() else t.clone()
            for name, t in self.network.state_dict().items()
        }
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"side": SIDE, "parts": self.names}, indent=1))

    @torch.no_grad()
    def __call__(self, picture: Image.Image) -> Seen:
        """What is where in a picture of any size."""
        scale = SIDE / max(picture.size)
        sides = [max(STEP, round(side * scale / STEP) * STEP) for side in picture.size]
        small = picture.convert("RGB").resize((sides[0], sides[1]), Image.Resampling.BOX)
        x = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 127.5 - 1
        parts, alpha = self.network(x)
        size = picture.size[::-1]
        labels = F.interpolate(parts, size, mode="bilinear").argmax(1)[0].numpy().astype(np.uint8)
        cover = F.interpolate(alpha.sigmoid(), size, mode="bilinear")[0, 0].numpy()
        return Seen(labels, Image.fromarray((cover * 255).round().astype(np.uint8)))

    def mask(self, seen: Seen, *parts: str) -> Image.Image:
        """White where a picture shows one of these parts, L."""
        places = [self.names.index(part) for part in parts]
        return Image.fromarray((np.isin(seen.labels, places) * 255).astype(np.uint8))
