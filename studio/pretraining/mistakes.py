"""Latents as the model gets them wrong, beside those of the paintings that were meant: what the decoder learns to read.

A painting's latents are noised to a time of the few-step student and drawn from there to the end, by the student as
Generate draws, or by the guided teacher. What comes back shows the same character with the network's own mistakes in
it. The later a drawing begins, the closer it stays; from pure noise only the caption is left (`drawn`).

File xNNN.safetensors beside shard NNN, all float16: `clean` (n, 16, 16, 16), `mended` (n, 3, 16, 16, 16) (student from
its second last time, student from its third last, teacher), `drawn` (n, 16, 16, 16), and `begun` (n, 3, 16, 16, 16),
what the student said in the steps before `drawn`. Knows no decoder.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.core.settings import Settings
from studio.engine.diffusion import sampling
from studio.engine.engine import load
from studio.engine.models import adapters
from studio.engine.models.catalogue import resolve
from studio.engine.models.components import Components
from studio.pretraining.captions import caption
from studio.pretraining.latents import encode
from studio.pretraining.parallel import launch
from studio.pretraining.text_tower import tokens

BATCH = 20
BACK = (2, 3)  # steps that the student takes back, of its four
TEACHER_STEPS = 2
TEACHER_TIMES = (150, 650)  # between which the teacher's drawings begin


def add_noise(z: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """sqrt(alpha_bar) z + sqrt(1 - alpha_bar) noise; alpha_bar of one time, ()."""
    return alpha_bar.sqrt() * z + (1 - alpha_bar).sqrt() * noise


def clean_of(v: Tensor, z_t: Tensor, alpha_bar: Tensor) -> Tensor:
    """z_0 from a velocity (2202.00512, appendix D)."""
    return alpha_bar.sqrt() * z_t - (1 - alpha_bar).sqrt() * v


class Artist:
    """The model with and without its few-step adapter; all latents (n, 16, 16, 16), texts (n, 77, width)."""

    def __init__(self, parts: Components, times: list[int]) -> None:
        """`times` are the student's, highest first."""
        self.parts, self.times = parts, times
        self.alphas = DDIMScheduler.from_config(parts.scheduler_config).alphas_cumprod

    def text(self, captions: list[str]) -> Tensor:
        return self.parts.text_encoder(tokens(self.parts.tokenizer, captions)).last_hidden_state

    def student(self, z: Tensor | None, text: Tensor, back: int, generator: torch.Generator) -> list[Tensor]:
        """What each of `back` steps of LCM to the end says, from `z` noised as far, or from pure noise, the last one
        being the picture. The adapter is attached."""
        shape, found = (len(text), self.parts.channels, 16, 16), []
        for t in self.times[-back:]:
            alpha = self.alphas[t]
            noise = torch.randn(shape, generator=generator)
            z_t = noise if z is None else add_noise(z, noise, alpha)
            z = clean_of(self.parts.unet(z_t, t, text).sample, z_t, alpha)
            found.append(z)
        return found

    def teacher(self, z: Tensor, text: Tensor, start: int, guidance: float, generator: torch.Generator) -> Tensor:
        """DDIM with guidance from time `start` on, in `TEACHER_STEPS` even steps. The adapter is not attached."""
        empty = self.text([""]).expand(len(text), -1, -1)
        times = [start * (TEACHER_STEPS - k) // TEACHER_STEPS for k in range(TEACHER_STEPS)]
        z_t = add_noise(z, torch.randn(z.shape, generator=generator), self.alphas[start])
        for t, after in zip(times, [*times[1:], None], strict=True):
            said, unsaid = self.parts.unet(torch.cat([z_t, z_t]), t, torch.cat([text, empty])).sample.chunk(2)
            v, alpha = unsaid + guidance * (said - unsaid), self.alphas[t]
            z = clean_of(v, z_t, alpha)
            if after is not None:
                z_t = add_noise(z, alpha.sqrt() * v + (1 - alpha).sqrt() * z_t, self.alphas[after])
        return z


@torch.no_grad()
def mistaken(
    artist: Artist, fast: Path, z: Tensor, captions: list[str], generator: torch.Generator
) -> dict[str, Tensor]:
    """What a file holds of a few paintings, in fp32."""
    text = artist.text(captions)
    with adapters.attached(artist.parts, fast=fast):
        mended = [artist.student(z, text, back, generator)[-1] for back in BACK]
        *begun, drawn = artist.student(None, text, len(artist.times), generator)
    start = int(torch.randint(*TEACHER_TIMES, (), generator=generator))
    mended.append(artist.teacher(z, text, start, artist.parts.info.guidance, generator))
    return {"clean": z, "mended": torch.stack(mended, 1), "begun": torch.stack(begun, 1), "drawn": drawn}


def main(rank: int, world: int, args: argparse.Namespace) -> None:
    info = resolve(str(args.model), Settings())
    if info.fast is None:
        raise SystemExit(f"{args.model} has no few-step adapter.")
    parts = load(info, Settings(device="cpu"))
    scheduler = sampling.make_scheduler(info.fast.sampler, parts.scheduler_config)
    times = [int(t) for t in sampling.set_timesteps(scheduler, info.fast.steps)]
    artist = Artist(parts, times)
    for path in sorted(args.data.glob("m*.json"))[rank::world]:
        number = path.stem[1:]
        target = args.out / f"x{number}.safetensors"
        if target.exists():
            continue
        began, rows = time.time(), json.loads(path.read_text())
        painted = np.load(args.data / f"p{number}.npy", mmap_mode="r")
        writer, generator = random.Random(f"mistakes {number}"), torch.Generator().manual_seed(int(number))
        parts_of: list[dict[str, Tensor]] = []
        for i in range(0, len(rows), BATCH):
            some = rows[i : i + BATCH]
            said = [caption(row["tags"], row, writer) for row in some]
            parts_of.append(
                mistaken(artist, info.fast.adapter, encode(parts.vae, painted[i : i + BATCH]), said, generator)
            )
        tensors = {name: torch.cat([p[name] for p in parts_of]).half().contiguous() for name in parts_of[0]}
        fresh = target.with_suffix(".tmp")
        save_file(tensors, fresh)
        fresh.rename(target)
        print(f"{target.name}: {len(rows)} in {time.time() - began:.0f} s", flush=True)


def shards(folder: Path) -> dict[str, dict[str, Tensor]]:
    """All files of a folder, by shard number."""
    return {path.stem[1:]: load_file(path) for path in sorted(folder.glob("x*.safetensors"))}


def cli() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of painted shards")
    parser.add_argument("--model", type=Path, required=True, help="the assembled model, with its few-step adapter")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    launch(main, args, args.processes, port=29540)


if __name__ == "__main__":
    cli()
