"""A checked data set as tensors: aspect buckets, cached latents, cached captions, and the order of an epoch.

Everything that a step draws comes from (seed, epoch) or (seed, step, position in the step): nothing here has a state.
Shuffle, dropout, flip and the sampling of the VAE's posterior survive the caches: mean and deviation are kept, both
flips, several variants of each caption and the empty one. Knows the VAE, not the UNet or the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from studio.core.specs import LoraSpec
from studio.engine.diffusion.conditioning import Conditioning
from studio.engine.diffusion.parameterization import NoiseSchedule
from studio.engine.diffusion.pixels import fit, to_tensor
from studio.engine.models.components import Components
from studio.runs.dataset import Entry, Report, split_tags, upright
from studio.training.lora.texts import TextEncoders, cache_texts, too_long
from studio.training.runtime import steps
from studio.training.runtime.runtime import Runtime


def _go_on() -> None:
    """Nobody asks to stop."""


@dataclass(frozen=True)
class TrainingSet:
    """A checked data set, cached: what a step needs of it is a function of (seed, epoch) or (seed, step, position)."""

    spec: LoraSpec
    sizes: list[tuple[int, int]]  # of each picture, (width, height) in px
    repeats: list[int]  # of each picture in an epoch
    latents: list[Latents]
    captions: list[list[str]]  # the variants of each picture's caption
    texts: dict[str, Conditioning]  # encoded captions, a row each; empty where the text encoders learn
    encode: TextEncoders | None  # where they do
    regions: list[tuple[int, ...]]  # of each picture what SDXL is told, see `region`
    scaling: float  # of latents, as the UNet reads them
    timesteps: int

    @property
    def pictures_per_epoch(self) -> int:
        return sum(self.repeats)

    def order(self, chunk: int, epoch: int) -> list[list[int]]:
        """The pictures of each step of `epoch`, `chunk` at a time; see `epoch_order`."""
        return epoch_order(tuple(self.sizes), tuple(self.repeats), chunk, self.spec.seed, epoch)

    def noise(self, picture: int, step: int, position: int) -> StepNoise:
        """What chance decides about `picture`, the `position`-th of step `step`."""
        variants = len(self.captions[picture])
        return step_noise(
            picture, self.latents[picture], variants, self.spec, self.scaling, self.timesteps, step, position
        )

    def caption(self, noise: StepNoise) -> str:
        return self.captions[noise.picture][noise.caption] if noise.caption >= 0 else ""

    def conditioning(self, noise: Sequence[StepNoise]) -> Conditioning:
        """What the UNet is told of these pictures, a row each, from the cache or, with gradient, from encoders that
        learn."""
        captions = [self.caption(one) for one in noise]
        rows = Conditioning.cat(self.texts[one] for one in captions) if self.encode is None else self.encode(captions)
        if rows.pooled is None:
            return rows
        regions = torch.tensor([self.regions[one.picture] for one in noise], dtype=rows.pooled.dtype)
        return replace(rows, added={"time_ids": regions.to(rows.pooled.device)})


def cache(model: Components, report: Report, spec: LoraSpec, runtime: Runtime) -> TrainingSet:
    """Everything that the frozen parts of `model` make of a data set, which is all that is needed of them.

    They are moved to the device; the text encoder encodes nothing here where it learns. Raises Cancelled where the run
    is to end meanwhile.
    """
    entries, session = report.entries, runtime.session
    repeats = [entry.repeats or spec.repeats or report.repeats for entry in entries]
    session.log(f"{len(entries)} pictures, {sum(repeats)} per epoch; trigger words: {report.triggers or 'none'}")
    long = too_long(model.tokenizer, [entry.prompt for entry in entries])
    if long:
        session.log(f"{len(long)} captions are longer than the model reads; their last tags don't count.", note=True)
    model.vae.to(runtime.device)  # in fp32: SD 1.5's can overflow in half precision
    for encoder in model.text_encoders:
        encoder.to(runtime.device)
    bucket_step = model.factor * 2 ** (len(model.unet.config.block_out_channels) - 1)
    picture_sizes = sizes(entries, spec.resolution or model.info.native_size, bucket_step, spec.buckets)
    latents = cache_latents(model.vae, report.folder, entries, picture_sizes, spec.flip, runtime.pause)
    captions = [
        caption_variants(entry.prompt, spec.caption_variants, spec.keep_tokens, spec.tag_dropout, spec.seed)
        for entry in entries
    ]
    every = ["", *(variant for variants in captions for variant in variants)]
    encode, learns = TextEncoders.of(model), bool(spec.text_encoder_lr)
    texts = {} if learns else cache_texts(encode, every, runtime.pause)
    regions = [region((e.width, e.height), size) for e, size in zip(entries, picture_sizes, strict=True)]
    timesteps = len(NoiseSchedule.from_config(model.scheduler_config))
    scaling = float(model.vae.config.scaling_factor)
    return TrainingSet(
        spec, picture_sizes, repeats, latents, captions, texts, encode if learns else None, regions, scaling, timesteps
    )


def by_size(noise: Sequence[StepNoise]) -> list[list[StepNoise]]:
    """Groups of pictures that can be stacked."""
    groups: dict[Any, list[StepNoise]] = {}
    for one in noise:
        groups.setdefault(one.z_0.shape, []).append(one)
    return list(groups.values())


@dataclass(frozen=True)
class Latents:
    """The posterior of one picture, (channels, h, w) each, unscaled, fp32 on the CPU; `flipped` of its mirror image."""

    mean: Tensor
    std: Tensor
    flipped: tuple[Tensor, Tensor] | None = None

    def sample(self, unit: Tensor, flip: bool) -> Tensor:
        """mean + std * unit, as `AutoencoderKL` samples."""
        mean, std = self.flipped if flip and self.flipped is not None else (self.mean, self.std)
        return mean + std * unit


@dataclass(frozen=True)
class StepNoise:
    """All that chance decides about one picture in one step."""

    picture: int
    caption: int  # which variant; -1: the empty caption
    flip: bool
    t: int
    z_0: Tensor  # (channels, h, w), scaled
    epsilon: Tensor


# --- aspect buckets ------------------------------------------------------------------------------------------------


def bucket(width: int, height: int, resolution: int, step: int) -> tuple[int, int]:
    """(width, height) to train a picture at: multiples of `step`, area at most resolution^2, nearest aspect ratio.

    Sides lie between half and twice the resolution (NovelAI's aspect ratio bucketing).
    """
    best = (resolution, resolution)
    low, high = max(step, resolution // 2 // step * step), 2 * resolution
    for side in range(low, high + 1, step):
        other = min(high, resolution * resolution // side // step * step)
        if other >= low:
            best = min(best, (side, other), key=lambda size: abs(math.log(size[0] / size[1] * height / width)))
    return best


def sizes(entries: Sequence[Entry], resolution: int, step: int, buckets: bool) -> list[tuple[int, int]]:
    """The training size of each picture."""
    square = (resolution, resolution)
    return [bucket(e.width, e.height, resolution, step) if buckets else square for e in entries]


def region(original: tuple[int, int], size: tuple[int, int]) -> tuple[int, ...]:
    """What SDXL is told of a picture of `original` pixels (width, height) that `fit` made `size`, 2307.01952, 2.2:
    original height and width, what was cut away above and at the left, target height and width.
    """
    scale = max(size[0] / original[0], size[1] / original[1])
    left, top = (
        max(0, (max(side, round(whole * scale)) - side) // 2) for whole, side in zip(original, size, strict=True)
    )
    return original[1], original[0], top, left, size[1], size[0]


# --- caches --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def cache_latents(
    vae: Any,
    folder: Path,
    entries: Sequence[Entry],
    sizes: Sequence[tuple[int, int]],
    flip: bool,
    pause: Callable[[], None] = _go_on,
) -> list[Latents]:
    """Encode each picture once, alone (a batch's rounding depends on its company) and in the VAE's own precision.

    `pause` is called before each and may raise.
    """
    posteriors = []
    for entry, size in zip(entries, sizes, strict=True):
        pause()
        with Image.open(folder / entry.file) as file:
            picture = fit(upright(file), *size)
        pairs = []
        for pixels in [to_tensor([picture])] + ([to_tensor([picture]).flip(-1)] if flip else []):
            posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
            pairs.append((posterior.mean[0].float().cpu(), posterior.std[0].float().cpu()))
        posteriors.append(Latents(*pairs[0], flipped=pairs[1] if flip else None))
    return posteriors


def caption_variants(prompt: str, count: int, keep: int, dropout: float, seed: int) -> list[str]:
    """`prompt` as written, then up to `count - 1` versions with the tags after the first `keep` shuffled or dropped."""
    tags = split_tags(prompt)
    head, rest = tags[:keep], tags[keep:]
    variants = [", ".join(tags)]
    for variant in range(1, count):
        draw = steps.generator(seed, "caption", prompt, variant)
        order: list[int] = torch.randperm(len(rest), generator=draw).tolist()
        kept = (torch.rand(len(rest), generator=draw) >= dropout).tolist()
        variants.append(", ".join(head + [rest[k] for k in order if kept[k]]))
    return list(dict.fromkeys(variants))


# --- chance --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def epoch_order(
    sizes: tuple[tuple[int, int], ...], repeats: tuple[int, ...], chunk: int, seed: int, epoch: int
) -> list[list[int]]:
    """The pictures of each optimiser step of one epoch: `chunk` indices each, of one size where possible.

    A function of (seed, epoch) only. What is left of each size at the end is joined into mixed steps, so that every
    picture is seen `repeats` times.
    """
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, (size, count) in enumerate(zip(sizes, repeats, strict=True)):
        by_size.setdefault(size, []).extend([index] * count)
    chunks, left = [], []
    for size in sorted(by_size):
        members = by_size[size]
        order = [members[k] for k in steps.permutation(len(members), seed, "order", epoch, *size)]
        whole = len(order) // chunk * chunk
        chunks += [order[k : k + chunk] for k in range(0, whole, chunk)]
        left += order[whole:]
    chunks += [left[k : k + chunk] for k in range(0, len(left), chunk)]
    return [chunks[k] for k in steps.permutation(len(chunks), seed, "steps", epoch)]


def step_noise(
    picture: int,
    latents: Latents,
    variants: int,
    spec: LoraSpec,
    scaling: float,
    timesteps: int,
    step: int,
    position: int,
) -> StepNoise:
    """Chance for the `position`-th picture of optimiser step `step`: a function of (seed, step, position)."""
    g = steps.generator(spec.seed, "step", step, position)
    dropped, flipped = (torch.rand(2, generator=g) < torch.tensor([spec.caption_dropout, 0.5])).tolist()
    caption = int(torch.randint(variants, (1,), generator=g))
    t = int(torch.randint(timesteps, (1,), generator=g))
    unit = torch.randn(latents.mean.shape, generator=g)
    epsilon = torch.randn(latents.mean.shape, generator=g)
    # A shift of whole channels: without it no step teaches a mean brightness ("Diffusion with offset noise")
    epsilon = epsilon + spec.noise_offset * torch.randn(latents.mean.shape[0], 1, 1, generator=g)
    flip = flipped and spec.flip
    z_0 = latents.sample(unit, flip) * scaling
    return StepNoise(picture, -1 if dropped else caption, flip, t, z_0, epsilon)
