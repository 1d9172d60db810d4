"""img2img animation on a small real model: shared noise at every step, one anchor, any company, cancel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.checkpoints import tiny_sd

from studio.core.errors import Cancelled
from studio.core.settings import Settings
from studio.core.specs import Recipe
from studio.engine.diffusion import latents, sampling, schedulers, text
from studio.engine.diffusion.denoiser import Denoiser
from studio.engine.diffusion.frames import SharedNoise
from studio.engine.engine import Engine
from studio.engine.motion import animation, timing

SOURCE = Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 60).convert("RGB")
PROMPTS = {"happy": "1girl, happy, smile, red hair", "sad": "1girl, sad, red hair", "angry": "1girl, angry, red hair"}


@pytest.fixture(scope="module")
def components(tmp_path_factory: pytest.TempPathFactory):
    home: Path = tmp_path_factory.mktemp("animation")
    tiny_sd(home / "models" / "tiny")
    return Engine(Settings(home=home, device="cpu")).components("tiny")


def recipes(sampler: str = "dpmpp_2m", **changes) -> dict:
    values = {
        "model": "tiny", "model_hash": "", "negative": "long", "seed": 11, "steps": 6, "guidance": 3.0,
        "sampler": sampler, "width": 64, "height": 64,
    } | changes  # fmt: skip
    return {emotion: Recipe(prompt=prompt, **values) for emotion, prompt in PROMPTS.items()}


def animate(components, recipes, stills, source, consistent=True, wanted=None, batch=None, on_step=None):
    made = animation.Animation(components, recipes, stills, source, consistent, batch, on_step)
    return made.draw(range(len(stills)) if wanted is None else sorted(wanted))


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(image).astype(int) for image in images])


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "lcm", "euler_a", "ddim"])
def test_one_frame_alone_is_image_to_image(components, sampler: str) -> None:
    asked = recipes(sampler)
    stills = timing.stills(("happy", "sad"), 3, 0.4, 0.9)
    ((_, image),) = animate(components, asked, stills, SOURCE, consistent=False, wanted=[0])
    seed = 11 + animation.NOISE_OFFSET  # not the source's own, whose noise would lead back to it
    noise = SharedNoise(components, seed, 64, 64)
    scheduler = schedulers.make_scheduler(sampler, components.scheduler_config)
    timesteps = schedulers.set_timesteps(scheduler, 6, strength=0.4)
    begin = schedulers.start_latents(scheduler, noise.first, timesteps, latents.encode(components, [SOURCE]))
    words = text.shared_tags_first([recipe.prompt for recipe in asked.values()])
    positive, negative = text.encode_pair(components, words[:1], ["long"])
    own = sampling.generators([seed])
    torch.randn(begin.shape, generator=own[0])  # what the frame began with
    clean = sampling.sample(Denoiser(components.unet, positive, negative, 3.0), scheduler, begin, timesteps, own)
    assert np.abs(pixels([image]) - pixels(latents.decode(components, clean))).max() <= 1


@pytest.mark.parametrize("sampler", ["lcm", "euler_a", "tcd"])
def test_equal_frames_get_equal_noise_at_every_step(components, sampler: str) -> None:
    stills = [timing.stills(("happy",), 2, 0.6, 0.6)[0]] * 3
    shared = pixels([image for _, image in animate(components, recipes(sampler), stills, SOURCE)])
    assert np.abs(shared[1:] - shared[:1]).max() <= 1
    alone = pixels([i for _, i in animate(components, recipes(sampler), stills, SOURCE, consistent=False)])
    assert np.abs(alone[1] - alone[0]).mean() > 1


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "lcm", "euler_a"])
def test_a_frame_is_the_same_in_any_company(components, sampler: str) -> None:
    stills = timing.stills(("happy", "sad", "angry"), 5, 0.3, 0.9)
    together = dict(animate(components, recipes(sampler), stills, SOURCE))
    assert list(together) == [0, 1, 2, 3, 4]
    rest = dict(animate(components, recipes(sampler), stills, SOURCE, wanted=[4, 1], batch=1))
    assert list(rest) == [1, 4]
    for index, image in rest.items():
        assert np.abs(pixels([image]) - pixels([together[index]])).max() <= 2


def test_frames_stay_closer_together_than_independent_ones(components) -> None:
    stills = timing.stills(("happy", "sad"), 6, 0.3, 0.7)
    kept = pixels([i for _, i in animate(components, recipes(), stills, SOURCE)])
    loose = pixels([i for _, i in animate(components, recipes(), stills, SOURCE, consistent=False)])
    assert 2 * np.abs(np.diff(kept, axis=0)).mean() < np.abs(np.diff(loose, axis=0)).mean()


def test_strength_says_how_far_from_the_source(components) -> None:
    stills = timing.stills(("happy",), 3, 0.2, 1.0)
    images = pixels([i for _, i in animate(components, recipes(), stills, SOURCE)])
    base = pixels(latents.decode(components, latents.encode(components, [SOURCE])))
    away = np.abs(images - base).mean((1, 2, 3))
    assert away[0] < away[1] < away[2]


def test_progress_counts_every_step_and_may_raise(components) -> None:
    stills = timing.stills(("happy", "sad"), 4, 0.3, 1.0)
    asked = recipes()
    total = sum(animation.steps_of(asked["happy"], still) for still in stills)
    done: list[int] = []
    list(animate(components, asked, stills, SOURCE, on_step=done.append))
    assert sum(done) == total
    before = dict(components.unet.attn_processors)
    seen: list[int] = []

    def stop(n: int) -> None:
        seen.append(n)
        if sum(seen) > total // 2:
            raise Cancelled

    frames: list[int] = []
    making = animate(components, asked, stills, SOURCE, batch=1, on_step=stop)
    with pytest.raises(Cancelled):
        frames.extend(index for index, _ in making)
    assert len(frames) == 2  # those done were handed out before
    assert all(components.unet.attn_processors[name] is processor for name, processor in before.items())


def test_other_sizes_are_cut_to_what_was_asked(components) -> None:
    stills = timing.stills(("happy",), 2, 0.5, 0.5)
    images = [i for _, i in animate(components, recipes(width=72, height=88), stills, SOURCE)]
    assert {image.size for image in images} == {(72, 88)}
    assert torch.is_grad_enabled()
