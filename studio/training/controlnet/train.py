"""ControlNet training (2302.05543), top to bottom: `python -m studio.training.controlnet.train DIR`.

`DIR` is a run folder with a `ControlRunSpec` in `spec.json`. The control network begins as a copy of the UNet's first
half whose outputs are zero (section 3.1); the UNet, the VAE and the text encoder stay as they are. All randomness of a
step is a function of (seed, step), so a run that was killed goes on from its last checkpoint to the same bytes (on the
CPU, with the same versions and numbers of threads and processes). Several processes share each batch:
`torchrun --nproc-per-node 2 -m studio.training.controlnet.train DIR`.

It doesn't know who started it, how the data was drawn, or who looks at the samples.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import ControlNetModel, DDPMScheduler
from PIL import Image

from studio.core.errors import BadInput, Cancelled, NotFound
from studio.core.settings import Settings, settings
from studio.core.specs import ControlRunSpec
from studio.engine.diffusion import latents as pictures
from studio.engine.diffusion import sampling, text
from studio.engine.engine import load
from studio.engine.models.catalogue import resolve
from studio.engine.models.components import Components
from studio.engine.models.controlnets import KINDS, controlnet
from studio.runs import dataset as files
from studio.runs.rundir import RunDir
from studio.training.controlnet import dataset
from studio.training.runtime import checkpoints, diffusion, steps
from studio.training.runtime.processes import share_gradients
from studio.training.runtime.session import Session, attend

# Channels of the small network that reads the drawing, from its full size on, one more per halving (section 3.2)
STANDARD = (16, 32, 96, 256)  # SD 1.5's, so that every tool loads the result
WIDTHS = (8, 16, 32, 64, 96)
SAMPLES = 4
NOTES = 5  # remarks about pictures that stay on the page; the rest are in the log
FULLY = 1.0  # control weight of the samples


def train(session: Session, spec: ControlRunSpec) -> None:
    run, config = session.run, settings()

    session.stage(1, "Read the request")
    session.limit_minutes, session.checkpoint_minutes = spec.time_limit_minutes, spec.checkpoint_minutes
    cpu = config.device == "cpu" or not torch.cuda.is_available()
    precision = "fp32" if cpu and spec.precision == "auto" else "fp16" if spec.precision == "auto" else spec.precision
    if precision == "fp16" and cpu:
        raise BadInput("Half precision (fp16) trains on NVIDIA cards only: choose auto, fp32 or bf16.")
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision, cpu=cpu)
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    if spec.batch_size % world:
        raise BadInput(f"A batch of {spec.batch_size} can't be shared by {world} processes; choose a multiple.")
    if cpu and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))

    session.stage(2, "Load the model and freeze it")
    info = resolve(spec.model, config)
    components = load(info, config.model_copy(update={"device": "cpu" if cpu else "cuda"}), on_note=session.say)
    for module in components.modules.values():
        module.requires_grad_(False)
    scheduler = DDPMScheduler.from_config(components.scheduler_config)
    kind = diffusion.prediction_of(components.scheduler_config)
    alphas = scheduler.alphas_cumprod.to(device)

    session.stage(3, "Get latents and control images")
    try:
        stuff = gather(session, spec, config, components, world, accelerator.is_main_process)
    except Cancelled:
        session.end_early()
        return
    held = min(spec.held_out, len(stuff) // 5)
    count = len(stuff) - held  # the last ones are never trained on
    per_epoch = spec.steps_per_epoch or max(1, count // spec.batch_size)
    total = spec.epochs * per_epoch
    session.say(f"{count} pictures, {stuff.kinds} control images each; {held} held out; {per_epoch} steps an epoch")

    session.stage(4, "Make the ControlNet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(steps.generator(spec.seed, "init").initial_seed())
        net = new_controlnet(components)
    shape = run.path / "controlnet.json"  # of what was gone on from, which may be deleted before a resume
    found, damaged = checkpoints.latest_good(run)
    if found is not None and shape.exists():
        net = ControlNetModel.from_config(json.loads(shape.read_text(encoding="utf-8")))
    elif spec.init in KINDS and spec.init not in info.controlnets:
        session.say(f"{info.title} has no ControlNet for {spec.init}: a copy of the UNet begins.", note=True)
    elif spec.init is not None:
        net = controlnet(components, spec.init, config, session.say).requires_grad_(True)
        components.controls.clear()  # it isn't part of the frozen model
    if accelerator.is_main_process and found is None:
        shape.write_text(net.to_json_string(), encoding="utf-8")
    net.float().to(device, memory_format=torch.channels_last).train()
    if spec.gradient_checkpointing:
        net.enable_gradient_checkpointing()
    names, parameters = zip(*net.named_parameters(), strict=True)
    average = [p.detach().clone() for p in parameters]
    session.say(f"{sum(p.numel() for p in parameters):,} trainable parameters")

    session.stage(5, "Make the optimiser")
    optimizer = torch.optim.AdamW(parameters, lr=spec.learning_rate, betas=(0.9, 0.99), weight_decay=1e-2)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    session.stage(6, "Go on from the last checkpoint")
    for sentence in damaged:
        session.say(sentence, note=True)
    step = 0
    if found is not None:
        with torch.no_grad():
            for name, p, mean in zip(names, parameters, average, strict=True):
                p.copy_(found.groups["controlnet"][name])
                mean.copy_(found.groups["ema"][name])
        checkpoints.restore_optimizer(optimizer, found.groups["optimizer"], found.meta["optimizer"])
        checkpoints.restore_scaler(scaler, found.meta["scaler"])
        step = found.step
        session.say(f"Resumed from {found.name}: step {step + 1} of {total} is next.", note=True)
    session.begin(step, total, spec.epochs)

    if step == 0 and accelerator.is_main_process:  # what it begins with: else nobody knows what training is worth
        before = look(session, spec, components, net, stuff, count, alphas, kind, step)
        run.update(**{f"{name}_before": value for name, value in before.items() if name == "held_out"}, **before)
        session.say(f"Before the first step: held out {before}")
    accelerator.wait_for_everyone()
    session.pause()

    def save() -> None:
        epoch, inside = divmod(step, per_epoch)
        name = checkpoints.name_of(epoch, step, inside == 0)
        if accelerator.is_main_process:
            started = time.monotonic()
            tensors, groups = checkpoints.optimizer_state(optimizer)
            weights = {
                "controlnet": dict(zip(names, parameters, strict=True)),
                "ema": dict(zip(names, average, strict=True)),
                "optimizer": tensors,
            }
            meta = {"optimizer": groups, "scaler": scaler.state_dict()}
            checkpoints.save(run, name, step, epoch, weights, meta, spec.keep_checkpoints)
            session.saved(name, time.monotonic() - started)
        accelerator.wait_for_everyone()

    session.stage(7, "Train")
    own = slice(rank * spec.batch_size // world, (rank + 1) * spec.batch_size // world)
    why = ""
    while step < total and not why:
        # 7.1 a batch: pictures, one caption and one control image of each, t and noise, functions of (seed, step) alone
        rows = [
            steps.permutation(count, spec.seed, "order", place // count)[place % count]
            for place in range(step * spec.batch_size, (step + 1) * spec.batch_size)
        ]
        draw = Draws(spec, stuff, rows, step, len(alphas))
        z_0 = stuff.latents[rows][own].to(device, torch.float32, memory_format=torch.channels_last)
        lines = draw.lines[own].to(device)
        t, epsilon = draw.t[own].to(device), draw.noise[own].to(device)

        # 7.2 z_t, and what the frozen UNet makes of it with the control network's help
        z_t = diffusion.add_noise(z_0, epsilon, t, alphas)
        with accelerator.autocast():
            said = predict(components, net, z_t.to(components.dtype), t, encoded(components, draw.captions[own]), lines)

        # 7.3 the UNet's own loss (equation 5), weighted as the data says
        error = (said.float() - diffusion.target(z_0, epsilon, t, alphas, kind)).square()
        error = error * weights_of(stuff, rows[own]).to(device)
        loss = (error.mean((1, 2, 3)) * diffusion.min_snr_weights(t, alphas, spec.min_snr_gamma, kind)).mean()

        # 7.4 theta <- theta - eta grad
        scaler.scale(loss).backward()
        shown = share_gradients(list(parameters), loss.detach(), world)
        scaler.unscale_(optimizer)
        rate = steps.learning_rate(step, total, spec.learning_rate, spec.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        norm = torch.nn.utils.clip_grad_norm_(parameters, spec.max_grad_norm, error_if_nonfinite=False)
        if torch.isfinite(shown):  # else `step_done` ends the run, with the last good weights in memory
            if not scaler.is_enabled():  # which leaves such a step out by itself
                session.check_gradient(step + 1, float(norm))
            scaler.step(optimizer)
            scaler.update()
            steps.update_average(average, parameters, spec.ema_decay, step)
        optimizer.zero_grad(set_to_none=True)
        step += 1
        session.step_done(step, (step - 1) // per_epoch + 1, float(shown), rate)

        # 7.5 stop, checkpoint, samples: only one process looks at clock and folder, or they would part ways
        asked: list[Any] = [session.must_stop(), session.checkpoint_due()] if accelerator.is_main_process else ["", 0]
        if world > 1:
            torch.distributed.broadcast_object_list(asked)
        why = str(asked[0])
        epoch, inside = divmod(step, per_epoch)
        due = not inside and (epoch % spec.checkpoint_epochs == 0 or step == total)
        if due or why or asked[1]:
            save()
            if accelerator.is_main_process and (due or asked[1]):
                session.stage(7, "Train: look at it")
                with using(net, average):
                    measured = look(session, spec, components, net, stuff, count, alphas, kind, step)
                run.update(**measured)
                session.say(f"Step {step} of {total}: loss {float(shown):.4f}; held out {measured}")
                session.stage(7, "Train")
            accelerator.wait_for_everyone()
            session.pause()

    session.stage(8, "Export")
    if accelerator.is_main_process:
        with using(net, average):
            path = export(run, spec, net)
        if why == "time":
            session.say("The time limit is reached.", note=True)
        session.finish("done" if step == total else "stopped", adapter=str(path))
    accelerator.wait_for_everyone()


# --- what the stages above need more than a few lines for -------------------------------------------------------------


class Draws:
    """All that chance decides in one step, from (seed, step): timesteps, noise, captions, control images."""

    def __init__(
        self, spec: ControlRunSpec, stuff: dataset.Drawings, rows: list[int], step: int, timesteps: int
    ) -> None:
        generator, size = steps.generator(spec.seed, "step", step), len(rows)
        # One per equal part of the schedule; a bias above 1 moves them towards noise, where the lines are decided.
        share = (torch.arange(size) + torch.rand(size, generator=generator)) / size
        share = share[torch.randperm(size, generator=generator)] ** (1 / spec.noise_bias)
        self.t = (share * timesteps).long().clamp(0, timesteps - 1)  # (batch,)
        self.noise = torch.randn(stuff.latents[rows].shape, generator=generator)
        chance = torch.rand(4, size, generator=generator)
        which = (chance[0] * stuff.kinds).long().tolist()
        self.lines = stuff.controls(rows, which)
        empty = chance[1] < spec.control_dropout  # nothing drawn: nothing to follow
        self.lines = torch.where(empty[:, None, None, None], torch.zeros(()), self.lines)
        self.captions = [
            "" if chance[2, k] < spec.caption_dropout else own[int(chance[3, k] * len(own))]
            for k, own in enumerate(stuff.captions[row] for row in rows)
        ]


class using:
    """The network with other weights, inside the block."""

    def __init__(self, net: torch.nn.Module, weights: list[torch.Tensor]) -> None:
        self.net, self.weights = net, weights

    def _swap(self) -> None:
        with torch.no_grad():
            for p, other in zip(self.net.parameters(), self.weights, strict=True):
                kept = p.detach().clone()
                p.copy_(other)
                other.copy_(kept)

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()


def new_controlnet(components: Components) -> ControlNetModel:
    """A copy of the UNet's first half that changes nothing yet.

    It reads drawings in the pictures' own size, with one halving for each of the VAE's. Only the layers that lead back
    into the UNet begin at zero. The drawing's own last layer does not, as it does in the paper: with zeros at both ends
    neither learns before the other, and a small network takes thousands of steps to notice that there is a drawing.
    """
    halvings = components.factor.bit_length() - 1
    widths = STANDARD if halvings == len(STANDARD) - 1 else WIDTHS[: halvings + 1]
    net = ControlNetModel.from_unet(components.unet, conditioning_embedding_out_channels=widths)
    heads = components.unet.config.addition_embed_type_num_heads
    if net.config.addition_embed_type_num_heads != heads:  # `from_unet` leaves it at the class's default
        plain = {key: value for key, value in net.config.items() if not key.startswith("_")}
        whole = ControlNetModel.from_config(plain | {"addition_embed_type_num_heads": heads})
        whole.load_state_dict(net.state_dict())
        net = whole
    torch.nn.init.kaiming_normal_(net.controlnet_cond_embedding.conv_out.weight, nonlinearity="linear")
    return net


def gather(
    session: Session, spec: ControlRunSpec, config: Settings, components: Components, world: int, main: bool
) -> dataset.Drawings:
    """Prepared shards as they are; a folder or ZIP of pictures is prepared once and kept beside the runs.

    Raises Cancelled where the run is to end meanwhile (with one process: several would part ways).
    """
    data = Path(spec.data)
    if data.is_dir() and dataset.is_prepared(data):
        return dataset.read(data)
    side = components.info.native_size
    found = files.check(files.folder_of(data, config.datasets_dir), side)
    key = hashlib.sha256(f"{found.digest} {components.info.hash} {side}".encode())
    for entry in found.entries:
        own = (found.folder / entry.file).with_suffix(files.DRAWN)
        if own.exists():
            key.update(f"\0{entry.file}\0".encode() + hashlib.sha256(own.read_bytes()).digest())
    into = session.run.path.parent / ".drawings" / key.hexdigest()[:16]
    for problem in found.problems[:NOTES]:
        session.say(problem.message, note=True)
    if main and not (into / "pictures.json").exists():

        def report(done: int) -> None:
            session.run.update(stage=f"3. Control images: {done} of {len(found.entries)}")
            if world == 1 and session.must_stop():
                raise Cancelled

        def left_out(sentence: str) -> None:
            session.say(sentence, note=len(session.notes) < 2 * NOTES)

        dataset.from_pictures(components, found.folder, found.entries, into, side, report, left_out)
    if main:
        session.run.update(drawings=into.name)  # they go when the last run that uses them is deleted
    if world > 1:
        torch.distributed.barrier()
    return dataset.read(into)


@torch.no_grad()
def encoded(components: Components, captions: list[str]) -> torch.Tensor:
    """(captions, tokens, dim), as the engine encodes prompts."""
    return text.encode(components, captions, [""] * len(captions)).positive.clone()


def predict(
    components: Components, net: ControlNetModel, z_t: torch.Tensor, t: torch.Tensor, states: torch.Tensor,
    lines: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The UNet's output with the control network's help (2302.05543, equation 4)."""
    down, middle = net(z_t, t, encoder_hidden_states=states, controlnet_cond=lines, return_dict=False)
    return components.unet(
        z_t,
        t,
        encoder_hidden_states=states,
        down_block_additional_residuals=[each.to(z_t.dtype) for each in down],
        mid_block_additional_residual=middle.to(z_t.dtype),
        return_dict=False,
    )[0]


