"""LoRA training of a UNet (and text encoder), top to bottom: `python -m studio.training.lora.train DIR`.

LoRA is 2106.09685; the objective is that of latent diffusion (2112.10752, eq. 2) with min-SNR weights (2303.09556).
`DIR` is a run folder with a `LoraSpec` in `spec.json`. Everything that a step draws is a function of (seed, epoch) or
(seed, step), so a run that was killed at any moment goes on from its last checkpoint to the same bytes (on the CPU,
with the same library versions and number of threads). Also under `accelerate launch -m studio.training.lora.train DIR`.

It doesn't know who started it or who watches: it reads `spec.json` and `stop`, and writes the rest of the folder.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.training_utils import cast_training_params
from peft import LoraConfig

from studio.core.errors import Cancelled, NotFound
from studio.core.settings import Settings, settings
from studio.core.specs import LoraSpec
from studio.engine.models import hub
from studio.engine.models.catalogue import ModelInfo, resolve
from studio.engine.models.components import Components
from studio.engine.models.families import accept
from studio.engine.models.loading import load_parts
from studio.runs import dataset as files
from studio.training.export import adapter_files
from studio.training.lora import dataset
from studio.training.lora.samples import Sampler
from studio.training.runtime import checkpoints, diffusion, saved_activations, steps
from studio.training.runtime.batch_sizer import map_large_blocks, release
from studio.training.runtime.fingerprint import facts_of, what_changed
from studio.training.runtime.optimizers import make_optimizer
from studio.training.runtime.session import Diverged, Session, attend, is_out_of_memory

TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
QUICK = 20.0  # seconds that a stop may take longer for samples


def train(session: Session, spec: LoraSpec) -> None:
    run, config = session.run, settings()

    session.stage(1, "Check the data")
    session.limit_minutes, session.checkpoint_minutes = spec.time_limit_minutes, spec.checkpoint_minutes
    info = get_model(session, spec.model, config)
    resolution = spec.resolution or info.native_size
    report = files.check(files.folder_of(Path(spec.data), config.datasets_dir), resolution)
    for problem in report.problems:
        session.say(problem.message)
    repeats = [entry.repeats or spec.repeats or report.repeats for entry in report.entries]
    session.say(f"{len(report.entries)} pictures, {sum(repeats)} per epoch; trigger words: {report.triggers or 'none'}")

    session.stage(2, f"Load {info.title} and freeze it")
    cpu = config.device == "cpu" or not torch.cuda.is_available()
    precision, dtype = steps.precision(spec.precision, cpu)
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision, cpu=cpu)
    if not cpu:  # the same bytes on one card from run to run, as far as CUDA has such kernels
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    if cpu:
        map_large_blocks()
    # Loaded on the CPU: where each part goes, and in which precision, is this file's business.
    parts = load_parts(info, torch.float32)
    model = Components(info=info, family=info.family, device=accelerator.device, dtype=torch.float32, **parts)
    del parts
    unet, vae, text_encoder, tokenizer = model.unet, model.vae, model.text_encoder, model.tokenizer
    unet.requires_grad_(False)  # goes to the device when the other two have left it
    vae.requires_grad_(False).to(accelerator.device)  # in fp32: SD 1.5's can overflow in half precision
    text_encoder.requires_grad_(False).to(accelerator.device)
    kind = diffusion.prediction_of(model.scheduler_config)
    alphas_cumprod = sampler_noise(model.scheduler_config)  # (T,)

    def pause() -> None:
        """Between the parts of long work that is no step. Raises Cancelled where the run is to end."""
        if accelerator.num_processes == 1 and session.must_stop():  # several would part ways
            raise Cancelled

    session.stage(3, "Add the LoRA")
    alpha = spec.alpha or spec.rank / 2
    targets = info.family.lora_targets
    with torch.random.fork_rng(devices=[]):
        set_seed(steps.generator(spec.seed, "init").initial_seed() % 2**32)
        unet.add_adapter(
            LoraConfig(r=spec.rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(targets))
        )
        if spec.text_encoder_lr:
            text_encoder.add_adapter(
                LoraConfig(
                    r=spec.rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(TEXT_TARGETS)
                )
            )
    trained: list[torch.nn.Module] = [unet, *([text_encoder] if spec.text_encoder_lr else [])]
    parameters = {
        f"{part}.{name}": p
        for part, module in zip(("unet", "text_encoder"), trained, strict=False)
        for name, p in module.named_parameters()
        if p.requires_grad
    }
    trainable = sum(p.numel() for p in parameters.values())
    total = sum(p.numel() for module in trained for p in module.parameters())
    session.say(f"{total:,} parameters, {trainable:,} trainable ({trainable / total:.2%})")
    if spec.gradient_checkpointing:
        unet.enable_gradient_checkpointing()

    session.stage(4, "Cache pictures and captions")
    bucket_step = model.factor * 2 ** (len(unet.config.block_out_channels) - 1)
    sizes = dataset.sizes(report.entries, resolution, bucket_step, spec.buckets)
    latents = dataset.cache_latents(vae, report.folder, report.entries, sizes, spec.flip, pause)
    scaling = float(vae.config.scaling_factor)
    variants = [
        dataset.caption_variants(e.prompt, spec.caption_variants, spec.keep_tokens, spec.tag_dropout, spec.seed)
        for e in report.entries
    ]
    long = dataset.too_long(tokenizer, [e.prompt for e in report.entries])
    if long:
        session.say(f"{len(long)} captions are longer than the model reads; their last tags don't count.", note=True)
    sampler = Sampler(model, run, spec, report, sum(repeats), accelerator)
    texts: dict[str, torch.Tensor] = {}
    if not spec.text_encoder_lr:
        every = ["", *(v for several in variants for v in several)]
        texts = dataset.cache_texts(tokenizer, text_encoder, every, pause)
        del text_encoder
        model.text_encoder = None
    del vae
    model.vae = None
    release()

    session.stage(5, "Make the optimiser")
    unet.to(accelerator.device)
    for module in trained if dtype != torch.float32 else ():
        module.to(dtype)
    # GradScaler can't unscale half-precision gradients; the frozen weights stay in `dtype`.
    cast_training_params(trained, dtype=torch.float32)
    optimizer = make_optimizer(spec, parameters)
    prepared = accelerator.prepare(*trained, optimizer)
    trained, optimizer = list(prepared[:-1]), prepared[-1]
    for module in trained:
        module.train()
    if not spec.gradient_checkpointing:  # which keeps almost nothing already
        saved_activations.keep_less(accelerator.unwrap_model(trained[0]))
    average = [p.detach().clone() for p in parameters.values()] if spec.ema else []
    chunk = spec.batch_size * spec.accumulation * accelerator.num_processes
    per_epoch = len(dataset.epoch_order(sizes, repeats, chunk, spec.seed, 0))
    all_steps = per_epoch * spec.epochs
    micro = spec.batch_size

    session.stage(6, "Look for a checkpoint")
    facts = facts_of(
        spec, info.hash, report.digest, per_epoch, accelerator.device, precision, accelerator.num_processes
    )
    found, damaged = checkpoints.latest_good(run)
    for sentence in damaged:
        session.say(sentence, note=True)
    epoch = step = within = 0
    if found is not None:
        for sentence in what_changed(found.meta["facts"], facts):
            session.say(sentence, note=True)
        epoch, step, within = found.epoch, found.step, found.step - found.epoch * found.meta["facts"]["per_epoch"]
        if found.meta["facts"]["per_epoch"] != per_epoch:
            step, within = epoch * per_epoch, 0  # the epoch is another one now: it starts again
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(found.groups["lora"][name])
            for mean, name in zip(average, parameters, strict=False):
                mean.copy_(found.groups.get("ema", found.groups["lora"])[name])
        checkpoints.restore_optimizer(optimizer.optimizer, found.groups["optimizer"], found.meta["optimizer"])
        if accelerator.scaler is not None:
            checkpoints.restore_scaler(accelerator.scaler, found.meta["scaler"])
        micro = min(micro, found.meta["micro"])
        session.say(f"Resumed from {found.name}: epoch {epoch + 1}, step {step + 1} is next.", note=True)
    session.begin(step, all_steps, spec.epochs)
    why = ""  # it ends early, if it does

    def tensors() -> dict[str, torch.Tensor]:
        values = average if spec.ema else list(parameters.values())
        return dict(zip(parameters, values, strict=True))

    def adapter_of(values: Mapping[str, torch.Tensor]) -> adapter_files.Adapter:
        return adapter_files.from_parameters(values, spec.rank, alpha, targets, TEXT_TARGETS)

    def save(epochs_done: int) -> None:
        """A checkpoint of this moment; samples belong to it."""
        if accelerator.is_main_process:
            started = time.monotonic()
            name = checkpoints.name_of(epochs_done, step, step == epochs_done * per_epoch)
            state, groups = checkpoints.optimizer_state(optimizer.optimizer)
            everything = {"lora": parameters, "optimizer": state}
            if spec.ema:
                everything["ema"] = tensors()
            scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else {}
            meta = {"facts": facts, "optimizer": groups, "scaler": scaler, "micro": micro}
            checkpoints.save(run, name, step, epochs_done, everything, meta, spec.keep_checkpoints)
            session.saved(name, time.monotonic() - started)
        accelerator.wait_for_everyone()

    def draw_samples() -> None:
        if accelerator.is_main_process:
            # Whoever stops a run waits for its last samples where they are quick: the card of the result shows them.
            patient = why == "stop" and run.status().get("sample_seconds", 0.0) < QUICK
            modules, started = [accelerator.unwrap_model(module) for module in trained], time.monotonic()
            two = modules[0], modules[1] if len(modules) > 1 else None
            with contextlib.suppress(Cancelled):  # the loop sees it too, and saves
                sampler.draw(*two, step, tensors(), session.say, (lambda: None) if patient else pause)
                run.update(sample_seconds=time.monotonic() - started)
        accelerator.wait_for_everyone()
        session.pause()

    def micro_batches(chosen: Sequence[dataset.Draw]) -> Iterator[list[dataset.Draw]]:
        """At most `micro` at a time, of one size each."""
        by_size: dict[Any, list[dataset.Draw]] = {}
        for one in chosen:
            by_size.setdefault(one.z_0.shape, []).append(one)
        for several in by_size.values():
            for k in range(0, len(several), micro):
                yield several[k : k + micro]

    def encode(batch: Sequence[dataset.Draw]) -> torch.Tensor:
        captions = [variants[d.picture][d.caption] if d.caption >= 0 else "" for d in batch]
        if texts:
            return torch.stack([texts[c] for c in captions]).to(accelerator.device, dtype)  # (batch, 77, dim)
        return trained[1](dataset.tokenize(tokenizer, captions).to(accelerator.device))[0].to(dtype)

    def backward(mine: Sequence[dataset.Draw], count: int, weight: float) -> float:
        """Gradient of the mean loss over all `count` pictures of the step; this process's part of that loss.

        `weight` is 0 in a process for which no picture was left: the others wait for its gradient all the same.
        """
        batches, loss_sum = list(micro_batches(mine)), 0.0
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with contextlib.ExitStack() as stack:
                for module in trained if not last else ():
                    stack.enter_context(accelerator.no_sync(module))
                z_0 = torch.stack([d.z_0 for d in batch]).to(accelerator.device)  # (batch, c, h, w)
                epsilon = torch.stack([d.epsilon for d in batch]).to(accelerator.device)
                t = torch.tensor([d.t for d in batch], device=accelerator.device)
                z_t = diffusion.add_noise(z_0, epsilon, t, alphas_cumprod)
                target = diffusion.target(z_0, epsilon, t, alphas_cumprod, kind)
                with accelerator.autocast():
                    output = trained[0](z_t.to(dtype), t, encoder_hidden_states=encode(batch)).sample
                each = (output.float() - target).square().mean((1, 2, 3))  # (batch,)
                weights = diffusion.min_snr_weights(t, alphas_cumprod, spec.min_snr_gamma, kind)
                loss = weight * (weights * each).sum() / count
                # Processes are averaged, and what is wanted is their sum: each holds its part of one mean.
                accelerator.backward(loss * accelerator.num_processes)
            loss_sum += float(loss.detach())
        return loss_sum

    session.stage(7, "Train")
    # Those of a checkpoint at an epoch's end come after it: the process may have been killed in between.
    if step == 0 or (found is not None and found.step == step and within == 0 and not sampler.drawn(step)):
        draw_samples()
    while epoch < spec.epochs and not why:
        order = dataset.epoch_order(sizes, repeats, chunk, spec.seed, epoch)
        for members in order[within:]:
            places = range(accelerator.process_index, len(members), accelerator.num_processes)
            mine = [
                dataset.draw(p, latents[p], len(variants[p]), spec, scaling, len(alphas_cumprod), step, place)
                for place in places or [0]
                for p in (members[place],)
            ]
            rate = steps.learning_rate(step, all_steps, 1.0, spec.warmup)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            while True:
                optimizer.zero_grad()
                try:
                    loss = backward(mine, len(members), 1.0 if places else 0.0)
                    break
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error) or micro == 1 or accelerator.num_processes > 1:
                        raise
                micro = max(1, micro // 2)
                release()
                session.say(f"Not enough memory: {micro} pictures at a time now, with the same result.", note=True)
            loss = float(accelerator.reduce(torch.tensor(loss, device=accelerator.device), "sum"))
            norm = float(accelerator.clip_grad_norm_(list(parameters.values()), spec.max_grad_norm))
            # Clipping to an infinite norm makes inf * 0. GradScaler finds such gradients itself and skips the step.
            if not math.isfinite(loss) or (accelerator.scaler is None and not math.isfinite(norm)):
                raise Diverged(diverged(step + 1, epoch, run))
            optimizer.step()
            if spec.ema:
                steps.update_average(average, parameters.values(), spec.ema_decay, step)
            step, within = step + 1, within + 1
            session.step_done(step, epoch + 1, loss, optimizer.param_groups[0]["lr"])
            # Only one process looks at clock and folder, or they would part ways.
            asked = [session.must_stop(), session.checkpoint_due()] if accelerator.is_main_process else ["", False]
            if accelerator.num_processes > 1:
                torch.distributed.broadcast_object_list(asked)
            why = str(asked[0])
            if within < len(order) and (why or asked[1]):
                save(epoch)
                session.pause()
                if why:  # after the save, so nothing hangs on them
                    draw_samples()
            if why:
                break
        if within == len(order):
            epoch, within = epoch + 1, 0
            if epoch % spec.checkpoint_epochs == 0 or epoch == spec.epochs or why:
                save(epoch)
                draw_samples()

    session.stage(8, "Export")
    if accelerator.is_main_process:
        by_epoch, damaged = checkpoints.by_epoch(run)
        for sentence in damaged:
            session.say(sentence, note=True)
        earlier = {name: adapter_of(groups.get("ema", groups["lora"])) for name, groups in by_epoch.items()}
        path = adapter_files.write(run.adapter, adapter_of(tensors()), sampler.card(alpha, step), earlier)
        if why == "time":
            session.say("The time limit is reached.", note=True)
        names = checkpoints.names(run)
        session.finish(
            "done" if epoch >= spec.epochs else "stopped",
            adapter=str(path),
            checkpoints=names,
            epoch=epoch + (within > 0),
        )


def get_model(session: Session, reference: str, config: Settings) -> ModelInfo:
    """The resolved model, downloaded where it isn't on this machine, with its progress as the run's stage.

    Raises Cancelled when a stop was asked for meanwhile; what was downloaded is kept.
    """
    info, said = resolve(reference, config), 0.0

    def progress(note: str) -> None:
        nonlocal said
        if session.run.stop_requested():
            raise Cancelled
        if session.main and time.monotonic() - said > 1:
            said = time.monotonic()
            session.run.update(stage=f"1. {note[0].upper()}{note[1:]}")

    if info.path is None:
        session.say(f"{info.reference} is not on this machine yet and is downloaded.")
        hub.get(info.reference, config, progress, accept=accept)
        info = resolve(reference, config)
    return info


def sampler_noise(scheduler_config: dict[str, Any]) -> torch.Tensor:
    """alpha_bar (T,) of the model's own schedule."""
    from diffusers import DDPMScheduler

    alphas: torch.Tensor = DDPMScheduler.from_config(scheduler_config).alphas_cumprod
    return alphas


def diverged(step: int, epoch: int, run: Any) -> str:
    """What to say when the loss is not a number any more."""
    names = checkpoints.names(run)
    kept = f"the last good checkpoint is {names[-1]}" if names else "no checkpoint was written yet"
    return (
        f"The loss is not a number any more at step {step} (epoch {epoch + 1}); {kept}. "
        "Lower the learning rate and resume."
    )


def main(path: Path) -> None:
    with attend(path, main=int(os.environ.get("RANK", "0")) == 0) as session:
        spec = session.run.spec()
        if not isinstance(spec, LoraSpec):
            raise NotFound(f"Run {session.run.id} is not a LoRA run.")
        try:
            train(session, spec)
        except Cancelled:
            session.end_early()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
