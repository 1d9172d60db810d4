"""What a distillation was worth at each checkpoint, and the weights of its best one.

Writes `curve.json`, `curve/`, `samples/` and `best/` of the run's folder; each is whole or as it was before, whenever
the process is killed. Knows how a student is drawn with and measured, not how it learns or what is made of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from studio.core.specs import LcmSpec
from studio.engine.models.components import Components
from studio.runs.rundir import RunDir, write_json
from studio.training.distill import curve, prompts
from studio.training.distill.curve import FAST_STEPS
from studio.training.distill.result import SAMPLERS
from studio.training.distill.student import Student, tensors_of
from studio.training.runtime import checkpoints
from studio.training.runtime.session import Session

BEST = Path("best") / "ema.safetensors"  # in a run's folder


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


def best_of(run: RunDir) -> dict[str, Any]:
    """Name and step of the best weights of a run, {name, step}; empty where there are none that can be read."""
    try:
        with safe_open(run.path / BEST, "pt") as file:
            return dict(json.loads((file.metadata() or {})["kept"]))
    except (OSError, SafetensorError, KeyError, ValueError):
        return {}


class QualityHistory:
    """The curve of a run at each checkpoint and its best weights.

    A stop is heeded between the batches of a measurement: Cancelled is raised, and what it interrupts is not recorded.
    Of several processes one measures.
    """

    def __init__(
        self, session: Session, spec: LcmSpec, student: Student, components: Components, w_min: float, w_max: float
    ) -> None:
        self.session, self.run, self.student, self.w_min, self.w_max = session, session.run, student, w_min, w_max
        run = session.run
        self.file, self.folder = run.path / "curve.json", run.path / "curve"
        self.weights_file = run.path / BEST
        self.sampler = SAMPLERS[spec.objective]
        # A LoRA student has learnt the guidance; a full one is told it, as the pipelines' guidance_scale = w + 1.
        self.guidance = 1.0 if spec.form == "lora" else (w_min + w_max) / 2 + 1
        count = spec.curve_pictures
        if count is None:
            count = 60 if components.info.judge is not None else 4
        self.evaluator = (
            curve.Evaluator(components, prompts.measuring(count), self.folder, run.samples, session.check_stop)
            if session.main and count
            else None
        )
        self.baseline: list[curve.Row] = []
        self.points: list[dict[str, Any]] = []  # {name, step, quality, rows}

    def begin(self, step: int) -> None:
        """Measure the teacher (or read what was measured before) and forget checkpoints after `step`."""
        if self.evaluator is None:
            return
        try:
            points = json.loads(self.file.read_text(encoding="utf-8"))["checkpoints"]
            self.points = [point for point in points if point["step"] <= step]
        except (OSError, ValueError, KeyError, TypeError):
            self.points = []  # none yet, or a power cut emptied it
        if self.kept.get("step", 0) > step:  # it came after the checkpoint that the run goes on from
            shutil.rmtree(self.weights_file.parent)
        if self.points and not self.best_is_measured:
            self._find_best()
        with all_cores(), self.student.teaching() as teacher:
            self.baseline = self.evaluator.baseline(teacher)
        self.run.update(sample_prompts=[prompt.text for prompt in self.evaluator.prompts[: curve.SHOWN]])
        self._write()

    def _find_best(self) -> None:
        """Take the weights of the best point from its checkpoint, where that is still there."""
        best = max(self.points, key=lambda point: point["quality"])
        try:
            weights = checkpoints.load(self.run.checkpoints / best["name"]).groups["ema"]
        except (ValueError, KeyError):
            return
        self._keep(weights, best["name"], best["step"])

    def missing(self, step: int) -> bool:
        """Whether the checkpoint of `step` isn't measured: the run ended between saving it and measuring it."""
        return self.evaluator is not None and all(point["step"] != step for point in self.points)

    def measure(self, name: str, step: int) -> None:
        """Measure this checkpoint, and keep it where it is the best."""
        if self.evaluator is None:
            return
        with all_cores(), self.student.drawing() as unet:
            rows = [
                self.evaluator.measure("student", unet, self.sampler, count, self.guidance, f"{name}-{count}")
                for count in curve.STEPS
            ]
        curve.separate(self.run.samples / f"{name}-{FAST_STEPS}.png", step, self.run.samples)
        score = curve.quality(rows, self.baseline)
        best_before = max((point["quality"] for point in self.points), default=None)
        if best_before is None or score > best_before or not self.best_is_measured:
            self.keep(name, step)
        self.points.append({"name": name, "step": step, "quality": score, "rows": [asdict(row) for row in rows]})
        self._write()
        self.run.update(curve=self.summary())

    @property
    def fallen(self) -> int:
        """How many checkpoints there were since the best one."""
        qualities = [point["quality"] for point in self.points]
        return len(qualities) - 1 - qualities.index(max(qualities)) if qualities else 0

    def keep(self, name: str, step: int) -> None:
        """Make the weights that pictures are drawn with now the run's best."""
        self._keep(tensors_of(self.student)["ema"], name, step)

    def _keep(self, weights: checkpoints.Tensors, name: str, step: int) -> None:
        # One file with its name inside, so that one rename replaces both.
        self.weights_file.parent.mkdir(exist_ok=True)
        fresh = self.weights_file.with_suffix(".tmp")
        about = {"kept": json.dumps({"name": name, "step": step})}
        save_file({key: t.detach().contiguous().cpu() for key, t in weights.items()}, fresh, metadata=about)
        checkpoints.sync(fresh)
        os.replace(fresh, self.weights_file)
        checkpoints.sync(self.weights_file.parent)

    @property
    def kept(self) -> dict[str, Any]:
        return best_of(self.run)

    @property
    def best_is_measured(self) -> bool:
        """Whether the weights in `best/` are those of a checkpoint that is in the curve."""
        return self.best in [point["name"] for point in self.points]

    @property
    def best(self) -> str:
        return str(self.kept.get("name", ""))

    def best_or_last(self, step: int) -> dict[str, torch.Tensor]:
        """The weights of the best checkpoint; those after `step` steps, the last, where none was measured."""
        if not self.best_is_measured:
            if self.points:
                sentence = "The best checkpoint can't be read any more: the last weights are the result."
                self.session.log(sentence, note=True)
            self.keep("now", step)
        return load_file(self.weights_file)

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
        write_json(self.file, {"baseline": rows, "checkpoints": self.points, "best": self.best}, sync=True)
