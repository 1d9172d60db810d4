"""The upscaler: tiles without seams, files of the compact kind read, all others refused, Lanczos without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from studio.core.errors import BadInput, NotFound
from studio.core.settings import Settings
from studio.engine.media import upscaling
from studio.engine.media.upscaling import CompactNetwork, RRDBNetwork
from studio.engine.models import upscalers


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


def dense(scale: int, folded: int = 1) -> RRDBNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return RRDBNetwork(8, 1, 4, scale, folded).eval().requires_grad_(False)


def old_names(network: RRDBNetwork) -> dict[str, torch.Tensor]:
    """The tensors as ESRGAN's first files name them."""
    outer = ["conv_first", *(f"conv_up{n + 1}" for n in range(network.ups)), "conv_hr", "conv_last"]
    places = [0, *(3 * (n + 1) for n in range(network.ups))]
    places += [places[-1] + 2, places[-1] + 4]
    called = {name: f"model.{place}" for name, place in zip(outer, places, strict=True)}
    called |= {"conv_body": "model.1.sub.1"}
    found = {}
    for name, tensor in network.state_dict().items():
        part, _, kind = name.rpartition(".")
        if part.startswith("body."):
            _, block, unit, convolution = part.split(".")
            part = f"model.1.sub.{block}.{unit.upper()}.{convolution}.0"
        found[f"{called.get(part, part)}.{kind}"] = tensor.contiguous()
    return found


@pytest.mark.parametrize("scale", [2, 4])
def test_esrgan_is_read_under_both_of_its_names(tmp_path: Path, scale: int) -> None:
    network, x = dense(scale), torch.rand(1, 3, 12, 10, generator=torch.Generator().manual_seed(2))
    old = old_names(network)
    save_file(old, tmp_path / "old.safetensors")
    new = {f"params_ema.{name}": tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(new, tmp_path / "new.safetensors")
    assert "model.1.sub.0.RDB1.conv1.0.weight" in old
    wanted = network(x)
    assert wanted.shape == (1, 3, 12 * scale, 10 * scale)
    for name in ("old", "new"):
        assert torch.allclose(upscaling.load(tmp_path / f"{name}.safetensors")(x), wanted, atol=1e-6)


def test_networks_that_fold_pixels_take_any_size_and_have_no_seams() -> None:
    network, x = dense(2, folded=2), torch.rand(1, 3, 61, 130, generator=torch.Generator().manual_seed(2))
    whole = network(x)
    assert whole.shape == (1, 3, 122, 260)
    assert torch.allclose(upscaling.tiled(network, x, tile=64), whole, atol=1e-5)


def test_whatever_lies_in_the_folder_is_listed_or_refused_with_a_sentence(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    place = upscalers.folder(settings)
    place.mkdir(parents=True)
    save_file({n: t.contiguous() for n, t in network(4).state_dict().items()}, place / "lines.safetensors")
    save_file({"transformer.weight": torch.zeros(4, 4)}, place / "dat.safetensors")
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(4, 4), "lora_unet_x.lora_up.weight": torch.zeros(4, 4)},
              place / "style.safetensors")  # fmt: skip
    (place / "esrgan.pth").write_bytes(b"\x80\x02")
    listed = {info.reference: info for info in upscalers.catalogue(settings)}
    assert list(listed) == ["embedded", "lanczos", "lines"]
    assert (listed["lines"].scale, listed["lines"].layout, len(listed["lines"].hash)) == (4, "compact", 64)
    assert listed["embedded"].size_bytes < 1_000_000
    why = dict(upscalers.refused(settings))
    assert set(why) == {"dat.safetensors", "style.safetensors", "esrgan.pth"}
    assert "pickle" in why["esrgan.pth"]
    assert "spandrel" in why["dat.safetensors"]
    assert "LoRA" in why["style.safetensors"]
    assert upscalers.find("lines.safetensors", settings).hash == listed["lines"].hash
    with pytest.raises(NotFound, match="There is no upscaler 'waifu'"):
        upscalers.find("waifu", settings)


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


def test_other_architectures_are_left_to_spandrel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dat.safetensors"
    save_file({"transformer.weight": torch.zeros(4, 4)}, path)
    for name in upscalers.NEEDED:  # installed, but for another torch: it can't be imported
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    monkeypatch.syspath_prepend(tmp_path)
    assert upscalers.with_spandrel()
    assert upscalers.find(str(path), Settings(home=tmp_path)).layout == "spandrel"
    with pytest.raises(BadInput, match=r"can't be loaded here \(operator torchvision::nms does not exist\)"):
        upscaling.load(path)