def weights_of(stuff: dataset.Drawings, rows: list[int]) -> torch.Tensor:
    """Loss weights that broadcast over (batch, c, h, w)."""
    weights = torch.ones(len(rows), 1, 1, 1)
    if stuff.weight is not None:
        weights = weights * stuff.weight[rows].float()
    if stuff.channels is not None:
        weights = weights * stuff.channels.float().view(1, -1, 1, 1)
    return weights


def measured_kind(stuff: dataset.Drawings, place: int) -> int:
    """Which control image is measured and drawn with: in turns, but people's own drawings and not the edges beside."""
    return place % stuff.kinds if stuff.kinds > 2 else stuff.kinds - 1


@torch.no_grad()
def look(
    session: Session, spec: ControlRunSpec, components: Components, net: ControlNetModel, stuff: dataset.Drawings,
    count: int, alphas: torch.Tensor, kind: diffusion.Prediction, step: int,
) -> dict[str, float]:  # fmt: skip
    """The loss on pictures that were held out, with their drawing and without any; and a sheet of samples.

    No loss where nothing was held out: a few pictures of one's own are all trained on.
    """
    net.eval()
    rows = list(range(count, len(stuff)))
    sums = {"held_out": 0.0, "held_out_without": 0.0} if rows else {}
    for start in range(0, len(rows), 8):
        part = rows[start : start + 8]
        generator = steps.generator(spec.seed, "look", start)
        t = ((torch.arange(len(part)) + 0.5) / len(part) * len(alphas)).long().to(alphas.device)
        z_0 = stuff.latents[part].float().to(alphas.device)
        epsilon = torch.randn(z_0.shape, generator=generator).to(alphas.device)
        z_t = diffusion.add_noise(z_0, epsilon, t, alphas)
        lines = stuff.controls(part, [measured_kind(stuff, k) for k in range(len(part))]).to(alphas.device)
        states = encoded(components, [stuff.captions[row][0] for row in part])
        target = diffusion.target(z_0, epsilon, t, alphas, kind)
        plain = components.unet(z_t.to(components.dtype), t, encoder_hidden_states=states, return_dict=False)[0]
        for name, said in (
            ("held_out", predict(components, net, z_t.to(components.dtype), t, states, lines)),
            ("held_out_without", plain),
        ):
            sums[name] += float((said.float() - target).square().mean()) * len(part) / len(rows)
    sheet(session.run, spec, components, net, stuff, (rows or list(range(len(stuff))))[:SAMPLES], step)
    net.train()
    return {name: round(value, 5) for name, value in sums.items()}


