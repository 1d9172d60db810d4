"""Train the embedded model's UNet (v-prediction, 2202.00512) on the latents of painted characters and their captions.

Several one-threaded processes average their gradients. State is saved every few minutes and training goes on from it.
Knows latents, captions and where the face is; not how anything is drawn, and the judge only to report.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from studio.engine.diffusion.conditioning import Conditioning
from studio.engine.diffusion.denoiser import Denoiser
from studio.engine.diffusion.parameterization import add_noise, from_x0_and_epsilon
from studio.engine.diffusion.sampling import sample
from studio.evaluation.judge import Judge
from studio.pretraining import HELD_OUT  # their captions are the evaluation's prompts
from studio.pretraining import latents as latent_files
from studio.pretraining.captions import caption
from studio.pretraining.judge import factors
from studio.pretraining.parallel import agree, average_gradients, launch
from studio.pretraining.state import load_state, optimizer_tensors, restore_optimizer, save_state
from studio.pretraining.text_tower import WIDTH, tokens

CHANNELS = (64, 128, 192)
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FACE_WEIGHT, IRIS_WEIGHT = 3.0, 8.0  # of brows, eyes and mouth, and of the irises: few cells that must be right
GUIDANCE, STEPS = 3.0, 15  # of the pictures drawn for evaluation


def new_unet(latent_channels: int = 16) -> UNet2DConditionModel:
    """SD's UNet, small: three levels, cross attention on all, pooled text in the time embedding, silent first."""
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=WIDTH,
        attention_head_dim=tuple(width // 32 for width in CHANNELS),
        norm_num_groups=16,
        addition_embed_type="text",
        resnet_time_scale_shift="scale_shift",
    )
    for name, module in unet.named_modules():
        if name.endswith((".conv2", "proj_out")) or name == "conv_out":
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return unet


def quicken(unet: UNet2DConditionModel) -> None:
    """Make training under bf16 autocast as fast as a processor allows, 1.6 times fp32 where AVX512 knows bf16.

    Attention in plain products, whose backward is quick in bf16 where the fused kernel's is slow; norms in fp32.
    """
    unet.set_attn_processor(AttnProcessor())
    for module in unet.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))


def mean_of(models: list[Any], shares: list[float] | None) -> Any:
    """The first of `models` (one architecture, trained from one start) with all their weights averaged, in fp32.

    `shares` sum to 1, equal by default. Averages of what was trained apart are often better than each (2203.05482).
    """
    shares = shares or [1 / len(models)] * len(models)
    if len(shares) != len(models) or not math.isclose(sum(shares), 1):
        raise SystemExit("--shares takes a number for each folder of --init; they sum to 1.")
    first = models[0].float()
    states = [model.float().state_dict() for model in models]
    first.load_state_dict({n: sum(w * s[n] for w, s in zip(shares, states, strict=True)) for n in states[0]})
    return first


def face_weights(meta: dict[str, Any], side: int = 16) -> torch.Tensor:
    """Weight of each latent cell in the loss, (side, side), mean 1: brows, eyes and mouth count more, irises most.

    The painter's head transform, inverted: canvas of 512 units, head scaled by 1.2 `scale` and tilted about (0, 110).
    """
    centre = (torch.arange(side) + 0.5) * 512 / side
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    scale = 1.2 * meta["scale"]
    x, y = (x - 256 - meta["dx"] * 512) / scale, (y - 260 - meta["dy"] * 512) / scale - 110
    angle = math.radians(-meta["tilt"])
    x, y = x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle) + 110
    x = x - meta["turn"] * 28
    eyes = ((x.abs() - 49).abs() < 46) & (y > -62) & (y < 50)
    mouth = (x.abs() < 46) & (y > 42) & (y < 96)
    irises = ((x.abs() - 49).abs() < 27) & ((y - 8).abs() < 36)
    weights = torch.where(eyes | mouth, FACE_WEIGHT, 1.0)
    weights = torch.where(irises, IRIS_WEIGHT, weights)
    return weights / weights.mean()


