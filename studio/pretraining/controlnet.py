"""The embedded model's ControlNet: control images of painted characters, then the same training that people can start.

`--prepare` makes shards (see `studio.training.controlnet.dataset`) from painted ones, their latents and their painter
specs: three control images of each drawing, through the very functions that the studio shows people's drawings with.
Canny edges of the painting; its inked lines as a hand would draw them; and the same with much left out, as in a first
sketch. Without `--prepare` the run in `--out` is begun, or goes on where it was. Knows the painter, not the network.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from studio.core.errors import BadInput
from studio.core.specs import ControlRunSpec, ControlSpec
from studio.engine.media.control_images import control_image, thresholds
from studio.pretraining import HELD_OUT
from studio.pretraining.captions import caption
from studio.pretraining.painter import CharacterSpec, bend, hand_lines, line_art
from studio.pretraining.parallel import train_run
from studio.pretraining.unet import face_weights
from studio.training.controlnet import dataset

PIXELS = 256
CAPTIONS = 5  # ways to ask for each drawing; the first names every tag
MEASURED = 4  # held-out drawings of each shard that the run measures itself by
OPENING = "held"  # sorts after every number: the run holds out what comes last


def sparse(lines: np.ndarray, rng: random.Random) -> np.ndarray:
    """Control lines (height, width) uint8 of a first, quick sketch: a random share of the strokes is gone.

    Strokes are cut at the crossings of a coarse grid, so that long outlines lose parts too; short marks go more often.
    """
    share = rng.uniform(0.15, 0.7)
    cut = (lines > 60).astype(np.uint8)
    step = rng.randint(40, 90)
    for start in range(rng.randint(0, step), PIXELS, step):
        cut[start] = cut[:, start] = 0
    count, labels, stats, _ = cv2.connectedComponentsWithStats(cut, connectivity=8)
    gone = np.zeros(count, bool)
    for k in range(1, count):
        short = max(stats[k, cv2.CC_STAT_WIDTH], stats[k, cv2.CC_STAT_HEIGHT]) < 20
        gone[k] = rng.random() < (min(0.9, 1.4 * share) if short else share)
    erased = cv2.dilate(gone[labels].astype(np.uint8), np.ones((3, 3), np.uint8))
    return np.where(erased > 0, 0, lines)


def control_images(
    painted: np.ndarray, spec: CharacterSpec, paint_seed: int, rng: random.Random, bent: tuple[float, int] | None = None
) -> np.ndarray:
    """(3, 256, 256) uint8: edges, hand-drawn lines, few lines of a painted character (256, 256, 3) uint8.

    The lines tremble and break, but lie where the painting's are: `bent` says how it was bent (drift, seed). Lines that
    drifted alone would teach that a drawing needn't be followed closely.
    """
    picture = Image.fromarray(painted)
    low, high = thresholds(np.asarray(picture.convert("L")))
    factor = rng.uniform(0.7, 1.4)  # people move the sliders
    low, high = max(1, int(low * factor)), min(255, max(3, int(high * factor)))
    found = np.zeros((3, PIXELS, PIXELS), np.uint8)
    try:
        edges = control_image(picture, ControlSpec(image="painted", kind="canny", low=min(low, high - 1), high=high))
        found[0] = np.asarray(edges.convert("L"))
    except BadInput:
        pass  # too pale for these thresholds: an empty control image is what a person would get, too
    clean = line_art(spec, PIXELS, paint_seed)
    if bent is not None:
        clean = Image.fromarray(bend(np.asarray(clean.convert("L")), *bent))
    drawn = hand_lines(clean, rng, drift=False)
    found[1] = np.asarray(control_image(drawn, ControlSpec(image="drawn", kind="lines")).convert("L"))
    found[2] = sparse(found[1], rng)
    return found


def _row(meta: dict[str, Any]) -> CharacterSpec:
    fields: dict[str, Any] = {name: meta[name] for name in CharacterSpec.__dataclass_fields__}
    fields |= {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    return CharacterSpec(**fields)


def prepare_shard(data: Path, latents: Path, into: Path, number: str, limit: int | None) -> float | None:
    """Prepare one painted shard; seconds it took, None where it was there already."""
    if (into / f"{number}.json").exists():
        return None
    started = time.monotonic()
    metas = json.loads((data / f"m{number}.json").read_text(encoding="utf-8"))
    trained = len(metas) - HELD_OUT
    rows = list(range(min(trained, limit or trained)))
    painted = np.load(data / f"p{number}.npy", mmap_mode="r")
    z = load_file(latents / f"z{number}.safetensors")["latents"]
    channels = torch.tensor(json.loads((latents / "channels.json").read_text(encoding="utf-8"))["weights"])
    for name, chosen in ((OPENING + number, list(range(trained, trained + MEASURED))), (number, rows)):
        rng = random.Random(f"controlnet {name}")
        controls, captions, weights = [], [], []
        for i in chosen:
            meta = metas[i]
            controls.append(
                control_images(np.asarray(painted[i]), _row(meta), meta["paint_seed"], rng, meta.get("bent"))
            )
            captions.append([", ".join(meta["tags"])] + [caption(meta["tags"], meta, rng) for _ in range(CAPTIONS - 1)])
            weights.append(face_weights(meta, z.shape[-1])[None])
        stacked = torch.stack(weights).half()
        dataset.write(into, name, z[chosen].clone(), np.stack(controls), captions, weight=stacked, channels=channels)
    return time.monotonic() - started


def _job(args: tuple[Path, Path, Path, str, int | None]) -> tuple[str, float | None]:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    return args[3], prepare_shard(*args)


def prepare(args: argparse.Namespace) -> None:
    """Every painted shard that has its latents, or those named by `--shards`."""
    into = args.out / "drawings"
    into.mkdir(parents=True, exist_ok=True)
    there = [path.stem[1:] for path in sorted(args.latents.glob("z*.safetensors"))]
    wanted = [number for number in there if not args.shards or number in args.shards]
    if not wanted:
        raise SystemExit(f"There are no latents in {args.latents}; run studio.pretraining.latents first.")
    jobs = [(args.data, args.latents, into, number, args.limit) for number in wanted]
    with multiprocessing.get_context("spawn").Pool(min(args.processes, len(jobs))) as pool:
        for number, seconds in pool.imap_unordered(_job, jobs):
            print(f"shard {number}: " + ("there already" if seconds is None else f"{seconds:.0f} s"), flush=True)


def run_spec(args: argparse.Namespace) -> ControlRunSpec:
    """The run that `--steps` and its neighbours ask for."""
    held = len(list((args.out / "drawings").glob(f"{OPENING}*.json")))
    return ControlRunSpec(
        data=str((args.out / "drawings").resolve()), name="embedded-controlnet", model=str(args.model.resolve()),
        init=str(args.init.resolve()) if args.init else None, epochs=args.looks,
        steps_per_epoch=max(1, args.steps // args.looks), batch_size=args.batch * args.processes,
        learning_rate=args.rate, checkpoint_minutes=args.save_minutes, time_limit_minutes=args.minutes,
        held_out=MEASURED * held, noise_bias=args.noise_bias, license="CC0-1.0",
    )  # fmt: skip


def cli() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for `drawings/` and `run/`")
    parser.add_argument("--prepare", action="store_true", help="make the control images and end")
    parser.add_argument("--data", type=Path, help="folder of painted shards")
    parser.add_argument("--latents", type=Path, help="folder of their latents")
    parser.add_argument("--shards", nargs="*", help="numbers such as 100 101; all by default")
    parser.add_argument("--limit", type=int, help="at most so many drawings of each shard")
    parser.add_argument("--model", type=Path, help="the assembled model")
    parser.add_argument("--init", type=Path, help="a ControlNet to go on from instead of a copy of the UNet")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--looks", type=int, default=10, help="how often it is measured and drawn with on the way")
    parser.add_argument("--minutes", type=float, help="end by then, saved and exported")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--noise-bias", type=float, default=1.5, help="1 to 4; see ControlRunSpec")
    parser.add_argument("--batch", type=int, default=10, help="pictures per process")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--save-minutes", type=float, default=5)
    args = parser.parse_args()
    if args.prepare:
        if args.data is None or args.latents is None:
            parser.error("--prepare needs --data and --latents")
        prepare(args)
    else:
        if args.model is None:
            parser.error("training needs --model")
        sys.exit(train_run(args.out / "run", run_spec(args), args.processes, port=29537))


if __name__ == "__main__":
    cli()
