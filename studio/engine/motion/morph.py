"""One character from one emotion to another: four ways to draw the picture at any position between them.

`LatentMorph` fades between finished pictures in latent space, `PromptMorph` draws every frame anew from the same noise
with a text in between, `PictureMorph` changes the expression of a given picture and holds the rest, `DirectionMorph`
moves a picture's latents by the difference of two emotions. Each can draw any position, so that `even_out` can find
those that look equally far apart. Knows recipes, latents and pictures; no job.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeVar

import torch
from PIL import Image, ImageFilter

from studio.core.samplers import INVERSION_STEPS
from studio.core.specs import MAX_SEED, Easing, MorphMethod, Recipe
from studio.engine.diffusion import inversion, latents, sampling, schedulers, text
from studio.engine.diffusion.attention import anchored
from studio.engine.diffusion.conditioning import Conditioning
from studio.engine.diffusion.denoiser import Denoiser
from studio.engine.diffusion.frames import SharedNoise, Track, advance
from studio.engine.diffusion.pixels import cut, fit, to_tensor
from studio.engine.models.catalogue import ModelInfo
from studio.engine.motion import timing
from studio.engine.motion.lease import ModelLease, frames_per_batch
from studio.engine.recipe import encode, guidance_of, latent_size, sampler_of
from studio.evaluation.judge import Judge
from studio.evaluation.metrics import gini

if TYPE_CHECKING:
    from studio.engine.models.components import Components

Distance = Callable[[Sequence[Image.Image], Sequence[Image.Image]], torch.Tensor]
OnStep = Callable[[int], None]
Row = TypeVar("Row", torch.Tensor, Conditioning)  # both can be blended

SHARED_STEPS = 0.2  # share of the steps, the noisiest, in which composition and colours settle and all frames are one
INVERTED = 0.75  # share of the noise up to which a given picture is taken back
# Of a face drawn anew, the colour of the eyes is lost first: a few latents hold it, and most of them change shape.
EYES = re.compile(
    r"(?:black|brown|red|orange|yellow|golden|green|aqua|blue|purple|pink|grey|gray|white) eyes", re.IGNORECASE
)
ROUNDS = 3  # how often frames are moved until they look equally far apart
MEAN_OF = 6  # pictures per emotion whose mean says where that emotion lies
MEANS_KEPT = 64  # means of emotions kept with a loaded model, some 10 to 70 kB each
REFINE_STRENGTH = 0.45  # share of the noise in the pass that draws a moved picture clean again
# Added to the seed: a picture drawn from the same seed would get its own noise back, which leads to it at any strength.
NOISE_OFFSET = 1_000_003


class _Chain(ModelLease):
    """What the methods share: the texts of the emotions, and where a position in 0..1 lies between two of them.

    `shown` describes a given picture as it is; None: as the first of `recipes` does.
    """

    def __init__(
        self,
        components: Components,
        recipes: Sequence[Recipe],
        easing: Easing,
        amount: float,
        on_step: OnStep | None,
        batch: int | None = None,
        shown: Recipe | None = None,
    ) -> None:
        super().__init__(components)
        self.recipe = recipes[0]
        self.easing = easing
        self.amount = amount
        self.on_step = on_step
        self.size = latent_size(components, self.recipe)
        self.batch = batch or frames_per_batch(components, *self.size, self.recipe.guidance > 1)
        self.prompts = text.shared_tags_first([recipe.prompt for recipe in (shown or recipes[0], *recipes)])
        positive, self.negative = encode(components, self.recipe, self.prompts, [self.recipe.negative])
        self.before, *texts = positive.split()
        self.texts = self.reach(texts)
        self.legs = len(recipes) - 1

    def reach(self, ends: list[Row]) -> list[Row]:
        """One row per emotion, the last one moved to `amount` of the way from the one before."""
        return [*ends[:-1], ends[-2].lerp(ends[-1], self.amount)]

    def between(self, ends: list[Row], position: float) -> Row:
        """The row at `position` between those of the emotions."""
        leg, share = self.leg(position)
        return ends[leg].lerp(ends[leg + 1], share)

    def conditioning(self, positions: Sequence[float]) -> Conditioning:
        """The texts at `positions`, one row each."""
        return Conditioning.cat(self.between(self.texts, position) for position in positions)

    def leg(self, position: float) -> tuple[int, float]:
        leg = min(int(position * self.legs), self.legs - 1)
        return leg, timing.EASINGS[self.easing](min(max(position * self.legs - leg, 0.0), 1.0))

    def cut(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        return [cut(image, self.recipe.width, self.recipe.height) for image in images]

    def draw(self, positions: Sequence[float]) -> Iterator[Image.Image]:
        """The pictures at `positions` (0..1 over the whole chain), in order, as they are made."""
        raise NotImplementedError


class PromptMorph(_Chain):
    """The same noise for every frame, the text in between; optionally attention in between (AID, 2403.17924).

    The first `shared_steps` of the steps are drawn once, with the mean of the emotions, and shared by all frames.
    """

    def __init__(
        self,
        components: Components,
        recipes: Sequence[Recipe],
        easing: Easing = "linear",
        amount: float = 1.0,
        on_step: OnStep | None = None,
        *,
        shared_steps: float = SHARED_STEPS,
        attention: bool = False,
        batch: int | None = None,
    ) -> None:
        super().__init__(components, recipes, easing, amount, on_step, batch)
        self.attention = attention
        recipe = self.recipe
        if attention and batch is None:
            self.batch = frames_per_batch(components, *self.size, recipe.guidance > 1, anchors=2)
        self.noise = SharedNoise(components, recipe.seed, *self.size)
        scheduler = schedulers.make_scheduler(sampler_of(components.info, recipe), components.scheduler_config)
        timesteps = schedulers.set_timesteps(scheduler, recipe.steps, components.device)
        begin = schedulers.start_latents(scheduler, self.noise.first, timesteps)
        self.shared_steps = min(int(shared_steps * len(timesteps)), len(timesteps) - 1)
        self.trunk = Track(scheduler, timesteps, begin, Conditioning.cat(self.texts).mean())
        self.halving_batch(
            lambda _: advance(
                components.unet, [self.trunk], self.negative, guidance_of(recipe), self.noise, stop=self.shared_steps,
                on_step=on_step,
            ), 1,
        )  # fmt: skip

    def acquire(self, components: Components) -> None:
        super().acquire(components)  # noise holds its model too; the same seed gives the same once more
        self.noise = SharedNoise(components, self.recipe.seed, *self.size)

    def release(self) -> None:
        super().release()
        del self.noise

    def latents(self, positions: Sequence[float]) -> torch.Tensor:
        """Clean latents (positions, c, h, w)."""
        tracks = [self.trunk.fork(self.between(self.texts, position)) for position in positions]
        with anchored(self.components.unet, cross=True) if self.attention else nullcontext() as anchors:
            if self.attention:
                legs = [self.leg(position) for position in positions]
                # only the ends of these legs: those of a long chain would take the memory of the frames
                used = sorted({end for leg, _ in legs for end in (leg, leg + 1)})
                row = {end: len(positions) + number for number, end in enumerate(used)}
                for track, (leg, share) in zip(tracks, legs, strict=True):
                    track.ends = (row[leg], row[leg + 1], share)
                tracks += [self.trunk.fork(self.texts[end]) for end in used]
            advance(
                self.components.unet, tracks, self.negative, guidance_of(self.recipe), self.noise,
                begin=self.shared_steps, anchors=anchors, on_step=self.on_step,
            )  # fmt: skip
        return torch.cat([track.latents for track in tracks[: len(positions)]])

    def draw(self, positions: Sequence[float]) -> Iterator[Image.Image]:
        for clean in self.in_batches(positions, self.latents):
            for one in clean.split(1):
                yield from self.cut(latents.decode(self.components, one))


class LatentMorph(_Chain):
    """A way between the latents of one finished picture per emotion: quick, and it shows both faces at once.

    The pictures are drawn from the same noise. `first` (RGB, any size) replaces the first of them. The way is a
    straight line, or with `spherical` an arc, which keeps the contrast of the middle.
    """

    def __init__(
        self,
        components: Components,
        recipes: Sequence[Recipe],
        easing: Easing = "linear",
        amount: float = 1.0,
        on_step: OnStep | None = None,
        *,
        first: Image.Image | None = None,
        spherical: bool = False,
        batch: int | None = None,
    ) -> None:
        super().__init__(components, recipes, easing, 1.0, on_step, batch)
        self.spherical = spherical
        whole = PromptMorph(components, recipes, on_step=on_step, shared_steps=0.0, batch=batch)
        given = [] if first is None else [latents.encode(components, [fit(first, *self.size)])]
        positions = timing.positions(len(recipes))[len(given) :]
        self.amount = amount
        drawn = torch.cat([*given, *whole.in_batches(positions, whole.latents)])
        self.ends = self.reach(list(drawn.split(1)))

    def draw(self, positions: Sequence[float]) -> Iterator[Image.Image]:
        for position in positions:
            yield from self.cut(latents.decode(self.components, self.between(self.ends, position)))

    def between(self, ends: list[Row], position: float) -> Row:
        if not self.spherical or not isinstance(ends[0], torch.Tensor):
            return super().between(ends, position)
        leg, share = self.leg(position)
        return latents.slerp(ends[leg], ends[leg + 1], share)


class PictureMorph(_Chain):
    """A given picture, inverted; the emotion moved within the region that it changes, all else held to the pixel."""

    def __init__(
        self,
        components: Components,
        recipes: Sequence[Recipe],
        image: Image.Image,
        easing: Easing = "linear",
        amount: float = 1.0,
        on_step: OnStep | None = None,
        *,
        shown: Recipe | None = None,
        strength: float = INVERTED,
        batch: int | None = None,
    ) -> None:
        firm = [recipe.model_copy(update={"prompt": text.emphasize(recipe.prompt, EYES)}) for recipe in recipes]
        shown = shown and shown.model_copy(update={"prompt": text.emphasize(shown.prompt, EYES)})
        super().__init__(components, firm, easing, amount, on_step, batch, shown)
        self.image = fit(image, *self.size)
        recipe = self.recipe
        clean = latents.encode(components, [self.image])
        # Guidance that was distilled away or is 1 can't move an emotion that the residuals hold.
        info = components.info
        self.guidance = guidance_of(recipe, info.guidance if recipe.fast or recipe.guidance <= 1 else None)
        steps = max(recipe.steps, INVERSION_STEPS)
        self.inversion = self.halving_batch(
            lambda batch: inversion.invert(
                components, clean, self.before, self.negative, self.guidance, steps, strength, recipe.seed, batch,
                on_step,
            ), steps,
        )  # fmt: skip
        other = self.texts if self.prompts[0] != self.prompts[1] else self.texts[1:]
        self.region = self.halving_batch(
            lambda batch: inversion.changed_region(
                components, self.inversion, self.before, other, info.face, batch=batch
            ), steps,
        )  # fmt: skip

    def draw(self, positions: Sequence[float]) -> Iterator[Image.Image]:
        mask = self.mask()
        for clean in self.in_batches(positions, self.latents):
            for one in clean.split(1):
                drawn = latents.decode(self.components, one)[0]
                yield from self.cut([Image.composite(drawn, self.image, mask)])

    def latents(self, positions: Sequence[float]) -> torch.Tensor:
        """Clean latents (positions, c, h, w)."""
        return inversion.replay(
            self.components, self.inversion, self.conditioning(positions), self.negative, self.guidance, self.region,
            self.on_step,
        )  # fmt: skip

    def mask(self) -> Image.Image:
        """The region in pixels, soft at its edge: 255 where the picture is drawn anew."""
        cells = (self.region[0, 0].float().cpu() * 255).round().to(torch.uint8).numpy()
        grown = Image.fromarray(cells).resize(self.image.size, Image.Resampling.BICUBIC)
        return grown.filter(ImageFilter.GaussianBlur(self.components.factor / 4))


class DirectionMorph(_Chain):
    """The latent editor: a picture's latents moved by the difference of two emotions' means, then drawn clean again.

    The means are those of `MEAN_OF` pictures of this character, from the same noise for every emotion, so that little
    but the emotion is left in their difference. A sum of latents shows both faces at once; a short image-to-image pass
    whose strength grows with the way gone makes one of them. `first` (RGB, any size) is the picture to begin with;
    None: the one that `recipes[0]` draws. Without a way to go it stays as it is.
    """

    def __init__(
        self,
        components: Components,
        recipes: Sequence[Recipe],
        easing: Easing = "linear",
        amount: float = 1.0,
        on_step: OnStep | None = None,
        *,
        first: Image.Image | None = None,
        shown: Recipe | None = None,
        refine_strength: float = REFINE_STRENGTH,
        batch: int | None = None,
    ) -> None:
        super().__init__(components, recipes, easing, amount, on_step, batch, shown)
        self.refine_strength = refine_strength
        means = [self._mean(prompt) for prompt in self.prompts]
        if first is not None:
            self.source = latents.encode(components, [fit(first, *self.size)])
        else:
            whole = PromptMorph(components, recipes, on_step=on_step, shared_steps=0.0, batch=batch)
            self.source = whole.latents([0.0])
        self.directions = self.reach([latents.direction(means[0], mean) for mean in means[1:]])
        self.longest = max(float(latents.direction(means[0], mean).norm()) for mean in means)

    def _mean(self, prompt: str) -> torch.Tensor:
        """(1, c, h, w) of the emotion that `prompt` says; kept with the model until another one is loaded."""
        recipe, components = self.recipe, self.components
        alike = {"prompt": prompt, "seed": 0, "source": None, "strength": None, "control": None, "frame": ""}
        key = recipe.model_copy(update=alike).key
        kept = components.emotion_means
        if key not in kept:
            positive, negative = encode(components, recipe, [prompt], [recipe.negative])
            denoiser = Denoiser(components.unet, positive, negative, guidance_of(recipe))
            sampler = sampler_of(components.info, recipe)

            def draw(seeds: Sequence[int]) -> torch.Tensor:
                def report(done: int, of: int, clean: Callable[[], torch.Tensor]) -> None:
                    if self.on_step is not None:
                        self.on_step(len(seeds))

                return sampling.sample_denoiser(
                    components, denoiser, seeds, sampler=sampler, steps=recipe.steps, size=self.size, on_step=report
                )

            kept[key] = torch.cat(list(self.in_batches(range(MEAN_OF), draw))).mean(0, keepdim=True)
        kept.move_to_end(key)
        mean = kept[key]
        while len(kept) > MEANS_KEPT:
            kept.popitem(last=False)
        return mean

    def latents(self, positions: Sequence[float]) -> torch.Tensor:
        """Clean latents (positions, c, h, w)."""
        recipe, components = self.recipe, self.components
        moved = [self.source + self.between(self.directions, position) for position in positions]
        sampler = sampler_of(components.info, recipe)
        tracks: dict[int, Track] = {}
        noise = SharedNoise(components, (recipe.seed + NOISE_OFFSET) % (MAX_SEED + 1), *self.size)
        for index, position in enumerate(positions):
            share = min(1.0, float(self.between(self.directions, position).norm()) / max(self.longest, 1e-6))
            if share * self.refine_strength < 1e-3:
                continue
            scheduler = schedulers.make_scheduler(sampler, components.scheduler_config)
            strength = self.refine_strength * share
            timesteps = schedulers.set_timesteps(scheduler, recipe.steps, components.device, strength)
            begin = schedulers.start_latents(scheduler, noise.first, timesteps, moved[index])
            tracks[index] = Track(scheduler, timesteps, begin, self.between(self.texts, position))
        if tracks:
            # counted from the end, so that a frame gets the same noise in whatever company it is drawn
            offset = recipe.steps - max(len(track.timesteps) for track in tracks.values())
            advance(
                components.unet, list(tracks.values()), self.negative, guidance_of(recipe),
                lambda step: noise(step + offset), on_step=self.on_step,
            )  # fmt: skip
        return torch.cat([tracks[index].latents if index in tracks else row for index, row in enumerate(moved)])

    def draw(self, positions: Sequence[float]) -> Iterator[Image.Image]:
        for clean in self.in_batches(positions, self.latents):
            for one in clean.split(1):
                yield from self.cut(latents.decode(self.components, one))


def even_out(
    positions: Sequence[float],
    known: Mapping[float, Image.Image],
    distance: Distance,
    anchors: Sequence[float] = (),
    tolerance: float = 0.08,
) -> list[float]:
    """Where frames look more equally far apart than at `positions`; `positions` themselves when they are good enough.

    `known` are all pictures drawn so far, those at `positions` among them: every one refines the measure. Good enough
    is a Gini coefficient of the steps below `tolerance`. `anchors` (the emotions of a chain) stay where they are. New
    positions have four decimals: drawn again in other company, a picture may round differently, and nearly the same
    position comes out.
    """
    shown = [known[position] for position in positions]
    if gini(distance(shown[:-1], shown[1:])) < tolerance:
        return list(positions)
    known_positions = sorted(known)
    steps = distance([known[p] for p in known_positions[:-1]], [known[p] for p in known_positions[1:]])
    # the measure is a squared distance: of its root, short steps add up to a long one
    moved = timing.retime(known_positions, steps.clamp_min(0).sqrt().tolist(), len(positions), anchors)
    return [position if position in anchors else round(position, 4) for position in moved]


def retiming_rounds(
    count: int,
    legs: int,
    known: Callable[[], Mapping[float, Image.Image]],
    distance: Callable[[], Distance] | None,
) -> Iterator[list[float]]:
    """The positions of `count` frames, to be drawn before the next ones are asked for; the last ones are those to show.

    Without `distance` these are (nearly) equal steps of the interpolation. With it they are moved (`even_out`) until
    the frames look equally far apart, at most `ROUNDS` times. `known` gives the pictures of all positions so far.
    """
    positions = timing.spread(count, legs)
    yield positions
    for _ in range(ROUNDS if distance is not None else 0):
        assert distance is not None
        moved = even_out(positions, known(), distance(), timing.positions(legs + 1)[1:-1])
        if moved == positions:
            return
        positions = moved
        yield positions


def strip(morph: _Chain, count: int, distance: Distance | None = None) -> list[tuple[float, Image.Image]]:
    """(position, picture) of `count` frames in order, chosen by `retiming_rounds` as a job does, but kept in memory."""
    known: dict[float, Image.Image] = {}
    positions: list[float] = []
    for positions in retiming_rounds(count, morph.legs, lambda: known, None if distance is None else lambda: distance):
        missing = [position for position in positions if position not in known]
        known.update(zip(missing, morph.draw(missing), strict=True))
    return [(position, known[position]) for position in positions]


def make(
    method: MorphMethod,
    components: Components,
    recipes: Sequence[Recipe],
    image: Image.Image | None = None,
    easing: Easing = "linear",
    amount: float = 1.0,
    shared_steps: float | None = None,
    attention: bool = False,
    on_step: OnStep | None = None,
    shown: Recipe | None = None,
    spherical: bool = False,
) -> _Chain:
    """The morph of a request. `recipes` are one per emotion and differ in the prompt only.

    `image` is needed by "picture", replaces the first end of "latent", and is where "direction" begins. `shown` is
    like `recipes`, with the emotion that `image` shows now (None: the first one).
    """
    if method == "picture":
        assert image is not None
        return PictureMorph(components, recipes, image, easing, amount, on_step, shown=shown)
    if method == "direction":
        return DirectionMorph(components, recipes, easing, amount, on_step, first=image, shown=shown)
    if method == "latent":
        return LatentMorph(components, recipes, easing, amount, on_step, first=image, spherical=spherical)
    share = SHARED_STEPS if shared_steps is None else shared_steps
    return PromptMorph(components, recipes, easing, amount, on_step, shared_steps=share, attention=attention)


def distance_of(info: ModelInfo) -> Distance:
    """How different two pictures look, as the model's judge sees it; `pixel_distance` where the model has none."""
    return Judge.load(info.judge).distance if info.judge else pixel_distance


def pixel_distance(a: Sequence[Image.Image], b: Sequence[Image.Image]) -> torch.Tensor:
    """How different a[i] and b[i] look, (n,), where there is no judge: squared differences of colours and of edges.

    Measured at 64 px in linear steps of lightness; good for comparing neighbours of one morph, not for more.
    """
    small = (to_tensor([i.resize((64, 64), Image.Resampling.BOX) for i in side]) for side in (a, b))
    x, y = small
    total = (x - y).square().mean((1, 2, 3))
    for axis in (2, 3):
        total = total + (x.diff(dim=axis) - y.diff(dim=axis)).square().mean((1, 2, 3))
    return total