def velocity(clean: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Noised latents and the v target sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) clean (2202.00512, section 4)."""
    alpha, sigma = (each.sqrt().view(-1, 1, 1, 1) for each in (alpha_bar, 1 - alpha_bar))
    v = from_x0_and_epsilon(clean, noise, alpha, sigma, "v_prediction")
    return add_noise(clean, noise, alpha, sigma), v


@torch.no_grad()
def draw(
    unet: UNet2DConditionModel,
    tower: CLIPTextModel,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    prompts: list[str],
    seed: int,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> torch.Tensor:
    """Pictures (n, 3, 256, 256) in -1..1 for the prompts: DPM++ 2M with classifier-free guidance (2207.12598)."""
    generator = torch.Generator().manual_seed(seed)
    pixels = []
    for i in range(0, len(prompts), 10):
        part = prompts[i : i + 10]
        scheduler = DPMSolverMultistepScheduler(
            **SCHEDULE, prediction_type="v_prediction", algorithm_type="dpmsolver++", timestep_spacing="linspace"
        )
        scheduler.set_timesteps(steps)
        text = Conditioning(tower(tokens(tokenizer, [*part, ""])).last_hidden_state)
        denoiser = Denoiser(unet, text[: len(part)], text[len(part) :], guidance)
        noise = torch.randn(len(part), unet.config.in_channels, 16, 16, generator=generator)
        pixels.append(vae.decode(sample(denoiser, scheduler, noise, scheduler.timesteps, [])).sample)
    return torch.cat(pixels)


def sheet(pictures: torch.Tensor, path: Path, columns: int = 8) -> None:
    """Save pictures (n, 3, h, w) in -1..1 as one contact sheet at half size."""
    small = torch.nn.functional.avg_pool2d(pictures.clamp(-1, 1), 2)
    x = ((small + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    rows = [torch.cat(list(x[i : i + columns]), 1) for i in range(0, len(x) - columns + 1, columns)]
    Image.fromarray(torch.cat(rows, 0).numpy()).save(path)


def networks(args: argparse.Namespace, latent_channels: int) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """UNet and text tower: the tower and the pooling come pre-trained, or everything from an earlier model."""
    if args.init:
        unet = mean_of([UNet2DConditionModel.from_pretrained(f / "unet") for f in args.init], args.shares)
        tower = mean_of([CLIPTextModel.from_pretrained(f / "text_encoder") for f in args.init], args.shares)
    else:
        unet = new_unet(latent_channels)
        unet.add_embedding.load_state_dict(load_file(args.tower / "pooling.safetensors"))
        tower = CLIPTextModel.from_pretrained(args.tower / "text_encoder")
    if args.bf16:
        quicken(unet)
    return unet.to(memory_format=torch.channels_last).train(), tower.train()


def main(rank: int, world: int, args: argparse.Namespace) -> None:
    # 1. latents, captions' raw material, the loss's weights
    shards = latent_files.load(args.latents)
    latents, metas, held = [], [], []
    for number, shard in shards.items():
        rows = json.loads((args.data / f"m{number}.json").read_text(encoding="utf-8"))
        latents.append(shard[:-HELD_OUT])
        metas += rows[:-HELD_OUT]
        held += rows[-HELD_OUT:]
    z = torch.cat(latents)
    easy = torch.tensor([m["tilt"] == 0 and m["turn"] == 0 for m in metas])
    channels = torch.tensor(json.loads((args.latents / "channels.json").read_text(encoding="utf-8"))["weights"]).view(
        1, -1, 1, 1
    )
    face = torch.stack([face_weights(m) for m in metas]).half()
    tokenizer = CLIPTokenizer.from_pretrained(args.tokenizer)
    rng = random.Random(args.seed * 1000 + rank)
    torch.manual_seed(args.seed * 1000 + rank)

    # 2. networks
    unet, tower = networks(args, z.shape[1])
    named = [("unet." + n, p) for n, p in unet.named_parameters()]
    named += [("text_encoder." + n, p) for n, p in tower.named_parameters()]
    parameters = [p for _, p in named]
    average = [p.detach().clone() for p in parameters]
    text_rate = 0.3  # the tower already knows its job
    optimizer = torch.optim.AdamW(
        [{"params": list(unet.parameters()), "factor": 1.0}, {"params": list(tower.parameters()), "factor": text_rate}],
        lr=args.rate, betas=(0.9, 0.99), weight_decay=1e-2, foreach=True,
    )  # fmt: skip
    step, spent, seen = 0, 0.0, 0
    found = load_state(args.out / "state")
    if found:
        tensors, meta = found
        with torch.no_grad():
            for (name, p), mean in zip(named, average, strict=True):
                p.copy_(tensors[f"model.{name}"])
                mean.copy_(tensors[f"ema.{name}"])
        restore_optimizer(optimizer, tensors)
        step, spent, seen = meta["step"], meta["seconds"], meta["seen"]
        rng = random.Random(f"{args.seed} {rank} {step}")
        torch.manual_seed(args.seed * 1000 + rank + step * 7919)
    alphas = DPMSolverMultistepScheduler(**SCHEDULE).alphas_cumprod

    def save() -> None:
        tensors = {f"model.{n}": p for n, p in named}
        tensors |= {f"ema.{n}": mean for (n, _), mean in zip(named, average, strict=True)}
        save_state(
            args.out / "state", tensors | optimizer_tensors(optimizer), {"step": step, "seconds": spent, "seen": seen}
        )

    @torch.no_grad()
    def evaluate() -> None:
        live = [p.detach().clone() for p in parameters]
        for p, mean in zip(parameters, average, strict=True):
            p.copy_(mean)
        unet.eval(), tower.eval()
        if rank == 0:
            unet.save_pretrained(args.out / "unet")
            tower.save_pretrained(args.out / "text_encoder")
        vae = AutoencoderKL.from_pretrained(args.latents / "vae").eval().to(memory_format=torch.channels_last)
        judge = Judge.load(args.judge)
        chosen = random.Random(rank).sample(held, args.pictures)
        writer = random.Random(99)
        prompts = [
            ", ".join(m["tags"]) if i % 2 else caption(m["tags"], m, writer) or ", ".join(m["tags"])
            for i, m in enumerate(chosen)
        ]
        pictures = draw(unet, tower, vae, tokenizer, prompts, seed=rank)
        verdict, truth = judge(pictures), factors(chosen)
        names = sorted(judge.values)
        hits = torch.tensor([sum(v == row[n] for v, row in zip(verdict.labels[n], truth, strict=True)) for n in names])
        hits = hits.float()
        if world > 1:
            torch.distributed.all_reduce(hits)
        hits /= args.pictures * world
        if rank == 0:
            sheet(pictures, args.out / f"sheet-{seen:07d}.png")
            report = {n: round(float(h), 2) for n, h in zip(names, hits, strict=True)}
            print(f"seen {seen}: {json.dumps(report)}", flush=True)
        for p, kept in zip(parameters, live, strict=True):
            p.copy_(kept)
        unet.train(), tower.train()

    # 3. the loop
    start, started_at, paused, last_log, run = time.time(), spent, 0.0, time.time(), 0.0
    next_save, next_look = spent + args.save_minutes * 60, spent + args.look_minutes * 60
    easy_rows, all_rows = easy.nonzero().flatten().tolist(), list(range(len(metas)))
    while True:
        elapsed = agree(started_at + time.time() - start - paused, world)
        share = elapsed / (args.minutes * 60)
        if share >= 1:
            break
        spent = elapsed
        rate = args.rate * min(1, (step + 1) / 100) * min(1, 0.02 + (1 - share) / args.decay)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        # centred characters first, then more and more of everything
        pool = easy_rows if easy_rows and rng.random() < max(0.15, 1 - share / 0.5) else all_rows
        rows = [pool[rng.randrange(len(pool))] for _ in range(args.batch)]
        clean = z[rows].float().contiguous(memory_format=torch.channels_last)
        texts = [caption(metas[i]["tags"], metas[i], rng) for i in rows]
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            states = Conditioning(tower(tokens(tokenizer, texts)).last_hidden_state)
        t = ((torch.arange(args.batch) + torch.rand(args.batch)) / args.batch * 1000).long().clamp(0, 999)
        noised, v = velocity(clean, torch.randn_like(clean), alphas[t])
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            output = Denoiser(unet, states)(noised, t)
        error = (output.float() - v).square()
        loss = (error * channels * face[rows][:, None].float()).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(parameters, world)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        seen += args.batch * world
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - min(args.ema, (step + 1) / (step + 20)))
        run = loss.item() if run == 0 else 0.98 * run + 0.02 * loss.item()
        if rank == 0 and time.time() - last_log > 60:
            speed = seen / max(1, elapsed)
            print(
                f"{elapsed / 60:.1f} min, step {step}, seen {seen}, {speed:.1f}/s, loss {run:.4f}, rate {rate:.1e}",
                flush=True,
            )
            last_log = time.time()
        if elapsed >= next_look:
            next_look = elapsed + args.look_minutes * 60
            at = time.time()
            evaluate()
            paused += time.time() - at
        if elapsed >= next_save:
            next_save = elapsed + args.save_minutes * 60
            if rank == 0:
                save()
    if rank == 0:
        save()
    evaluate()


def cli() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of painted shards (their m*.json)")
    parser.add_argument("--latents", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--tower", type=Path, required=True, help="pre-trained text tower and pooling")
    parser.add_argument("--judge", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, nargs="+", help="model folders to go on from, averaged, not a fresh UNet")
    parser.add_argument("--shares", type=float, nargs="+", help="of each of them in the average; equal by default")
    parser.add_argument("--minutes", type=float, default=120, help="total training time, resumed sessions included")
    parser.add_argument("--decay", type=float, default=0.3, help="last share of the time over which the rate falls")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--ema", type=float, default=0.998, help="how slowly the averaged weights follow")
    parser.add_argument("--bf16", action="store_true", help="compute in bf16, weights in fp32")
    parser.add_argument("--batch", type=int, default=10, help="pictures per process")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=24, help="drawn per process at each look")
    parser.add_argument("--look-minutes", type=float, default=8)
    parser.add_argument("--save-minutes", type=float, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    launch(main, args, args.processes, port=29535)


if __name__ == "__main__":
    cli()
