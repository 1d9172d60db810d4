"""ControlNet training (2302.05543), top to bottom: `python -m studio.training.controlnet.train DIR`.

`DIR` is a run folder with a `ControlRunSpec` in `spec.json`. The control network begins as a copy of the UNet's first
half whose outputs are zero (section 3.1); the UNet, the VAE and the text encoder stay as they are. All randomness of a
step is a function of (seed, step), so a run that was killed goes on from its last checkpoint to the same bytes (on the
CPU, with the same versions and numbers of threads and processes). Several processes share each batch:
`accelerate launch --cpu --num_processes 2 -m studio.training.controlnet.train DIR`.

It doesn't know who started it, how the data was drawn, or who looks at the samples.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from studio.core.settings import settings
from studio.core.specs import ControlRunSpec
from studio.engine.diffusion import text
from studio.engine.diffusion.control import Control
from studio.engine.diffusion.denoiser import Denoiser
from studio.engine.diffusion.parameterization import (
    NoiseSchedule,
    add_noise,
    from_x0_and_epsilon,
    prediction_type,
)
from studio.training.controlnet import dataset
from studio.training.controlnet.evaluation import Evaluator
from studio.training.controlnet.network import export, first_network
from studio.training.runtime import checkpoints, steps
from studio.training.runtime.average import MovingAverage
from studio.training.runtime.batch_sizer import OomBatchSizer
from studio.training.runtime.checkpointer import Checkpointer
from studio.training.runtime.checkpoints import TrainingState
from studio.training.runtime.launch import spread_over_processes
from studio.training.runtime.loss import min_snr_weights
from studio.training.runtime.models import get_model, load_frozen
from studio.training.runtime.resume import resume_fingerprint
from studio.training.runtime.runtime import Runtime, training_bytes
from studio.training.runtime.session import Session, run_trainer


def train(session: Session, spec: ControlRunSpec) -> None:
    config = settings()

    session.stage(1, "Read the request")
    runtime = Runtime(session, spec.precision, config)
    own = runtime.share(spec.batch_size)
    info = get_model(runtime, spec.model, config)

    session.stage(2, f"Load {info.title} and freeze it")
    model = load_frozen(info, runtime.device, runtime.dtype, channels_last=True)
    kind = prediction_type(model.scheduler_config)
    schedule = NoiseSchedule.from_config(model.scheduler_config).to(runtime.device)

    session.stage(3, "Make the ControlNet")
    latest = checkpoints.latest_good(session.run)
    net = first_network(runtime, spec, model, config, resumed=latest[0] is not None)
    needed = training_bytes([net, model.unet, *model.text_encoders], runtime.dtype, average=True)
    runtime.check_memory(needed, "choose a smaller model")
    net.to(memory_format=torch.channels_last).train()
    runtime.to_device(net, model.unet, *model.text_encoders)
    model.vae.to(runtime.device)  # in fp32: SD 1.5's can overflow in half precision
    if spec.gradient_checkpointing:
        net.enable_gradient_checkpointing()
    weights = dict(net.named_parameters())
    average = MovingAverage(weights, spec.ema_decay)
    session.log(f"{sum(p.numel() for p in weights.values()):,} trainable parameters")

    session.stage(4, "Get latents and control images")
    data = dataset.for_run(runtime, spec, config, model)
    count = len(data) - min(spec.held_out, len(data) // 5)  # the last ones are never trained on
    per_epoch = spec.steps_per_epoch or max(1, count // spec.batch_size)
    total = spec.epochs * per_epoch
    session.log(
        f"{count} pictures, {data.kinds} control images each; {len(data) - count} held out; {per_epoch} steps an epoch"
    )

    session.stage(5, "Make the optimiser")
    adam = torch.optim.AdamW(weights.values(), lr=spec.learning_rate, betas=(0.9, 0.99), weight_decay=1e-2)
    optimizer = runtime.accelerator.prepare(adam)

    session.stage(6, "Look for a checkpoint")
    sizer = OomBatchSizer(own.stop - own.start)
    tensors = {"controlnet": weights, "ema": average.tensors}
    state = TrainingState(tensors, {"optimizer": optimizer}, runtime.accelerator.scaler)
    fingerprint = resume_fingerprint(
        spec, info.hash, data.digest, per_epoch, runtime.device, runtime.precision, runtime.processes
    )
    checkpointer = Checkpointer(runtime, state, fingerprint, sizer)
    step = checkpointer.resume(latest)
    session.begin(step, total, spec.epochs)
    evaluator = Evaluator(runtime, spec, model, net, average, data, count, schedule, kind)
    evaluator.measure_missing(step, checkpointer.due(step))

    def backward(positions: Sequence[int]) -> torch.Tensor:
        """7.2 and 7.3 for some of this process's pictures."""
        where = slice(positions[0], positions[-1] + 1)
        chosen = rows[own][where]
        z_0 = data.latents[chosen].to(runtime.device, torch.float32, memory_format=torch.channels_last)
        lines, t, epsilon = (each[own][where].to(runtime.device) for each in (noise.lines, noise.t, noise.epsilon))
        alpha, sigma = schedule.at(t)
        z_t = add_noise(z_0, epsilon, alpha, sigma).to(runtime.dtype)
        target = from_x0_and_epsilon(z_0, epsilon, alpha, sigma, kind)
        with runtime.autocast():
            conditioning = text.encode_prompts(model, noise.captions[own][where])
            prediction = Denoiser(model.unet, conditioning, control=Control(net, lines))(z_t, t)  # equation 4
        error = (prediction.float() - target).square() * data.loss_weights(chosen).to(runtime.device)
        each = error.mean((1, 2, 3)) * min_snr_weights(schedule.snr(t), spec.min_snr_gamma, kind)  # (pictures,)
        return runtime.backward(each.mean() * (len(chosen) / spec.batch_size))

    session.stage(7, "Train")
    why = ""
    while step < total and not why:
        # 7.1 a batch: pictures, one caption and one control image of each, t and noise, functions of (seed, step) alone
        rows = steps.rows(step, spec.batch_size, count, spec.seed)
        noise = step_noise(spec, data, rows, step, len(schedule))

        # 7.2 z_t, and what the frozen UNet makes of it with the control network's help; 7.3 the UNet's own loss
        # (equation 5), weighted as the data says: its gradient, from as many pictures at a time as there is room for
        loss = runtime.accumulate(sizer, [range(len(rows[own]))], backward, optimizer)

        # 7.4 theta <- theta - eta grad
        learning_rate = steps.learning_rate(step, total, spec.learning_rate, spec.warmup)
        optimizer.param_groups[0]["lr"] = learning_rate
        shown = runtime.step(optimizer, loss, spec.max_grad_norm, step + 1)
        average.update(step)
        step += 1
        session.step_done(step, (step - 1) // per_epoch + 1, shown, learning_rate)

        # 7.5 stop, checkpoint, samples
        why, save = runtime.stop_or_save()
        if checkpointer.due(step) or save or why:
            checkpointer.save(step)
            if checkpointer.due(step) or save:
                evaluator.measure(step)
                session.stage(7, "Train")
            session.restart_clock()

    session.stage(8, "Export")
    if runtime.main:
        with average.applied():
            path = export(session.run, spec, net)
        session.finish("done" if step == total else "stopped", why, adapter=str(path))
    runtime.wait()


@dataclass(frozen=True)
class StepNoise:
    """All that chance decides in one step, of each picture of the batch."""

    t: torch.Tensor  # (batch,)
    epsilon: torch.Tensor  # (batch, c, h, w)
    lines: torch.Tensor  # (batch, 3, height, width) in 0..1
    captions: list[str]


def step_noise(
    spec: ControlRunSpec, data: dataset.ControlDataset, rows: list[int], step: int, timesteps: int
) -> StepNoise:
    """Of step `step`, for the pictures `rows`: a function of (seed, step)."""
    generator, size = steps.generator(spec.seed, "step", step), len(rows)
    # One per equal part of the schedule; a bias above 1 moves them towards noise, where the lines are decided.
    share = (torch.arange(size) + torch.rand(size, generator=generator)) / size
    share = share[torch.randperm(size, generator=generator)] ** (1 / spec.noise_bias)
    t = (share * timesteps).long().clamp(0, timesteps - 1)
    epsilon = torch.randn(data.latents[rows].shape, generator=generator)
    chance = torch.rand(4, size, generator=generator)
    lines = data.controls(rows, (chance[0] * data.kinds).long().tolist())
    empty = chance[1] < spec.control_dropout  # nothing drawn: nothing to follow
    lines = torch.where(empty[:, None, None, None], torch.zeros(()), lines)
    captions = [
        "" if chance[2, k] < spec.caption_dropout else own[int(chance[3, k] * len(own))]
        for k, own in enumerate(data.captions[row] for row in rows)
    ]
    return StepNoise(t, epsilon, lines, captions)


def main(path: Path) -> None:
    run_trainer(path, ControlRunSpec, train)


if __name__ == "__main__":
    spread_over_processes("studio.training.controlnet.train")
    main(Path(sys.argv[1]))
