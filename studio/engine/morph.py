"""One character from one emotion to another: three ways to draw the picture at any place between them.

`LatentMorph` fades between finished pictures in latent space, `PromptMorph` draws every frame anew from the same noise
with a text in between, `PictureMorph` changes the expression of a given picture and holds the rest. Each can draw any
place, so that `even` can find the places that look equally far apart. Knows recipes, latents and pictures; no job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageFilter

from studio.engine import inversion, judging, sampling, text, timing
from studio.engine import latents as pictures
from studio.engine.attention import anchored
from studio.engine.frames import SharedNoise, Track, advance, side_by_side
from studio.evaluation.judge import Judge
from studio.evaluation.metrics import gini
from studio.specs import Easing, MorphMethod, Recipe

if TYPE_CHECKING:
    from studio.engine.components import Components

Distance = Callable[[Sequence[Image.Image], Sequence[Image.Image]], torch.Tensor]
OnStep = Callable[[int], None]

HELD = 0.2  # share of the steps, the noisiest, in which composition and colours settle and all frames are one
INVERTED = 0.75  # share of the noise up to which a given picture is taken back
MIN_STEPS = 16  # inversion needs small steps; the few-step path has none


def arranged(prompts: Sequence[str]) -> list[str]:
    """The prompts with what they share first and in the order of the first one, what differs last.

    The text encoder is causal: words in front don't see what follows. So the shared words, the character, come out of
    it equal in all prompts, number by number, and an interpolation changes nothing but the tail.
    """
    split = [_tags(prompt) for prompt in prompts]
    common = [tag for tag in dict.fromkeys(split[0]) if all(tag in tags for tags in split)]
    return [", ".join([*common, *(tag for tag in tags if tag not in common)]) for tags in split]


def _tags(prompt: str) -> list[str]:
    """Split at the commas outside of brackets."""
    tags, depth, start = [], 0, 0
    for place, letter in enumerate(prompt):
        if letter in "([":
            depth += 1
        elif letter in ")]":
            depth = max(0, depth - 1)
        elif letter == "," and depth == 0:
            tags.append(prompt[start:place])
            start = place + 1
    tags.append(prompt[start:])
    return [tag.strip() for tag in tags if tag.strip()]


class _Chain:
    """What the three methods share: the texts of the emotions, and where a place in 0..1 lies between two of them."""

    def __init__(
        self, components: Components, recipes: Sequence[Recipe], easing: Easing, amount: float, on_step: OnStep | None
    ) -> None:
        self.components = components
        self.recipe = recipes[0]
        self.easing = easing
        self.amount = amount
        self.on_step = on_step
        factor = components.factor
        self.size = (-(-self.recipe.width // factor) * factor, -(-self.recipe.height // factor) * factor)
        conditioning = text.encode(components, arranged([r.prompt for r in recipes]), [self.recipe.negative])
        assert conditioning.negative is not None
        self.texts, self.negative = self.reach(conditioning.positive), conditioning.negative
        self.legs = len(recipes) - 1

    def reach(self, ends: torch.Tensor) -> torch.Tensor:
        """(emotions, ...) with the last one moved to `amount` of the way from the one before."""
        return torch.cat([ends[:-1], pictures.lerp(ends[-2:-1], ends[-1:], self.amount)])

    def between(self, ends: torch.Tensor, place: float) -> torch.Tensor:
        """(1, ...) at `place` of (emotions, ...)."""
        leg, share = self.leg(place)
        return pictures.lerp(ends[leg : leg + 1], ends[leg + 1 : leg + 2], share)

    def leg(self, place: float) -> tuple[int, float]:
        leg = min(int(place * self.legs), self.legs - 1)
        return leg, timing.EASINGS[self.easing](min(max(place * self.legs - leg, 0.0), 1.0))

    def cut(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        return [pictures.cut(image, self.recipe.width, self.recipe.height) for image in images]

    def draw(self, places: Sequence[float]) -> Iterator[Image.Image]:
        """The pictures at `places` (0..1 over the whole chain), in order, as they are made."""
        raise NotImplementedError


class PromptMorph(_Chain):
    """The same noise for every frame, the text in between; optionally attention in between (AID, 2403.17924).

    The first `held` of the steps are drawn once, with the mean of the emotions, and shared by all frames.
    """

    def __init__(
        self,
        components: Components,
        recipes: Sequence[Recipe],
        easing: Easing = "linear",
        amount: float = 1.0,
        on_step: OnStep | None = None,
        *,
        held: float = HELD,
        attention: bool = False,
        batch: int | None = None,
    ) -> None:
        super().__init__(components, recipes, easing, amount, on_step)
        self.attention = attention
        self.batch = batch or side_by_side(components, *self.size, self.recipe.guidance > 1)
        recipe = self.recipe
        self.noise = SharedNoise(components, recipe.seed, *self.size)
        scheduler = sampling.make_scheduler(recipe.sampler, components.scheduler_config, recipe.fast)
        timesteps = sampling.set_timesteps(scheduler, recipe.steps, components.device)
        begin = sampling.start_latents(scheduler, self.noise.first, timesteps)
        self.held = min(int(held * len(timesteps)), len(timesteps) - 1)
        self.trunk = Track(scheduler, timesteps, begin, self.texts.mean(0, keepdim=True))
        advance(components, [self.trunk], self.negative, recipe.guidance, self.noise, stop=self.held, on_step=on_step)

    def latents(self, places: Sequence[float]) -> torch.Tensor:
        """Clean latents (places, c, h, w)."""
        tracks = [self.trunk.fork(self.between(self.texts, place)) for place in places]
        go = {"begin": self.held, "on_step": self.on_step}
        if not self.attention:
            advance(self.components, tracks, self.negative, self.recipe.guidance, self.noise, **go)  # type: ignore[arg-type]
        else:
            for track, place in zip(tracks, places, strict=True):
                leg, share = self.leg(place)
                track.ends = (len(places) + leg, len(places) + leg + 1, share)
            tracks += [self.trunk.fork(end[None]) for end in self.texts]
            with anchored(self.components.unet, cross=True) as anchors:
                advance(
                    self.components,
                    tracks,
                    self.negative,
                    self.recipe.guidance,
                    self.noise,
                    anchors=anchors,
                    **go,  # type: ignore[arg-type]
                )
        return torch.cat([track.latents for track in tracks[: len(places)]])

    def draw(self, places: Sequence[float]) -> Iterator[Image.Image]:
        for start in range(0, len(places), self.batch):
            for clean in self.latents(places[start : start + self.batch]).split(1):
                yield from self.cut(pictures.decode(self.components, clean))


class LatentMorph(_Chain):
    """A straight line between the latents of one finished picture per emotion: quick, and it shows both faces at once.

    The pictures are drawn from the same noise. `first` (RGB, any size) replaces the first of them.
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
        batch: int | None = None,
    ) -> None:
        super().__init__(components, recipes, easing, 1.0, on_step)
        whole = PromptMorph(components, recipes, on_step=on_step, held=0.0, batch=batch)
        ends = whole.latents(timing.positions(len(recipes)))
        if first is not None:
            ends[:1] = pictures.encode(components, [pictures.fit(first, *self.size)])
        self.amount = amount
        self.ends = self.reach(ends)

    def draw(self, places: Sequence[float]) -> Iterator[Image.Image]:
        for place in places:
            yield from self.cut(pictures.decode(self.components, self.between(self.ends, place)))


