"""An autoencoder whose activations half precision can't hold is run again in full precision, both ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from support.checkpoints import tiny_sd

from studio.core.settings import Settings
from studio.engine.diffusion import latents
from studio.engine.diffusion.pixels import to_tensor
from studio.engine.engine import Engine


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def test_a_decoder_that_overflows_in_half_precision_is_run_again(tmp_path: Path) -> None:
    tiny_sd(tmp_path / "models" / "half")
    parts = Engine(Settings(home=tmp_path, device="cpu")).components("half")
    cells = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # the same network, with activations in the middle that half precision cannot hold
        parts.vae.decoder.conv_in.weight *= 4e5
        parts.vae.decoder.conv_in.bias *= 4e5
    exact = latents.decode(parts, cells)[0]
    parts.vae.to(torch.float16)
    with torch.no_grad():
        overflown = parts.vae.decode((cells / parts.vae.config.scaling_factor).half(), return_dict=False)[0]
    assert not torch.isfinite(overflown).all()
    mended = latents.decode(parts, cells.half())[0]
    assert parts.vae.dtype == torch.float16
    assert np.abs(pixels(mended).astype(int) - pixels(exact).astype(int)).max() <= 4


def test_an_encoder_that_overflows_in_half_precision_is_run_again(tmp_path: Path) -> None:
    tiny_sd(tmp_path / "models" / "half")
    parts = Engine(Settings(home=tmp_path, device="cpu")).components("half")
    with torch.no_grad():
        parts.vae.encoder.conv_in.weight *= 1e5
        parts.vae.encoder.conv_in.bias *= 1e5
    picture = Image.effect_noise((64, 64), 60).convert("RGB")
    exact = latents.encode(parts, [picture])
    parts.vae.to(torch.float16)
    with torch.no_grad():
        assert not torch.isfinite(parts.vae.encode(to_tensor([picture]).half()).latent_dist.mean).all()
    assert torch.allclose(latents.encode(parts, [picture]), exact, atol=0.02)
    assert parts.vae.dtype == torch.float16
