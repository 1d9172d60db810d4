"""Training runs as the service shows and starts them: checked before, read as views after.

Knows the run folders and their supervisor; it doesn't know how anything is trained and never waits for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
from pydantic import ValidationError

from studio.core.errors import BadInput, DiskFull, NotFound, Offline, OutOfMemory
from studio.core.settings import Settings
from studio.core.specs import RUNS, ControlRunSpec, LcmSpec, LoraSpec, RunSpec
from studio.core.views import RunView
from studio.engine.models import controlnets
from studio.engine.models.catalogue import LoraInfo, ModelInfo, component_weights, find_lora, resolve
from studio.engine.models.weights import read_header
from studio.runs import dataset, requirements
from studio.runs.launch import has_driver
from studio.runs.publish import publish
from studio.runs.rundir import ACTIVE, RunDir, write_failure
from studio.runs.supervisor import Supervisor

_PLAIN = set(RunView.model_fields) - {
    "id",
    "kind",
    "name",
    "model",
    "checkpoints",
    "samples",
    "adapter",
    "spec",
    "extra",
}
DEFAULT_INIT = ControlRunSpec.model_fields["init"].default  # where a model has none, a new one begins
_NUMBERS = {"step", "steps", "epoch", "epochs"}  # 0 and not None until they are known
UNREADABLE = "unreadable"  # the state of a run whose request this version can't read: it can only be deleted
_PACKAGES = {  # optional ones, by the optimiser that needs them
    "prodigy": ("prodigyopt", "Prodigy needs `pip install prodigyopt`; or choose adamw."),
    "adamw8bit": ("bitsandbytes", "8-bit Adam needs `pip install bitsandbytes` and an NVIDIA card; or choose adamw."),
}


class TrainingRuns:
    """The runs under `settings.runs_dir`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._supervisor = Supervisor(settings)

    def start(self, spec: RunSpec, checked: Callable[[dataset.Report], None] | None = None) -> RunView:
        """Check model, LoRAs, packages, data, disk and memory; spawn the trainer, which waits for the device.

        `checked` is told what is in the data before anything starts. Raises NotFound, BadInput, Offline, DiskFull and
        OutOfMemory before anything is written.
        """
        info = resolve(spec.model, self._settings, with_hash=False)
        report: dataset.Report | None = None
        if info.path is None and self._settings.offline:
            raise Offline(
                f"{info.reference} is not on this machine and STUDIO_OFFLINE is on; use the embedded model or a local "
                "file."
            )
        if isinstance(spec, LoraSpec):
            package, sentence = _PACKAGES.get(spec.optimizer, ("", ""))
            if package and find_spec(package) is None:
                raise BadInput(sentence)
            report = self.check(spec.data, spec.resolution or info.native_size)
        elif isinstance(spec, ControlRunSpec):
            if spec.init is not None:
                self._check_init(spec.init, info)
            if not any(Path(spec.data).expanduser().glob("*.control.npy")):
                report = self.check(spec.data, info.native_size)
        else:
            for ref in spec.loras:
                find_lora(ref.path, self._settings)
            if spec.data is not None:
                report = self.check(spec.data, info.native_size)
        if report is not None and checked is not None:
            checked(report)
        self._check_room(spec, info)
        return self.get(self._supervisor.start(spec))

    def _check_init(self, init: str, info: ModelInfo) -> None:
        """Before anything is written: is there something to go on from?"""
        if init in controlnets.KINDS and init != DEFAULT_INIT and init not in info.controlnets:
            raise BadInput(f"{info.title} has no ControlNet for {init}; name another one, or begin a new one.")
        missing = controlnets.absent(info.controlnets, init, self._settings)
        if missing is not None and self._settings.offline:
            raise Offline(
                f"The ControlNet {missing} is not on this machine and STUDIO_OFFLINE is on; name a local one, or begin "
                "a new one."
            )
        controlnets.fingerprint_of(info.controlnets, init, self._settings)  # raises for a folder without weights

    def _check_room(self, spec: RunSpec, info: ModelInfo) -> None:
        place, sizes = self._settings.runs_dir, _sizes(info)
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_failure("The run can't be written", place, error) from error
        free, room = shutil.disk_usage(place).free, requirements.disk(spec, sizes, info.native_size)
        if free < room:
            raise DiskFull(
                f"Only {_gb(free)} are free in {place}, and this run's checkpoints and result need about {_gb(room)}; "
                "make room, save less often, or set STUDIO_HOME to another disk."
            )
        card = self._settings.device != "cpu" and has_driver()
        # Of all memory, not of what is free now: the run may wait in line, and by then others have ended.
        total, wanted = psutil.virtual_memory().total, requirements.memory(spec, sizes, card)
        if total < wanted:
            less = {"lora": " or a lower rank.", "lcm": " or a lower rank.", "full": ", or a LoRA as the result."}.get(
                "full" if getattr(spec, "form", "") == "full" else spec.kind, "."
            )
            raise OutOfMemory(
                f"This run needs at least {_gb(wanted)} of memory and this machine has {_gb(total)}; choose a smaller "
                "model" + less
            )

    def check(self, data: str, resolution: int) -> dataset.Report:
        """What is in a data set (a folder or a ZIP, which is unpacked), and what is wrong with it."""
        return dataset.check(self.folder(data), resolution)

    def folder(self, data: str) -> Path:
        """The folder of a data set given as one or as a ZIP, which is unpacked. Raises NotFound, BadInput, DiskFull."""
        if "\x00" in data:
            raise BadInput("A path can't contain NUL characters.")
        return dataset.folder_of(Path(data).expanduser(), self._settings.datasets_dir)

    def upload(self, files: Sequence[tuple[str, bytes]]) -> Path:
        """A data set from uploaded files (name, content): one ZIP, or pictures and captions. Its folder.

        The same files give the same folder. Raises BadInput for a ZIP that can't be trusted, DiskFull.
        """
        digest = hashlib.sha256()
        for name, data in files:
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
        place = self._settings.datasets_dir
        first = Path(files[0][0]) if files else Path("empty")
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".upload-", dir=place) as fresh:
                if len(files) == 1 and first.suffix.lower() == ".zip":
                    archive = Path(fresh) / first.name
                    archive.write_bytes(files[0][1])
                    return dataset.folder_of(archive, place)
                if any(Path(name).suffix.lower() == ".zip" for name, _ in files):
                    raise BadInput("Upload a ZIP alone: one at a time, and nothing beside it.")
                if not any(Path(name).suffix.lower() in dataset.PICTURES for name, _ in files):
                    given = ", ".join(name for name, _ in files[:3])
                    raise BadInput(f"There is no picture among what was uploaded ({given}).")
                target = place / f"pictures-{digest.hexdigest()[:12]}"
                if not target.exists():
                    inside = Path(fresh) / "data"
                    inside.mkdir()
                    for name, data in files:
                        (inside / Path(name).name).write_bytes(data)
                    os.rename(inside, target)
                return target
        except OSError as error:
            raise write_failure("The upload can't be kept", place, error) from error

    def publish(self, id: str, repository: str, private: bool = True) -> str:
        """Upload a run's LoRA to the Hugging Face Hub; the address of the commit."""
        return publish(self._supervisor.get(id).adapter, repository, self._settings, private)

    def measure(self, spec: LoraSpec | LcmSpec) -> dict[str, float]:
        """What a run will take (see `Supervisor.measure`), found out by a process of its own."""
        info = resolve(spec.model, self._settings, with_hash=False)
        if info.path is None:
            raise NotFound(f"{info.reference} is not on this machine yet: it can be measured once a run has got it.")
        return self._supervisor.measure(spec)

    def import_lora(self, data: bytes, name: str, trigger_words: Sequence[str] = (), weight: float = 1.0) -> LoraInfo:
        """Put a LoRA from elsewhere into the LoRA folder, with its trigger words and weight beside it.

        One of the same name stays: a different file gets a number behind its name and title, the same one new words.
        Raises BadInput for anything but a plain LoRA in a safetensors file; nothing is kept of it then.
        """
        stem = re.sub(r"[^\w .-]+", "-", Path(name).stem).strip(" .-") or "lora"
        if Path(name).suffix.lower() != ".safetensors":
            raise BadInput(f"{Path(name).name} is not a .safetensors file; LoRAs in other formats can hold code.")
        place = self._settings.models_dir / "loras"
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".import-", dir=place) as fresh:
                file = Path(fresh) / f"{stem}.safetensors"
                file.write_bytes(data)
                found = find_lora(str(file), self._settings)
                final, number = _free(place, stem, data)
                facts = {
                    "title": found.title if number == 1 else f"{found.title} ({number})",
                    "trigger_words": list(trigger_words) or list(found.trigger_words),
                    "weight": weight,
                    "base": found.base,
                }
                (Path(fresh) / f"{stem}.json").write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
                for suffix in (".json", ".safetensors"):
                    os.replace(Path(fresh) / f"{stem}{suffix}", place / f"{final}{suffix}")
        except OSError as error:
            raise write_failure("The LoRA can't be kept", place, error) from error
        return find_lora(str(place / f"{final}.safetensors"), self._settings)

    def list(self) -> list[RunView]:
        """Newest first, without metrics and log. One that can't be read is among them, and hides no other."""
        found = []
        for run in self._supervisor.list():
            with suppress(NotFound):  # deleted since it was listed
                found.append(view(run))
        return found

    def get(self, id: str) -> RunView:
        """Raises `NotFound`."""
        run = self._supervisor.get(id)
        return view(run).model_copy(update={"metrics": tuple(run.metrics()), "log": run.tail()})

    def stop(self, id: str) -> RunView:
        """Save and end after the current step."""
        self._supervisor.stop(id)
        return self.get(id)

    def resume(
        self,
        id: str,
        *,
        epochs: int | None = None,
        learning_rate: float | None = None,
        time_limit_minutes: float | None = None,
        checkpoint_minutes: float | None = None,
    ) -> RunView:
        """Go on from the last checkpoint, with another number of epochs in all, rate, or minutes where they are given.

        Raises Busy while it trains, BadInput for a value that can't be, for a request that can't be read, and for a
        finished run that isn't given more epochs.
        """
        run = self.get(id)
        if run.state == "done" and (epochs is None or epochs <= run.epochs):
            raise BadInput(f"{run.name} is finished; give it more than {run.epochs} epochs to go on.")
        changes = {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "time_limit_minutes": time_limit_minutes,
            "checkpoint_minutes": checkpoint_minutes,
        }
        self._supervisor.resume(id, **{name: value for name, value in changes.items() if value is not None})
        return self.get(id)

    def export(self, id: str) -> RunView:
        """Make the LoRA of a run that ended without one from its last good checkpoint. Takes seconds.

        Raises Busy while it trains, BadInput where there is no good one, or the result is more than a LoRA.
        """
        self._supervisor.export(id)
        return self.get(id)

    def delete(self, id: str) -> None:
        prepared = self._supervisor.get(id).status().get("drawings")
        self._supervisor.delete(id)
        others = [run.status().get("drawings") for run in self._supervisor.list()] if prepared else []
        if prepared and prepared not in others:
            shutil.rmtree(self._settings.runs_dir / ".drawings" / str(prepared), ignore_errors=True)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _sizes(info: ModelInfo) -> requirements.Sizes:
    """From the headers of the weights; Stable Diffusion 1.5's where they have yet to be downloaded."""
    if info.path is None:
        return requirements.SD15
    unet: dict[str, tuple[int, ...]] = {}
    others: dict[str, tuple[int, ...]] = {}
    if info.path.is_file():
        start = "model.diffusion_model."
        for name, tensor in read_header(info.path).tensors.items():
            (unet if name.startswith(start) else others)[name.removeprefix(start)] = tensor.shape
    else:
        for part in ("unet", "vae", *info.family.text_encoders):
            for file in component_weights(info.path, part):
                shapes = {name: tensor.shape for name, tensor in read_header(file).tensors.items()}
                (unet if part == "unet" else others).update(shapes)
    return requirements.sizes_of(unet, others, info.family.lora_targets, info.family.lcm_lora_targets)