def sheet(
    run: RunDir, spec: ControlRunSpec, components: Components, net: ControlNetModel, stuff: dataset.Drawings,
    rows: list[int], step: int,
) -> None:  # fmt: skip
    """Above the control images, below what is drawn from them; the same seeds every time."""
    lines = stuff.controls(rows, [measured_kind(stuff, k) for k in range(len(rows))])
    height, width = (side // components.factor * components.factor for side in lines.shape[2:])
    generators = sampling.generators([spec.seed + k for k in range(len(rows))])
    scheduler = sampling.make_scheduler(components.info.sampler, components.scheduler_config)
    timesteps = sampling.set_timesteps(scheduler, min(15, components.info.steps), components.device)
    begin = sampling.start_latents(scheduler, sampling.noise(components, generators, width, height), timesteps)
    conditioning = text.encode(components, [stuff.captions[row][0] for row in rows], [""] * len(rows))
    clean = sampling.denoise(
        components, scheduler, begin, conditioning, components.info.guidance, generators, timesteps=timesteps,
        control=sampling.Control(net, lines, FULLY, 0.0, 1.0, "both", **components.info.control),
    )  # fmt: skip
    drawn = pictures.decode(components, clean)
    whole = Image.new("RGB", (width * len(rows), 2 * height))
    for k, picture in enumerate(drawn):
        shown = (lines[k].permute(1, 2, 0) * 255).byte().numpy()
        whole.paste(Image.fromarray(np.ascontiguousarray(shown)), (k * width, 0))
        whole.paste(picture, (k * width, height))
    run.samples.mkdir(exist_ok=True)
    whole.save(run.samples / f"step-{step:06d}.png")


def export(run: RunDir, spec: ControlRunSpec, net: ControlNetModel) -> Path:
    """`adapter/controlnet/`, a diffusers folder in half precision: to be given as `ControlSpec.model`."""
    fresh, final = run.adapter / "controlnet.tmp", run.adapter / "controlnet"
    shutil.rmtree(fresh, ignore_errors=True)
    # without the place where this machine had what it was gone on from
    small = ControlNetModel.from_config({key: value for key, value in net.config.items() if not key.startswith("_")})
    small.load_state_dict(net.state_dict())
    small.half().save_pretrained(fresh, safe_serialization=True)
    if spec.license:
        (fresh / "LICENSE.txt").write_text(spec.license + "\n", encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    os.rename(fresh, final)
    return final


def main(path: Path) -> None:
    with attend(path, main=int(os.environ.get("RANK", "0")) == 0) as session:
        spec = session.run.spec()
        if not isinstance(spec, ControlRunSpec):
            raise NotFound(f"Run {session.run.id} doesn't train a ControlNet.")
        train(session, spec)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
