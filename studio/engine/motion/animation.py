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

from studio.core.specs import MAX_SEED, Emotion, Recipe
from studio.engine.diffusion import latents as pictures
from studio.engine.diffusion import sampling, text
from studio.engine.diffusion.attention import anchored
from studio.engine.diffusion.frames import Borrower, Pinned, SharedNoise, Track, advance, side_by_side
from studio.engine.motion.morph import NOISE_OFFSET
from studio.engine.motion.timing import Still

if TYPE_CHECKING:
    from studio.engine.models.components import Components


def steps_of(recipe: Recipe, still: Still) -> int:
    """How many steps a frame of this strength takes, about; for progress."""
    return recipe.steps if recipe.sampler in ("lcm", "tcd") else max(1, int(recipe.steps * still.strength))


class Animation(Borrower):
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
        factor = components.factor
        width, height = (-(-side // factor) * factor for side in (recipe.width, recipe.height))
        self.size = (width, height)
        emotions = list(recipes)
        conditioning = text.encode(components, text.arranged([recipes[e].prompt for e in emotions]), [recipe.negative])
        self.negative = conditioning.negative
        self.texts = dict(zip(emotions, conditioning.positive.split(1), strict=True))
        self.clean = pictures.encode(components, [pictures.fit(source, width, height)])
        # frames that share nothing are drawn one by one anyway
        self.batch = batch or (side_by_side(components, width, height, recipe.guidance > 1) if consistent else 1)

    def draw(self, wanted: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
        """(index, picture) of these frames, as they are made; nothing is attached to the model when one comes."""
        order = iter(wanted)
        for clean in self.in_batches(wanted, self._latents):
            for one in clean.split(1):
                image = pictures.decode(self.components, one)[0]
                yield next(order), pictures.cut(image, self.recipe.width, self.recipe.height)

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
                    components, tracks, self.negative, recipe.guidance, _later(shared, offset),
                    anchors=anchors, pinned=pinned, on_step=self.on_step,
                )  # fmt: skip
        else:
            for track, noise in zip(tracks, noises, strict=True):
                advance(components, [track], self.negative, recipe.guidance, noise, on_step=self.on_step)
        return torch.cat([track.latents for track in tracks])

    def _noise(self, index: int) -> SharedNoise:
        # made anew for each batch, the same each time: it holds the model, which may be given back in between
        return SharedNoise(self.components, (self.recipe.seed + NOISE_OFFSET + index) % (MAX_SEED + 1), *self.size)

    def _begin(self, still: Still, noise: SharedNoise) -> Track:
        components, recipe = self.components, self.recipe
        scheduler = sampling.make_scheduler(recipe.sampler, components.scheduler_config, recipe.fast)
        timesteps = sampling.img2img_timesteps(scheduler, recipe.steps, still.strength, components.device)
        latents = sampling.start_latents(scheduler, noise.first, timesteps, self.clean)
        mixed = pictures.lerp(self.texts[still.mix.source], self.texts[still.mix.target], still.mix.amount)
        return Track(scheduler, timesteps, latents, mixed)


def _later(noise: SharedNoise, offset: int) -> Callable[[int], torch.Tensor]:
    return lambda index: noise(index + offset)
