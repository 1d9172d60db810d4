"""What stays while the rest is sampled: against diffusers' inpaint pipeline, soft masks, LoRAs, drawings, few steps."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from PIL import Image, ImageDraw
from support.checkpoints import tiny_sd

from studio.core.errors import BadInput
from studio.core.settings import Settings
from studio.core.specs import ControlSpec, MaskSpec, Recipe
from studio.engine.diffusion import latents, masking, sampling, schedulers, text
from studio.engine.diffusion.denoiser import Denoiser
from studio.engine.drawing import SEAM
from studio.engine.engine import Engine
from studio.engine.models.catalogue import resolve
from studio.engine.models.components import Components

PROMPT, NEGATIVE = "1girl, red hair", "long dress"
SAMPLERS = ["dpmpp_2m", "dpmpp_2m_karras", "euler_a", "ddim", "unipc", "lcm"]


def inpainting(folder: Path) -> Path:
    """Make the UNet of a tiny checkpoint one that is told a mask, as the published inpainting models are."""
    config = json.loads((folder / "unet" / "config.json").read_text())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        unet = UNet2DConditionModel.from_config(config | {"in_channels": 2 * config["out_channels"] + 1})
    unet.save_pretrained(folder / "unet")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("masking")
    fast = {"fast": {"adapter": "lcm_lora/lora.safetensors", "steps": 2, "guidance": 1.0, "sampler": "lcm"}}
    tiny_sd(home / "models" / "tiny", prediction_type="epsilon", controlnet=True, addition_embed_type=None, factor=8,
            latent_channels=4, studio=fast)  # fmt: skip
    inpainting(tiny_sd(home / "models" / "filler", prediction_type="epsilon", controlnet=True, addition_embed_type=None,
                       factor=8, latent_channels=4))  # fmt: skip
    picture().save(home / "picture.png")
    mask().save(home / "mask.png")
    return home


@pytest.fixture(scope="module")
def engine(home: Path) -> Engine:
    return Engine(Settings(home=home, device="cpu", preview_every=0))


def picture() -> Image.Image:
    image = Image.new("RGB", (64, 64), (90, 150, 200))
    ImageDraw.Draw(image).ellipse((12, 12, 50, 54), fill=(240, 200, 180))
    return image


def mask(level: int = 255) -> Image.Image:
    """A box of whole latent cells."""
    image = Image.new("L", (64, 64))
    ImageDraw.Draw(image).rectangle((16, 16, 47, 39), fill=level)
    return image


def theirs(components: Components, sampler: str, strength: float, steps: int = 5) -> torch.Tensor:
    """What diffusers' pipeline gives, before it is decoded."""
    made = StableDiffusionInpaintPipeline(
        components.vae, components.text_encoder, components.tokenizer, components.unet,
        DDIMScheduler(steps_offset=1, clip_sample=False), None, None, requires_safety_checker=False,
    )  # fmt: skip
    made.scheduler = schedulers.make_scheduler(sampler, components.scheduler_config)
    made.set_progress_bar_config(disable=True)
    positive, negative = text.encode_pair(components, [PROMPT], [NEGATIVE])
    # given, so that none of the generator's numbers are taken for them
    [hollow] = masking.inpainting_channels(components, picture(), mask())[:, 1:].split(1)
    return made(
        masked_image_latents=hollow,
        prompt_embeds=positive.embeddings, negative_prompt_embeds=negative.embeddings, image=picture(),
        mask_image=mask(), strength=strength, num_inference_steps=steps, guidance_scale=3.0, width=64, height=64,
        generator=torch.Generator("cpu").manual_seed(1), output_type="latent",
    ).images  # fmt: skip


def ours(components: Components, sampler: str, strength: float, steps: int = 5, over: Image.Image | None = None):
    positive, negative = text.encode_pair(components, [PROMPT], [NEGATIVE])
    over = mask() if over is None else over
    extra, start = None, picture()
    if components.info.inpainting:
        extra, over = masking.inpainting_channels(components, start, over), None
        start = start if strength < 1 else None
    return sampling.sample_denoiser(
        components, Denoiser(components.unet, positive, negative, 3.0, extra_channels=extra), [1], sampler=sampler,
        steps=steps, size=(64, 64), source=start, mask=over, strength=strength,
    )  # fmt: skip


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_equal_to_the_inpaint_pipeline_of_diffusers(engine: Engine, sampler: str, strength: float) -> None:
    if sampler == "lcm" and strength < 1:
        pytest.skip("the pipeline cuts LCM's schedule off its grid (see schedulers.set_timesteps)")
    components = engine.components("tiny")
    expected = theirs(components, sampler, strength)
    assert torch.allclose(ours(components, sampler, strength), expected, atol=2e-5)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_a"])
