"""Train the embedded model's autoencoder: 256 px drawings to 16x16 latents of 16 channels (AutoencoderKL, 2112.10752).

Knows drawings, not captions. The encoder is frozen by `--freeze-encoder` once latents are in use downstream; the
decoder may then go on improving without touching anything trained on those latents.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image

from studio.pretraining import HELD_OUT
from studio.pretraining.linear_start import start
from studio.pretraining.parallel import agree, average_gradients, launch
from studio.pretraining.state import load_state, optimizer_tensors, restore_optimizer, save_state

CHANNELS = (16, 24, 48, 112, 160)  # 256, 128, 64, 32, 16 px: the cheap deep levels carry the capacity
LATENT_CHANNELS = 16
MEASURED = 40  # of the held-out drawings of the first and of the last shard


def new_vae() -> AutoencoderKL:
    """An AutoencoderKL that starts near the identity: a random start stays monochrome for most of the budget.

    Residual branches are silent (conv2 = 0), downsampling averages 2x2, upsampling copies, and the posterior is quiet
    (log variance -5), so the first gradients already concern colours and shapes.
    """
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(CHANNELS),
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=2,  # more groups hide the colour of flat areas from the layer after them
        sample_size=256,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )
    with torch.no_grad():
        for name, module in vae.named_modules():
            if not isinstance(module, torch.nn.Conv2d):
                continue
            if name.endswith(".conv2"):
                module.weight.zero_()
                module.bias.zero_()
            elif "downsamplers" in name:
                module.weight.mul_(0.3)
                module.bias.zero_()
                for i in range(module.weight.shape[0]):
                    module.weight[i, i, :2, :2] += 0.25
            elif "upsamplers" in name:
                module.weight.mul_(0.3)
                module.bias.zero_()
                for i in range(module.weight.shape[0]):
                    module.weight[i, i, 1, 1] += 1
            elif module.kernel_size == (1, 1) or name.endswith(("conv_in", "conv_out")):
                fan_in = module.in_channels * module.kernel_size[0] ** 2
                torch.nn.init.normal_(module.weight, 0, fan_in**-0.5)
                module.bias.zero_()
        vae.quant_conv.weight[LATENT_CHANNELS:] = 0
        vae.quant_conv.bias[LATENT_CHANNELS:] = -5
    return vae


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(y: torch.Tensor, x: torch.Tensor, sharpness: float) -> torch.Tensor:
    """L1 + MSE, gradients at three scales (crisp lines), and 8x8 averages (flat colours). Inputs (batch, 3, h, w)."""
    d = y - x
    loss = d.abs().mean() + 0.5 * d.square().mean() + 2 * F.avg_pool2d(d, 8).square().mean()
    gradient = torch.zeros(())
    for _ in range(3):
        dx, dy = edges(d)
        gradient = gradient + dx.abs().mean() + dy.abs().mean()
        d = F.avg_pool2d(d, 2)
    return loss + sharpness * gradient / 3


def psnr(y: torch.Tensor, x: torch.Tensor) -> float:
    """Mean peak signal-to-noise ratio in dB over the batch; both in -1..1."""
    mse = ((y.clamp(-1, 1) - x) / 2).square().mean((1, 2, 3))
    return float((-10 * torch.log10(mse)).mean())


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (n, h, w, 3) to float (n, 3, h, w) in -1..1, channels last."""
    x = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return x.contiguous(memory_format=torch.channels_last)