class PictureMorph(_Chain):
    """A given picture, inverted; the emotion moved within the region that it changes, all else held to the pixel.

    `recipes[0]` describes the picture as it is.
    """

    def __init__(
        self,
        components: Components,
        recipes: Sequence[Recipe],
        image: Image.Image,
        easing: Easing = "linear",
        amount: float = 1.0,
        on_step: OnStep | None = None,
        *,
        strength: float = INVERTED,
        batch: int | None = None,
    ) -> None:
        super().__init__(components, recipes, easing, amount, on_step)
        self.image = pictures.fit(image, *self.size)
        self.batch = batch or side_by_side(components, *self.size, self.recipe.guidance > 1)
        recipe = self.recipe
        clean = pictures.encode(components, [self.image])
        # Guidance that was distilled away or is 1 can't move an emotion that the residuals hold.
        info = components.info
        self.guidance = info.guidance if recipe.fast or recipe.guidance <= 1 else recipe.guidance
        self.inversion = inversion.invert(
            components, clean, self.texts[:1], self.negative, self.guidance, max(recipe.steps, MIN_STEPS), strength,
            recipe.seed, self.batch, on_step,
        )  # fmt: skip
        self.region = inversion.changed_region(
            components, self.inversion, self.texts[:1], self.texts[1:], self.negative, info.face
        )

    def draw(self, places: Sequence[float]) -> Iterator[Image.Image]:
        for start in range(0, len(places), self.batch):
            some = places[start : start + self.batch]
            texts = torch.cat([self.between(self.texts, place) for place in some])
            clean = inversion.replay(
                self.components, self.inversion, texts, self.negative, self.guidance, self.region, self.on_step
            )
            mask = self.mask()
            for one in clean.split(1):
                drawn = pictures.decode(self.components, one)[0]
                yield from self.cut([Image.composite(drawn, self.image, mask)])

    def mask(self) -> Image.Image:
        """The region in pixels, soft at its edge: 255 where the picture is drawn anew."""
        cells = (self.region[0, 0].float().cpu() * 255).round().to(torch.uint8).numpy()
        grown = Image.fromarray(cells).resize(self.image.size, Image.Resampling.BICUBIC)
        return grown.filter(ImageFilter.GaussianBlur(self.components.factor / 4))


