"""LoRA training of a UNet (and text encoder), top to bottom: `python -m studio.training.lora.train DIR`.

LoRA is 2106.09685; the objective is that of latent diffusion (2112.10752, eq. 2) with min-SNR weights (2303.09556).
`DIR` is a run folder with a `LoraSpec` in `spec.json`. Everything that a step draws is a function of (seed, epoch) or
(seed, step), so a run that was killed at any moment goes on from its last checkpoint to the same bytes (on the CPU,
with the same library versions and number of threads). Several processes share each step's pictures:
`accelerate launch --cpu --num_processes 2 -m studio.training.lora.train DIR`.

It doesn't know who started it or who watches: it reads `spec.json` and `stop`, and writes the rest of the folder.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from studio.core.settings import settings
from studio.core.specs import LoraSpec
from studio.engine.diffusion import parameterization
from studio.engine.diffusion.denoiser import Denoiser
from studio.runs import dataset as files
from studio.training.export import adapter_files
from studio.training.lora import dataset
from studio.training.lora.network import adapter_of, add_lora, trained_parameters
from studio.training.lora.samples import Sampler
from studio.training.runtime import checkpoints, steps
from studio.training.runtime.average import MovingAverage
from studio.training.runtime.batch_sizer import OomBatchSizer, release
from studio.training.runtime.checkpointer import Checkpointer
from studio.training.runtime.launch import spread_over_processes
from studio.training.runtime.loss import min_snr_weights
from studio.training.runtime.models import get_model, load_frozen
from studio.training.runtime.optimizers import make_optimizer
from studio.training.runtime.resume import resume_fingerprint
from studio.training.runtime.runtime import Runtime, training_bytes
from studio.training.runtime.saved_activations import save_fewer_activations
from studio.training.runtime.session import Session, run_trainer


def train(session: Session, spec: LoraSpec) -> None:
    config = settings()

    session.stage(1, "Check the data")
    runtime = Runtime(session, spec.precision, config)
    info = get_model(runtime, spec.model, config)
    report = files.checked(Path(spec.data), spec.resolution or info.native_size, config.datasets_dir)
    for problem in report.problems:
        session.log(problem.message)

    session.stage(2, f"Load {info.title} and freeze it")
    # of SDXL in half: a fp32 copy beside what is on the card wouldn't fit into many machines
    half = info.family.vae_overflows and not runtime.on_cpu
    model = load_frozen(info, runtime.device, torch.float32, loaded=runtime.dtype if half else torch.float32)
    kind = parameterization.prediction_type(model.scheduler_config)
    schedule = parameterization.NoiseSchedule.from_config(model.scheduler_config).to(runtime.device)

    session.stage(3, "Add the LoRA")
    adapted = add_lora(model, spec)
    parameters = trained_parameters(adapted)
    trainable, total_parameters = (sum(map(torch.numel, some)) for some in (parameters.values(), every(adapted)))
    session.log(f"{total_parameters:,} parameters, {trainable:,} trainable ({trainable / total_parameters:.2%})")
    needed = training_bytes(list(adapted.values()), runtime.dtype, spec.ema)
    runtime.check_memory(needed, "choose a lower rank, or a smaller model")

    session.stage(4, "Cache pictures and captions")
    data = dataset.cache(model, report, spec, runtime)
    sampler = Sampler(model, spec, report, data.pictures_per_epoch, runtime, adapted)
    model.vae = None  # loaded again for samples; the text encoder stays where it learns
    model.text_encoder, model.text_encoder_2 = adapted.get("text_encoder"), adapted.get("text_encoder_2")
    release()

    session.stage(5, "Make the optimiser")
    runtime.to_device(*adapted.values())
    average = MovingAverage(parameters, spec.ema_decay) if spec.ema else None
    unet = adapted["unet"]
    if spec.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    else:  # that saves almost nothing already
        save_fewer_activations(unet)
    for module in adapted.values():
        module.train()
    optimizer = runtime.accelerator.prepare(make_optimizer(spec, parameters))
    chunk = spec.batch_size * spec.accumulation * runtime.processes  # pictures of a step
    per_epoch = len(data.order(chunk, 0))
    total = per_epoch * spec.epochs

    session.stage(6, "Look for a checkpoint")
    sizer = OomBatchSizer(spec.batch_size)
    weights: dict[str, Mapping[str, torch.Tensor]] = {"lora": parameters}
    if average is not None:
        weights["ema"] = average.tensors
    state = checkpoints.TrainingState(weights, {"optimizer": optimizer}, runtime.accelerator.scaler)
    fingerprint = resume_fingerprint(
        spec, info.hash, report.digest, per_epoch, runtime.device, runtime.precision, runtime.processes
    )
    checkpointer = Checkpointer(runtime, state, fingerprint, sizer)
    step = checkpointer.resume()
    session.begin(step, total, spec.epochs)

    def backward(batch: Sequence[dataset.StepNoise]) -> torch.Tensor:
        """7.2 and 7.3 for some of the step's pictures, which are of one size."""
        z_0, epsilon = (
            torch.stack(each).to(runtime.device) for each in zip(*((n.z_0, n.epsilon) for n in batch), strict=True)
        )
        t = torch.tensor([noise.t for noise in batch], device=runtime.device)
        alpha, sigma = schedule.at(t)
        z_t = parameterization.add_noise(z_0, epsilon, alpha, sigma)  # (batch, c, h, w)
        target = parameterization.from_x0_and_epsilon(z_0, epsilon, alpha, sigma, kind)
        with runtime.autocast():
            conditioning = data.conditioning(batch).to(runtime.device, runtime.dtype)
            prediction = Denoiser(unet, conditioning)(z_t.to(runtime.dtype), t)
        each = (prediction.float() - target).square().mean((1, 2, 3))  # (batch,)
        loss = (min_snr_weights(schedule.snr(t), spec.min_snr_gamma, kind) * each).sum() / len(members)
        return runtime.backward(loss)

    session.stage(7, "Train")
    # Those of a checkpoint come after it: a process may have been killed in between
    sampler.draw_missing(step, per_epoch, average)
    why = ""  # it ends early, if it does
    while step < total and not why:
        # 7.1 the step's pictures, and of each a caption, a flip, t and epsilon: functions of the seed and the step
        members = data.order(chunk, step // per_epoch)[step % per_epoch]
        positions = range(runtime.rank, len(members), runtime.processes)
        noise = [data.noise(members[position], step, position) for position in positions]

        # 7.2 z_t and the prediction, 7.3 the loss: its gradient, from as many pictures at a time as there is room for
        loss = runtime.accumulate(sizer, dataset.by_size(noise), backward, optimizer)

        # 7.4 theta <- theta - eta grad
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * steps.learning_rate(step, total, 1.0, spec.warmup)
        shown = runtime.step(optimizer, loss, spec.max_grad_norm, step + 1)
        if average is not None:
            average.update(step)
        step += 1
        session.step_done(step, (step - 1) // per_epoch + 1, shown, optimizer.param_groups[0]["lr"])

        # 7.5 stop, checkpoint, samples
        why, save = runtime.stop_or_save()
        if checkpointer.due(step) or save or why:
            checkpointer.save(step)
            if checkpointer.due(step) or why:  # after the save, so nothing hangs on them
                sampler.draw(step, average, why)
            session.restart_clock()

    session.stage(8, "Export")
    if runtime.main:
        by_epoch, damaged = checkpoints.by_epoch(session.run)
        for sentence in damaged:
            session.log(sentence, note=True)
        earlier = {name: adapter_of(spec, info, groups) for name, groups in by_epoch.items()}
        path = adapter_files.write(session.run.adapter, adapter_of(spec, info, weights), sampler.card(step), earlier)
        session.finish(
            "done" if step == total else "stopped", why, adapter=str(path),
            checkpoints=checkpoints.names(session.run), epoch=math.ceil(step / per_epoch),
        )  # fmt: skip
    runtime.wait()


def every(adapted: Mapping[str, torch.nn.Module]) -> list[torch.Tensor]:
    """All parameters of what learns, with the frozen ones."""
    return [p for module in adapted.values() for p in module.parameters()]


def main(path: Path) -> None:
    run_trainer(path, LoraSpec, train)


if __name__ == "__main__":
    spread_over_processes("studio.training.lora.train")
    main(Path(sys.argv[1]))
