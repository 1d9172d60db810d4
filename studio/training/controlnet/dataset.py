"""What a ControlNet learns from: clean latents, control images and captions, in shards on disk or made from pictures.

Shard NAME is `NAME.safetensors` (`latents` (n, c, h, w), scaled for the UNet; optional loss weights `weight`
(n, 1, h, w) and `channels` (c,)), `NAME.control.npy`, uint8 (n, kinds, height, width), and `NAME.json`: the captions of
each, a list of lists. Control images stay on the disk and are read as a step needs them. Knows no loss and no network
but the VAE.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from studio.core.errors import BadInput, Cancelled
from studio.core.imaging import to_rgb
from studio.core.settings import Settings
from studio.core.specs import ControlRunSpec, ControlSpec
from studio.engine.diffusion.latents import encode
from studio.engine.diffusion.pixels import fit
from studio.engine.media import control_images
from studio.engine.models.components import Components
from studio.runs import dataset as files
from studio.runs.dataset import DRAWN, Entry, split_tags, upright
from studio.training.runtime.runtime import Runtime

NOTES = 5  # remarks about pictures that stay on the page; the rest are in the log


@dataclass(frozen=True)
class ControlDataset:
    """All shards together. `controls(rows, kinds)` reads control images."""

    latents: torch.Tensor  # (n, c, h, w), fp16 or fp32
    captions: list[list[str]]
    weight: torch.Tensor | None  # (n, 1, h, w)
    channels: torch.Tensor | None  # (c,)
    shards: list[np.ndarray]  # memory-mapped, (n, kinds, height, width) each

    def __len__(self) -> int:
        return len(self.captions)

    @cached_property
    def digest(self) -> str:
        """A fingerprint of latents and captions, and of how many control images there are."""
        sha = hashlib.sha256(json.dumps([self.captions, [shard.shape for shard in self.shards]]).encode())
        sha.update(self.latents.float().contiguous().numpy().tobytes())
        return sha.hexdigest()[:16]

    def loss_weights(self, rows: Sequence[int]) -> torch.Tensor:
        """Of some pictures, broadcastable over (rows, c, h, w)."""
        weights = torch.ones(len(rows), 1, 1, 1)
        if self.weight is not None:
            weights = weights * self.weight[list(rows)].float()
        if self.channels is not None:
            weights = weights * self.channels.float().view(1, -1, 1, 1)
        return weights

    @property
    def kinds(self) -> int:
        """Control images per picture."""
        return int(self.shards[0].shape[1])

    def controls(self, rows: Sequence[int], kinds: Sequence[int]) -> torch.Tensor:
        """(rows, 3, height, width) in 0..1: control image `kinds[k]` of picture `rows[k]`."""
        images = []
        for row, kind in zip(rows, kinds, strict=True):
            shard = 0
            while row >= len(self.shards[shard]):
                row -= len(self.shards[shard])
                shard += 1
            images.append(np.asarray(self.shards[shard][row, kind]))
        lines = torch.from_numpy(np.stack(images)).float().div_(255)
        return lines[:, None].expand(-1, 3, -1, -1)


def write(
    folder: Path, name: str, latents: torch.Tensor, controls: np.ndarray, captions: list[list[str]], **weights: Any
) -> None:
    """One shard; the captions come last, so that a shard that has them is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"latents": latents.contiguous()} | weights, folder / f"{name}.safetensors.part")
    os.replace(folder / f"{name}.safetensors.part", folder / f"{name}.safetensors")
    with open(folder / f"{name}.control.npy.part", "wb") as file:
        np.save(file, controls)
    os.replace(file.name, folder / f"{name}.control.npy")
    (folder / f"{name}.json.part").write_text(json.dumps(captions), encoding="utf-8")
    os.replace(folder / f"{name}.json.part", folder / f"{name}.json")


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds shards rather than pictures."""
    return any(folder.glob("*.control.npy"))


def read(folder: Path) -> ControlDataset:
    """All whole shards of a folder, by name. Raises BadInput when there are none or they don't agree."""
    latents, captions, weight, channels, shards = [], [], [], None, []
    for path in sorted(folder.glob("*.json")):
        arrays = path.with_suffix(".control.npy")
        if not arrays.exists():
            continue
        tensors = load_file(path.with_suffix(".safetensors"))
        shard = np.load(arrays, mmap_mode="r")
        rows = json.loads(path.read_text(encoding="utf-8"))
        if not len(rows) == len(shard) == len(tensors["latents"]):
            raise BadInput(f"The shard {path.stem} in {folder} is damaged; delete it and prepare it again.")
        latents.append(tensors["latents"])
        captions += rows
        shards.append(shard)
        channels = tensors.get("channels", channels)
        if "weight" in tensors:
            weight.append(tensors["weight"])
    if not shards:
        raise BadInput(f"There is nothing to learn from in {folder}.")
    if len({shard.shape[1:] for shard in shards}) > 1 or len(weight) not in (0, len(shards)):
        raise BadInput(f"The shards in {folder} were made with different settings; prepare them again.")
    return ControlDataset(torch.cat(latents), captions, torch.cat(weight) if weight else None, channels, shards)


