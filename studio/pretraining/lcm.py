"""The embedded model's few-step adapter: painted characters and captions, then the distillation that people can start.

`pictures/` is a data folder like anybody's, drawn from the painted shards; `run/` is a run of
`studio.training.distill.train`, begun, or gone on with where it was; `lcm_lora/` its best weights in half precision,
for `studio.pretraining.assemble`.
Knows shards and run folders, not how anything is distilled.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from studio.core.specs import LcmSpec
from studio.pretraining import HELD_OUT
from studio.pretraining.captions import caption
from studio.pretraining.parallel import train_run
from studio.training.distill.curve import FAST_STEPS
from studio.training.distill.result import SAMPLERS

FILE = "pytorch_lora_weights.safetensors"
NUMBERS = 3_500_000  # that are shipped of the 6.2 million of rank 64: fewer change the pictures, more only the size
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


def write_pictures(data: Path, into: Path, limit: int) -> int:
    """`limit` training drawings of every shard of `data` as PNG files, each with a caption beside it; how many."""
    into.mkdir(parents=True, exist_ok=True)
    count = 0
    for labels in sorted(data.glob("m*.json")):
        number = labels.stem[1:]
        metas = json.loads(labels.read_text(encoding="utf-8"))[:-HELD_OUT][:limit]
        painted = np.load(data / f"p{number}.npy", mmap_mode="r")
        rng = random.Random(f"lcm {number}")
        for i, meta in enumerate(metas):
            said = caption(meta["tags"], meta, rng)
            (into / f"{number}-{i:04d}.txt").write_text(said + "\n", encoding="utf-8")
            picture = into / f"{number}-{i:04d}.png"
            if not picture.exists():
                Image.fromarray(painted[i]).save(picture, compress_level=1)
            count += 1
    return count


def wins(curve: dict[str, Any]) -> bool:
    """Whether the best checkpoint of a run's `curve.json` beats DPM++ 2M at as few steps, in emotion and Frechet."""
    best = next((point for point in curve["checkpoints"] if point["name"] == curve["best"]), None)
    if best is None:
        return False
    student = next(row for row in best["rows"] if row["steps"] == FAST_STEPS)
    solver = next(row for row in curve["baseline"] if row["who"] == "dpmpp_2m" and row["steps"] == FAST_STEPS)
    return bool(student["emotion"] >= solver["emotion"] and student["frechet"] < solver["frechet"])


def shortened(tensors: dict[str, torch.Tensor], numbers: int) -> dict[str, torch.Tensor]:
    """The same LoRA in at most `numbers` numbers: of all its layers' singular values the smallest are left out.

    Every layer keeps at least rank 1; ranks may differ between layers afterwards. alpha = rank, as before.
    """
    layers = {name.removesuffix(DOWN): (tensors[name.removesuffix(DOWN) + UP], t)
              for name, t in tensors.items() if name.endswith(DOWN)}  # fmt: skip
    parts: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
    values: list[tuple[float, str, int]] = []  # (singular value, layer, numbers that its rank takes)
    for name, (up, down) in layers.items():
        u, s, v = torch.linalg.svd(up.double().flatten(1) @ down.double().flatten(1), full_matrices=False)
        rank = min(len(s), down.shape[0])
        parts[name] = u[:, :rank], s[:rank], v[:rank]
        values += [(float(value), name, up.shape[0] + down[0].numel()) for value in s[1:rank]]
    ranks = dict.fromkeys(layers, 1)
    room = numbers - sum(up.shape[0] + down[0].numel() for up, down in layers.values())
    for _, name, cost in sorted(values, reverse=True):
        if cost > room:
            break
        ranks[name] += 1
        room -= cost
    found: dict[str, torch.Tensor] = {}
    for name, (up, down) in layers.items():
        rank, (u, s, v) = ranks[name], parts[name]
        root = s[:rank].sqrt()
        found[name + UP] = (u[:, :rank] * root).view(-1, rank, *up.shape[2:]).to(up.dtype)
        found[name + DOWN] = (root[:, None] * v[:rank]).view(rank, *down.shape[1:]).to(down.dtype)
    return found