def _free(place: Path, stem: str, data: bytes) -> tuple[str, int]:
    """A name in `place` for the LoRA `data` (`stem`, `stem-2`, ...) that no other content has, and its number."""
    number = 1
    while True:
        name = stem if number == 1 else f"{stem}-{number}"
        there = place / f"{name}.safetensors"
        if not there.exists() or (there.stat().st_size == len(data) and there.read_bytes() == data):
            return name, number
        number += 1


def view(run: RunDir) -> RunView:
    """The folder as it stands now, without metrics and log. Raises NotFound when it is gone."""
    try:
        return _view(run, run.spec())
    except NotFound:
        raise
    except BadInput as problem:
        return _unreadable(run, str(problem))
    except ValidationError as error:  # of the view: the status holds what no trainer of ours writes
        reason = error.errors()[0]["msg"]
        return _unreadable(run, f"The status of run {run.id} can't be read ({reason}): delete the run.")


def _unreadable(run: RunDir, sentence: str) -> RunView:
    # What there is to show, so that it can be recognised and deleted; while it trains it can be stopped.
    said, state = run.raw_spec(), run.status().get("state")
    return RunView(
        id=run.id,
        kind=next((kind for kind in RUNS if kind == said.get("kind")), "lora"),
        name=str(said.get("name") or run.id),
        model=str(said.get("model") or ""),
        state=state if state in ACTIVE else UNREADABLE,
        error=sentence,
    )


def _view(run: RunDir, spec: RunSpec) -> RunView:
    status = run.status()
    status.setdefault("state", "starting")
    plain = {
        name: status[name] for name in _PLAIN if name in status and not (name in _NUMBERS and status[name] is None)
    }
    # a LoRA is a file, a full distillation a whole model, a ControlNet a folder of its own
    finished = sorted(run.adapter.glob("*.safetensors")) if run.adapter.is_dir() else []
    whole = (run.adapter / "model_index.json", run.adapter / "controlnet" / "config.json")
    finished += [file.parent for file in whole if file.exists()]
    return RunView(
        id=run.id,
        kind=spec.kind,
        name=spec.name,
        model=spec.model,
        checkpoints=tuple(run.checkpoint_names()),
        samples=tuple(sorted(run.samples.rglob("*.png"))),
        adapter=finished[0] if finished else None,
        spec=spec.model_dump(mode="json"),
        extra={name: value for name, value in status.items() if name not in RunView.model_fields},
        **(plain | {"epochs": plain.get("epochs", spec.epochs)}),
    )
