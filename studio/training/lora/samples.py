"""Pictures that a run draws of itself, through the engine, and what its export says. Knows nothing of how it learns."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from studio.core.errors import Cancelled, is_out_of_memory
from studio.core.specs import LoraSpec
from studio.engine.diffusion import latents, sampling, text
from studio.engine.diffusion.conditioning import Conditioning
from studio.engine.diffusion.denoiser import Denoiser
from studio.engine.models.catalogue import ModelInfo
from studio.engine.models.components import Components
from studio.engine.models.loading import load_vae
from studio.runs.dataset import Report, tag_counts
from studio.runs.rundir import RunDir
from studio.training.export.adapter_files import Card, base_version
from studio.training.lora.network import alpha_of
from studio.training.runtime.average import MovingAverage
from studio.training.runtime.runtime import Runtime

_DEFAULT_PROMPTS = 3
QUICK = 20.0  # seconds that a stop may take longer for samples
START_WEIGHT = 0.8  # at 1 the look is nearer, and emotions are obeyed less (benchmarks.style)


class Sampler:
    """Draws the same prompts from the same seeds at each checkpoint; makes the card at the end.

    Made while the text encoder is there; `text_encoder` of the model may be dropped afterwards unless it is trained.
    With `samples` off nothing is drawn.
    """

    def __init__(
        self, model: Components, spec: LoraSpec, report: Report, per_epoch: int, runtime: Runtime,
        adapted: Mapping[str, torch.nn.Module],
    ) -> None:  # fmt: skip
        self.runtime, self.run, self.spec, self.report = runtime, runtime.session.run, spec, report
        self.per_epoch = per_epoch  # pictures, with their repeats
        self.adapted = adapted
        self.side = spec.resolution or model.info.native_size
        self.model = model  # its parts are taken out of it later, to be freed
        self.prompts: list[str] = []
        if spec.samples:
            self.prompts = list(spec.sample_prompts) or self._captions()
            self.conditioning = self._encode()
            if runtime.main:
                self.run.update(sample_prompts=self.prompts)

    def _captions(self) -> list[str]:
        # one of each trigger word first, then others
        first = {entry.trigger: entry.prompt for entry in reversed(self.report.entries)}
        others = [entry.prompt for entry in self.report.entries]
        return list(dict.fromkeys([*first.values(), *others]))[:_DEFAULT_PROMPTS]

    def _encode(self) -> tuple[Conditioning, Conditioning]:
        self.model.text_cache.clear()
        pair = text.encode_pair(self.model, self.prompts, [""] * len(self.prompts), (self.side, self.side))
        self.model.text_cache.clear()
        return pair

    def draw_missing(self, step: int, per_epoch: int, average: MovingAverage | None) -> None:
        """The samples of step `step` where an epoch ends there and they aren't all there."""
        paths = (self.run.samples / f"step-{step:06d}-{k}.png" for k in range(len(self.prompts)))
        # the first process alone looks: another one would see what that is drawing just now, and not wait for it
        missing = self.runtime.main and step % per_epoch == 0 and not all(path.exists() for path in paths)
        if self.runtime.agreed(missing):
            self.draw(step, average)

    def draw(self, step: int, average: MovingAverage | None, why: str = "") -> None:
        """One picture per prompt into `samples/`, with the weights' `average` where there is one; `why` the run ends.

        All processes come here; one draws. A machine that can train but not draw beside it goes on training. A stop is
        heeded before every step of a picture: the training's loop sees it too, and saves.
        """
        if self.runtime.main and self.prompts:
            # Whoever stops a run waits for its last samples where they are quick: the card of the result shows them.
            patient = why == "stop" and self.run.status().get("sample_seconds", 0.0) < QUICK
            started = time.monotonic()
            for module in self.adapted.values():
                module.eval()
            try:
                with (
                    contextlib.suppress(Cancelled),
                    average.applied() if average else contextlib.nullcontext(),
                ):
                    self._draw(step, (lambda: None) if patient else self.runtime.pause)
                    self.run.update(sample_seconds=time.monotonic() - started)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self.runtime.session.log("Not enough memory to draw samples; the training goes on.", note=True)
            finally:
                for module in self.adapted.values():
                    module.train()
                gc.collect()
        self.runtime.wait()
        self.runtime.session.restart_clock()

    @torch.no_grad()
    def _draw(self, step: int, pause: Callable[[], None]) -> None:
        info, dtype = self.model.info, self.runtime.dtype
        model = replace(self.model, unet=self.adapted["unet"], dtype=dtype)
        if "text_encoder" in self.adapted:  # and the second one, where there is one
            self.conditioning = self._encode()
        model.vae = load_vae(info, torch.float32).to(model.device).eval()
        self.run.samples.mkdir(exist_ok=True)
        for index in range(len(self.prompts)):  # one by one: beside a training step there is little room
            positive, negative = (each[index : index + 1].to(dtype) for each in self.conditioning)
            with self.runtime.autocast():
                z = sampling.sample_denoiser(
                    model, Denoiser(model.unet, positive, negative, info.guidance), [(self.spec.seed + index) % 2**32],
                    sampler=info.sampler, steps=info.steps, size=(self.side, self.side), on_step=lambda *_: pause(),
                )  # fmt: skip
            picture = latents.decode(model, z.float())[0]
            picture.save(self.run.samples / f"step-{step:06d}-{index}.png")

    def card(self, step: int) -> Card:
        """What the export of this run says about itself."""
        return card(self.run, self.spec, self.model.info, self.model.unet.config, self.report, self.per_epoch, step)


def card(
    run: RunDir, spec: LoraSpec, info: ModelInfo, unet_config: Mapping[str, Any], report: Report | None, per_epoch: int,
    step: int,
) -> Card:  # fmt: skip
    """What an export of `run` as it was after `step` says about itself; `report` is None where the data is gone."""
    settings = spec.model_dump(mode="json", exclude={"sample_prompts", "samples"})
    data: dict[str, Any] = {}
    if report is not None:
        data = {
            "pictures": len(report.entries),
            "pictures per epoch": per_epoch,
            "digest": report.digest,
            "tags": tag_counts(entry.prompt for entry in report.entries),
        }
    return Card(
        title=spec.name,
        base=info.public_name,
        hub_id=info.hub_id,
        base_version=base_version(info.title, unet_config),
        trigger_words=tuple(report.triggers) if report is not None else (),
        license=spec.license,
        weight=START_WEIGHT,
        settings=settings | {"alpha": alpha_of(spec), "steps": step, "resolution": spec.resolution or info.native_size},
        data=data,
        losses=[(int(line["step"]), float(line["smoothed"])) for line in run.metrics() if line["step"] <= step],
        pictures=sorted(run.samples.glob(f"step-{step:06d}-*.png")),
    )
