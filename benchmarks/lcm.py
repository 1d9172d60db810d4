"""The fast path against the model's own best and against DPM++ 2M at as few steps: accuracy, Frechet distance, time.

`run` measures the embedded model; `python -m benchmarks.lcm --model X --pictures 500` any other one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from studio.core.errors import BadInput
from studio.core.settings import Settings
from studio.engine.diffusion import latents, sampling
from studio.engine.engine import load
from studio.engine.models.adapters import attached
from studio.engine.models.catalogue import resolve
from studio.engine.models.components import Components
from studio.evaluation.metrics import wilson_interval
from studio.training.distill import prompts
from studio.training.distill.curve import STEPS, Evaluator

BEST_STEPS = 25  # DPM++ 2M with guidance: the teacher at its best


def run(quick: bool) -> dict[str, Any]:
    """The embedded model; needs its fast adapter and its judge."""
    return measure("embedded", 40 if quick else 500)


def measure(reference: str, pictures: int, strips: Path | None = None) -> dict[str, Any]:
    """All rows, and the four comparisons that the fast path has to win. Raises BadInput without fast path or judge."""
    info = resolve(reference, Settings())
    if info.fast is None or info.judge is None:
        raise BadInput(f"{info.title} has no fast adapter or no judge: there is nothing to compare.")
    components = load(replace(info, steps=BEST_STEPS), Settings())
    with tempfile.TemporaryDirectory() as folder:
        evaluator = Evaluator(components, prompts.measuring(pictures), Path(folder), strips or Path(folder) / "strips")
        teacher, *solver = evaluator.baseline(components.unet)
        with attached(components, fast=info.fast.adapter):
            student = [
                evaluator.measure(
                    "student", components.unet, info.fast.sampler, count, info.fast.guidance, f"student-{count}"
                )
                for count in STEPS
            ]
    fast = next(row for row in student if row.steps == info.fast.steps)
    same = next(row for row in solver if row.steps == info.fast.steps)
    assert fast.emotion is not None
    assert fast.frechet is not None
    assert same.emotion is not None
    assert same.frechet is not None
    assert teacher.emotion is not None
    whole = {name: one_picture(components, info, name) for name in ("fast", "best")}
    return {
        "pictures": pictures,
        "rows": {f"{row.who}-{row.steps}": asdict(row) for row in [teacher, *solver, *student]},
        "emotion_of_teacher": fast.emotion / max(teacher.emotion, 1e-9),
        "emotion_interval": wilson_interval(round(fast.emotion * pictures), pictures),
        "emotion_over_solver": fast.emotion - same.emotion,
        "frechet_of_solver": fast.frechet / max(same.frechet, 1e-9),
        "sampling_times_faster": teacher.seconds / fast.seconds,
        "whole_seconds": whole,
        "whole_times_faster": whole["best"] / whole["fast"],
    }


def one_picture(components: Components, info: Any, path: str, repeats: int = 3) -> float:
    """Seconds of one picture from prompt to pixels, the best of `repeats`; `path` is "fast" or "best"."""
    side, seconds = info.native_size, []
    how: Any = info.fast if path == "fast" else info
    steps = how.steps if path == "fast" else BEST_STEPS
    for _ in range(repeats):
        components.text_cache.clear()
        began = time.perf_counter()
        # The adapter is attached outside of the clock: it is, in a session of drawing.
        clean = sampling.sample_latents(
            components, ["1girl, happy, casual style"], [0], sampler=how.sampler, steps=steps, guidance=how.guidance,
            size=(side, side),
        )  # fmt: skip
        latents.decode(components, clean)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--strips", type=Path, help="keep the first pictures of every row there")
    args = parser.parse_args()
    result = json.dumps(measure(args.model, args.pictures, args.strips), indent=1)
    if args.out is not None:
        args.out.write_text(result + "\n")
    print(result)
