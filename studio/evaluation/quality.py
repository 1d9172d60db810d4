"""A small network that says how clean the latents of a picture are: 0 is melted, 1 is like a painting.

It looks at latents, so a bad picture is known before it is decoded. It was taught paintings and what the embedded model
makes of their captions (`studio.pretraining.quality`): labels that nobody had to give. Grain is put on both, in
learning and in looking: without it a touch too soft or too rough would say more than a mouth in the wrong place. It
knows this model's latents only.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WIDTHS = (64, 96, 128)
GRAIN = 0.4  # deviation of the noise on the latents
LOOKS = 4  # under how much different grain each picture is looked at


class QualityNetwork(nn.Module):
    """Three convolutions, mean and largest value of each channel, one hidden layer. (n, c, h, w) to logits (n,)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (channels, *WIDTHS)
        self.body = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 3, 2 if i else 1, 1) for i in range(len(WIDTHS)))
        self.hidden = nn.Linear(2 * WIDTHS[-1], 64)
        self.score = nn.Linear(64, 1)

    def forward(self, z: Tensor) -> Tensor:
        for layer in self.body:
            z = F.silu(layer(z))
        seen = torch.cat([z.mean((2, 3)), z.amax((2, 3))], 1)
        return self.score(F.dropout(F.silu(self.hidden(seen)), 0.2, self.training)).squeeze(1)


class Quality:
    """The network and the score below which a picture is drawn again."""

    def __init__(self, network: QualityNetwork, threshold: float) -> None:
        self.network, self.threshold = network.eval(), threshold

    @classmethod
    def load(cls, folder: Path) -> Quality:
        """Read `config.json` and `model.safetensors`. Raises FileNotFoundError where there is none."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        network = QualityNetwork(config["channels"])
        network.load_state_dict({name: t.float() for name, t in load_file(folder / "model.safetensors").items()})
        return cls(network, float(config["threshold"]))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: t.half().contiguous() for name, t in self.network.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")
        config = {"channels": self.network.body[0].in_channels, "threshold": round(self.threshold, 4)}
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")

    @torch.no_grad()
    def __call__(self, z: Tensor) -> list[float]:
        """Scores of latents (n, c, h, w), one at a time: a picture's score doesn't hang on what it is drawn beside."""
        grain = GRAIN * torch.randn(LOOKS, *z.shape[1:], generator=torch.Generator().manual_seed(0))
        return [float(self.network(row.float().cpu() + grain).mean().sigmoid()) for row in z]
