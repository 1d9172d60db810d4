"""The sampling loop against diffusers' own pipelines: same latents, same scheduler, same bits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from diffusers import StableDiffusionImg2ImgPipeline as Img2Img
from PIL import Image
from support.checkpoints import tiny_sd
from transformers import CLIPTextConfig, CLIPTextModel

from studio.core.errors import BadInput
from studio.core.samplers import FEW_STEP_SAMPLERS, SAMPLERS
from studio.core.settings import Settings
from studio.engine.diffusion import frames, sampling, schedulers, text
from studio.engine.diffusion.control import Control
from studio.engine.diffusion.denoiser import embed_guidance
from studio.engine.engine import Engine
from studio.engine.models.components import Components

PROMPTS, NEGATIVE = ["1girl, red hair", "1boy, sad"], "long dress"
NAMED = list(SAMPLERS)


@pytest.fixture(scope="module", params=["v_prediction", "epsilon"])
def components(request, tmp_path_factory: pytest.TempPathFactory) -> Components:
    home = tmp_path_factory.mktemp("sampling")
    tiny_sd(home / "models" / "tiny", prediction_type=request.param, controlnet=True)
    return Engine(Settings(home=home, device="cpu")).components("tiny")


def pipeline(components: Components, scheduler, cls=StableDiffusionPipeline, **parts):
    made = cls(
        vae=components.vae,
        text_encoder=components.text_encoder,
        tokenizer=components.tokenizer,
        unet=components.unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **parts,
    )
    made.scheduler = scheduler  # afterwards: the constructor warns of settings that these schedulers don't have
    made.set_progress_bar_config(disable=True)
    return made


def ours(components: Components, name: str, steps: int, guidance: float, seeds=(1, 2), **options) -> torch.Tensor:
    return sampling.sample_latents(
        components, PROMPTS[: len(seeds)], seeds, sampler=name, steps=steps, guidance=guidance, size=(64, 64),
        negatives=[NEGATIVE] * len(seeds), **options,
    )  # fmt: skip


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", NAMED)
def test_equal_in_every_bit_to_the_diffusers_pipeline(components: Components, name: str, guidance: float) -> None:
    theirs = pipeline(components, schedulers.make_scheduler(name, components.scheduler_config))(
        PROMPTS, negative_prompt=[NEGATIVE] * 2, width=64, height=64, num_inference_steps=4, guidance_scale=guidance,
        generator=sampling.generators([1, 2]), output_type="latent", eta=schedulers.TCD_ETA if name == "tcd" else 0.0,
    ).images  # fmt: skip
    mine = ours(components, name, 4, guidance)
    # two prompts in one call of the text encoder, or one by one: the only thing that may round differently
    assert torch.allclose(theirs, mine, atol=1e-4 * float(theirs.abs().max()))
    positive, negative = text.encode_pair(components, PROMPTS[:1], [NEGATIVE])
    theirs = pipeline(components, schedulers.make_scheduler(name, components.scheduler_config))(
        prompt_embeds=positive.embeddings, negative_prompt_embeds=negative.embeddings, width=64, height=64,
        num_inference_steps=4, guidance_scale=guidance, generator=sampling.generators([1]), output_type="latent",
        eta=schedulers.TCD_ETA if name == "tcd" else 0.0,
    ).images  # fmt: skip
    assert torch.equal(theirs, ours(components, name, 4, guidance, seeds=(1,)))


def test_a_plain_prompt_is_encoded_as_the_pipeline_does(components: Components) -> None:
    positive, negative = pipeline(
        components, schedulers.make_scheduler("ddim", components.scheduler_config)
    ).encode_prompt(PROMPTS[0], components.device, 1, True, NEGATIVE)
    mine = text.encode_pair(components, PROMPTS[:1], [NEGATIVE])
    assert torch.equal(mine[0].embeddings, positive)
    assert torch.equal(mine[1].embeddings, negative)


def deeper(encoder: CLIPTextModel, layers: int = 5) -> Any:
    """A text encoder like this one, with more layers and weights of its own."""
    torch.manual_seed(3)
    return type(encoder)(CLIPTextConfig.from_dict(encoder.config.to_dict() | {"num_hidden_layers": layers})).eval()


@pytest.mark.parametrize("clip_skip", [1, 2, 3, 4])
def test_clip_skip_is_the_pipeline_s_plus_one(components: Components, clip_skip: int) -> None:
    """A1111 counts the layers from 1, diffusers from 0."""
    encoder = deeper(components.text_encoder)
    encoder.text_model = SimpleNamespace(final_layer_norm=encoder.final_layer_norm)  # where diffusers looks for it
    model = replace(components, text_encoder=encoder, text_cache=OrderedDict())
    theirs = pipeline(model, schedulers.make_scheduler("ddim", model.scheduler_config)).encode_prompt(
        PROMPTS[0], model.device, 1, False, clip_skip=clip_skip - 1
    )[0]
    mine = text.encode_prompts(model, PROMPTS[:1], clip_skip=clip_skip)
    assert torch.equal(mine.embeddings, theirs)
    assert torch.equal(text.encode_prompts(model, PROMPTS[:1]).embeddings, theirs) == (clip_skip == 1)
    weighted = text.encode_prompts(model, [f"({PROMPTS[0]}:1.00001)"], clip_skip=clip_skip)  # another way to encode
    assert torch.allclose(weighted.embeddings, theirs, atol=1e-3)
    long = text.encode_prompts(model, [", ".join([PROMPTS[0]] * 40)], clip_skip=clip_skip)
    assert long.embeddings.shape[1] > theirs.shape[1]
    assert torch.isfinite(long.embeddings).all()


def test_a_layer_that_a_text_encoder_does_not_have_is_refused(components: Components) -> None:
    with pytest.raises(BadInput, match="take 2 or less"):
        text.encode_prompts(components, PROMPTS[:1], clip_skip=3)


@pytest.mark.parametrize("name", ["dpmpp_2m", "euler_a", "ddim"])
@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
def test_image_to_image_equals_the_pipeline(components: Components, name: str, strength: float) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    positive, negative = text.encode_pair(components, PROMPTS[:1], [NEGATIVE])
    theirs = pipeline(components, schedulers.make_scheduler(name, components.scheduler_config), Img2Img)(
        image=image, strength=strength, num_inference_steps=8, guidance_scale=3.0, output_type="latent",
        prompt_embeds=positive.embeddings, negative_prompt_embeds=negative.embeddings,
        generator=sampling.generators([5]),
    ).images  # fmt: skip
    scheduler = schedulers.make_scheduler(name, components.scheduler_config)
    assert len(schedulers.set_timesteps(scheduler, 8, strength=strength)) == int(8 * strength)
    mine = ours(components, name, 8, 3.0, seeds=(5,), source=image, strength=strength)
    assert torch.allclose(theirs, mine, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", ["lcm", "tcd"])
def test_lcm_image_to_image_stays_on_the_distillation_grid(name: str) -> None:
    scheduler = schedulers.make_scheduler(name, {})
    assert schedulers.set_timesteps(scheduler, 4, strength=0.5).tolist() == [499, 379, 259, 139]
    assert schedulers.set_timesteps(scheduler, 4, strength=1.0).tolist() == [999, 759, 499, 259]
    # fewer grid points than steps: as many steps as there are points, at least one
    assert len(schedulers.set_timesteps(scheduler, 8, strength=0.1)) == 5
    assert schedulers.set_timesteps(scheduler, 4, strength=0.001).tolist() == [19]


@pytest.mark.parametrize("name", [name for name in NAMED if name not in FEW_STEP_SAMPLERS])
def test_a_weak_image_to_image_still_does_one_step(name: str) -> None:
    assert len(schedulers.set_timesteps(schedulers.make_scheduler(name, {}), 4, strength=0.01)) == 1


def test_lcm_schedules_are_the_published_ones() -> None:
    scheduler = schedulers.make_scheduler("lcm", {})
    expected = {1: [999], 2: [999, 499], 4: [999, 759, 499, 259], 8: [999, 879, 759, 639, 499, 379, 259, 139]}
    for steps, timesteps in expected.items():
        assert schedulers.set_timesteps(scheduler, steps).tolist() == timesteps


def test_an_unknown_sampler_is_a_sentence() -> None:
    with pytest.raises(BadInput, match="no sampler 'plms'"):
        schedulers.make_scheduler("plms", {})


@pytest.mark.parametrize("name", ["euler_a", "lcm", "tcd"])
def test_given_noise_is_used_and_nothing_else_changes(components: Components, name: str) -> None:
    positive, negative = text.encode_pair(components, PROMPTS[:1], [NEGATIVE])

    def with_noise(noise: Callable[[int], torch.Tensor]) -> torch.Tensor:
        scheduler = schedulers.make_scheduler(name, components.scheduler_config)
        timesteps = schedulers.set_timesteps(scheduler, 4)
        begin = schedulers.start_latents(scheduler, shared.first, timesteps)
        track = frames.Track(scheduler, timesteps, begin, positive)
        frames.advance(components.unet, [track], negative, 3.0, noise)
        return track.latents

    shared = frames.SharedNoise(components, 1, 64, 64)
    same = with_noise(shared)
    assert torch.allclose(same, ours(components, name, 4, 3.0, seeds=(1,)), atol=1e-5)
    assert not torch.allclose(same, with_noise(lambda step: torch.zeros(1, 16, 4, 4)), atol=1e-2)


@pytest.mark.parametrize("name", NAMED)
def test_the_estimate_of_the_clean_picture_ends_at_the_picture(components: Components, name: str) -> None:
    estimates: list[torch.Tensor] = []
    final = ours(components, name, 12, 1.0, on_step=lambda done, total, clean: estimates.append(clean()))
    assert len(estimates) == 12
    far, near = (estimates[0] - final).norm(), (estimates[-1] - final).norm()
    assert near < 0.05 * final.norm() + 1e-3
    assert near < far


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.25, 0.8)])
def test_controlnet_equals_the_pipeline(components: Components, start: float, end: float) -> None:
    net = ControlNetModel.from_pretrained(components.info.path / "controlnet").eval()
    drawing = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8))
    positive, negative = text.encode_pair(components, PROMPTS[:1], [NEGATIVE])
    scheduler = schedulers.make_scheduler("dpmpp_2m", components.scheduler_config)
    theirs = pipeline(components, scheduler, StableDiffusionControlNetPipeline, controlnet=net)(
        image=drawing, num_inference_steps=4, guidance_scale=3.0, output_type="latent", width=64, height=64,
        prompt_embeds=positive.embeddings, negative_prompt_embeds=negative.embeddings,
        generator=sampling.generators([1]), controlnet_conditioning_scale=0.8, control_guidance_start=start,
        control_guidance_end=end,
    ).images  # fmt: skip
    image = torch.from_numpy(np.asarray(drawing).astype(np.float32) / 255).permute(2, 0, 1)[None]
    control = Control(net, image, 0.8, start, end)
    mine = ours(components, "dpmpp_2m", 4, 3.0, seeds=(1,), control=control)
    assert torch.allclose(theirs, mine, atol=1e-5 * float(theirs.abs().max()))
    assert not torch.allclose(mine, ours(components, "dpmpp_2m", 4, 3.0, seeds=(1,)), atol=1e-3)


def test_guidance_that_the_unet_takes_itself() -> None:
    """The embedding of section 4.3 of 2310.04378, as the pipeline makes it."""
    scale = torch.tensor([0.5, 7.0])
    theirs = StableDiffusionPipeline.get_guidance_scale_embedding(None, scale, 256)
    assert torch.equal(embed_guidance(scale, 256), theirs)
    assert embed_guidance(scale, 33).shape == (2, 33)


def test_picture_k_has_its_own_noise() -> None:
    one, two = sampling.generators([7, 8]), sampling.generators([8])
    assert torch.equal(torch.randn(3, generator=one[1]), torch.randn(3, generator=two[0]))


def test_a_scheduler_reads_the_noise_schedule_and_nothing_else_of_a_model() -> None:
    config = {"beta_start": 0.001, "prediction_type": "v_prediction", "timestep_spacing": "leading"}
    made = schedulers.make_scheduler("dpmpp_2m", config)
    assert made.config.beta_start == 0.001
    assert made.config.prediction_type == "v_prediction"
    assert made.config.timestep_spacing == "linspace"
    zero = schedulers.make_scheduler("ddim", {**config, "rescale_betas_zero_snr": True})
    assert float(zero.alphas_cumprod[-1]) == 0