def for_run(runtime: Runtime, spec: ControlRunSpec, config: Settings, components: Components) -> ControlDataset:
    """Prepared shards as they are; a folder or ZIP of pictures is prepared once and kept beside the runs.

    One process prepares. Raises Cancelled where the run is to end meanwhile.
    """
    session, data = runtime.session, Path(spec.data)
    if data.is_dir() and is_prepared(data):
        return read(data)
    side = components.info.native_size
    report = files.checked(data, side, config.datasets_dir)
    key = hashlib.sha256(f"{report.digest} {components.info.hash} {side}".encode())
    for entry in report.entries:
        own = (report.folder / entry.file).with_suffix(DRAWN)
        if own.exists():
            key.update(f"\0{entry.file}\0".encode() + hashlib.sha256(own.read_bytes()).digest())
    into = session.run.path.parent / ".drawings" / key.hexdigest()[:16]
    for problem in report.problems[:NOTES]:
        session.log(problem.message, note=True)

    def on_picture(done: int) -> None:
        session.run.update(stage=f"4. Control images: {done} of {len(report.entries)}")
        session.check_stop()

    def left_out(sentence: str) -> None:
        session.log(sentence, note=len(session.notes) < 2 * NOTES)

    cancelled = False
    if runtime.main and not (into / "pictures.json").exists():
        try:
            from_pictures(components, report.folder, report.entries, into, side, on_picture, left_out)
        except Cancelled:
            cancelled = True
    if runtime.agreed(cancelled):
        raise Cancelled
    if runtime.main:
        session.run.update(drawings=into.name)  # they go when the last run that uses them is deleted
    return read(into)


def from_pictures(
    components: Components,
    folder: Path,
    entries: Sequence[Entry],
    into: Path,
    side: int,
    on_picture: Callable[[int], None] = lambda done: None,
    on_note: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Prepare captioned pictures as the shard `pictures` in `into`: squares of `side` pixels, cut at their centre.

    The control image is the picture's own drawing where one lies beside it (`NAME.control.png`), cut as the picture is,
    and its Canny edges. A picture without any edge, or whose drawing can't be followed, is left out, and `on_note` is
    told. Trigger words play no part: what calls a ControlNet is the drawing. Raises BadInput when no picture is left.
    """
    canny = ControlSpec(image="picture", kind="canny")
    drawn = ControlSpec(image="picture", kind="lines")
    encoder = replace(components, dtype=torch.float32)  # whatever the UNet computes in: they are kept for other runs
    latents, controls, captions = [], [], []
    for index, entry in enumerate(entries):
        on_picture(index + 1)
        with Image.open(folder / entry.file) as file:
            picture = fit(upright(file), side, side)
        own = (folder / entry.file).with_suffix(DRAWN)
        try:
            edges = control_images.control_image(picture, canny, (side, side))
            lines = control_images.control_image(_square(own), drawn, (side, side)) if own.exists() else edges
        except BadInput as problem:
            on_note(f"{entry.file} is left out{f' for {own.name}' if own.exists() else ''}. {problem}")
            continue
        except OSError:
            on_note(f"{entry.file} is left out: its drawing {own.name} can't be read.")
            continue
        latents.append(encode(encoder, [picture]).cpu())
        controls.append(np.stack([np.asarray(image.convert("L")) for image in (edges, lines)]))
        captions.append([", ".join(split_tags(entry.caption))])
    if not latents:
        raise BadInput("No picture is left to learn from: none has edges, or a drawing, that can be followed.")
    write(into, "pictures", torch.cat(latents), np.stack(controls), captions)


def _square(path: Path) -> Image.Image:
    """The middle of a drawing, in its own resolution: `fit` cuts its picture to the same."""
    with Image.open(path) as file:
        drawing = to_rgb(file)
    side = min(drawing.size)
    return fit(drawing, side, side)
