"""What a distillation learns from: clean latents and their encoded prompts, from a folder or from the teacher itself.

Where there is no data the teacher draws latents from written prompts first. They are cached in small files named by
what they depend on, so that a killed run goes on drawing where it stopped and the next run with the same teacher finds
them there. Knows nothing of losses or students.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from studio.core.errors import BadInput, Cancelled
from studio.core.settings import Settings
from studio.core.specs import LcmSpec
from studio.engine.diffusion import latents, pixels, sampling, text
from studio.engine.diffusion.conditioning import Conditioning
from studio.engine.models.components import Components
from studio.runs import dataset
from studio.training.distill.prompts import training as training_prompts
from studio.training.runtime import steps
from studio.training.runtime.batch_sizer import OomBatchSizer
from studio.training.runtime.runtime import Runtime

CACHE = ".latents"  # beside the run folders, for all of them
CHUNK = 16  # latents per file: what is lost at most when the process is killed
VERSION = 1  # of the drawing itself: raised when the same request would give other latents

Report = Callable[[int, int], None]  # done, total; may raise


@dataclass(frozen=True)
class LatentDataset:
    """Clean latents (n, channels, h, w), scaled for the UNet, and their prompts, each encoded once.

    The prompt of latent k is row `row[k]` of `text`; `empty` is that of "", one row. All fp32, on the CPU. `digest` is
    a fingerprint of latents and prompts.
    """

    latents: torch.Tensor
    text: Conditioning
    row: torch.Tensor
    empty: Conditioning
    digest: str

    def __len__(self) -> int:
        return len(self.latents)


def encode_prompts(components: Components, prompts: Sequence[str]) -> Conditioning:
    """A row each, one chunk of the text encoder's length: what is longer is cut. For pictures of the native size."""
    length = components.tokenizer.model_max_length
    rows = [text.encode_prompts(components, [prompt]) for prompt in prompts]
    return Conditioning.cat(replace(row, embeddings=row.embeddings[:, :length]) for row in rows)


