"""The LoRA of a run that ended without one, from its last good checkpoint.

`python -m studio.training.export_checkpoint DIR`.

Loads no model and touches neither status nor checkpoints: the run stays what it is, failed or cut off, and can still be
resumed. Only a LoRA, its own or that of a distillation, can be made like this: a whole model isn't in its checkpoints.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from studio.core.errors import BadInput, Busy, StudioError
from studio.core.settings import ASSETS, settings
from studio.core.specs import LcmSpec, LoraSpec
from studio.engine.models.catalogue import ModelInfo, resolve
from studio.runs import dataset as files
from studio.runs.rundir import RunDir, take_lock
from studio.training.distill import history, result
from studio.training.export import adapter_files
from studio.training.lora import samples
from studio.training.lora.network import adapter_of
from studio.training.runtime import checkpoints


def export_checkpoint(run: RunDir) -> Path:
    """Write `adapter/` from the newest checkpoint that is whole; the path of the LoRA.

    Raises BadInput without one or for a run that makes no LoRA, Busy while it trains.
    """
    spec = run.spec()
    lock = take_lock(run.lock_file)
    if lock is None:
        raise Busy(f"Run {run.id} is training: it makes its result itself when it ends.")
    with lock:
        if isinstance(spec, LoraSpec):
            return _lora(run, spec)
        if isinstance(spec, LcmSpec) and spec.form == "lora":
            return _few_step_lora(run, spec)
    raise BadInput(f"Run {run.id} makes no LoRA.")  # the service said so, and what to do, before it came here


def _last(run: RunDir) -> checkpoints.Checkpoint:
    checkpoint, damaged = checkpoints.latest_good(run)
    if checkpoint is None:
        raise BadInput(damaged[0] if damaged else f"Run {run.id} has no checkpoint yet: there is nothing to use.")
    return checkpoint


def _lora(run: RunDir, spec: LoraSpec) -> Path:
    info, last = resolve(spec.model, settings(), with_hash=False), _last(run)
    try:
        resolution = spec.resolution or info.native_size
        report: files.Report | None = files.checked(Path(spec.data), resolution, settings().datasets_dir)
    except StudioError:
        report = None  # gone since; the LoRA is good without what its card says of the pictures
    shown = 0 if report is None else sum(entry.repeats or spec.repeats or report.repeats for entry in report.entries)
    card = samples.card(run, spec, info, _unet_config(info), report, shown, last.step)
    earlier = {name: adapter_of(spec, info, groups) for name, groups in checkpoints.by_epoch(run)[0].items()}
    return adapter_files.write(run.adapter, adapter_of(spec, info, last.groups), card, earlier)


def _few_step_lora(run: RunDir, spec: LcmSpec) -> Path:
    info, measured = resolve(spec.model, settings(), with_hash=False), history.best_of(run)
    last = _last(run) if not measured else checkpoints.latest_good(run)[0]
    # The best that was measured, as a run's own end takes it.
    weights = last.groups["ema"] if last is not None and not measured else load_file(run.path / history.BEST)
    meta = last.meta if last is not None else {}
    characters = meta.get("fingerprint", meta.get("facts", {})).get("loras", [])
    loras = result.teacher_loras(spec, [digest for digest, _ in characters] or [""] * len(spec.loras), settings())
    return result.write_lora(run, spec, info, _unet_config(info), weights, measured.get("name", ""), loras)


def _unet_config(info: ModelInfo) -> dict[str, Any]:
    # A single file has no configuration of its own, and neither has a model that isn't here any more.
    own = info.path if info.path is not None and info.path.is_dir() else None
    folder = own or ASSETS / "models" / info.family.single_file_config
    config: dict[str, Any] = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    return config


if __name__ == "__main__":
    try:
        print(export_checkpoint(RunDir(Path(sys.argv[1]).resolve())))
    except StudioError as error:
        print(error, file=sys.stderr)
        sys.exit(2 if isinstance(error, BadInput) else 1)
