"""What a ControlNet run sees of itself at each checkpoint: its loss on held-out pictures, and a sheet of samples.

Knows how a network is drawn with and measured, not how it learns.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel
from PIL import Image

from studio.core.errors import Cancelled, is_out_of_memory
from studio.core.specs import ControlRunSpec
from studio.engine.diffusion import latents as pictures
from studio.engine.diffusion import sampling, text
from studio.engine.diffusion.control import Control
from studio.engine.diffusion.denoiser import Denoiser
from studio.engine.diffusion.parameterization import (
    NoiseSchedule,
    PredictionType,
    add_noise,
    from_x0_and_epsilon,
)
from studio.engine.models.components import Components
from studio.training.controlnet.dataset import ControlDataset
from studio.training.runtime import steps
from studio.training.runtime.average import MovingAverage
from studio.training.runtime.runtime import Runtime

SAMPLES = 4
_BATCH = 8


def measured_kind(data: ControlDataset, index: int) -> int:
    """Which control image is measured and drawn with: in turns, but people's own drawings and not the edges beside."""
    return index % data.kinds if data.kinds > 2 else data.kinds - 1


@dataclass(frozen=True)
class Evaluator:
    """Measures `net` with the mean of its weights. `count` pictures are trained on, those behind them held out."""

    runtime: Runtime
    spec: ControlRunSpec
    model: Components
    net: ControlNetModel
    average: MovingAverage
    data: ControlDataset
    count: int
    schedule: NoiseSchedule
    kind: PredictionType

    def measure_missing(self, step: int, due: bool) -> None:
        """What the run begins with, else nobody knows what training is worth; and what an earlier process was ended
        before it had measured, where the checkpoint after `step` steps was `due`.
        """
        session = self.runtime.session
        missing = self.runtime.main and session.run.status().get("measured") != step
        if self.runtime.agreed(missing and (due or step == 0)):
            self.measure(step)

    def measure(self, step: int) -> None:
        """The figures after `step` steps into the status and the log, and samples. All processes come here."""
        session = self.runtime.session
        if self.runtime.main:
            session.stage(7, "Train: measure" if step else "Measure the beginning")
            self.net.eval()
            losses: dict[str, float] = {}
            try:
                with self.average.applied(), torch.no_grad(), self.runtime.autocast():
                    losses = self.held_out()
                    if self.spec.samples:
                        with contextlib.suppress(Cancelled):  # the training's loop sees the stop too, and saves
                            self.draw(step)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                session.log("Not enough memory to measure; the training goes on.", note=True)
            finally:
                self.net.train()
            before = {f"{name}_before": value for name, value in losses.items() if name == "held_out" and not step}
            session.run.update(**before, **losses, measured=step)
            session.log(f"Step {step}: held out {losses}")
        self.runtime.wait()
        session.restart_clock()

    def held_out(self) -> dict[str, float]:
        """The loss on pictures that were held out, with their drawing and without any.

        Empty where nothing was held out: a few pictures of one's own are all trained on.
        """
        rows, device, dtype = list(range(self.count, len(self.data))), self.runtime.device, self.runtime.dtype
        sums = {"held_out": 0.0, "held_out_without": 0.0} if rows else {}
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            generator = steps.generator(self.spec.seed, "look", start)
            t = ((torch.arange(len(part)) + 0.5) / len(part) * len(self.schedule)).long().to(device)
            z_0 = self.data.latents[part].float().to(device)
            epsilon = torch.randn(z_0.shape, generator=generator).to(device)
            alpha, sigma = self.schedule.at(t)
            z_t = add_noise(z_0, epsilon, alpha, sigma).to(dtype)
            target = from_x0_and_epsilon(z_0, epsilon, alpha, sigma, self.kind)
            lines = self.data.controls(part, [measured_kind(self.data, k) for k in range(len(part))]).to(device)
            conditioning = text.encode_prompts(self.model, [self.data.captions[row][0] for row in part])
            for name, control in (("held_out", Control(self.net, lines)), ("held_out_without", None)):
                prediction = Denoiser(self.model.unet, conditioning, control=control)(z_t, t)
                sums[name] += float((prediction.float() - target).square().mean()) * len(part) / len(rows)
        return {name: round(value, 5) for name, value in sums.items()}

    def draw(self, step: int) -> None:
        """Above the control images, below what is drawn from them; the same pictures and seeds every time."""
        run, model = self.runtime.session.run, self.model
        rows = (list(range(self.count, len(self.data))) or list(range(len(self.data))))[:SAMPLES]
        lines = self.data.controls(rows, [measured_kind(self.data, k) for k in range(len(rows))])
        strictness: dict[str, Any] = dict(model.info.control)
        height, width = (side // model.factor * model.factor for side in lines.shape[2:])
        clean = sampling.sample_latents(
            model, [self.data.captions[row][0] for row in rows], [self.spec.seed + k for k in range(len(rows))],
            sampler=model.info.sampler, steps=min(15, model.info.steps), guidance=model.info.guidance,
            size=(width, height), control=replace(Control(self.net, lines), **strictness),
            on_step=lambda *_: self.runtime.pause(),
        )  # fmt: skip
        drawn = pictures.decode(model, clean)
        whole = Image.new("RGB", (width * len(rows), 2 * height))
        for k, picture in enumerate(drawn):
            shown = (lines[k].permute(1, 2, 0) * 255).byte().numpy()
            whole.paste(Image.fromarray(np.ascontiguousarray(shown)), (k * width, 0))
            whole.paste(picture, (k * width, height))
        run.samples.mkdir(exist_ok=True)
        whole.save(run.samples / f"step-{step:06d}.png")
