"""Latent consistency distillation, top to bottom: `python -m studio.training.lcm DIR`.

LCM (2310.04378, Algorithm 1), LCM-LoRA (2311.05556, Algorithm 1), TCD (2402.19159), PCM (2405.18407, without its
adversarial loss); the formulas are in `consistency`.
`DIR` is a run folder with an `LcmSpec` in `spec.json`. All randomness of a step is a function of (seed, step), so a run
that was killed at any moment goes on from its last checkpoint to the same bytes (on the CPU, with the same library
versions and numbers of threads and processes). Several processes share each batch:
`torchrun --nproc-per-node 2 -m studio.training.lcm DIR`.

It doesn't know who started it or who watches: it reads `spec.json`, `stop` and, where there is one, `prompts.txt`, and
writes the rest of the folder.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file

from studio.engine import adapters
from studio.engine.components import Components
from studio.engine.memory import free as available
from studio.engine.memory import resident
from studio.engine.models import ModelInfo, find_lora, resolve
from studio.engine.pipelines import load
from studio.errors import BadInput, Cancelled, NotFound
from studio.runs import dataset as files
from studio.runs.rundir import RunDir, write_json
from studio.settings import Settings, settings
from studio.specs import LcmSpec
from studio.training import checkpoints, curve, export, material, memory, model_folder, prompts, steps
from studio.training import consistency as lcd
from studio.training.session import Session, attend
from studio.training.student import FullStudent, LoraStudent, Student, restore, state

GRID = 50  # jumps of the teacher's solver: k = 20 of 1000 (LCM, sec. 4.3)
# Phases end where DDIM's steps do ("trailing": 999, 749, 499, 249), which LCM's grid misses.
PHASED_GRID = 40
SAMPLERS: dict[str, str] = {"lcm": "lcm", "tcd": "tcd", "pcm": "ddim"}  # what each objective's student is drawn with
RATE = {"lora": 1e-4, "full": 8e-6}
FAST_STEPS = 4


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
    grid = lcd.SolverGrid.of(scheduler.alphas_cumprod, PHASED_GRID if spec.objective == "pcm" else GRID).to(device)

    session.stage(3, "Get clean latents and encode their prompts")
    try:
        stuff = gather_material(session, spec, config, components, about, [w for x in loras for w in x.trigger_words],
                                rank, world, accelerator.wait_for_everyone)  # fmt: skip
    except Cancelled:
        session.finish("stopped")
        return
    session.say(f"{len(stuff)} latents of {tuple(stuff.latents.shape[1:])}, {len(stuff.text)} prompts")

    session.stage(4, "Make the student")
    if cpu:
        say_memory(session, spec, components, stuff)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(steps.generator(spec.seed, "init").initial_seed())
        student: Student = (
            LoraStudent(components.unet, info.family.lcm_lora_targets, spec.rank)
            if spec.form == "lora"
            else FullStudent(components.unet)
        )
    student.unet.to(memory_format=torch.channels_last)
    if spec.gradient_checkpointing:
        student.unet.enable_gradient_checkpointing()
        student.unet.train()  # diffusers checkpoints in training mode only; there is no dropout in these UNets
    parameters = list(student.trainable.values())
    session.say(f"{sum(p.numel() for p in parameters):,} trainable parameters; guidance w from {w_min:g} to {w_max:g}")

    session.stage(5, "Make the optimiser")
    peak = spec.learning_rate or RATE[spec.form]
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.0)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    total = spec.epochs * spec.steps_per_epoch

    session.stage(6, "Look for a checkpoint")
    found, damaged = checkpoints.latest_good(run)
    for sentence in damaged:
        session.say(sentence, note=True)
    step = 0
    if found is not None:
        restore(student, found.groups)
        checkpoints.restore_optimizer(optimizer, found.groups["optimizer"], found.meta["optimizer"])
        scaler.load_state_dict(found.meta["scaler"])
        step = found.step
        session.say(f"Resumed from {found.name}: step {step + 1} of {total} is next.", note=True)
        del found
        gc.collect()

    session.stage(7, "Measure the teacher")
    record = Record(run, spec, student, components, w_min, w_max, accelerator.is_main_process)
    record.begin(step)
    accelerator.wait_for_everyone()
    session.begin(step, total, spec.epochs)

    def save() -> str:
        """A checkpoint of this moment."""
        name = checkpoints.name_of(step // spec.steps_per_epoch, step, step % spec.steps_per_epoch == 0)
        if accelerator.is_main_process:
            started = time.monotonic()
            tensors, groups = checkpoints.optimizer_state(optimizer)
            meta = {"optimizer": groups, "scaler": scaler.state_dict(), "spec": spec.model_dump(mode="json")}
            everything = {**state(student), "optimizer": tensors}
            epoch = step // spec.steps_per_epoch
            checkpoints.save(run, name, step, epoch, everything, meta, spec.keep_checkpoints)
            session.saved(name, time.monotonic() - started)
        accelerator.wait_for_everyone()
        return name

    session.stage(8, "Distill")
    own = slice(rank * spec.batch_size // world, (rank + 1) * spec.batch_size // world)
    why = ""
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
        if spec.objective == "pcm":
            end = lcd.phase_end(n, grid, FAST_STEPS)
        noise = torch.randn(stuff.latents[rows].shape, generator=generator)
        z_0 = stuff.latents[rows][own].to(device, memory_format=torch.channels_last)
        text = stuff.text[stuff.row[rows]][own].to(device, dtype)
        empty = stuff.empty.expand(len(text), -1, -1).to(device, dtype)
        noise, n, w, end = noise[own].to(device), n[own].to(device), w[own].to(device), end[own].to(device)

        # 8.2 z_{t_{n+k}}, by the forward process
        t, s, e = grid.times[n + 1], grid.times[n], grid.times[end]
        z_t = lcd.add_noise(z_0, noise, t, grid)

        with accelerator.autocast():
            # 8.3 the teacher's guided step to z-hat_{t_n}: both branches in one batch, no gradient
            twice = student.teacher(torch.cat([z_t, z_t]).to(dtype), t.repeat(2), torch.cat([text, empty])).float()
            conditional, unconditional = twice.chunk(2)
            z_s = lcd.teacher_step(conditional, unconditional, z_t, t, s, w, grid, kind)
            # 8.4 the target network there, no gradient, and the student at z_{t_{n+k}}
            aim = student.target(z_s.to(dtype), s, text, w).float()
            said = student.student(z_t.to(dtype), t, text, w).float()

        # 8.5 self-consistency: both must mean the same z_0 (LCM), the same z_e (TCD, PCM)
        if spec.objective == "lcm":
            prediction = lcd.consistency_function(said, z_t, t, grid, kind)
            target = lcd.consistency_function(aim, z_s, s, grid, kind)
        else:
            prediction = lcd.trajectory_function(said, z_t, t, e, grid, kind)
            target = lcd.trajectory_function(aim, z_s, s, e, grid, kind)
        loss = lcd.distance(prediction, target, spec.loss, spec.huber_c)

        # 8.6 theta <- theta - eta grad; theta_minus <- mu theta_minus + (1 - mu) theta
        scaler.scale(loss).backward()
        shown = share_gradients(parameters, loss.detach(), world)
        scaler.unscale_(optimizer)
        rate = steps.learning_rate(step, total, peak, min(0.05, 50 / total))
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.nn.utils.clip_grad_norm_(parameters, spec.max_grad_norm, error_if_nonfinite=False)
        if torch.isfinite(shown):  # else `step_done` ends the run, with the last good weights in memory
            scaler.step(optimizer)
            scaler.update()
            student.after_step(spec.ema_decay, step)
        optimizer.zero_grad(set_to_none=True)
        step += 1
        session.step_done(step, (step - 1) // spec.steps_per_epoch + 1, float(shown), rate)

        # 8.7 stop, checkpoint, curve: only one process looks at clock and folder, or they would part ways
        asked: list[Any] = [session.must_stop(), session.checkpoint_due()] if accelerator.is_main_process else ["", 0]
        if world > 1:
            torch.distributed.broadcast_object_list(asked)
        why = str(asked[0])
        epoch, inside = divmod(step, spec.steps_per_epoch)
        if not inside:
            session.say(f"Epoch {epoch} of {spec.epochs}, step {step}: loss {float(shown):.5f}")
        due = not inside and (epoch % spec.checkpoint_epochs == 0 or step == total)
        if due or why or asked[1]:
            name = save()
            if due:
                session.stage(8, f"Distill: measure {name}")
                fallen = [record.look(name, step)]
                if world > 1:
                    torch.distributed.broadcast_object_list(fallen)
                if fallen[0] >= spec.patience and step < total:
                    session.say(f"Quality has fallen for {fallen[0]} checkpoints: the best one is kept.", note=True)
                    why = "quality"
                session.stage(8, "Distill")
            session.pause()

    session.stage(9, "Export the best checkpoint")
    if accelerator.is_main_process:
        if not record.points:  # nothing was measured: the last weights are the result
            record.keep("now", step)
        path = write_result(run, spec, info, components, student, record, w_min, w_max)
        if why == "time":
            session.say("The time limit is reached.", note=True)
        over = step == total or why == "quality"
        session.finish(
            "done" if over else "stopped", adapter=str(path), result=str(path), curve=record.summary(), best=record.best
        )
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


def gather_material(
    session: Session, spec: LcmSpec, config: Settings, components: Components, about: list[Any], triggers: list[str],
    rank: int, world: int, wait: Callable[[], None],
) -> material.Material:  # fmt: skip
    """Latents and prompts from the data folder, or drawn by the teacher. Raises Cancelled when a stop was asked for."""
    run, info = session.run, components.info
    cache = run.path.parent / ".latents"

    def report(done: int, total: int) -> None:
        if session.main:
            run.update(stage=f"3. Latents: {done} of {total}", material=[done, total])
        if run.stop_requested():
            raise Cancelled

    if spec.data is not None:
        found = files.check(files.folder_of(Path(spec.data), config.datasets_dir), info.native_size)
        for problem in found.problems:
            session.say(problem.message)
        texts = [entry.prompt for entry in found.entries]
        paths = material.from_folder(
            components, found.entries, found.folder, spec.seed, cache, found.digest, about, report, rank, world
        )
    else:
        own = run.path / "prompts.txt"
        lines = own.read_text(encoding="utf-8").splitlines() if own.exists() else []
        given = [line.strip() for line in lines if line.strip()]
        texts = (
            [given[k % len(given)] for k in range(spec.latents)] if given else prompts.training(spec.latents, spec.seed)
        )
        texts = [", ".join(filter(None, [*triggers, text])) if text else text for text in texts]
        guidance = info.guidance
        paths = material.drawn_by_teacher(
            components, texts, spec.seed, info.steps, guidance, cache, about, report, rank, world
        )
    wait()
    return material.gather(components, paths, texts)


def say_memory(session: Session, spec: LcmSpec, components: Components, stuff: material.Material) -> None:
    """What the run will take, as a note where that is more than there is."""
    others = sum(
        p.numel() * p.element_size() for part in (components.vae, components.text_encoder) for p in part.parameters()
    )
    said = memory.estimate(
        spec, dict(components.unet.config), stuff.latents.shape[-1], stuff.text.shape[1],
        components.family.lcm_lora_targets, others,
    ).total  # fmt: skip
    free = available(components.device) + resident()
    session.say(f"About {said / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB are there")
    if said > free:
        session.say(
            f"This run needs about {said / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free: it may be ended by "
            "the system. Choose fewer pictures per step, or turn on saving memory.", note=True,
        )  # fmt: skip


def share_gradients(parameters: list[torch.nn.Parameter], loss: torch.Tensor, world: int) -> torch.Tensor:
    """Mean of the gradients, in place, and of the loss over all processes, in one message."""
    if world == 1:
        return loss
    flat = torch.cat([*(p.grad.flatten() for p in parameters if p.grad is not None), loss.float().view(1)])
    torch.distributed.all_reduce(flat)
    flat /= world
    offset = 0
    for p in parameters:
        assert p.grad is not None
        p.grad.copy_(flat[offset : offset + p.numel()].view_as(p))
        offset += p.numel()
    return flat[-1]


@contextlib.contextmanager
def all_cores() -> Iterator[None]:
    """Measuring is one process's work: while it lasts it takes the cores of those that wait for it."""
    before = torch.get_num_threads()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        torch.set_num_threads(os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Record:
    """The curve of a run at each checkpoint and its best weights: `curve.json`, `curve/`, `samples/`, `best/`."""

    def __init__(
        self, run: RunDir, spec: LcmSpec, student: Student, components: Components, w_min: float, w_max: float,
        main: bool,
    ) -> None:  # fmt: skip
        self.run, self.student, self.w_min, self.w_max = run, student, w_min, w_max
        self.file, self.folder = run.path / "curve.json", run.path / "curve"
        self.sampler = SAMPLERS[spec.objective]
        # A LoRA student has learnt the guidance; a full one is told it, as the pipelines' guidance_scale = w + 1.
        self.guidance = 1.0 if spec.form == "lora" else (w_min + w_max) / 2 + 1
        count = spec.curve_pictures
        if count is None:
            count = 60 if components.info.judge is not None else 4
        self.ruler = (
            curve.Ruler(components, prompts.measuring(count), self.folder, run.samples) if main and count else None
        )
        self.baseline: list[curve.Row] = []
        self.points: list[dict[str, Any]] = []  # {name, step, quality, rows}

    def begin(self, step: int) -> None:
        """Measure the teacher (or read what was measured before) and forget checkpoints after `step`."""
        if self.ruler is None:
            return
        with all_cores(), self.student.teaching() as teacher:
            self.baseline = self.ruler.baseline(teacher)
        self.run.update(sample_prompts=[asked.text for asked in self.ruler.asked[: curve.SHOWN]])
        if self.file.exists():
            points = json.loads(self.file.read_text(encoding="utf-8"))["checkpoints"]
            self.points = [point for point in points if point["step"] <= step]
        if self.kept.get("step", 0) > step:  # it came after the checkpoint that the run goes on from
            shutil.rmtree(self.run.path / "best")
        self._write()

    def look(self, name: str, step: int) -> int:
        """Measure this checkpoint, keep it where it is the best; how many there were since the best one."""
        if self.ruler is None:
            return 0
        with all_cores(), self.student.drawing() as unet:
            rows = [
                self.ruler.measure("student", unet, self.sampler, count, self.guidance, f"{name}-{count}")
                for count in curve.STEPS
            ]
        curve.separate(self.run.samples / f"{name}-{FAST_STEPS}.png", step, self.run.samples)
        score = curve.quality(rows, self.baseline)
        best_before = max((point["quality"] for point in self.points), default=None) if self.kept else None
        self.points.append({"name": name, "step": step, "quality": score, "rows": [asdict(row) for row in rows]})
        if best_before is None or score > best_before:
            self.keep(name, step)
        self._write()
        self.run.update(curve=self.summary())
        qualities = [point["quality"] for point in self.points]
        return len(qualities) - 1 - qualities.index(max(qualities))

    def keep(self, name: str, step: int) -> None:
        """Copy the weights that pictures are drawn with to `best/`."""
        fresh = self.run.path / "best.tmp"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        save_file({k: t.contiguous().cpu() for k, t in state(self.student)["ema"].items()}, fresh / "ema.safetensors")
        write_json(fresh / "meta.json", {"name": name, "step": step}, sync=True)
        shutil.rmtree(self.run.path / "best", ignore_errors=True)
        os.rename(fresh, self.run.path / "best")

    @property
    def kept(self) -> dict[str, Any]:
        """Name and step of the weights in `best/`; empty before the first."""
        file = self.run.path / "best" / "meta.json"
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}

    @property
    def best(self) -> str:
        return str(self.kept.get("name", ""))

    def best_weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.run.path / "best" / "ema.safetensors")

    def summary(self) -> dict[str, Any]:
        """For the page: the teacher's rows, those of the best checkpoint, and how quality went."""
        best = next((point for point in self.points if point["name"] == self.best), None)
        return {
            "rows": [asdict(row) for row in self.baseline] + (best["rows"] if best else []),
            "best": best["name"] if best else None,
            "checkpoints": [{key: p[key] for key in ("name", "step", "quality")} for p in self.points],
            "sampler": self.sampler,
            "guidance": self.guidance,
            "range": [self.w_min, self.w_max],
        }

    def _write(self) -> None:
        rows = [asdict(row) for row in self.baseline]
        write_json(self.file, {"baseline": rows, "checkpoints": self.points, "best": self.best})