def _write(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file({name: t.contiguous() for name, t in tensors.items()}, fresh)
    os.replace(fresh, path)


def _chunks(
    folder: Path, count: int, make: Callable[[int, int], torch.Tensor], report: Report, rank: int, world: int
) -> list[Path]:
    """Files with `make(start, stop)` inside for all of `count`; those of process `rank` are made where they miss."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, sizer = [], OomBatchSizer(CHUNK)
    for index, start in enumerate(range(0, count, CHUNK)):
        path = folder / f"{start:06d}.safetensors"
        paths.append(path)
        stop = min(start + CHUNK, count)
        if index % world == rank and not _whole(path, stop - start):
            _write(path, {"latents": torch.cat(sizer.map(start, stop, make)).half()})
        report(stop, count)
    return paths


def _whole(path: Path, count: int) -> bool:
    try:
        return len(load_file(path)["latents"]) == count
    except (OSError, KeyError, SafetensorError):
        return False


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps([VERSION, *parts], default=str).encode()).hexdigest()[:16]


def drawn_by_teacher(
    components: Components,
    prompts: Sequence[str],
    seed: int,
    steps_: int,
    guidance: float,
    cache: Path,
    about: Sequence[object],
    report: Report,
    rank: int = 0,
    world: int = 1,
) -> list[Path]:
    """Latents of one picture per prompt, drawn by DPM++ 2M with `steps_` steps; files under `cache`.

    `about` names everything else that the teacher depends on (its hash, its LoRAs): another teacher, other files.
    `report` may raise to stop; what was drawn stays. With `world` processes each draws its share.
    """
    side = components.info.native_size

    def make(start: int, stop: int) -> torch.Tensor:
        generators = [steps.generator(seed, "drawn", k) for k in range(start, stop)]
        return sampling.sample_latents(
            components, prompts[start:stop], generators, sampler="dpmpp_2m", steps=steps_, guidance=guidance,
            size=(side, side),
        ).cpu()  # fmt: skip

    digest = hashlib.sha256("\0".join(prompts).encode()).hexdigest()
    folder = cache / _key("drawn", digest, seed, steps_, guidance, side, *about)
    return _chunks(folder, len(prompts), make, report, rank, world)


def from_folder(
    components: Components, entries: Sequence[dataset.Entry], folder: Path, seed: int, cache: Path, digest: str,
    about: Sequence[object], report: Report, rank: int = 0, world: int = 1,
) -> list[Path]:  # fmt: skip
    """Latents of the pictures `entries` of a data set, cut to the model's own square; files under `cache`."""
    side = components.info.native_size
    encoder = replace(components, dtype=torch.float32)  # whatever the UNet computes in: they are kept for other runs

    def make(start: int, stop: int) -> torch.Tensor:
        encoded = []
        for k in range(start, stop):
            with Image.open(folder / entries[k].file) as opened:
                picture = pixels.fit(dataset.upright(opened), side, side)
            encoded.append(latents.encode(encoder, [picture], [steps.generator(seed, "posterior", k)]))
        return torch.cat(encoded).cpu()

    target = cache / _key("folder", digest, seed, side, *about)
    return _chunks(target, len(entries), make, report, rank, world)


def gather(components: Components, files: Sequence[Path], prompts: Sequence[str]) -> LatentDataset:
    """Read the latents of all `files` and encode their `prompts`.

    Raises BadInput where a latent is not a number: a teacher that draws black pictures can't teach.
    """
    stored = torch.cat([load_file(path)["latents"] for path in files])
    digest = hashlib.sha256("\0".join(prompts).encode())
    digest.update(stored.numpy().tobytes())
    latents = stored.float()
    if not torch.isfinite(latents).all():
        raise BadInput("The teacher draws pictures that are not numbers; its weights are damaged or overflow in fp16.")
    unique = list(dict.fromkeys(prompts))
    encoded = encode_prompts(components, unique).to("cpu", torch.float32)
    row = {prompt: index for index, prompt in enumerate(unique)}
    rows = torch.tensor([row[prompt] for prompt in prompts])
    empty = encode_prompts(components, [""]).to("cpu", torch.float32)
    return LatentDataset(latents, encoded, rows, empty, digest.hexdigest()[:16])


def for_run(
    runtime: Runtime, spec: LcmSpec, config: Settings, components: Components, about: list[Any], triggers: list[str]
) -> LatentDataset:
    """Latents and prompts from the data folder, or drawn by the teacher. Raises Cancelled where the run is to end.

    `about` names what the teacher depends on, `triggers` are words that each of its prompts begins with.
    """
    session, info = runtime.session, components.info
    run, cache = session.run, session.run.path.parent / CACHE
    rank, world = runtime.rank, runtime.processes

    def report(done: int, total: int) -> None:
        if session.main:
            run.update(stage=f"3. Latents: {done} of {total}")
        session.check_stop()

    paths: list[Path] = []
    if spec.data is not None:
        checked = dataset.checked(Path(spec.data), info.native_size, config.datasets_dir)
        for problem in checked.problems:
            session.log(problem.message)
        texts = [entry.prompt for entry in checked.entries]
        with contextlib.suppress(Cancelled):
            paths = from_folder(
                components,
                checked.entries,
                checked.folder,
                spec.seed,
                cache,
                checked.digest,
                about,
                report,
                rank,
                world,
            )
    else:
        own = run.path / "prompts.txt"
        lines = own.read_text(encoding="utf-8").splitlines() if own.exists() else []
        given = [line.strip() for line in lines if line.strip()]
        texts = (
            [given[k % len(given)] for k in range(spec.latents)] if given else training_prompts(spec.latents, spec.seed)
        )
        texts = [", ".join(filter(None, [*triggers, text])) if text else text for text in texts]
        with contextlib.suppress(Cancelled):
            paths = drawn_by_teacher(
                components, texts, spec.seed, info.steps, info.guidance, cache, about, report, rank, world
            )
    if runtime.agreed(not paths):  # each process looked at the clock and the folder by itself
        raise Cancelled
    return gather(components, paths, texts)
