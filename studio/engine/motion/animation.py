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

from studio.core.samplers import FEW_STEP_SAMPLERS
from studio.core.specs import MAX_SEED, Emotion, Recipe
from studio.engine.diffusion import latents, schedulers, text
from studio.engine.diffusion.attention import anchored
from studio.engine.diffusion.frames import Pinned, SharedNoise, Track, advance
from studio.engine.diffusion.pixels import cut, fit
from studio.engine.motion.lease import ModelLease, frames_per_batch
from studio.engine.motion.morph import NOISE_OFFSET
from studio.engine.motion.timing import Still
from studio.engine.recipe import encode, guidance_of, latent_size, sampler_of

if TYPE_CHECKING:
    from studio.engine.models.components import Components


def steps_of(recipe: Recipe, still: Still) -> int:
    """How many steps a frame of this strength takes, about; for progress."""
    return recipe.steps if recipe.sampler in FEW_STEP_SAMPLERS else max(1, int(recipe.steps * still.strength))


class Animation(ModelLease):
    """Draws any of the frames `stills`, `batch` of them at a time, so that memory doesn't grow with their number.

    `recipes` gives each emotion's prompt; all else is that of the first still's. Without `consistent` frame k is what
    image-to-image with a seed of its own draws: nothing is shared. `on_step(n)` is told of n steps of single frames; it
    may raise. `batch` None: as many as fit.
    """

    def __init__(
        self,
        components: Components,
        recipes: Mapping[Emotion, Recipe],
        stills: Sequence[Still],
        source: Image.Image,
        consistent: bool = True,
        batch: int | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(components)
        self.recipe = recipe = recipes[stills[0].mix.source]
        self.stills, self.consistent, self.on_step = stills, consistent, on_step
        self.size = latent_size(components, recipe)
        prompts = text.shared_tags_first([each.prompt for each in recipes.values()])
        positive, self.negative = encode(components, recipe, prompts, [recipe.negative])
        self.texts = dict(zip(recipes, positive.split(), strict=True))
        self.clean = latents.encode(components, [fit(source, *self.size)])
        # frames that share nothing are drawn one by one anyway
        self.batch = batch or (frames_per_batch(components, *self.size, recipe.guidance > 1) if consistent else 1)

    def draw(self, wanted: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
        """(index, picture) of these frames, as they are made; nothing is attached to the model when one comes."""
        order = iter(wanted)
        for clean in self.in_batches(wanted, self._latents):
            for one in clean.split(1):
                image = latents.decode(self.components, one)[0]
                yield next(order), cut(image, self.recipe.width, self.recipe.height)

    def _latents(self, chunk: Sequence[int]) -> torch.Tensor:
        """Clean latents (frames, c, h, w) of these frames, drawn side by side."""
        components, recipe = self.components, self.recipe
        shared = self._noise(0)
        noises = [shared if self.consistent else self._noise(index) for index in chunk]
        tracks = [self._begin(self.stills[index], noise) for index, noise in zip(chunk, noises, strict=True)]
        if self.consistent:
            # counted from the end, so that a frame gets the same noise in whatever company it is drawn
            offset = recipe.steps - max(len(track.timesteps) for track in tracks)
            pinned = Pinned(self.clean, shared.first, self.texts[self.stills[0].mix.source])
            with anchored(components.unet) as anchors:
                advance(
                    components.unet, tracks, self.negative, guidance_of(recipe), lambda index: shared(index + offset),
                    anchors=anchors, pinned=pinned, on_step=self.on_step,
                )  # fmt: skip
        else:
            for track, noise in zip(tracks, noises, strict=True):
                advance(components.unet, [track], self.negative, guidance_of(recipe), noise, on_step=self.on_step)
        return torch.cat([track.latents for track in tracks])

    def _noise(self, index: int) -> SharedNoise:
        # made anew for each batch, the same each time: it holds the model, which may be given back in between
        return SharedNoise(self.components, (self.recipe.seed + NOISE_OFFSET + index) % (MAX_SEED + 1), *self.size)

    def _begin(self, still: Still, noise: SharedNoise) -> Track:
        components, recipe = self.components, self.recipe
        scheduler = schedulers.make_scheduler(sampler_of(components.info, recipe), components.scheduler_config)
        timesteps = schedulers.set_timesteps(scheduler, recipe.steps, components.device, still.strength)
        latents = schedulers.start_latents(scheduler, noise.first, timesteps, self.clean)
        blended = self.texts[still.mix.source].lerp(self.texts[still.mix.target], still.mix.amount)
        return Track(scheduler, timesteps, latents, blended)