def write_result(
    run: RunDir, spec: LcmSpec, info: ModelInfo, components: Components, student: Student, record: Record,
    w_min: float, w_max: float,
) -> Path:  # fmt: skip
    """The best weights as a LoRA in all formats, or as a whole model folder; the path to give to Generate."""
    weights = record.best_weights()
    settings_of = {**spec.model_dump(mode="json"), "w_min": w_min, "w_max": w_max, "best": record.best}
    if isinstance(student, LoraStudent):
        card = export.Card(
            title=spec.name,
            base=info.reference,
            kind=f"few-step LoRA ({spec.objective.upper()}, {FAST_STEPS} steps, guidance 1)",
            settings=settings_of,
            license=info.license,
            pictures=[p for count in curve.STEPS if (p := run.samples / f"{record.best}-{count}.png").exists()],
        )
        made = export.Adapter(
            export.peft_state(student.unet, weights), spec.rank, float(spec.rank), info.family.lcm_lora_targets
        )
        path = export.write(run.adapter, made, card)
        # How Generate should draw with it: beside what every LoRA says of itself.
        facts = json.loads((run.adapter / "studio.json").read_text(encoding="utf-8"))
        fast = {"steps": FAST_STEPS, "guidance": 1.0, "sampler": record.sampler}
        write_json(run.adapter / "studio.json", {**facts, "fast": fast})
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