def random_crop(picture: np.ndarray, side: int, halves: float, rng: np.random.Generator) -> np.ndarray:
    """A crop (side, side, 3) of a picture (256, 256, 3), uint8, mirrored half the time; more often around the face.

    A share `halves` is the whole picture at half its size: structure first.
    """
    if side == 256:
        crop = picture
    elif halves and rng.random() < halves:
        crop = picture.reshape(128, 2, 128, 2, 3).mean((1, 3)).astype(np.uint8)
    elif rng.random() < 0.4:  # the face
        top, left = rng.integers(40, 110), rng.integers(32, 97)
        crop = picture[top : top + side, left : left + side]
    else:
        top, left = rng.integers(0, 257 - side, 2)
        crop = picture[top : top + side, left : left + side]
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def some_crops(shards: list[np.ndarray], count: int, side: int, halves: float, rng: np.random.Generator) -> np.ndarray:
    """`count` crops (count, side, side, 3) of drawings that aren't held out; `halves` as in `random_crop`."""
    crops = np.empty((count, side, side, 3), np.uint8)
    for crop in crops:
        shard = shards[rng.integers(len(shards))]
        crop[:] = random_crop(shard[rng.integers(len(shard) - HELD_OUT)], side, halves, rng)
    return crops


def main(rank: int, world: int, args: argparse.Namespace) -> None:
    # 1. data: memory-mapped shards (n, 256, 256, 3) uint8
    shards = [np.load(p, mmap_mode="r") for p in sorted(args.data.glob("p*.npy"))]
    held = np.concatenate([s[-MEASURED:] for s in (shards[0], shards[-1])])
    rng = np.random.default_rng(args.seed * 1000 + rank)
    torch.manual_seed(args.seed * 1000 + rank)

    # 2. model, optimiser, and what an earlier session left
    vae = new_vae()
    names = [n for n, _ in vae.named_parameters()]
    if not (args.out / "state").exists():
        vae = AutoencoderKL.from_pretrained(args.init or args.out / "start")
    trained = [
        (n, p)
        for n, p in vae.named_parameters()
        if not (args.freeze_encoder and n.startswith(("encoder.", "quant_conv.")))
    ]
    names_trained = {n for n, _ in trained}
    for n, p in vae.named_parameters():
        p.requires_grad_(n in names_trained)
    # the encoder starts as the best linear one: what is left to learn is mostly the decoder's
    inner = [p for n, p in trained if n.startswith(("encoder.", "quant_conv."))]
    outer = [p for n, p in trained if not n.startswith(("encoder.", "quant_conv."))]
    optimizer = torch.optim.AdamW(
        [{"params": inner, "factor": args.encoder_rate}, {"params": outer, "factor": 1.0}],
        lr=args.rate, betas=(0.9, 0.99), weight_decay=1e-3, foreach=True,
    )  # fmt: skip
    vae = vae.to(memory_format=torch.channels_last)
    step, spent = 0, 0.0
    average = {n: p.detach().clone() for n, p in vae.named_parameters()}
    found = load_state(args.out / "state")
    if found:
        tensors, meta = found
        vae.load_state_dict({n: tensors[f"model.{n}"] for n in names}, strict=False)
        average = {n: tensors[f"ema.{n}"] for n in names}
        if meta["trained"] == [n for n, _ in trained]:
            restore_optimizer(optimizer, tensors)
        step, spent = meta["step"], meta["seconds"]
    parameters = [p for _, p in trained]

    def save() -> None:
        tensors = {f"model.{n}": p for n, p in vae.named_parameters()} | {f"ema.{n}": p for n, p in average.items()}
        meta = {"step": step, "seconds": spent, "trained": [n for n, _ in trained]}
        save_state(args.out / "state", tensors | optimizer_tensors(optimizer), meta)

    @torch.no_grad()
    def evaluate() -> str:
        live = {n: p.detach().clone() for n, p in vae.named_parameters()}
        for n, p in vae.named_parameters():
            p.copy_(average[n])
        scores, rows = [], []
        for i in range(0, len(held), 8):
            x = to_tensor(held[i : i + 8])
            y = vae.decode(vae.encode(x).latent_dist.mode()).sample
            scores.append(psnr(y, x))
            if i in (0, len(held) // 2):
                rows.append(
                    np.concatenate(
                        [((t.clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).byte().numpy() for t in list(x[:6])], axis=1
                    )
                )
                rows.append(
                    np.concatenate(
                        [((t.clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).byte().numpy() for t in list(y[:6])], axis=1
                    )
                )
        Image.fromarray(np.concatenate(rows)).save(args.out / "reconstructions.png")
        vae.save_pretrained(args.out / "vae")
        for n, p in vae.named_parameters():
            p.copy_(live[n])
        return f"PSNR {np.mean(scores):.2f} dB"

    bf16 = torch.autocast("cpu", torch.bfloat16, enabled=args.bf16)
    unsure = None
    if args.noise:
        weights = torch.tensor(json.loads((args.init.parent / "channels.json").read_text(encoding="utf-8"))["weights"])
        unsure = (args.noise / weights).clamp(max=0.5).view(1, -1, 1, 1)

    # 3. the loop: crops at two scales, more often around the face, whole pictures at the end
    began, last_save, run, started_at = time.time(), time.time(), 0.0, spent
    while True:
        elapsed = agree(started_at + time.time() - began, world)
        share = elapsed / (args.minutes * 60)
        if share >= 1:
            break
        spent = elapsed
        rate = args.rate * min(1, (step + 1) / 150) * min(1, 0.02 + 4 * (1 - share))  # constant, then down over 25%
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        side, batch = (256, 1) if share > 0.85 else (128, args.batch)
        x = to_tensor(some_crops(shards, batch, side, 0.0 if args.freeze_encoder else max(0.1, 0.4 - share), rng))
        with bf16:
            posterior = vae.encode(x).latent_dist
        z = posterior.sample().float()
        if args.robust:  # of the latents' own deviation, or they would only grow
            z = z + args.robust * torch.rand(batch, 1, 1, 1) * z.std((0, 2, 3), keepdim=True) * torch.randn_like(z)
        if unsure is not None:  # what a UNet will get wrong: much in the channels that move few pixels
            z = z + torch.rand(batch, 1, 1, 1) * unsure * torch.randn_like(z)
        with bf16:
            y = vae.decode(z).sample.float()
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).float().mean()
        loss = reconstruction_loss(y, x, 0.1 if share < 0.3 and not args.freeze_encoder else 1.0) + args.kl * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(parameters, world)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        decay = min(0.999, (step + 1) / (step + 20))
        with torch.no_grad():
            for n, p in trained:
                average[n].lerp_(p, 1 - decay)
        run = loss.item() if run == 0 else 0.98 * run + 0.02 * loss.item()
        if rank == 0 and time.time() - last_save > args.save_seconds:
            save()
            print(
                f"{elapsed / 60:.1f} min, step {step}, loss {run:.4f}, kl {kl.item():.2f}, rate {rate:.1e}, "
                f"{evaluate()}",
                flush=True,
            )
            last_save = time.time()
    if rank == 0:
        save()
        print("final", evaluate(), flush=True)


def cli() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of painted shards (p*.npy)")
    parser.add_argument("--out", type=Path, required=True, help="folder for state, weights and pictures")
    parser.add_argument("--minutes", type=float, default=60, help="total training time, resumed sessions included")
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--kl", type=float, default=1e-4)
    parser.add_argument("--batch", type=int, default=3, help="crops per process")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-seconds", type=float, default=120)
    parser.add_argument("--init", type=Path, default=None, help="start from these weights")
    parser.add_argument("--freeze-encoder", action="store_true")
    parser.add_argument("--encoder-rate", type=float, default=0.3, help="of the encoder, times the rate")
    parser.add_argument("--bf16", action="store_true", help="faster where the processor has it")
    parser.add_argument(
        "--robust", type=float, default=0.0,
        help="most noise on the latents, of their deviation: encoder and decoder learn a code that bears it, as 0.5",
    )  # fmt: skip
    parser.add_argument(
        "--noise", type=float, default=0.0, help="teach the decoder to read latents that are slightly wrong, as 0.15"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.init is None and not (args.out / "start").exists():
        shards = [np.load(path, mmap_mode="r") for path in sorted(args.data.glob("p*.npy"))]
        vae = new_vae()
        start(vae, to_tensor(np.concatenate([shard[: 240 // len(shards)] for shard in shards])))
        vae.save_pretrained(args.out / "start")
    launch(main, args, args.processes)


if __name__ == "__main__":
    cli()
