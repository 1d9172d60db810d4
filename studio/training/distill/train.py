"""Latent consistency distillation, top to bottom: `python -m studio.training.distill.train DIR`.

LCM (2310.04378, Algorithm 1), LCM-LoRA (2311.05556, Algorithm 1), TCD (2402.19159), PCM (2405.18407, without its
adversarial loss), and DMD2 (2405.14867, without its own) after a beginning with PCM; the formulas are in `consistency`
and `matching`.
`DIR` is a run folder with an `LcmSpec` in `spec.json`. All randomness of a step is a function of (seed, step), so a run
that was killed at any moment goes on from its last checkpoint to the same bytes (on the CPU, with the same library
versions and numbers of threads and processes). Several processes share each batch:
`torchrun --nproc-per-node 2 -m studio.training.distill.train DIR`.

It doesn't know who started it or who watches: it reads `spec.json`, `stop` and, where there is one, `prompts.txt`, and
writes the rest of the folder.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler

from studio.core.errors import BadInput, Cancelled, NotFound
from studio.core.settings import settings
from studio.core.specs import LcmSpec
from studio.engine.engine import load
from studio.engine.models import adapters
from studio.engine.models.catalogue import LoraInfo, ModelInfo, find_lora, resolve
from studio.engine.models.components import Components
from studio.runs.rundir import RunDir, write_json
from studio.training.distill import consistency as lcd
from studio.training.distill import curve, latent_dataset, matching, memory, model_folder
from studio.training.distill.curve import FAST_STEPS
from studio.training.distill.record import Record
from studio.training.distill.student import FullStudent, LoraStudent, Student, restore, state
from studio.training.export import adapter_files
from studio.training.runtime import checkpoints, steps
from studio.training.runtime.batch_sizer import Fitting, release
from studio.training.runtime.fingerprint import facts_of, what_changed
from studio.training.runtime.processes import agreed, share_gradients
from studio.training.runtime.session import Session, attend

GRID = 50  # jumps of the teacher's solver: k = 20 of 1000 (LCM, sec. 4.3)
# Phases end where DDIM's steps do ("trailing": 999, 749, 499, 249), which LCM's grid misses.
PHASED_GRID = 40
SOLVED = 5  # jumps in which the teacher goes to the end of a phase by itself
FINISH_RATE = 1.5  # times the learning rate: targets that don't move allow larger steps
RATE = {"lora": 1e-4, "full": 8e-6}
COSTS = {"finish": 2.2, "match": 3.0}  # of such a step in PCM's, for the time left only


def distill(session: Session, spec: LcmSpec, stack: contextlib.ExitStack) -> None:
    run, config = session.run, settings()

    session.stage(1, "Read the request")
    session.limit_minutes, session.checkpoint_minutes = spec.time_limit_minutes, spec.checkpoint_minutes
    cpu = config.device == "cpu" or not torch.cuda.is_available()
    precision = spec.precision
    if precision == "auto":
        precision = "fp32" if cpu else "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision == "fp16" and cpu:
        raise BadInput("Half precision (fp16) trains on NVIDIA cards only: choose auto, fp32 or bf16.")
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision, cpu=cpu)
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    if spec.batch_size % world:
        raise BadInput(
            f"A batch of {spec.batch_size} can't be shared by {world} processes; choose a multiple of {world}."
        )
    if cpu and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    info = resolve(spec.model, config)
    w_min, w_max = guidance_range(spec, info)

    def pause() -> None:
        """Between the parts of long work that is no step. Raises Cancelled where the run is to end."""
        if session.must_stop():
            raise Cancelled

    session.stage(2, f"Load {info.title}, the teacher, and freeze it")
    # Loaded on the CPU: where each part goes, and in which precision, is this file's business.
    components = load(info, config.model_copy(update={"device": "cpu"}), on_note=session.say)
    for module in components.modules.values():
        module.requires_grad_(False).to(device, dtype)
    components.vae.to(torch.float32)  # SD 1.5's VAE can overflow in fp16
    components = replace(components, device=device, dtype=dtype)
    if components.unet.config.time_cond_proj_dim is not None:
        raise BadInput(f"{info.title} is a distilled model already; choose the model that it was made from.")
    loras = [find_lora(ref.path, config) for ref in spec.loras]
    # Merged for the length of the run: a character is part of the teacher, and the student is made from that teacher.
    weights = [(lora.path, ref.weight) for lora, ref in zip(loras, spec.loras, strict=True)]
    stack.enter_context(adapters.attached(components, weights))
    about = [info.hash, *((lora.hash, ref.weight) for lora, ref in zip(loras, spec.loras, strict=True))]
    scheduler = DDPMScheduler.from_config(components.scheduler_config)
    kind: lcd.Prediction = scheduler.config.prediction_type
    if float(scheduler.alphas_cumprod[-1]) == 0 and kind == "epsilon":
        raise BadInput(f"{info.title} predicts noise on a schedule that ends in pure noise, which says nothing there.")
    phased = spec.objective in ("pcm", "dmd")
    grid = lcd.SolverGrid.of(scheduler.alphas_cumprod, PHASED_GRID if phased else GRID).to(device)

    session.stage(3, "Get clean latents and encode their prompts")
    triggers = [word for lora in loras for word in lora.trigger_words]
    stuff = latent_dataset.for_run(session, spec, config, components, about, triggers, pause, rank, world)
    if stuff is None:
        session.end_early()
        return
    session.say(f"{len(stuff)} latents of {tuple(stuff.latents.shape[1:])}, {len(stuff.text)} prompts")

    session.stage(4, "Make the student")
    if cpu:
        memory.say(session, spec, components, stuff)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(steps.generator(spec.seed, "init").initial_seed())
        critic: LoraStudent | None = None
        if spec.objective == "dmd":
            critic = matching.make_critic(components.unet, info.family.lcm_lora_targets, spec.rank)
        student: Student = (
            LoraStudent(components.unet, info.family.lcm_lora_targets, spec.rank)
            if spec.form == "lora"
            else FullStudent(components.unet)
        )
    student.unet.to(memory_format=torch.channels_last)
    for unet in (student.unet, *([critic.unet] if critic is not None else [])) if spec.gradient_checkpointing else ():
        unet.enable_gradient_checkpointing()
        unet.train()  # diffusers checkpoints in training mode only; there is no dropout in these UNets
    parameters = list(student.trainable.values())
    matcher: matching.Matcher | None = None
    if critic is not None:
        critic.unet.to(memory_format=torch.channels_last)
        asked_at = lcd.SolverGrid.of(scheduler.alphas_cumprod, GRID).inference_times(FAST_STEPS)
        matcher = matching.Matcher(student, critic, grid, kind, asked_at, stuff.empty.to(device), dtype)
    session.say(f"{sum(p.numel() for p in parameters):,} trainable parameters; guidance w from {w_min:g} to {w_max:g}")

    session.stage(5, "Make the optimiser")
    peak = spec.learning_rate or RATE[spec.form]
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.0)
    critics = list(critic.trainable.values()) if critic is not None else []
    critic_optimizer = (
        torch.optim.AdamW(critics, lr=matching.CRITIC_RATE * peak, betas=matching.BETAS, weight_decay=0.0)
        if critics
        else None
    )
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    total = spec.epochs * spec.steps_per_epoch
    match_from = total - round(spec.dmd_share * total) if spec.objective == "dmd" else total

    session.stage(6, "Look for a checkpoint")
    characters = [[lora.hash, ref.weight] for lora, ref in zip(loras, spec.loras, strict=True)]
    facts = facts_of(spec, info.hash, stuff.digest, spec.steps_per_epoch, device, precision, world, characters)
    fitting = Fitting(spec.batch_size // world)  # pictures at a time
    found, damaged = checkpoints.latest_good(run)
    for sentence in damaged:
        session.say(sentence, note=True)
    step = 0
    if found is not None:
        before = found.meta.get("facts", facts)  # none in checkpoints of earlier versions
        for sentence in what_changed(before, facts):
            session.say(sentence, note=True)
        restore(student, found.groups)
        checkpoints.restore_optimizer(optimizer, found.groups["optimizer"], found.meta["optimizer"])
        if critic is not None and critic_optimizer is not None:
            matching.restore(critic, found.groups)
            kept = found.groups["critic_optimizer"], found.meta["critic_optimizer"]
            checkpoints.restore_optimizer(critic_optimizer, *kept)
        checkpoints.restore_scaler(scaler, found.meta["scaler"])
        fitting.size = min(fitting.size, found.meta.get("micro", fitting.size))
        # An epoch of another length starts again
        step = found.step if before["per_epoch"] == spec.steps_per_epoch else found.epoch * spec.steps_per_epoch
        # Another number of epochs: a run that was matching goes on with that, any other begins it now at the earliest
        before_from = found.meta.get("match_from", total)
        match_from = before_from if before_from < step else max(match_from, step)
        session.say(f"Resumed from {found.name}: step {step + 1} of {total} is next.", note=True)
        del found
        gc.collect()
    turn = max(0, match_from - round(spec.exact_target_share * total)) if phased else total
    learns_from = match_from + min(matching.LISTENS, (total - match_from) // 3)

    own = slice(rank * spec.batch_size // world, (rank + 1) * spec.batch_size // world)  # of each batch
    mine = spec.batch_size // world

    def name_now() -> str:
        return checkpoints.name_of(step // spec.steps_per_epoch, step, step % spec.steps_per_epoch == 0)

    def due() -> bool:
        """Whether this moment is saved and measured, however the run goes."""
        epoch, inside = divmod(step, spec.steps_per_epoch)
        return step > 0 and not inside and (epoch % spec.checkpoint_epochs == 0 or step == total)

    session.stage(7, "Measure the teacher")
    record = Record(run, spec, student, components, w_min, w_max, accelerator.is_main_process, pause)
    cancelled = False
    try:
        record.begin(step)
    except Cancelled:
        cancelled = True
    if agreed(cancelled, world):
        session.end_early()
        return
    session.phases = [(turn, 1.0), (match_from, COSTS["finish"]), (total, COSTS["match"])]
    session.begin(step, total, spec.epochs)

    def save() -> None:
        """A checkpoint of this moment."""
        name = name_now()
        if accelerator.is_main_process:
            started = time.monotonic()
            tensors, groups = checkpoints.optimizer_state(optimizer)
            meta = {"facts": facts, "optimizer": groups, "scaler": scaler.state_dict(), "micro": fitting.size}
            meta["match_from"] = match_from
            everything = {**state(student), "optimizer": tensors}
            if critic is not None and critic_optimizer is not None:
                everything |= matching.state(critic)
                everything["critic_optimizer"], meta["critic_optimizer"] = checkpoints.optimizer_state(critic_optimizer)
            epoch = step // spec.steps_per_epoch
            checkpoints.save(run, name, step, epoch, everything, meta, spec.keep_checkpoints)
            session.saved(name, time.monotonic() - started)
        accelerator.wait_for_everyone()

    def measure() -> str:
        """Draw with the checkpoint of this moment, unless that was done before; why the run ends here, if it does."""
        session.stage(8, f"Distill: measure {name_now()}")
        ends: list[str] = [""]
        try:
            if record.missing(step):
                record.look(name_now(), step)
            early = spec.objective == "dmd" and step <= match_from  # what makes it good hasn't begun
            if record.fallen >= spec.patience and step < total and not early:
                ends = ["quality"]
                session.say(f"Quality has fallen for {record.fallen} checkpoints: the best one is kept.", note=True)
        except Cancelled:
            ends = [session.must_stop() or "stop"]
        if world > 1:
            torch.distributed.broadcast_object_list(ends)
        session.stage(8, "Distill")
        session.pause()
        return ends[0]

    def finishing() -> bool:
        """Whether the teacher shows the whole way now, instead of one step of it."""
        return turn <= step < match_from

    def in_parts(work: Callable[[slice], torch.Tensor], undo: torch.optim.Optimizer) -> torch.Tensor:
        """The sum of `work` on this process's pictures, as many at a time as there is memory for."""
        while True:
            try:
                return torch.stack([work(slice(k, k + fitting.size)) for k in range(0, mine, fitting.size)]).sum()
            except (RuntimeError, MemoryError) as error:
                fitting.halve(error)
            undo.zero_grad(set_to_none=True)
            release()
            session.say(f"Not enough memory: {fitting.size} pictures at a time now, with the same result.", note=True)

    def advance(
        optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], loss: torch.Tensor, rate: float
    ) -> torch.Tensor:
        """One step along the mean gradient of all processes; their mean loss, and no step where it isn't finite."""
        shown = share_gradients(parameters, loss, world)
        session.check_loss(step + 1, float(shown))  # it ends the run, with the last good weights in memory
        scaler.unscale_(optimizer)
        for group in optimizer.param_groups:
            group["lr"] = rate
        norm = torch.nn.utils.clip_grad_norm_(parameters, spec.max_grad_norm, error_if_nonfinite=False)
        if not scaler.is_enabled():  # which leaves such a step out by itself
            session.check_gradient(step + 1, float(norm))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return shown

    def backward(loss: torch.Tensor) -> torch.Tensor:
        scaler.scale(loss).backward()
        return loss.detach()

    def match(text: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, float, dict[str, float]]:
        """A step of distribution matching, at first of the critic alone: (loss, the student's rate, critic's loss)."""
        assert matcher is not None
        assert critic_optimizer is not None
        chance = matching.draw(spec.batch_size, stuff.latents.shape[1:], FAST_STEPS, spec.seed, step)
        chance, z_0, own_rate = chance.part(own, device), torch.empty(0), 0.0
        listens = step < learns_from

        def ask(where: slice) -> torch.Tensor:
            nonlocal z_0
            part = chance.part(where, device), text[where], w[where]
            with accelerator.autocast():
                loss, made = (torch.zeros(()), matcher.made(*part)) if listens else matcher.student_loss(*part)
            z_0 = torch.cat([z_0, made]) if where.start else made
            return loss if listens else backward(loss * (len(made) / mine))

        def follow(k: int, where: slice) -> torch.Tensor:
            part = z_0[where], chance.part(where, device), text[where], w[where]
            with accelerator.autocast():
                loss = matcher.critic_loss(k, *part) * (len(part[0]) / mine)
            return backward(loss)

        loss = in_parts(ask, optimizer)
        if not listens:
            own_rate = steps.learning_rate(step - learns_from, total - learns_from, matching.STUDENT_RATE * peak, 0.0)
            loss = advance(optimizer, parameters, loss, own_rate)
        for k in range(matching.FOLLOWS):
            followed = in_parts(partial(follow, k), critic_optimizer)
            followed = advance(critic_optimizer, critics, followed, matching.CRITIC_RATE * peak)
        return (followed if listens else loss), own_rate, {"critic": float(followed)}

    def learn(batch: tuple[torch.Tensor, ...], where: slice) -> torch.Tensor:
        """The loss on some pictures of a step, times their share of it; its gradient is added to the parameters'."""
        z_0, text, noise, n, w, end = (each[where] for each in batch)
        share = len(z_0) / mine
        # 8.2 z_{t_{n+k}}, by the forward process
        t, s, e = grid.times[n + 1], grid.times[n], grid.times[end]
        z_t = lcd.add_noise(z_0, noise, t, grid)

        with accelerator.autocast():
            # 8.3 the teacher's guided step to z-hat_{t_n}: both branches in one batch, no gradient; at last several
            # steps, to the end of the phase (progressive distillation, 2202.00512, in one round)
            both = torch.cat([text, stuff.empty.expand(len(text), -1, -1).to(text)])
            z_s, place = z_t, n + 1
            for left in range(SOLVED if finishing() else 1, 0, -1):
                here, place = place, place - (place - end) // left if finishing() else n
                twice = student.teacher(torch.cat([z_s, z_s]).to(dtype), grid.times[here].repeat(2), both).float()
                conditional, unconditional = twice.chunk(2)
                z_s = lcd.teacher_step(
                    conditional, unconditional, z_s, grid.times[here], grid.times[place], w, grid, kind
                )
            # 8.4 the target network there, no gradient, and the student at z_{t_{n+k}}
            aim = z_s if finishing() else student.target(z_s.to(dtype), s, text, w).float()
            said = student.student(z_t.to(dtype), t, text, w).float()

        # 8.5 self-consistency: both must mean the same z_0 (LCM), the same z_e (TCD, PCM)
        if spec.objective == "lcm":
            prediction = lcd.consistency_function(said, z_t, t, grid, kind)
            target = lcd.consistency_function(aim, z_s, s, grid, kind)
        else:
            prediction = lcd.trajectory_function(said, z_t, t, e, grid, kind)
            target = aim if finishing() else lcd.trajectory_function(aim, z_s, s, e, grid, kind)
        return backward(lcd.distance(prediction, target, spec.loss, spec.huber_c) * share)

    session.stage(8, "Distill")
    why = ""
    # Begun where an earlier process was ended before it had measured, or before it had ended the run itself
    if agreed(accelerator.is_main_process and due() and run.status().get("ended") != step, world):
        why = measure()
    while step < total and not why:
        # 8.1 a batch: z_0, its prompt c, w, n and the noise, all functions of (seed, step) alone
        rows = [
            steps.permutation(len(stuff), spec.seed, "order", place // len(stuff))[place % len(stuff)]
            for place in range(step * spec.batch_size, (step + 1) * spec.batch_size)
        ]
        generator = steps.generator(spec.seed, "step", step)
        n = torch.randint(grid.points, (spec.batch_size,), generator=generator)  # (batch,) as all five
        w = w_min + (w_max - w_min) * torch.rand(spec.batch_size, generator=generator)
        end = (torch.rand(spec.batch_size, generator=generator) * (n + 1)).long()  # 0..n: TCD's e, at or below s
        if phased:
            n = lcd.drawn_from(n, grid, FAST_STEPS) if finishing() else n
            end = lcd.phase_end(n, grid, FAST_STEPS)
        noise = torch.randn(stuff.latents[rows].shape, generator=generator)
        text = stuff.text[stuff.row[rows]][own].to(device, dtype)

        # 8.2 to 8.6: theta <- theta - eta grad; theta_minus <- mu theta_minus + (1 - mu) theta
        more: dict[str, float] = {}
        if step >= match_from:
            if step == match_from:  # what the optimiser remembers is of another loss
                optimizer = torch.optim.AdamW(parameters, lr=peak, betas=matching.BETAS, weight_decay=0.0)
                session.say("From here on pictures are matched to the teacher's: the loss is another one.", note=True)
            shown, rate, more = match(text, w[own].to(device))
        else:
            z_0 = stuff.latents[rows][own].to(device, memory_format=torch.channels_last)
            batch = (z_0, text, *(each[own].to(device) for each in (noise, n, w, end)))
            loss = in_parts(partial(learn, batch), optimizer)
            begun, until, most = (turn, match_from, FINISH_RATE * peak) if finishing() else (0, turn, peak)
            rate = steps.learning_rate(step - begun, until - begun, most, min(0.05, 50 / total))
            shown = advance(optimizer, parameters, loss, rate)
        student.after_step(spec.ema_decay, step)
        anew = step in (turn, match_from, learns_from)
        step += 1
        session.step_done(step, (step - 1) // spec.steps_per_epoch + 1, float(shown), rate, anew, **more)

        # 8.7 stop, checkpoint, curve: only one process looks at clock and folder, or they would part ways
        asked: list[Any] = [session.must_stop(), session.checkpoint_due()] if accelerator.is_main_process else ["", 0]
        if world > 1:
            torch.distributed.broadcast_object_list(asked)
        why = str(asked[0])
        epoch, inside = divmod(step, spec.steps_per_epoch)
        if not inside:
            session.say(f"Epoch {epoch} of {spec.epochs}, step {step}: loss {float(shown):.5f}")
        if due() or why or asked[1]:
            save()
            if due() and not why:
                why = measure()
            session.pause()

    session.stage(9, "Export the best checkpoint")
    if accelerator.is_main_process:
        if not record.best_is_measured:  # nothing was: the last weights are the result
            if record.points:
                session.say("The best checkpoint can't be read any more: the last weights are the result.", note=True)
            record.keep("now", step)
        path = write_result(run, spec, info, components, student, record, w_min, w_max, loras)
        if why == "time":
            session.say("The time limit is reached.", note=True)
        over = why == "quality" or (step == total and not record.missing(step))
        session.finish(
            "done" if over else "stopped", adapter=str(path), result=str(path), curve=record.summary(),
            best=record.best, ended=step if over else None,
        )  # fmt: skip
    accelerator.wait_for_everyone()


# --- what the stages above need more than a few lines for -------------------------------------------------------------


def guidance_range(spec: LcmSpec, info: ModelInfo) -> tuple[float, float]:
    """w_min, w_max in the paper's form (guidance_scale - 1): asked for, else the model's own, else around its guidance.

    Raises BadInput when the range is empty.
    """
    usual = max(0.0, info.guidance - 1)
    w_min = spec.w_min if spec.w_min is not None else info.distill.get("w_min", 0.6 * usual)
    w_max = spec.w_max if spec.w_max is not None else info.distill.get("w_max", 1.4 * usual)
    if w_min > w_max:
        raise BadInput(f"The guidance range is empty: w_min {w_min:g} is above w_max {w_max:g}.")
    return w_min, w_max


def write_result(
    run: RunDir, spec: LcmSpec, info: ModelInfo, components: Components, student: Student, record: Record,
    w_min: float, w_max: float, loras: list[LoraInfo],
) -> Path:  # fmt: skip
    """The best weights as a LoRA in all formats, or as a whole model folder; the path to give to Generate.

    The LoRAs that were part of the teacher are inside a whole model; a student's LoRA is used beside them.
    """
    weights = record.best_weights()
    settings_of = {**spec.model_dump(mode="json"), "w_min": w_min, "w_max": w_max, "best": record.best}
    if isinstance(student, LoraStudent):
        card = adapter_files.Card(
            title=spec.name,
            base=info.public_name,
            hub_id=info.hub_id,
            base_version=adapter_files.base_version(info.title, components.unet.config),
            kind=f"few-step LoRA ({spec.objective.upper()}, {FAST_STEPS} steps, guidance 1)",
            settings=settings_of,
            license=info.license,
            pictures=[p for count in curve.STEPS if (p := run.samples / f"{record.best}-{count}.png").exists()],
        )
        made = adapter_files.Adapter(
            adapter_files.peft_state(student.unet, weights), spec.rank, float(spec.rank), info.family.lcm_lora_targets
        )
        path = adapter_files.write(run.adapter, made, card)
        # How Generate should draw with it: beside what every LoRA says of itself.
        facts = json.loads((run.adapter / "studio.json").read_text(encoding="utf-8"))
        fast = {"steps": FAST_STEPS, "guidance": 1.0, "sampler": record.sampler}
        beside = [
            {"title": lora.title, "weight": ref.weight, "hash": lora.hash}
            for lora, ref in zip(loras, spec.loras, strict=True)
        ]
        write_json(run.adapter / "studio.json", {**facts, "fast": fast, **({"with": beside} if beside else {})})
        return path
    with torch.no_grad(), student.drawing() as unet:
        for name, parameter in unet.named_parameters():
            parameter.copy_(weights[name])
        return model_folder.write(run.adapter, components, unet, spec.name, record.sampler, record.guidance)


def main(path: Path) -> None:
    with attend(path, main=int(os.environ.get("RANK", "0")) == 0) as session, contextlib.ExitStack() as stack:
        spec = session.run.spec()
        if not isinstance(spec, LcmSpec):
            raise NotFound(f"Run {session.run.id} is not a distillation.")
        distill(session, spec, stack)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