def ship(run: Path, folder: Path) -> Path | None:
    """The diffusers file of a finished run in half precision, with what was asked and measured beside it.

    None, and no `folder`, where the adapter loses to a solver that needs no training: such a one isn't worth shipping.
    """
    curve = json.loads((run / "curve.json").read_text(encoding="utf-8"))
    if not wins(curve):
        shutil.rmtree(folder, ignore_errors=True)
        return None
    tensors = shortened(load_file(run / "adapter" / "diffusers" / FILE), NUMBERS)
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / FILE
    save_file({name: t.to(torch.float16).contiguous() for name, t in tensors.items()}, out, metadata={"format": "pt"})
    spec = json.loads((run / "spec.json").read_text(encoding="utf-8"))
    spec = {name: value for name, value in spec.items() if name not in ("data", "model")}  # paths of this machine
    best = next(point for point in curve["checkpoints"] if point["name"] == curve["best"])
    fast = {"steps": FAST_STEPS, "guidance": 1.0, "sampler": SAMPLERS[spec["objective"]]}
    about = {"fast": fast, "spec": spec, "baseline": curve["baseline"], "best": best}
    (folder / "distilled.json").write_text(json.dumps(about, indent=1) + "\n")
    return out


def run_spec(args: argparse.Namespace) -> LcmSpec:
    """The run that `--steps` and its neighbours ask for."""
    data = str((args.out / "pictures").resolve()) if args.data else None
    return LcmSpec(
        name="embedded-lcm", model=str(args.model.resolve()), data=data, objective=args.objective, rank=args.rank,
        learning_rate=args.rate, batch_size=args.batch * args.processes, epochs=args.looks,
        steps_per_epoch=max(1, args.steps // args.looks), checkpoint_epochs=1, checkpoint_minutes=args.save_minutes,
        time_limit_minutes=args.minutes, ema_decay=args.ema, curve_pictures=args.pictures, loss=args.loss,
        huber_c=args.huber_c, w_min=args.w_min, w_max=args.w_max, patience=args.looks,
        exact_target_share=args.exact_target_share, dmd_share=args.dmd_share,
    )  # fmt: skip


def cli() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for `pictures/`, `run/` and `lcm_lora/`")
    parser.add_argument("--model", type=Path, required=True, help="the assembled model")
    parser.add_argument("--data", type=Path, help="folder of painted shards; without it the teacher draws its own data")
    parser.add_argument("--limit", type=int, default=600, help="drawings of each shard")
    parser.add_argument("--objective", choices=("lcm", "tcd", "pcm", "dmd"), default="dmd")
    parser.add_argument(
        "--exact-target-share", "--finish", type=float, default=0.25, help="share of the steps with exact targets"
    )
    parser.add_argument(
        "--dmd-share", "--match", type=float, default=0.05, help="dmd: last share, with distribution matching"
    )
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-4, help="from 5e-4 on the student unlearns to draw")
    parser.add_argument("--batch", type=int, default=8, help="pictures per process")
    parser.add_argument("--w-min", type=float, help="guidance learnt, in the paper's form (without: the model's range)")
    parser.add_argument("--w-max", type=float)
    parser.add_argument("--loss", choices=("l2", "huber"), default="huber")
    parser.add_argument("--huber-c", type=float, default=1e-3)
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--steps", type=int, default=4400)
    parser.add_argument("--looks", type=int, default=8, help="how often it is measured and kept on the way")
    parser.add_argument("--pictures", type=int, default=60, help="drawn for each point of the curve")
    parser.add_argument("--minutes", type=float, help="end by then, saved and exported")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--save-minutes", type=float, default=5)
    args = parser.parse_args()
    if args.data is not None:
        print(f"{write_pictures(args.data, args.out / 'pictures', args.limit)} pictures", flush=True)
    code = train_run(args.out / "run", run_spec(args), args.processes, port=29538)
    if code == 0:
        made = ship(args.out / "run", args.out / "lcm_lora")
        print(made or f"Not shipped: DPM++ 2M draws better in {FAST_STEPS} steps without it.")
    sys.exit(code)


if __name__ == "__main__":
    cli()
