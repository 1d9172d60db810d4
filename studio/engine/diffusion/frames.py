"""Many frames through one model side by side, each on its own schedule. Knows latents and text, no emotion or picture.

`sampling.sample` moves a batch along one schedule. The frames of an animation begin at different noise levels and the
frames of a morph share their first steps, so here every frame has a scheduler of its own and only the UNet calls are
joined. One frame alone comes out as from `sample` (tested).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from studio.engine.diffusion import parameterization, sampling, schedulers
from studio.engine.diffusion.attention import Anchors
from studio.engine.diffusion.conditioning import Conditioning
from studio.engine.diffusion.denoiser import Denoiser, Guidance

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from studio.engine.models.components import Components

Noise = Callable[[int], torch.Tensor]


@dataclass
class Track:
    """One frame on its way.

    `latents` (1, channels, h, w) are the state before the first of `timesteps`, on the scale of `scheduler`, which no
    other track may share. `conditioning` has one row. `ends` are the tracks that an interpolated attention attends to
    and how far this one is from the first to the second.
    """

    scheduler: Any
    timesteps: torch.Tensor
    latents: torch.Tensor
    conditioning: Conditioning
    ends: tuple[int, int, float] | None = None

    def fork(self, conditioning: Conditioning) -> Track:
        """The same state once more, to go on with another text."""
        return replace(self, scheduler=copy.deepcopy(self.scheduler), conditioning=conditioning)


@dataclass(frozen=True)
class Pinned:
    """A picture that every frame attends to: its clean latents, noised with `noise` to each frame's level."""

    clean: torch.Tensor  # (1, channels, h, w)
    noise: torch.Tensor  # (1, channels, h, w)
    conditioning: Conditioning  # one row


class SharedNoise:
    """One sequence of noise for all frames: where to begin, and what a sampler puts back after each step.

    Drawn from one generator in the order in which a single picture would draw it, so that a frame equals the picture
    of the same seed. Latent consistency sampling re-noises at every step (2310.04378, algorithm 3): with noise of their
    own, frames of one seed would still flicker.
    """

    def __init__(self, components: Components, seed: int, width: int, height: int) -> None:
        generators = sampling.generators([seed])
        self._draw = lambda: sampling.noise(components, generators, width, height)
        self.first = self._draw()  # (1, channels, h, w)
        self._later: list[torch.Tensor] = []

    def __call__(self, index: int) -> torch.Tensor:
        """The noise of step `index` (0 is the first step of the schedule), (1, channels, h, w)."""
        while len(self._later) <= index:
            self._later.append(self._draw())
        return self._later[index]


@torch.no_grad()
def advance(
    unet: UNet2DConditionModel,
    tracks: Sequence[Track],
    negative: Conditioning | None,
    guidance: float | Guidance,
    noise: Noise,
    *,
    begin: int = 0,
    stop: int | None = None,
    anchors: Anchors | None = None,
    pinned: Pinned | None = None,
    on_step: Callable[[int], None] | None = None,
) -> None:
    """Take all tracks from step `begin` of the longest of them to its step `stop` (default: the end), in place.

    Tracks end together; a shorter one sets in later. `noise(index)` counts within the longest schedule, so that tracks
    at the same step get the same noise. `on_step(n)` is told how many steps of single frames were just done; it may
    raise. With `anchors` (from `attention.anchored`) every frame attends to `pinned`, or at its `ends`.
    """
    longest = max(len(track.timesteps) for track in tracks)
    for index in range(begin, longest if stop is None else stop):
        active = [k for k, track in enumerate(tracks) if index >= longest - len(track.timesteps)]
        moving = [tracks[k] for k in active]
        times = torch.stack([track.timesteps[index - longest] for track in moving])
        rows = torch.cat([t.scheduler.scale_model_input(t.latents, at) for t, at in zip(moving, times, strict=True)])
        conditioning = Conditioning.cat(track.conditioning for track in moving)
        extra = 0
        if anchors is not None and pinned is not None:
            levels, which = torch.unique(times, return_inverse=True)
            extra = len(levels)
            kept = moving[0].scheduler.alphas_cumprod[levels.round().long().cpu()].to(levels.device).view(-1, 1, 1, 1)
            # variance preserving, the scale that every UNet reads; near 1 half precision has no digits left of 1 - kept
            noised = parameterization.add_noise(pinned.clean, pinned.noise, kept.sqrt(), (1 - kept).sqrt())
            rows = torch.cat([noised.to(rows), rows])
            conditioning = Conditioning.cat([pinned.conditioning.expand(extra), conditioning])
            times = torch.cat([levels, times])
            own = torch.arange(extra, device=which.device)
            anchors.first, anchors.second, anchors.weight = torch.cat([own, which]), None, None
        elif anchors is not None:
            row_of = {k: row for row, k in enumerate(active)}
            ends = [tracks[k].ends or (k, k, 0.0) for k in active]
            anchors.first = torch.tensor([row_of[a] for a, _, _ in ends], device=rows.device)
            anchors.second = torch.tensor([row_of[b] for _, b, _ in ends], device=rows.device)
            anchors.weight = torch.tensor([w for _, _, w in ends], device=rows.device)
        output = Denoiser(unet, conditioning, negative, guidance)(rows, times)[extra:]
        for row, track in enumerate(moving):
            track.latents = schedulers.step_with_noise(
                track.scheduler, output[row : row + 1], times[extra + row], track.latents, partial(noise, index)
            )
        if on_step is not None:
            on_step(len(moving))
    sampling.finite(torch.cat([track.latents for track in tracks]))
