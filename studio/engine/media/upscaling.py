"""Pictures made larger by a small network (SRVGGNetCompact), in tiles without seams, or by Lanczos where there is none.

The network's layout is that of Real-ESRGAN's compact models, so that files of that architecture are read as they are:
3x3 convolutions with PReLU, then a pixel shuffle, added to the picture enlarged by repeating its pixels (Real-ESRGAN,
2107.10833; `realesr-animevideov3`). Knows no store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from studio.core.errors import BadInput
from studio.engine.diffusion.pixels import to_images, to_tensor
from studio.engine.models.weights import Header, read_header

TILE = 256  # pixels of the picture worked on at once: memory grows with it, not with the picture
MOST_SIDE = 8192  # of a result
UNKNOWN = (
    "{name} is not an upscaler that the studio knows: it reads files of the compact kind (SRVGGNetCompact), such as "
    "realesr-animevideov3 saved as .safetensors."
)
_LAST = re.compile(r"body\.(\d+)\.weight")


class CompactNetwork(nn.Module):
    """`channels` wide, `depth` convolutions between the first and the last; pictures (n, 3, h, w) in 0..1 to
    (n, 3, h * scale, w * scale)."""

    def __init__(self, channels: int = 24, depth: int = 8, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, 1, 1), nn.PReLU(channels)]
        for _ in range(depth):
            layers += [nn.Conv2d(channels, channels, 3, 1, 1), nn.PReLU(channels)]
        self.body = nn.ModuleList([*layers, nn.Conv2d(channels, 3 * scale * scale, 3, 1, 1)])

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for layer in self.body:
            out = layer(out)
        return F.pixel_shuffle(out, self.scale) + F.interpolate(x, scale_factor=self.scale, mode="nearest")

    @property
    def reach(self) -> int:
        """How many pixels away a pixel of the picture can matter."""
        return sum(isinstance(layer, nn.Conv2d) for layer in self.body)


def shape_of(header: Header, name: str) -> tuple[int, int, int]:
    """Channels, depth and scale of a compact network by its file's header. Raises BadInput for any other file."""
    tensors: Mapping[str, object] = header.tensors
    numbers = sorted(int(found[1]) for key in tensors if (found := _LAST.fullmatch(key)))
    convolutions = [n for n in numbers if len(header.tensors[f"body.{n}.weight"].shape) == 4]
    if len(convolutions) < 2 or any(not key.startswith("body.") for key in tensors):
        raise BadInput(UNKNOWN.format(name=name))
    first, last = (header.tensors[f"body.{n}.weight"].shape for n in (convolutions[0], convolutions[-1]))
    scale = round((last[0] / 3) ** 0.5)
    if first[1] != 3 or 3 * scale * scale != last[0] or scale not in (1, 2, 3, 4):
        raise BadInput(UNKNOWN.format(name=name))
    return int(first[0]), len(convolutions) - 2, scale


def load(path: Path) -> CompactNetwork:
    """The network of a safetensors file, on the CPU. Raises BadInput for a pickle, a damaged or another file."""
    channels, depth, scale = shape_of(read_header(path), path.name)
    network = CompactNetwork(channels, depth, scale)
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except RuntimeError:
        raise BadInput(UNKNOWN.format(name=path.name)) from None
    return network.eval().requires_grad_(False)


@torch.no_grad()
def upscale(
    picture: Image.Image,
    network: CompactNetwork | None,
    scale: int = 2,
    on_tile: Callable[[int, int], None] | None = None,
) -> Image.Image:
    """`picture` (RGB) `scale` times as large on each side: passes of `network` until it is, or Lanczos without one.

    What a network makes too large is reduced. `on_tile` is told how many tiles of how many are done, and may raise.
    Raises BadInput for a result beyond `MOST_SIDE`.
    """
    size = (picture.width * scale, picture.height * scale)
    if max(size) > MOST_SIDE:
        raise BadInput(
            f"{picture.width} x {picture.height} pixels {scale} times as large are more than {MOST_SIDE}; choose less."
        )
    picture = picture.convert("RGB")
    if network is not None and network.scale > 1:
        while picture.width < size[0]:
            x = to_tensor([picture]) / 2 + 0.5
            [picture] = to_images(tiled(network, x, on_tile=on_tile) * 2 - 1)
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


@torch.no_grad()
def tiled(
    network: CompactNetwork, x: Tensor, tile: int = TILE, on_tile: Callable[[int, int], None] | None = None
) -> Tensor:
    """What `network` makes of pictures (n, 3, h, w) in 0..1, tile by tile, equal to all at once.

    Each tile is worked on with as much around it as can matter to it, so there is no seam to hide.
    """
    height, width = x.shape[2:]
    margin, scale = network.reach, network.scale
    out = x.new_empty(x.shape[0], 3, height * scale, width * scale)
    places = [(top, left) for top in range(0, height, tile) for left in range(0, width, tile)]
    for number, (top, left) in enumerate(places, 1):
        bottom, right = min(height, top + tile), min(width, left + tile)
        up, before = max(0, top - margin), max(0, left - margin)
        part = network(x[..., up : bottom + margin, before : right + margin])
        rows = slice((top - up) * scale, (bottom - up) * scale)
        columns = slice((left - before) * scale, (right - before) * scale)
        out[..., top * scale : bottom * scale, left * scale : right * scale] = part[..., rows, columns]
        if on_tile is not None:
            on_tile(number, len(places))
    return out
