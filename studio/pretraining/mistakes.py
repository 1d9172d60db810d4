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
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.core.settings import Settings
from studio.engine.diffusion import schedulers
from studio.engine.diffusion.conditioning import Conditioning
from studio.engine.diffusion.denoiser import Denoiser
from studio.engine.diffusion.parameterization import NoiseSchedule, add_noise, prediction_type, to_epsilon, to_x0
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


class Artist:
    """The model with and without its few-step adapter; all latents (n, 16, 16, 16), texts `Conditioning` of n rows."""

    def __init__(self, parts: Components, times: list[int]) -> None:
        """`times` are the student's, highest first."""
        self.parts, self.times = parts, times
        self.schedule = NoiseSchedule.from_config(parts.scheduler_config)
        self.kind = prediction_type(parts.scheduler_config)

    def text(self, captions: list[str]) -> Conditioning:
        return Conditioning(self.parts.text_encoder(tokens(self.parts.tokenizer, captions)).last_hidden_state)

    def student(self, z: Tensor | None, text: Conditioning, back: int, generator: torch.Generator) -> list[Tensor]:
        """What each of `back` steps of LCM to the end says, from `z` noised as far, or from pure noise, the last one
        being the picture. The adapter is attached."""
        denoiser, found = Denoiser(self.parts.unet, text), []
        shape = (len(text.embeddings), self.parts.channels, 16, 16)
        for t in torch.tensor(self.times[-back:]):
            at, noise = self.schedule.at(t), torch.randn(shape, generator=generator)
            z_t = noise if z is None else add_noise(z, noise, *at)
            z = to_x0(denoiser(z_t, t), z_t, *at, self.kind)
            found.append(z)
        return found

    def teacher(self, z: Tensor, text: Conditioning, start: int, generator: torch.Generator) -> Tensor:
        """DDIM with the model's guidance from time `start` on, in `TEACHER_STEPS` even steps, without the adapter."""
        denoiser = Denoiser(self.parts.unet, text, self.text([""]), self.parts.info.guidance)
        times = [torch.tensor(start * (TEACHER_STEPS - k) // TEACHER_STEPS) for k in range(TEACHER_STEPS)]
        noise = torch.randn(z.shape, generator=generator)
        for t in times:
            at = self.schedule.at(t)
            z_t = add_noise(z, noise, *at)
            output = denoiser(z_t, t)
            z, noise = to_x0(output, z_t, *at, self.kind), to_epsilon(output, z_t, *at, self.kind)
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
    mended.append(artist.teacher(z, text, start, generator))
    return {"clean": z, "mended": torch.stack(mended, 1), "begun": torch.stack(begun, 1), "drawn": drawn}


def main(rank: int, world: int, args: argparse.Namespace) -> None:
    info = resolve(str(args.model), Settings())
    if info.fast is None:
        raise SystemExit(f"{args.model} has no few-step adapter.")
    parts = load(info, Settings(device="cpu"))
    scheduler = schedulers.make_scheduler(info.fast.sampler, parts.scheduler_config)
    times = [int(t) for t in schedulers.set_timesteps(scheduler, info.fast.steps)]
    artist = Artist(parts, times)
    for path in sorted(args.data.glob("m*.json"))[rank::world]:
        number = path.stem[1:]
        target = args.out / f"x{number}.safetensors"
        if target.exists():
            continue
        began, rows = time.time(), json.loads(path.read_text(encoding="utf-8"))
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