def even(
    morph: _Chain, count: int, distance: Distance, rounds: int = 3, good: float = 0.08
) -> Iterator[tuple[int, float, Image.Image, bool]]:
    """Frames whose perceptual steps are equal: (index, place, picture, final) as they are made.

    Draws `count` frames, measures how far apart neighbours look, moves the places accordingly (`timing.retime`) and
    draws again, at most `rounds` times or until the Gini coefficient of the steps is below `good`. All pictures ever
    drawn refine the measure. The emotions of the chain are always hit exactly.
    """
    places = timing.spread(count, morph.legs)
    anchors = timing.positions(morph.legs + 1)[1:-1]
    known: dict[float, Image.Image] = {}
    for turn in range(rounds + 1):
        missing = [place for place in places if place not in known]
        for place, image in zip(missing, morph.draw(missing), strict=True):
            known[place] = image
            yield places.index(place), place, image, False
        shown = [known[place] for place in places]
        if turn == rounds or gini(distance(shown[:-1], shown[1:])) < good:
            break
        seen = sorted(known)
        steps = distance([known[p] for p in seen[:-1]], [known[p] for p in seen[1:]])
        # the measure is a squared distance: of its root, short steps add up to a long one
        places = timing.retime(seen, steps.clamp_min(0).sqrt().tolist(), count, anchors)
    for index, place in enumerate(places):
        yield index, place, known[place], True


def make(
    method: MorphMethod,
    components: Components,
    recipes: Sequence[Recipe],
    image: Image.Image | None = None,
    easing: Easing = "linear",
    amount: float = 1.0,
    held: float | None = None,
    attention: bool = False,
    on_step: OnStep | None = None,
) -> _Chain:
    """The morph of a request. `recipes` are one per emotion and differ in the prompt only.

    `image` is needed by "picture", and replaces the first end of "latent".
    """
    if method == "picture":
        assert image is not None
        return PictureMorph(components, recipes, image, easing, amount, on_step)
    if method == "latent":
        return LatentMorph(components, recipes, easing, amount, on_step, first=image)
    share = HELD if held is None else held
    return PromptMorph(components, recipes, easing, amount, on_step, held=share, attention=attention)


def distance_of(components: Components) -> Distance:
    """How different two pictures look, as the model's judge sees it; `look` where the model has none."""
    return Judge.load(components.info.judge).distance if components.info.judge else look


def describe(components: Components, image: Image.Image) -> dict[str, Any]:
    """What the model's judge sees: {"emotion", "style", "tags": words for a prompt}; {} without a judge."""
    if components.info.judge is None:
        return {}
    judge = Judge.load(components.info.judge)
    seen = {factor: labels[0] for factor, labels in judge([image]).labels.items()}
    own = {name: tag for name, tag in judging.TAGS.items() if name not in ("emotion", "style")}
    tags = [tag(seen[name]) for name, tag in own.items() if seen.get(name, judging.UNSEEN) != judging.UNSEEN]
    return {"emotion": seen["emotion"], "style": seen["style"], "tags": tags}


def plain(morph: _Chain, count: int) -> Iterator[tuple[int, float, Image.Image, bool]]:
    """Frames at (nearly) equal steps of the interpolation, as `even` gives them."""
    places = timing.spread(count, morph.legs)
    for index, image in enumerate(morph.draw(places)):
        yield index, places[index], image, True


def look(a: Sequence[Image.Image], b: Sequence[Image.Image]) -> torch.Tensor:
    """How different a[i] and b[i] look, (n,), where there is no judge: squared differences of colours and of edges.

    Measured at 64 px in linear steps of lightness; good for comparing neighbours of one morph, not for more.
    """
    small = (pictures.to_tensor([i.resize((64, 64), Image.Resampling.BOX) for i in side]) for side in (a, b))
    x, y = small
    total = (x - y).square().mean((1, 2, 3))
    for axis in (2, 3):
        total = total + (x.diff(dim=axis) - y.diff(dim=axis)).square().mean((1, 2, 3))
    return total
