"""From recipes to pictures on a loaded model: batches, noise, sampling, decoding, progress. Knows no store and no job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from studio.engine import latents as pictures
from studio.engine import memory, sampling, text
from studio.engine.components import Components
from studio.engine.progress import Progress, Step
from studio.settings import Settings
from studio.specs import Recipe


def shared(recipe: Recipe) -> Any:
    """What recipes that are drawn together have in common: everything but prompt, negative prompt, seed and labels."""
    return recipe.model_copy(update={"prompt": "", "negative": "", "seed": 0, "labels": {}})


def noter(on_step: Progress | None, recipes: Sequence[Recipe]) -> Callable[[str], None] | None:
    """A function that reports what happens before the first step, as progress of a drawing of `recipes`."""
    if on_step is None:
        return None
    total = len(recipes) * recipes[0].steps
    return lambda note: on_step(Step(0, total, note))


def draw(
    components: Components,
    recipes: Sequence[Recipe],
    settings: Settings,
    on_step: Progress | None,
    files: Callable[[str], Path],
) -> Iterator[tuple[int, Image.Image]]:
    """See `Engine.draw`. Sizes that the model can't make exactly are drawn larger and cut."""
    recipe = recipes[0]
    factor = components.factor
    width, height = (-(-side // factor) * factor for side in (recipe.width, recipe.height))
    size = memory.MAX_BATCH
    done, total = 0, len(recipes) * recipe.steps
    start = 0
    while start < len(recipes):
        batch = recipes[start : start + size]
        count, before = len(batch), done
        note = f"picture {start + 1} of {len(recipes)}" if len(recipes) > 1 else ""

        def step(
            index: int,
            steps: int,
            clean: Callable[[], torch.Tensor],
            count: int = count,
            before: int = before,
            note: str = note,
        ) -> None:
            if on_step is None:
                return
            preview = None
            if settings.preview_every and index % settings.preview_every == 0 and index < steps:
                preview = components.previewer.draw(clean())
            on_step(Step(before + count * index * recipe.steps // steps, total, note, preview))

        generators = sampling.generators([each.seed for each in batch])
        conditioning = text.encode(components, [each.prompt for each in batch], [each.negative for each in batch])
        scheduler = sampling.make_scheduler(recipe.sampler, components.scheduler_config, recipe.fast)
        timesteps = sampling.set_timesteps(scheduler, recipe.steps, components.device)
        begin = sampling.start_latents(scheduler, sampling.noise(components, generators, width, height), timesteps)
        clean = sampling.denoise(
            components, scheduler, begin, conditioning, recipe.guidance, generators, timesteps=timesteps, on_step=step
        )
        for offset in range(count):
            pixels = pictures.decode_pixels(components, clean[offset : offset + 1])
            components.previewer.learn(clean[offset : offset + 1], pixels)
            image = pictures.to_images(pixels)[0]
            yield start + offset, pictures.cut(image, recipe.width, recipe.height)
        start += count
        done = before + count * recipe.steps