def test_a_model_that_is_told_the_mask_is_equal_too(engine: Engine, sampler: str) -> None:
    components = engine.components("filler")
    assert components.info.inpainting
    assert components.unet.config.in_channels == 9
    for strength in (1.0, 0.6):
        expected = theirs(components, sampler, strength)
        assert torch.allclose(ours(components, sampler, strength), expected, atol=1e-4)
    extra = masking.inpainting_channels(components, picture(), mask())
    hollow = np.array(picture())
    hollow[np.asarray(mask()) > 0] = 128
    assert torch.equal(extra[:, 1:], latents.encode(components, [Image.fromarray(hollow)]))
    assert extra[0, 0, 2:5, 2:6].eq(1).all()
    assert extra[0, 0].sum() == 12


def test_what_is_not_masked_stays_in_the_latents_and_a_grey_mask_changes_less(engine: Engine) -> None:
    components = engine.components("tiny")
    clean = latents.encode(components, [picture()], sampling.generators([1]))
    full, half = (ours(components, "dpmpp_2m", 1.0, steps=6, over=mask(level)) for level in (255, 128))
    free = masking.change_map(mask(), components)[0, 0] > 0
    for made in (full, half):
        assert torch.equal(made[..., ~free], clean[..., ~free])
        assert not torch.isclose(made[..., free], clean[..., free]).all()
    distance = [(made - clean)[..., free].abs().mean() for made in (full, half)]
    assert distance[1] < distance[0]
    faint = ours(components, "dpmpp_2m", 1.0, steps=6, over=mask(20))  # less than one of six steps
    assert torch.equal(faint, clean)


def test_each_place_is_free_in_its_share_of_the_steps() -> None:
    change = torch.tensor([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]).view(1, 1, 1, 6)
    kept = masking.Kept(torch.zeros(1, 1, 1, 6), torch.zeros(1, 1, 1, 6), change)
    scheduler = SimpleNamespace(add_noise=lambda clean, noise, t: clean)
    free = [kept.before(scheduler, torch.ones(1, 1, 1, 6), index, torch.arange(4)).flatten() for index in range(4)]
    assert torch.stack(free[1:]).sum(0).tolist() == [0, 0, 1, 2, 3, 3]  # before the first step all is noise anyway
    assert kept.after(torch.ones(1, 1, 1, 6), 4).flatten().tolist() == [0, 0, 1, 1, 1, 1]


# --- as recipes -------------------------------------------------------------------------------------------------------


def recipe(home: Path, **changes) -> Recipe:
    spec = MaskSpec(image=str(home / "mask.png"), area="whole", **changes.pop("mask", {}))
    return Recipe(
        model="tiny", model_hash="", prompt=PROMPT, negative=NEGATIVE, seed=1, steps=3, guidance=3.0, sampler="ddim",
        width=64, height=64, source=str(home / "picture.png"), strength=1.0, mask=spec,
    ).model_copy(update=changes)  # fmt: skip


def drawn(engine: Engine, *recipes: Recipe) -> list[Image.Image]:
    return [image for _, image in engine.draw(recipes)]


def kept(image: Image.Image) -> bool:
    outside = np.asarray(mask()) == 0
    return np.array_equal(np.asarray(image)[outside], np.asarray(picture())[outside])


def test_a_recipe_with_a_mask_changes_only_that_and_says_its_seam(engine: Engine, home: Path) -> None:
    first, second = drawn(engine, recipe(home), recipe(home, seed=2))
    assert kept(first)
    assert kept(second)
    assert not np.array_equal(np.asarray(first), np.asarray(second))
    assert float(first.info[SEAM]) > 0
    [again] = drawn(engine, recipe(home))
    assert np.array_equal(np.asarray(first), np.asarray(again))


@pytest.mark.parametrize("model", ["tiny", "filler"])
def test_with_a_drawing_a_few_steps_and_a_masked_area(engine: Engine, home: Path, model: str) -> None:
    sketch = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(sketch).ellipse((10, 10, 52, 52), outline="black", width=2)
    sketch.save(home / "sketch.png")
    plain = recipe(home, model=model)
    variants = {
        "plain": plain,
        "steered": plain.model_copy(update={"control": ControlSpec(image=str(home / "sketch.png"))}),
        "few": plain.model_copy(update={"sampler": "lcm", "guidance": 1.0, "steps": 4}),
        "masked": recipe(home, model=model, mask={"padding": 4}).model_copy(
            update={"mask": MaskSpec(image=str(home / "mask.png"), area="masked", padding=4), "width": 64, "height": 48}
        ),
    }
    made = {name: drawn(engine, one)[0] for name, one in variants.items()}
    assert all(kept(image) for image in made.values())
    pixels = {image.tobytes() for image in made.values()}
    assert len(pixels) == len(made)


def test_a_model_for_masks_draws_nothing_else(engine: Engine, home: Path) -> None:
    assert resolve("filler", engine.settings).inpainting
    assert not resolve("tiny", engine.settings).inpainting
    plain = recipe(home, model="filler").model_copy(update={"mask": None, "source": None, "strength": None})
    with pytest.raises(BadInput, match="only fills a mask"):
        drawn(engine, plain)
