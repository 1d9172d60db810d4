"""Pictures that a run draws of itself, through the engine, and what its export says. Knows nothing of how it learns."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator

from studio.core.specs import LoraSpec
from studio.engine.diffusion import latents, sampling, text
from studio.engine.models.catalogue import ModelInfo
from studio.engine.models.components import Components
from studio.engine.models.loading import load_vae
from studio.runs.dataset import Report, tag_counts
from studio.runs.rundir import RunDir
from studio.training.export.adapter_files import Card, base_version
from studio.training.runtime.session import is_out_of_memory

_DEFAULT_PROMPTS = 3
START_WEIGHT = 0.8  # at 1 the look is nearer, and emotions are obeyed less (benchmarks.style)


class Sampler:
    """Draws the same prompts from the same seeds at each checkpoint; makes the card at the end.

    Made while the text encoder is there; `text_encoder` of the model may be dropped afterwards unless it is trained.
    """

    def __init__(
        self,
        model: Components,
        run: RunDir,
        spec: LoraSpec,
        report: Report,
        per_epoch: int,
        accelerator: Accelerator,
    ) -> None:
        self.run, self.spec, self.report, self.accelerator = run, spec, report, accelerator
        self.per_epoch = per_epoch  # pictures, with their repeats
        self.side = spec.resolution or model.info.native_size
        self.prompts = list(spec.sample_prompts) or self._captions()
        self.model = model  # its parts are taken out of it later, to be freed
        self.conditioning = self._encode()
        if accelerator.is_main_process:
            run.update(sample_prompts=self.prompts)

    def _captions(self) -> list[str]:
        # one of each trigger word first, then others
        first = {entry.trigger: entry.prompt for entry in reversed(self.report.entries)}
        others = [entry.prompt for entry in self.report.entries]
        return list(dict.fromkeys([*first.values(), *others]))[:_DEFAULT_PROMPTS]

    def _encode(self) -> sampling.Conditioning:
        self.model.text_cache.clear()
        found = text.encode(self.model, self.prompts, [""] * len(self.prompts))
        self.model.text_cache.clear()
        return found

    def draw(
        self, unet: Any, text_encoder: Any, step: int, values: Mapping[str, torch.Tensor], say: Any,
        pause: Callable[[], None],
    ) -> None:  # fmt: skip
        """One picture per prompt into `samples/`, with the LoRA's `values` (by parameter name) in place of its own.

        A machine that can train but not draw beside it goes on training. `pause` is called before every step and may
        raise.
        """
        modules = {"unet": unet} | ({"text_encoder": text_encoder} if text_encoder is not None else {})
        kept = []
        for name, parameter in ((f"{m}.{n}", p) for m, module in modules.items() for n, p in module.named_parameters()):
            if name in values:
                kept.append((parameter, parameter.data))
                parameter.data = values[name].data
        try:
            for module in modules.values():
                module.eval()
            self._draw(unet, text_encoder, step, pause)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            say("Not enough memory to draw samples; the training goes on.", note=True)
        finally:
            for parameter, data in kept:
                parameter.data = data
            for module in modules.values():
                module.train()
            gc.collect()

    @torch.no_grad()
    def _draw(self, unet: Any, text_encoder: Any, step: int, pause: Callable[[], None]) -> None:
        info, dtype = self.model.info, unet.conv_in.weight.dtype
        model = replace(self.model, unet=unet, dtype=dtype)
        if text_encoder is not None:
            self.model.text_encoder = text_encoder
            self.conditioning = self._encode()
        conditioning = sampling.Conditioning(
            self.conditioning.positive.to(dtype),
            self.conditioning.negative.to(dtype),  # type: ignore[union-attr]
        )
        model.vae = load_vae(info, torch.float32).to(model.device).eval()
        self.run.samples.mkdir(exist_ok=True)
        for index in range(len(self.prompts)):  # one by one: beside a training step there is little room
            one = sampling.Conditioning(
                conditioning.positive[index : index + 1],
                conditioning.negative[index : index + 1],  # type: ignore[index]
            )
            generators = sampling.generators([(self.spec.seed + index) % 2**32])
            scheduler = sampling.make_scheduler(info.sampler, model.scheduler_config)
            timesteps = sampling.set_timesteps(scheduler, info.steps, model.device)
            noise = sampling.noise(model, generators, self.side, self.side)
            with self.accelerator.autocast():
                start = sampling.start_latents(scheduler, noise, timesteps)
                z = sampling.denoise(
                    model, scheduler, start, one, info.guidance, generators, timesteps=timesteps,
                    on_step=lambda *_: pause(),
                )  # fmt: skip
            picture = latents.decode(model, z.float())[0]
            picture.save(self.run.samples / f"step-{step:06d}-{index}.png")

    def drawn(self, step: int) -> bool:
        """Whether every sample of `step` is there: a process that was killed may have saved and drawn none."""
        return all((self.run.samples / f"step-{step:06d}-{k}.png").exists() for k in range(len(self.prompts)))

    def card(self, alpha: float, step: int) -> Card:
        """What the export of this run says about itself."""
        return card(
            self.run, self.spec, self.model.info, self.model.unet.config, self.report, self.per_epoch, alpha, step
        )


def card(
    run: RunDir, spec: LoraSpec, info: ModelInfo, unet_config: Mapping[str, Any], report: Report | None, per_epoch: int,
    alpha: float, step: int,
) -> Card:  # fmt: skip
    """What an export of `run` as it was after `step` says about itself; `report` is None where the data is gone."""
    settings = spec.model_dump(mode="json", exclude={"sample_prompts"})
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
        settings=settings | {"alpha": alpha, "steps": step, "resolution": spec.resolution or info.native_size},
        data=data,
        losses=[(int(line["step"]), float(line["smoothed"])) for line in run.metrics() if line["step"] <= step],
        pictures=sorted(run.samples.glob(f"step-{step:06d}-*.png")),
    )
