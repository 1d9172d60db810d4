"""The LoRA of a run that ended without one, from its last good checkpoint.

`python -m studio.training.export.from_checkpoint DIR`.

Loads no model and touches neither status nor checkpoints: the run stays what it is, failed or cut off, and can still be
resumed. Only a LoRA, its own or that of a distillation, can be made like this: a whole model isn't in its checkpoints.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from studio.core.errors import BadInput, Busy, StudioError
from studio.core.settings import ASSETS, settings
from studio.core.specs import LcmSpec, LoraSpec
from studio.engine.models.catalogue import ModelInfo, resolve
from studio.runs import dataset as files
from studio.runs.rundir import RunDir, take_lock, write_json
from studio.training.distill import record
from studio.training.distill.curve import FAST_STEPS
from studio.training.export import adapter_files
from studio.training.lora import samples
from studio.training.lora.train import TEXT_TARGETS
from studio.training.runtime import checkpoints


def rescue(run: RunDir) -> Path:
    """Write `adapter/` from the newest checkpoint that is whole; the path of the LoRA.

    Raises BadInput without one or for a run that makes no LoRA, Busy while it trains.
    """
    spec = run.spec()
    held = take_lock(run.lock_file)
    if held is None:
        raise Busy(f"Run {run.id} is training: it makes its result itself when it ends.")
    with held:
        if isinstance(spec, LoraSpec):
            return _lora(run, spec)
        if isinstance(spec, LcmSpec) and spec.form == "lora":
            return _few_step_lora(run, spec)
    raise BadInput(f"Run {run.id} makes no LoRA.")  # the service said so, and what to do, before it came here


def _last(run: RunDir) -> checkpoints.Checkpoint:
    found, damaged = checkpoints.latest_good(run)
    if found is None:
        raise BadInput(damaged[0] if damaged else f"Run {run.id} has no checkpoint yet: there is nothing to use.")
    return found


def _lora(run: RunDir, spec: LoraSpec) -> Path:
    info, found = resolve(spec.model, settings(), with_hash=False), _last(run)
    alpha = spec.alpha or spec.rank / 2
    try:
        folder = files.folder_of(Path(spec.data), settings().datasets_dir)
        report: files.Report | None = files.check(folder, spec.resolution or info.native_size)
    except StudioError:
        report = None  # gone since; the LoRA is good without what its card says of the pictures
    shown = 0 if report is None else sum(entry.repeats or spec.repeats or report.repeats for entry in report.entries)
    about = samples.card(run, spec, info, _unet_config(info), report, shown, alpha, found.step)

    def adapter(groups: Mapping[str, Any]) -> adapter_files.Adapter:
        values = groups.get("ema", groups["lora"])
        return adapter_files.from_parameters(values, spec.rank, alpha, info.family.lora_targets, TEXT_TARGETS)

    earlier = {name: adapter(groups) for name, groups in checkpoints.by_epoch(run)[0].items()}
    return adapter_files.write(run.adapter, adapter(found.groups), about, earlier)


def _few_step_lora(run: RunDir, spec: LcmSpec) -> Path:
    info, measured = resolve(spec.model, settings(), with_hash=False), record.kept(run)
    # The best that was measured, as a run's own end takes it.
    values = load_file(run.path / record.BEST) if measured else _last(run).groups["ema"]
    targets = info.family.lcm_lora_targets
    made = adapter_files.from_parameters(
        {f"unet.{k}": v for k, v in values.items()}, spec.rank, float(spec.rank), targets
    )
    about = adapter_files.Card(
        title=spec.name,
        base=info.public_name,
        hub_id=info.hub_id,
        base_version=adapter_files.base_version(info.title, _unet_config(info)),
        kind=f"few-step LoRA ({spec.objective.upper()}, {FAST_STEPS} steps, guidance 1)",
        settings=spec.model_dump(mode="json") | ({"best": measured["name"]} if measured else {}),
        license=info.license,
    )
    path = adapter_files.write(run.adapter, made, about)
    facts = json.loads((run.adapter / "studio.json").read_text(encoding="utf-8"))
    fast = {"steps": FAST_STEPS, "guidance": 1.0, "sampler": record.SAMPLERS[spec.objective]}
    write_json(run.adapter / "studio.json", {**facts, "fast": fast})
    return path


def _unet_config(info: ModelInfo) -> dict[str, Any]:
    # A single file has no configuration of its own, and neither has a model that isn't here any more.
    place = info.path if info.path is not None and info.path.is_dir() else None
    folder = place or ASSETS / "models" / info.family.single_file_config
    config: dict[str, Any] = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    return config


if __name__ == "__main__":
    try:
        print(rescue(RunDir(Path(sys.argv[1]).resolve())))
    except StudioError as error:
        print(error, file=sys.stderr)
        sys.exit(2 if isinstance(error, BadInput) else 1)
