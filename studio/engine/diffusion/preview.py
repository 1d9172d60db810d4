"""Small pictures of unfinished latents, without the VAE. Knows latents and colours, not what they show."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from PIL import Image

from studio.engine.diffusion.pixels import to_images


class Previewer:
    """A linear map from one latent cell to p x p pixels, p^2 about the number of latent channels: least squares.

    It begins from one small decoding of random latents (`decode`: latents to pixels in -1..1) and learns from every
    finished picture (`learn`), which costs milliseconds. Linear decoders show latents well: they are nearly a
    compression of the colours of their cell. `channels` and `factor`: of the latents, see `Components`.
    """

    def __init__(self, channels: int, factor: int, decode: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.pixels = max(1, min(factor, round(math.sqrt(channels))))
        size = channels + 1
        self._normal = 1e-2 * torch.eye(size, dtype=torch.float64)
        self._target = torch.zeros(size, 3 * self.pixels**2, dtype=torch.float64)
        self._map: torch.Tensor | None = None
        cells = torch.randn(1, channels, 16, 16, generator=torch.Generator().manual_seed(0))
        smooth = F.interpolate(cells[..., ::4, ::4], size=(16, 16), mode="bicubic")
        start = cells * 0.3 + smooth
        self.learn(start, decode(start), share=0.05)

    def learn(self, clean: torch.Tensor, decoded: torch.Tensor, share: float = 1.0) -> None:
        """Learn from latents (n, channels, h, w) and their pictures (n, 3, H, W) in -1..1, with weight `share`."""
        rows = self._rows(clean)
        small = F.adaptive_avg_pool2d(
            decoded.float().cpu().clamp(-1, 1), [side * self.pixels for side in clean.shape[-2:]]
        )
        blocks = F.pixel_unshuffle(small, self.pixels)  # (n, 3 p^2, h, w)
        target = blocks.permute(0, 2, 3, 1).reshape(len(rows), -1).double()
        keep = 1 - min(1.0, share) * 0.1  # an old picture counts for less and less
        self._normal = self._normal * keep + share * rows.T @ rows
        self._target = self._target * keep + share * rows.T @ target
        self._map = torch.linalg.solve(self._normal, self._target).float()

    def draw(self, clean: torch.Tensor) -> Image.Image:
        """A small picture of the first of `clean` (n, channels, h, w)."""
        assert self._map is not None
        blocks = self._rows(clean[:1]).float() @ self._map
        height, width = clean.shape[-2:]
        blocks = blocks.reshape(1, height, width, -1).permute(0, 3, 1, 2)
        return to_images(F.pixel_shuffle(blocks, self.pixels))[0]

    def _rows(self, clean: torch.Tensor) -> torch.Tensor:
        cells = clean.float().cpu().permute(0, 2, 3, 1).reshape(-1, clean.shape[1]).double()
        return torch.cat([cells, torch.ones(len(cells), 1, dtype=torch.float64)], dim=1)
