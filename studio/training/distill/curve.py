"""Quality against speed: what a student is worth at 1, 2, 4 and 8 steps, beside its teacher and a good fast solver.

Three contestants draw the same prompts from the same noise: the student, the teacher at its best (its own sampler,
steps and guidance), and DPM++ 2M on the teacher at as few steps as the student takes, which is the honest baseline.
Measured are seconds, how often the judge sees the emotion and style that were asked for, the Frechet distance of the
judge's features to pictures that the teacher drew from other noise, and where there is no judge but a CLIP, its
score. Knows how to draw and measure; nothing of training.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from studio.engine.diffusion import latents, sampling, text
from studio.engine.diffusion.denoiser import Denoiser
from studio.engine.diffusion.pixels import to_images
from studio.engine.models.components import Components
from studio.evaluation.judge import Judge
from studio.evaluation.metrics import frechet_distance
from studio.runs.rundir import write_json
from studio.training.distill.prompts import LabelledPrompt
from studio.training.runtime.batch_sizer import OomBatchSizer

STEPS = (1, 2, 4, 8)
FAST_STEPS = 4  # at which checkpoints are compared and the result is used
SHOWN = 6  # pictures of each row that are kept to look at
THUMBNAIL = 128  # px
_BATCH = 16
_SEED, _OTHER_SEED = 1_000_000, 2_000_000  # of the contestants' noise; of the reference pictures'
_CLIP = "openai/clip-vit-large-patch14"

Who = Literal["student", "teacher", "dpmpp_2m"]


@dataclass(frozen=True)
class Row:
    """One contestant at one number of steps. Shares in 0..1; None where there is nothing to measure it with.

    `seconds` is sampling without decoding, `decoding` the VAE's part, both per picture. `emotion` and `style` are the
    shares of pictures in which the judge saw what was asked for, `sure` its mean probability of both. `frechet` is the
    distance to reference pictures, comparable only at equal `pictures`, and None for a single one. `drift` is the root
    mean square difference, in latents, to what the teacher at its best makes of the same noise.
    """

    who: Who
    steps: int
    guidance: float
    pictures: int
    seconds: float
    decoding: float
    emotion: float | None = None
    style: float | None = None
    sure: float | None = None
    frechet: float | None = None
    clip: float | None = None
    drift: float | None = None


class Evaluator:
    """The measuring instruments of one run: prompts, noise, judge or CLIP, the teacher's own pictures.

    `pause` is called before each batch of pictures and may raise to end a measurement.
    """

    def __init__(
        self, components: Components, prompts: Sequence[LabelledPrompt], folder: Path, strips: Path,
        pause: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.components, self.pause = components, pause
        self.prompts = prompts
        self.folder, self.strips = folder, strips  # what was measured of the teacher; pictures to look at
        self.judge = Judge.load(components.info.judge) if components.info.judge is not None else None
        self.clip = _Clip.find() if self.judge is None else None
        self.reference: dict[str, torch.Tensor] = {}
        self._drawn, self._decoded = OomBatchSizer(_BATCH), OomBatchSizer(_BATCH)

    def baseline(self, teacher: UNet2DConditionModel) -> list[Row]:
        """The teacher at its best and DPM++ 2M at few steps; drawn once and read from `folder` afterwards.

        What was measured until `pause` raised is kept there, and the next call goes on behind it.
        """
        self.strips.mkdir(parents=True, exist_ok=True)
        rows_file, tensors_file = self.folder / "baseline.json", self.folder / "reference.safetensors"
        key = [asdict(a) for a in self.prompts]
        rows: list[Row] = []
        try:
            held = json.loads(rows_file.read_text(encoding="utf-8"))
            if held["asked"] == key:
                self.reference = load_file(tensors_file)
                rows = [Row(**row) for row in held["rows"]]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            rows = []  # none yet, or damaged: measured again
        self.folder.mkdir(parents=True, exist_ok=True)
        info = self.components.info

        def write() -> None:
            write_json(rows_file, {"asked": key, "rows": [asdict(row) for row in rows]}, sync=True)

        if not rows:
            rows_file.unlink(missing_ok=True)
            with_judge = {}
            if self.judge is not None:
                drawn, _ = self._draw(teacher, info.sampler, info.steps, info.guidance, _OTHER_SEED)
                with_judge["features"] = self.judge(self._decode(drawn)[0]).features
            drawn, seconds = self._draw(teacher, info.sampler, info.steps, info.guidance, _SEED)
            self.reference = {"latents": drawn.float().cpu(), **with_judge}
            save_file({name: t.contiguous() for name, t in self.reference.items()}, tensors_file)
            rows = [self._row("teacher", info.steps, info.guidance, "teacher", drawn, seconds)]
            write()
        for count in STEPS[len(rows) - 1 :]:
            rows.append(self.measure("dpmpp_2m", teacher, "dpmpp_2m", count, info.guidance, f"dpmpp_2m-{count}"))
            write()
        return rows

    def measure(
        self, who: Who, unet: UNet2DConditionModel, sampler: str, steps: int, guidance: float, name: str
    ) -> Row:
        """Draw all prompts and measure; the first pictures are kept as the strip `strips/<name>.png`."""
        return self._row(who, steps, guidance, name, *self._draw(unet, sampler, steps, guidance, _SEED))

    def _row(self, who: Who, steps: int, guidance: float, name: str, drawn: torch.Tensor, seconds: float) -> Row:
        pixels, decoding = self._decode(drawn)
        count = len(drawn)
        row = Row(who, steps, guidance, count, seconds / count, decoding / count)
        drift = (drawn.float().cpu() - self.reference["latents"]).square().mean().sqrt()
        row = replace(row, drift=float(drift))
        _strip(pixels[:SHOWN], self.strips / f"{name}.png")
        if self.judge is not None:
            row = replace(row, **self._judged(self.judge, pixels))
        elif self.clip is not None:
            row = replace(row, clip=self.clip.score(to_images(pixels), [a.text for a in self.prompts]))
        return row

    def _judged(self, judge: Judge, pixels: torch.Tensor) -> dict[str, Any]:
        verdict = judge(pixels)
        right, sure = {}, []
        for factor in ("emotion", "style"):
            wanted = [getattr(a, factor) for a in self.prompts]
            right[factor] = sum(a == b for a, b in zip(verdict.labels[factor], wanted, strict=True)) / len(wanted)
            columns = torch.tensor([judge.values[factor].index(word) for word in wanted])
            sure.append(verdict.probabilities[factor].gather(1, columns[:, None]).mean())
        frechet = None  # one picture has no covariance
        if len(self.prompts) > 1:
            frechet = frechet_distance(verdict.features, self.reference["features"])
        return {
            **right,
            "sure": float(torch.stack(sure).mean()),
            "frechet": frechet,
        }

    def _draw(
        self, unet: UNet2DConditionModel, sampler: str, steps: int, guidance: float, seed: int
    ) -> tuple[torch.Tensor, float]:
        """Latents of every prompt, and the seconds that sampling took."""
        parts = replace(self.components, unet=unet)
        side = parts.info.native_size
        seconds = 0.0

        def draw(start: int, stop: int) -> torch.Tensor:
            nonlocal seconds
            self.pause()
            texts = [a.text for a in self.prompts[start:stop]]
            positive, negative = text.encode_pair(parts, texts, [""] * len(texts), (side, side))
            began = _now(parts.device)
            # A whole model that learns is in full precision, whatever the others are in
            with torch.autocast(parts.device.type, parts.dtype, enabled=unet.dtype != parts.dtype):
                drawn = sampling.sample_denoiser(
                    parts, Denoiser(unet, positive, negative, guidance), range(seed + start, seed + stop),
                    sampler=sampler, steps=steps, size=(side, side),
                )  # fmt: skip
            seconds += _now(parts.device) - began
            return drawn

        return torch.cat(self._drawn.map(0, len(self.prompts), draw)), seconds

    def _decode(self, drawn: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Pixels (n, 3, h, w) in -1..1 on the CPU, and the seconds that it took."""
        seconds = 0.0

        def decode(start: int, stop: int) -> torch.Tensor:
            nonlocal seconds
            self.pause()
            began = _now(self.components.device)
            pixels = latents.decode_pixels(self.components, drawn[start:stop])
            seconds += _now(self.components.device) - began
            return pixels.float().cpu()

        return torch.cat(self._decoded.map(0, len(drawn), decode)).nan_to_num(0).clamp(-1, 1), seconds


