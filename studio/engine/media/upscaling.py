"""Pictures made larger by a network, in tiles without seams, or by Lanczos where there is none. Knows no store.

The networks are those that `models.upscalers` tells: Real-ESRGAN's compact one (3x3 convolutions with PReLU, then a
pixel shuffle, added to the picture enlarged by repeating its pixels; 2107.10833, `realesr-animevideov3`), ESRGAN's
(1809.00219), and whatever spandrel reads where it is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from studio.core.errors import BadInput
from studio.engine.diffusion.pixels import to_tensor
from studio.engine.models.upscalers import BROKEN, UNKNOWN, Shape, UpscalerInfo, plain_names, shape_of
from studio.engine.models.weights import read_header

TILE = 256  # pixels of the picture worked on at once: memory grows with it, not with the picture
MOST_SIDE = 8192  # of a result
TOO_LARGE = "{width} x {height} pixels {scale:g} times as large are more than {most} on a side; choose less."
MOST_REACH = 40  # pixels: what lies further away matters to a deep network by less than a grey level
OnTile = Callable[[int, int], None]  # is told how many tiles of how many are done, and may raise


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


class _Dense(nn.Module):
    """A residual dense block: five convolutions, each of which sees what all before it made."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        for number in range(1, 5):
            self.add_module(f"conv{number}", nn.Conv2d(channels + (number - 1) * growth, growth, 3, 1, 1))
        self.conv5 = nn.Conv2d(channels + 4 * growth, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for number in range(1, 5):
            seen = torch.cat([seen, F.leaky_relu(self.get_submodule(f"conv{number}")(seen), 0.2)], 1)
        return x + 0.2 * self.conv5(seen)


class _Block(nn.Module):
    """Three dense blocks with a residual around them (RRDB)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (_Dense(channels, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))
        return out


class RRDBNetwork(nn.Module):
    """ESRGAN's generator: `depth` blocks, then enlarged by two as often as it takes.

    Pictures as for `CompactNetwork`. `folded`: Real-ESRGAN's 2x and 1x begin with a pixel unshuffle by so much.
    """

    def __init__(self, channels: int, depth: int, growth: int, scale: int, folded: int = 1) -> None:
        super().__init__()
        self.scale, self.folded, self.ups = scale, folded, (scale * folded).bit_length() - 1
        self.reach = min(MOST_REACH, folded * (15 * depth + 4))
        self.conv_first = nn.Conv2d(3 * folded * folded, channels, 3, 1, 1)
        self.body = nn.ModuleList(_Block(channels, growth) for _ in range(depth))
        self.conv_body = nn.Conv2d(channels, channels, 3, 1, 1)
        for number in range(1, self.ups + 1):
            self.add_module(f"conv_up{number}", nn.Conv2d(channels, channels, 3, 1, 1))
        self.conv_hr = nn.Conv2d(channels, channels, 3, 1, 1)
        self.conv_last = nn.Conv2d(channels, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if self.folded > 1:
            down, right = -height % self.folded, -width % self.folded
            x = F.pixel_unshuffle(F.pad(x, (0, right, 0, down), mode="replicate"), self.folded)
        first = self.conv_first(x)
        out = first
        for block in self.body:
            out = block(out)
        out = first + self.conv_body(out)
        for number in range(1, self.ups + 1):
            up = self.get_submodule(f"conv_up{number}")
            out = F.leaky_relu(up(F.interpolate(out, scale_factor=2, mode="nearest")), 0.2)
        made: Tensor = self.conv_last(F.leaky_relu(self.conv_hr(out), 0.2))
        return made[..., : height * self.scale, : width * self.scale]


class _Foreign(nn.Module):
    """A network that spandrel has read; it brings pictures to the sizes that it needs, and back, by itself."""

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.descriptor, self.scale, self.reach = descriptor, int(descriptor.scale), MOST_REACH

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.descriptor(x)
        return made

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> _Foreign:
        self.descriptor.model._apply(fn, recurse)
        return self


Network = CompactNetwork | RRDBNetwork | _Foreign


def load(path: Path) -> Network:
    """The network of a safetensors file, on the CPU. Raises BadInput for a pickle, a damaged or another file."""
    shape = shape_of(read_header(path), path.name)
    network = _foreign(path) if shape.layout == "spandrel" else _built(shape)
    if not isinstance(network, _Foreign):
        tensors = load_file(path)
        names = plain_names(tensors)
        try:
            network.load_state_dict({plain: tensors[name].float() for plain, name in names.items()})
        except RuntimeError:
            raise BadInput(UNKNOWN.format(name=path.name)) from None
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _built(shape: Shape) -> CompactNetwork | RRDBNetwork:
    if shape.layout == "compact":
        return CompactNetwork(shape.channels, shape.depth, shape.scale)
    return RRDBNetwork(shape.channels, shape.depth, shape.growth, shape.scale, shape.folded)


def _foreign(path: Path) -> _Foreign:
    try:
        from spandrel import ImageModelDescriptor, ModelLoader
    except (ImportError, RuntimeError) as error:  # torchvision of another torch says it in its own way
        raise BadInput(UNKNOWN.format(name=path.name) + BROKEN.format(error)) from None
    try:
        descriptor = ModelLoader(device="cpu").load_from_file(path)
    except Exception as error:  # whatever a reader of thirty architectures says of a file that is none of them
        said = str(error) or type(error).__name__
        raise BadInput(f"{path.name} is not an upscaler that spandrel can read ({said}).") from None
    if not isinstance(descriptor, ImageModelDescriptor) or descriptor.input_channels != 3:
        raise BadInput(f"{path.name} doesn't make colour pictures larger; choose another upscaler.")
    return _Foreign(descriptor)


_kept: tuple[Any, Network] | None = None  # the network of the last picture: the next one mostly wants the same


def network_of(info: UpscalerInfo, device: str | torch.device = "cpu") -> Network | None:
    """The network of an upscaler on a device; None for the filter. Kept until another one is asked for."""
    global _kept
    if info.path is None:
        return None
    key = (info.path, info.hash, str(device))
    if _kept is None or _kept[0] != key:
        _kept = None
        _kept = (key, load(info.path).to(device))
    return _kept[1]


def check(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """The size of a picture of `size` (width, height) `scale` times as large. Raises BadInput beyond `MOST_SIDE`."""
    large = (round(size[0] * scale), round(size[1] * scale))
    if max(large) > MOST_SIDE:
        raise BadInput(TOO_LARGE.format(width=size[0], height=size[1], scale=scale, most=MOST_SIDE))
    return large


@torch.no_grad()
def upscale(
    picture: Image.Image, network: Network | None, scale: float = 2, on_tile: OnTile | None = None
) -> Image.Image:
    """`picture` (RGB) `scale` times as large on each side: passes of `network` until it is, or Lanczos without one.

    What a network makes too large is reduced. Raises BadInput for a result beyond `MOST_SIDE`.
    """
    size = check(picture.size, scale)
    picture = picture.convert("RGB")
    if network is not None and network.scale > 1:
        while picture.width < size[0] or picture.height < size[1]:
            picture = _pass(picture, network, on_tile)
    elif network is not None:  # it cleans lines, and enlarges nothing
        picture = _pass(picture, network, on_tile)
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _pass(picture: Image.Image, network: Network, on_tile: OnTile | None) -> Image.Image:
    x = to_tensor([picture]) / 2 + 0.5
    large = np.empty((picture.height * network.scale, picture.width * network.scale, 3), np.uint8)
    for rows, columns, part in _tiles(network, x, TILE, on_tile):
        shares = part[0].float().nan_to_num(0.5).clamp(0, 1).permute(1, 2, 0)
        large[rows, columns] = (shares * 255).round().byte().cpu().numpy()
    return Image.fromarray(large)


@torch.no_grad()
def tiled(network: Network, x: Tensor, tile: int = TILE, on_tile: OnTile | None = None) -> Tensor:
    """What `network` makes of pictures (n, 3, h, w) in 0..1, tile by tile, equal to all at once."""
    out = x.new_empty(x.shape[0], 3, x.shape[2] * network.scale, x.shape[3] * network.scale)
    for rows, columns, part in _tiles(network, x, tile, on_tile):
        out[..., rows, columns] = part
    return out


def _tiles(network: Network, x: Tensor, tile: int, on_tile: OnTile | None) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows and columns of the result, and what stands there.

    Each tile is worked on with as much around it as can matter to it, so there is no seam to hide.
    """
    height, width = x.shape[2:]
    margin, scale = network.reach, network.scale
    parameter = next(network.parameters(), None)
    device = x.device if parameter is None else parameter.device
    margin += -margin % 4  # so that a network which folds pixels folds the same ones in every tile
    places = [(top, left) for top in range(0, height, tile) for left in range(0, width, tile)]
    for number, (top, left) in enumerate(places, 1):
        bottom, right = min(height, top + tile), min(width, left + tile)
        up, before = max(0, top - margin), max(0, left - margin)
        seen = x[..., up : bottom + margin, before : right + margin].to(device, memory_format=torch.channels_last)
        part = network(seen)
        rows = slice((top - up) * scale, (bottom - up) * scale)
        columns = slice((left - before) * scale, (right - before) * scale)
        there = slice(top * scale, bottom * scale), slice(left * scale, right * scale)
        yield *there, part[..., rows, columns].to(x.device)
        if on_tile is not None:
            on_tile(number, len(places))
