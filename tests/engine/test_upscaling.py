"""The upscaler: tiles without seams, files of the compact kind read, all others refused, Lanczos without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from studio.core.errors import BadInput
from studio.engine.media import upscaling
from studio.engine.media.upscaling import CompactNetwork


def network(scale: int = 2) -> CompactNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CompactNetwork(8, 3, scale).eval().requires_grad_(False)


def noisy(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("size", [(40, 40), (37, 61)])
def test_tiles_are_the_whole(size: tuple[int, int]) -> None:
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(2))
    told: list[tuple[int, int]] = []
    made = upscaling.tiled(network(), x, tile=16, on_tile=lambda done, of: told.append((done, of)))
    assert torch.allclose(made, network()(x), atol=1e-6)
    assert told[-1][0] == told[-1][1] == len(told) > 4


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_file_says_its_own_shape(tmp_path: Path, scale: int) -> None:
    path = tmp_path / "compact.safetensors"
    save_file({name: t.half().contiguous() for name, t in network(scale).state_dict().items()}, path)
    loaded = upscaling.load(path)
    x = torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(2))
    assert loaded.scale == scale
    assert torch.allclose(loaded(x), network(scale)(x), atol=2e-3)


def test_any_size_by_passes_or_by_lanczos() -> None:
    picture = noisy(30, 20)
    for scale in (2, 3, 4):
        made = upscaling.upscale(picture, network(), scale)
        assert made.size == (30 * scale, 20 * scale)
        plain = upscaling.upscale(picture, None, scale)
        assert np.array_equal(plain, picture.resize(made.size, Image.Resampling.LANCZOS))
        assert not np.array_equal(plain, made)
    with pytest.raises(BadInput, match="choose less"):
        upscaling.upscale(Image.new("RGB", (4000, 10)), None, 4)


def test_what_is_no_upscaler_is_a_sentence(tmp_path: Path) -> None:
    import pickle

    pickled, other, part = (tmp_path / f"{name}.safetensors" for name in ("pickled", "other", "part"))
    pickled.write_bytes(pickle.dumps({"params": 1}))
    save_file({"conv_first.weight": torch.zeros(4, 3, 3, 3)}, other)
    whole = network().state_dict()
    save_file({name: t.contiguous() for name, t in whole.items() if name != "body.1.weight"}, part)
    with pytest.raises(BadInput):
        upscaling.load(pickled)
    with pytest.raises(BadInput, match="not an upscaler that the studio knows"):
        upscaling.load(other)
    with pytest.raises(BadInput, match="not an upscaler that the studio knows"):
        upscaling.load(part)
