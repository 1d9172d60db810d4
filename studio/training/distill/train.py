"""Latent consistency distillation, top to bottom: `python -m studio.training.distill.train DIR`.

LCM (2310.04378, Algorithm 1), LCM-LoRA (2311.05556, Algorithm 1), TCD (2402.19159), PCM (2405.18407, without its
adversarial loss), and DMD2 (2405.14867) after a beginning with PCM; the formulas are in `consistency`,
DMD has its own loop in `dmd`.
`DIR` is a run folder with an `LcmSpec` in `spec.json`. All randomness of a step is a function of (seed, step), so a run
that was killed at any moment goes on from its last checkpoint to the same bytes (on the CPU, with the same library
versions and numbers of threads and processes). Several processes share each batch:
`accelerate launch --cpu --num_processes 2 -m studio.training.distill.train DIR`.

It doesn't know who started it or who watches: it reads `spec.json`, `stop` and, where there is one, `prompts.txt`, and
writes the rest of the folder.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from studio.core.errors import BadInput, Cancelled
from studio.core.settings import settings
from studio.core.specs import LcmSpec
from studio.engine.diffusion.parameterization import NoiseSchedule, add_noise, prediction_type
from studio.engine.models import adapters
from studio.engine.models.catalogue import find_lora
from studio.training.distill import adversary, dmd, latent_dataset, memory, result
from studio.training.distill import consistency as lcd
from studio.training.distill.curve import FAST_STEPS
from studio.training.distill.distillation import Distillation
from studio.training.distill.duration import DMD_COST, EXACT_COST, duration, phases_of, seconds_per_call
from studio.training.distill.history import QualityHistory
from studio.training.distill.student import FullStudent, LoraStudent, Student, tensors_of
from studio.training.runtime import steps
from studio.training.runtime.batch_sizer import OomBatchSizer
from studio.training.runtime.checkpointer import Checkpointer
from studio.training.runtime.checkpoints import TrainingState
from studio.training.runtime.launch import spread_over_processes
from studio.training.runtime.models import get_model, load_frozen
from studio.training.runtime.optimizers import adamw
from studio.training.runtime.resume import resume_fingerprint
from studio.training.runtime.runtime import Runtime
from studio.training.runtime.session import Session, run_trainer

SOLVED = 5  # jumps in which the teacher goes to the end of a phase by itself
EXACT_RATE = 1.5  # times the learning rate: targets that don't move allow larger steps
RATE = {"lora": 1e-4, "full": 8e-6}


def distill(session: Session, spec: LcmSpec) -> None:
    config = settings()

    session.stage(1, "Read the request")
    runtime = Runtime(session, spec.precision, config)
    own = runtime.share(spec.batch_size)
    info = get_model(runtime, spec.model, config)
    w_min, w_max = result.guidance_range(spec, info)
    loras = [find_lora(ref.path, config) for ref in spec.loras]
    weights = [(lora.path, ref.weight) for lora, ref in zip(loras, spec.loras, strict=True)]

    session.stage(2, f"Load {info.title}, the teacher, and freeze it")
    model = load_frozen(info, runtime.device, runtime.dtype, channels_last=True)
    if model.unet.config.time_cond_proj_dim is not None:
        raise BadInput(f"{info.title} is a distilled model already; choose the model that it was made from.")
    kind, schedule = prediction_type(model.scheduler_config), NoiseSchedule.from_config(model.scheduler_config)
    if float(schedule.alpha[-1]) == 0 and kind == "epsilon":
        raise BadInput(f"{info.title} predicts noise on a schedule that ends in pure noise, which says nothing there.")
    memory.check(runtime, spec, model)
    runtime.to_device(model.unet, *model.text_encoders)
    model.vae.to(runtime.device)  # in fp32: SD 1.5's can overflow in half precision
    if session.main:
        with runtime.autocast():
            call = seconds_per_call(model.unet, info.native_size // model.factor, model.tokenizer.model_max_length)
        session.log(duration(spec, info.steps, info.guidance, call / runtime.processes).sentence, note=True)

    with contextlib.ExitStack() as stack:
        # Merged for the length of the run: a character is part of the teacher, and the student is made from that.
        stack.enter_context(adapters.attached(model, weights))

        session.stage(3, "Get clean latents and encode their prompts")
        about = [info.hash, *((lora.hash, ref.weight) for lora, ref in zip(loras, spec.loras, strict=True))]
        triggers = [word for lora in loras for word in lora.trigger_words]
        data = latent_dataset.for_run(runtime, spec, config, model, about, triggers)
        session.log(f"{len(data)} latents of {tuple(data.latents.shape[1:])}, {len(data.text)} prompts")

        session.stage(4, "Make the student")
        targets = info.family.lcm_lora_targets
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(steps.generator(spec.seed, "init").initial_seed())
            critic = dmd.make_critic(model.unet, targets, spec.rank) if spec.objective == "dmd" else None
            head = adversary.make_head(critic) if critic and spec.adversarial_weight else None
            student: Student = (
                LoraStudent(model.unet, targets, spec.rank, spec.ema_decay)
                if spec.form == "lora"
                else FullStudent(model.unet, spec.ema_decay)
            )
        for unet in (student.unet, *([critic.unet] if critic else [])):
            unet.to(memory_format=torch.channels_last)
            if spec.gradient_checkpointing:
                unet.enable_gradient_checkpointing()
                unet.train()  # diffusers checkpoints in training mode only; there is no dropout in these UNets
        trainable = sum(p.numel() for p in student.trainable.values())
        session.log(f"{trainable:,} trainable parameters; guidance w from {w_min:g} to {w_max:g}")

        session.stage(5, "Make the optimisers")
        peak = spec.learning_rate or RATE[spec.form]
        optimizer = runtime.accelerator.prepare(adamw(student.trainable.values(), peak))
        if critic:
            judging = [*critic.trainable.values(), *(head.parameters() if head else ())]
            critic_adam = adamw(judging, dmd.CRITIC_RATE * peak, dmd.BETAS)
            critic_optimizer = runtime.accelerator.prepare(critic_adam)

        session.stage(6, "Look for a checkpoint")
        state = TrainingState(tensors_of(student), {"optimizer": optimizer}, runtime.accelerator.scaler)
        if critic:
            state.tensors["critic"], state.optimizers["critic_optimizer"] = critic.trainable, critic_optimizer
        if head:
            state.tensors["head"] = dict(head.named_parameters())
        characters = [[lora.hash, ref.weight] for lora, ref in zip(loras, spec.loras, strict=True)]
        fingerprint = resume_fingerprint(
            spec, info.hash, data.digest, spec.steps_per_epoch, runtime.device, runtime.precision, runtime.processes,
            characters,
        )  # fmt: skip
        sizer = OomBatchSizer(own.stop - own.start)
        checkpointer = Checkpointer(runtime, state, fingerprint, sizer)
        step = checkpointer.resume()
        phases = phases_of(spec, step, checkpointer.meta.get("dmd_from", checkpointer.meta.get("match_from")))

        session.stage(7, "Measure the teacher")
        history = QualityHistory(session, spec, student, model, w_min, w_max)
        cancelled = False
        try:
            history.begin(step)
        except Cancelled:
            cancelled = True
        if runtime.agreed(cancelled):
            raise Cancelled
        session.phases = [(phases.exact_from, 1.0), (phases.dmd_from, EXACT_COST), (phases.total, DMD_COST)]
        session.begin(step, phases.total, spec.epochs)

        session.stage(8, "Distill")
        grid = lcd.SolverGrid.over(schedule, grid_points(spec)).to(runtime.device)
        run = Distillation(
            runtime, spec, data, student, grid, kind, (w_min, w_max), optimizer, sizer, checkpointer, history, phases,
            own, step,
        )  # fmt: skip
        run.measure_missing()
        learn_consistency(run)
        if critic:
            dmd.match_distributions(run, critic, critic_optimizer, head)

        session.stage(9, "Export the best checkpoint")
        if runtime.main:
            weights_of_best = history.best_or_last(run.step)
            if isinstance(student, LoraStudent):
                hashes = [lora.hash for lora in loras]
                path = result.write_lora(
                    session.run, spec, info, model.unet.config, weights_of_best, history.best,
                    result.teacher_loras(spec, hashes, config),
                )  # fmt: skip
            else:
                path = result.write_model(
                    session.run, spec, model, student, weights_of_best, history.sampler, history.guidance
                )
            over = run.why == "quality" or (run.step == phases.total and not history.missing(run.step))
            session.finish(
                "done" if over else "stopped", run.why, adapter=str(path), result=str(path), curve=history.summary(),
                best=history.best, ended=run.step if over else None,
            )  # fmt: skip
        runtime.wait()


def learn_consistency(run: Distillation) -> None:
    """The steps of LCM, TCD and PCM, and those with which DMD begins."""
    runtime, spec, data, student, grid, kind = run.runtime, run.spec, run.data, run.student, run.grid, run.kind
    device, dtype = runtime.device, runtime.dtype
    phased = spec.objective in ("pcm", "dmd")
    peak = run.optimizer.param_groups[0]["peak"]
    warmup = min(0.05, 50 / run.phases.total)
    empty = data.empty.to(device, dtype)
    pictures = [range(spec.batch_size)[: run.own.stop - run.own.start]]  # of this process, cut where memory is short

    def backward(rows: Sequence[int]) -> torch.Tensor:
        """8.2 to 8.5 for some of the pictures: their part of the loss; its gradient is added to the parameters'."""
        where = slice(rows[0], rows[-1] + 1)
        z_0, text, noise, n, w, end = (each[where] for each in batch)
        # 8.2 z_{t_{n+k}}, by the forward process
        t, s, e = grid.times[n + 1], grid.times[n], grid.times[end]
        z_t = add_noise(z_0, noise, *grid.schedule.at(t))

        with runtime.autocast():
            # 8.3 the teacher's guided step to z-hat_{t_n}: both branches in one batch, no gradient; at last several
            # steps, to the end of the phase (progressive distillation, 2202.00512, in one round)
            z_s, index = z_t, n + 1
            for left in range(SOLVED if exact else 1, 0, -1):
                here, index = index, index - (index - end) // left if exact else n
                unconditional, conditional = student.teacher(z_s.to(dtype), grid.times[here], text, empty)
                z_s = lcd.teacher_step(
                    conditional.float(), unconditional.float(), z_s, grid.times[here], grid.times[index], w, grid, kind
                )
            # 8.4 the target network there, no gradient, and the student at z_{t_{n+k}}
            target = z_s if exact else student.target(z_s.to(dtype), s, text, w).float()
            torch.clear_autocast_cache()  # of weights that were cast without a gradient just now
            prediction = student.student(z_t.to(dtype), t, text, w).float()

        # 8.5 self-consistency: both must mean the same z_0 (LCM), the same z_e (TCD, PCM)
        if spec.objective == "lcm":
            prediction = lcd.consistency_function(prediction, z_t, t, grid, kind)
            target = lcd.consistency_function(target, z_s, s, grid, kind)
        else:
            prediction = lcd.trajectory_function(prediction, z_t, t, e, grid, kind)
            target = target if exact else lcd.trajectory_function(target, z_s, s, e, grid, kind)
        loss = lcd.distance(prediction, target, spec.loss, spec.huber_c)
        return runtime.backward(loss * (len(rows) / spec.batch_size))

    while run.step < run.phases.dmd_from and not run.why:
        # 8.1 a batch: z_0, its prompt c, n, w, where the student jumps to, and the noise, functions of (seed, step)
        exact = run.step >= run.phases.exact_from  # the teacher shows the whole way now, instead of one step of it
        rows = run.rows()
        n, w, generator = run.chance()
        end = (torch.rand(spec.batch_size, generator=generator) * (n + 1)).long()  # 0..n: TCD's e, at or below s
        noise = torch.randn(data.latents[rows].shape, generator=generator)
        if phased:
            n = lcd.drawn_from(n, grid, FAST_STEPS) if exact else n
            end = lcd.phase_end(n, grid, FAST_STEPS)
        z_0 = data.latents[rows][run.own].to(device, memory_format=torch.channels_last)
        batch = (z_0, run.text(rows), *(each[run.own].to(device) for each in (noise, n, w, end)))

        # 8.2 to 8.6: theta <- theta - eta grad; theta_minus <- mu theta_minus + (1 - mu) theta
        loss = runtime.accumulate(run.sizer, pictures, backward, run.optimizer)
        since, until = (run.phases.exact_from, run.phases.dmd_from) if exact else (0, run.phases.exact_from)
        most = EXACT_RATE * peak if exact else peak
        learning_rate = steps.learning_rate(run.step - since, until - since, most, warmup)
        run.optimizer.param_groups[0]["lr"] = learning_rate
        shown = runtime.step(run.optimizer, loss, spec.max_grad_norm, run.step + 1)

        # 8.7 stop, checkpoint, curve
        run.step_done(shown, learning_rate)


# --- what the stages above need more than a few lines for -------------------------------------------------------------


def grid_points(spec: LcmSpec) -> int:
    """Jumps of the teacher's solver."""
    return lcd.PHASED_GRID if spec.objective in ("pcm", "dmd") else lcd.GRID


def main(path: Path) -> None:
    run_trainer(path, LcmSpec, distill)


if __name__ == "__main__":
    spread_over_processes("studio.training.distill.train")
    main(Path(sys.argv[1]))
