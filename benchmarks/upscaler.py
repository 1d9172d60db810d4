"""The upscaler against Lanczos: on held-out paintings, in seconds, and side by side on pictures that the model draws.

python -m studio bench --only upscaler
python -m benchmarks.upscaler --out DIR           # pairs of drawn pictures as files, Lanczos beside the network
python -m benchmarks.upscaler --weights FILE      # another file of weights
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from PIL import Image

from benchmarks.embedded import draw
from studio.core.settings import EMBEDDED_MODEL, EMBEDDED_UPSCALER, Settings
from studio.core.specs import GenerateSpec
from studio.engine.engine import Engine
from studio.engine.media import upscaling
from studio.pretraining.upscaler import measure
from studio.service import Studio

THREADS = 2
WORDS = (
    "red hair, twintails, blue eyes", "silver hair, long hair, green eyes", "black hair, glasses, serafuku",
    "1boy, brown hair, spiky hair, necktie", "pink hair, bob cut, ribbon", "blonde hair, ponytail, kimono",
)  # fmt: skip


def seconds(network: upscaling.Network, side: int, passes: int = 1) -> float:
    """The quickest of five times in which a picture is made twice as large on each side, `passes` times over."""
    picture = Image.effect_noise((side, side), 60).convert("RGB")
    spent = []
    for _ in range(6):
        began = time.perf_counter()
        upscaling.upscale(picture, network, 2**passes)
        spent.append(time.perf_counter() - began)
    return min(spent[1:])


def run(quick: bool = False, weights: Path = EMBEDDED_UPSCALER) -> dict[str, Any]:
    """PSNR in dB by what was done to the picture, seconds on two cores, and bytes of the weights."""
    network = upscaling.load(weights)
    vae = AutoencoderKL.from_pretrained(EMBEDDED_MODEL / "vae", torch_dtype=torch.float32).eval().requires_grad_(False)
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        times = {"256_to_512": seconds(network, 256), "256_to_1024": seconds(network, 256, 2)}
        psnr = measure(network, vae, 4 if quick else 24)
    finally:
        torch.set_num_threads(before)
    gains = {kind: row["network"] - row["lanczos"] for kind, row in psnr.items()}
    return {
        "psnr_db": psnr,
        "gain_db": gains | {"mean": sum(gains.values()) / len(gains)},
        "seconds_on_two_cores": times,
        "bytes": weights.stat().st_size,
    }


def pairs(out: Path, weights: Path = EMBEDDED_UPSCALER) -> None:
    """Pictures that the embedded model draws, by Lanczos and by the network, side by side at full size."""
    network = upscaling.load(weights)
    studio = Studio(Settings(home=out / "home"))
    written = [studio.as_drawn(GenerateSpec(text=words)) for words in WORDS]
    studio.close()
    drawn, _ = draw(
        Engine(Settings(preview_every=0)), [(one.positive_prompt, one.negative_prompt) for one in written], fast=True
    )
    for number, small in enumerate(drawn):
        sheet = Image.new("RGB", (1024, 512))
        sheet.paste(small.resize((512, 512), Image.Resampling.LANCZOS), (0, 0))
        sheet.paste(upscaling.upscale(small, network, 2), (512, 0))
        sheet.save(out / f"pair-{number}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="draw pictures and write pairs into this folder")
    parser.add_argument("--weights", type=Path, default=EMBEDDED_UPSCALER)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        pairs(args.out, args.weights)
    print(json.dumps(run(args.quick, args.weights), indent=1))
