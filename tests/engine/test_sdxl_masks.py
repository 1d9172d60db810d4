"""A mask on SDXL: put back by the loop, or told to a UNet taught to inpaint, as diffusers' pipeline has both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLInpaintPipeline
from PIL import Image, ImageDraw
from support.sdxl import ship, tiny_sdxl, to_sdxl_file

from studio.core.errors import BadInput
from studio.core.settings import Settings
from studio.core.specs import MaskSpec, Recipe
from studio.engine.diffusion import masking, sampling, schedulers, text
from studio.engine.diffusion.denoiser import Denoiser
from studio.engine.engine import Engine
from studio.engine.models import loading
from studio.engine.models.components import Components

PROMPT, NEGATIVE, SIZE = "1girl, red hair", "long dress", (64, 64)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("masks")
    tiny_sdxl(home / "models" / "plain")
    filler = tiny_sdxl(home / "models" / "filler", unet_config={"in_channels": 9, "out_channels": 4})
    to_sdxl_file(filler, home / "models" / "one-file.safetensors")
    return home


@pytest.fixture(scope="module")
def engine(home: Path) -> Engine:
    return Engine(Settings(home=home, device="cpu", offline=True, preview_every=0))


def picture() -> Image.Image:
    image = Image.new("RGB", SIZE, (90, 150, 200))
    ImageDraw.Draw(image).ellipse((12, 12, 50, 54), fill=(240, 200, 180))
    return image


def mask() -> Image.Image:
    image = Image.new("L", SIZE)
    ImageDraw.Draw(image).rectangle((16, 16, 47, 39), fill=255)  # whole latent cells
    return image


def theirs(components: Components, strength: float) -> torch.Tensor:
    made = StableDiffusionXLInpaintPipeline(
        components.vae, components.text_encoder, components.text_encoder_2, components.tokenizer,
        components.tokenizer_2, components.unet, schedulers.make_scheduler("ddim", components.scheduler_config),
        add_watermarker=False,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    # given, so that none of the generator's numbers are taken for them
    [hollow] = masking.inpainting_channels(components, picture(), mask())[:, 1:].split(1)
    return made(
        PROMPT, negative_prompt=NEGATIVE, image=picture(), mask_image=mask(), masked_image_latents=hollow,
        strength=strength, num_inference_steps=5, guidance_scale=3.0, width=64, height=64,
        generator=torch.Generator("cpu").manual_seed(1), output_type="latent",
    ).images  # fmt: skip


def ours(components: Components, strength: float) -> torch.Tensor:
    positive, negative = text.encode_pair(components, [PROMPT], [NEGATIVE], SIZE)
    extra, over, start = None, mask(), picture()
    if components.info.inpainting:
        extra, over = masking.inpainting_channels(components, start, over), None
        start = start if strength < 1 else None
    return sampling.sample_denoiser(
        components, Denoiser(components.unet, positive, negative, 3.0, extra_channels=extra), [1], sampler="ddim",
        steps=5, size=SIZE, source=start, mask=over, strength=strength,
    )  # fmt: skip


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("model", ["plain", "filler"])
def test_equal_to_the_inpaint_pipeline_of_diffusers(engine: Engine, model: str, strength: float) -> None:
    components = engine.components(model)
    assert components.info.inpainting == (model == "filler")
    assert torch.allclose(ours(components, strength), theirs(components, strength), atol=1e-5)


def recipe(home: Path, model: str, **fields: object) -> Recipe:
    for name, image in (("picture", picture()), ("mask", mask())):
        image.save(home / f"{name}.png")
    values = {"prompt": PROMPT, "negative": NEGATIVE, "seed": 1, "steps": 3, "guidance": 3.0, "sampler": "ddim",
              "width": 64, "height": 64, "source": str(home / "picture.png"), "strength": 0.9,
              "mask": MaskSpec(image=str(home / "mask.png"), area="whole", feather=1)}  # fmt: skip
    return Recipe(**{"model": model, "model_hash": "", **values, **fields})


def test_one_for_masks_draws_the_same_from_its_file_and_nothing_without_a_mask(
    engine: Engine, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "ASSETS", ship(home / "models" / "plain", tmp_path / "assets"))
    folder, file = (dict(engine.draw([recipe(home, model)]))[0] for model in ("filler", "one-file"))
    assert np.array_equal(np.asarray(folder), np.asarray(file))
    outside = np.asarray(mask()) == 0
    assert np.array_equal(np.asarray(file)[outside], np.asarray(picture())[outside])
    assert not np.array_equal(np.asarray(file), np.asarray(picture()))
    with pytest.raises(BadInput, match="only fills a mask in a picture; choose a text-to-image model"):
        list(engine.draw([recipe(home, "one-file", mask=None, source=None, strength=None)]))
