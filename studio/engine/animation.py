"""An img2img animation of one character: every frame starts from the same picture, with rising strength.

Frames that are drawn one by one flicker, even from one seed. Here all of them get the same noise, where they begin and
at every step that puts noise back, and all look at the source picture (attention to a first frame, 2303.13439). Knows
recipes, latents and pictures; no job and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image

from studio.engine import latents as pictures
from studio.engine import sampling, text
from studio.engine.attention import anchored
from studio.engine.frames import Pinned, SharedNoise, Track, advance, side_by_side
from studio.engine.morph import arranged
from studio.engine.timing import Still
from studio.specs import MAX_SEED, Emotion, Recipe

if TYPE_CHECKING:
    from studio.engine.components import Components

# Added to the seed: a source drawn from the same seed would get its own noise back, which leads to it at any strength.
NOISE_OFFSET = 1_000_003


def steps_of(recipe: Recipe, still: Still) -> int:
    """How many steps a frame of this strength takes, about; for progress."""
    return recipe.steps if recipe.sampler in ("lcm", "tcd") else max(1, int(recipe.steps * still.strength))


def animate(
    components: Components,
    recipes: Mapping[Emotion, Recipe],
    stills: Sequence[Still],
    source: Image.Image,
    consistent: bool = True,
    wanted: Sequence[int] | None = None,
    batch: int | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, Image.Image]]:
    """(index, picture) of the frames `stills` (or only those with an index in `wanted`), in order, as they are made.

    `recipes` gives each emotion's prompt; all else is that of the first still's. Without `consistent` frame k is what
    image-to-image with a seed of its own draws: nothing is shared. `on_step(n)` is told of n steps of single frames; it
    may raise. Frames are drawn `batch` at a time (None: as many as fit), so memory doesn't grow with their number.
    """
    recipe = recipes[stills[0].mix.source]
    factor = components.factor
    width, height = (-(-side // factor) * factor for side in (recipe.width, recipe.height))
    emotions = list(recipes)
    conditioning = text.encode(components, arranged([recipes[e].prompt for e in emotions]), [recipe.negative])
    texts = dict(zip(emotions, conditioning.positive.split(1), strict=True))
    clean = pictures.encode(components, [pictures.fit(source, width, height)])
    shared = SharedNoise(components, (recipe.seed + NOISE_OFFSET) % (MAX_SEED + 1), width, height)
    pinned = Pinned(clean, shared.first, texts[stills[0].mix.source])

    def begin(index: int) -> tuple[Track, SharedNoise]:
        still = stills[index]
        seed = (recipe.seed + NOISE_OFFSET + index) % (MAX_SEED + 1)
        noise = shared if consistent else SharedNoise(components, seed, width, height)
        scheduler = sampling.make_scheduler(recipe.sampler, components.scheduler_config, recipe.fast)
        timesteps = sampling.img2img_timesteps(scheduler, recipe.steps, still.strength, components.device)
        latents = sampling.start_latents(scheduler, noise.first, timesteps, clean)
        mixed = pictures.lerp(texts[still.mix.source], texts[still.mix.target], still.mix.amount)
        return Track(scheduler, timesteps, latents, mixed), noise

    batch = batch or side_by_side(components, width, height, recipe.guidance > 1)
    order = list(range(len(stills))) if wanted is None else sorted(wanted)
    longest = recipe.steps
    for start in range(0, len(order), batch):
        chunk = order[start : start + batch]
        tracks, noises = zip(*(begin(index) for index in chunk), strict=True)
        if consistent:
            # counted from the end, so that a frame gets the same noise in whatever company it is drawn
            offset = longest - max(len(track.timesteps) for track in tracks)
            with anchored(components.unet) as anchors:
                advance(
                    components, tracks, conditioning.negative, recipe.guidance, _later(shared, offset),
                    anchors=anchors, pinned=pinned, on_step=on_step,
                )  # fmt: skip
        else:
            for track, noise in zip(tracks, noises, strict=True):
                advance(components, [track], conditioning.negative, recipe.guidance, noise, on_step=on_step)
        for index, track in zip(chunk, tracks, strict=True):
            image = pictures.decode(components, track.latents)[0]
            yield index, pictures.cut(image, recipe.width, recipe.height)


def _later(noise: SharedNoise, offset: int) -> Callable[[int], torch.Tensor]:
    return lambda index: noise(index + offset)