def _now(device: torch.device) -> float:
    """Seconds; a card works on after Python has gone on, so it is waited for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


class _Clip:
    """CLIP score (2104.08718, eq. 1): 100 max(cos(image, text), 0), the mean over pairs."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor

    @classmethod
    def find(cls) -> _Clip | None:
        """The CLIP that is on this machine already, or None: nothing is downloaded for a measurement."""
        from transformers import CLIPModel, CLIPProcessor

        try:
            return cls(
                CLIPModel.from_pretrained(_CLIP, local_files_only=True, use_safetensors=True).eval(),
                CLIPProcessor.from_pretrained(_CLIP, local_files_only=True),
            )
        except OSError:
            return None

    @torch.no_grad()
    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> float:
        inputs = self.processor(
            text=list(prompts), images=list(images), return_tensors="pt", padding=True, truncation=True
        )
        out = self.model(**inputs)
        cosine = torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)
        return float(100 * cosine.clamp(min=0).mean())


def quality(rows: Sequence[Row], baseline: Sequence[Row], steps: int = FAST_STEPS) -> float:
    """One number to order checkpoints by, higher is better, from the student's row at `steps`.

    With a judge: its mean probability of what was asked for, less the Frechet distance as a share of DPM++ 2M's at the
    same steps, so that neither blur nor disobedience wins alone (of single pictures the probability only). With a CLIP:
    its score. Else: less drift at one step.
    """
    row = next(r for r in rows if r.who == "student" and r.steps == steps)
    if row.sure is not None and row.frechet is not None:
        solver = next(r for r in baseline if r.who == "dpmpp_2m" and r.steps == steps)
        assert solver.frechet is not None
        return row.sure - row.frechet / max(solver.frechet, 1e-9)
    if row.sure is not None:
        return row.sure
    if row.clip is not None:
        return row.clip
    first = next(r for r in rows if r.who == "student" and r.steps == 1)
    assert first.drift is not None
    return -first.drift


def _strip(pixels: torch.Tensor, path: Path) -> None:
    images = [image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS) for image in to_images(pixels)]
    strip = Image.new("RGB", (THUMBNAIL * len(images), THUMBNAIL))
    for index, image in enumerate(images):
        strip.paste(image, (THUMBNAIL * index, 0))
    strip.save(path)


def separate(strip: Path, step: int, folder: Path) -> None:
    """The pictures of a strip as `step-<step>-<k>.png`: the names that samples of every kind of run have."""
    with Image.open(strip) as opened:
        for k in range(opened.width // THUMBNAIL):
            picture = opened.crop((THUMBNAIL * k, 0, THUMBNAIL * (k + 1), THUMBNAIL))
            picture.save(folder / f"step-{step:06d}-{k}.png")
