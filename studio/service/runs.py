"""Training runs as the service shows and starts them: checked before, read as views after.

Knows the run folders and their supervisor; it doesn't know how anything is trained and never waits for it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

from studio.core import presets
from studio.core.errors import BadInput, DiskFull, NotFound, Offline, OutOfMemory, StudioError, explain
from studio.core.settings import Settings
from studio.core.specs import RUN_KINDS, ControlRunSpec, LcmSpec, LoraRef, LoraSpec, RunSpec
from studio.core.views import RunView
from studio.engine import devices
from studio.engine.models import controlnets
from studio.engine.models.catalogue import ModelInfo, find_lora, resolve
from studio.engine.models.weights import component_weights, read_header
from studio.runs import dataset, requirements
from studio.runs.launch import has_driver
from studio.runs.publish import publish
from studio.runs.rundir import ACTIVE, RunDir, write_failure
from studio.runs.supervisor import Supervisor, Tables
from studio.service import ownership
from studio.service.datasets import DataSets
from studio.service.once import StartedOnce, named_id
from studio.service.resolving import weighted

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
LARGE_MODEL = 300_000_000  # parameters: Stable Diffusion 1.5 has a billion
LEFT_THE_CARD = "The studio's own model leaves the card for this run; the next picture loads it again."
UNREADABLE = "unreadable"  # the state of a run whose request this version can't read: it can only be deleted
_PACKAGES = {  # optional ones, by the optimiser that needs them
    "prodigy": ("prodigyopt", "Prodigy needs `pip install prodigyopt`; or choose adamw."),
    "adamw8bit": ("bitsandbytes", "8-bit Adam needs `pip install bitsandbytes` and an NVIDIA card; or choose adamw."),
}


class TrainingRuns:
    """The runs under `settings.runs_dir`.

    `owner` is who asks: runs of others are as if they weren't there (`NotFound`), those from before owners were written
    down are everybody's. None: somebody who may see all.
    """

    def __init__(self, settings: Settings, leave_the_card: Callable[[], bool] = lambda: False) -> None:
        """`leave_the_card` frees what draws from the card, and says whether there was something."""
        self._settings = settings
        self._leave_the_card = leave_the_card
        self._left_for: set[str] = set()  # runs of this process that it left for
        self._supervisor = Supervisor(settings)
        self._datasets = DataSets(settings)
        self._once = StartedOnce(settings.runs_dir / ".once")

    def start(
        self,
        spec: RunSpec,
        owner: str = "",
        checked: Callable[[dataset.Report], None] | None = None,
        once: str = "",
    ) -> RunView:
        """Check model, LoRAs, packages, data, disk and memory; spawn the trainer, which waits for the device.

        `checked` is told what is in the data before anything starts. `once`: the sender's own name for this request;
        sent again under it, it is the same run. Raises NotFound, BadInput, Offline, DiskFull and OutOfMemory before
        anything is written, and Busy while it is being started under that name.
        """
        if not once:
            return self._started(spec, owner, checked)
        id = self._once.start(named_id(owner, once), spec, lambda: self._started(spec, owner, checked).id)
        return self.get(id, owner or None)

    def _started(self, spec: RunSpec, owner: str, checked: Callable[[dataset.Report], None] | None) -> RunView:
        info = resolve(spec.model, self._settings, with_hash=False)
        ownership.check(info.path, owner, self._settings, spec.model)
        if info.inpainting:
            raise BadInput(f"{info.title} only fills a mask in a picture; choose a text-to-image model to teach.")
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
            report = self._datasets.checked(spec.data, spec.resolution or info.native_size)
        elif isinstance(spec, ControlRunSpec):
            if spec.init is not None:
                self._check_init(spec.init, info)
            if not any(Path(spec.data).expanduser().glob("*.control.npy")):
                report = self._datasets.checked(spec.data, info.native_size)
        else:
            for ref in spec.loras:
                lora = find_lora(ref.path, self._settings)
                ownership.check(lora.path, owner, self._settings, ref.path)
                if lora.state == "download":
                    raise NotFound(f"{lora.title} isn't on this machine, and draws in few steps itself: leave it out.")
            spec = spec.model_copy(update={"loras": weighted(spec.loras, self._settings)})
            if spec.data is not None:
                report = self._datasets.checked(spec.data, info.native_size)
        if report is not None and checked is not None:
            checked(report)
        self._check_room(spec, info)
        return self._with_the_card(self._supervisor.start(self._placed(spec, info), owner))

    def _with_the_card(self, id: str) -> RunView:
        """A run that was started, once the studio's own model is on its way from the card that it will train on."""
        if self._leave_the_card():
            self._left_for.add(id)
        return self.get(id)

    def _placed(self, spec: RunSpec, info: ModelInfo) -> RunSpec:
        """The request with paths for the names that a stranger gave: the trainer takes any path, and no such names."""
        if not self._settings.named_only:
            return spec
        paths: dict[str, Any] = {"model": str(info.path)} if info.kind in ("folder", "file") else {}
        if isinstance(spec, LcmSpec):
            paths["loras"] = tuple(
                LoraRef(path=str(find_lora(ref.path, self._settings).path), weight=ref.weight) for ref in spec.loras
            )
        elif isinstance(spec, ControlRunSpec) and spec.init is not None and spec.init not in controlnets.KINDS:
            paths["init"] = str(controlnets.find(spec.init, self._settings) or spec.init)
        return spec.model_copy(update=paths)

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
        folder, sizes = self._settings.runs_dir, _sizes(info)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_failure("The run can't be written", folder, error) from error
        free, room = shutil.disk_usage(folder).free, requirements.disk(spec, sizes, info.native_size)
        if free < room:
            self._supervisor.trash.purge(older_than=0)  # what was deleted has to give way first
            free = shutil.disk_usage(folder).free
        if free < room:
            raise DiskFull(
                f"Only {_gb(free)} are free in {folder}, and this run's checkpoints and result need about {_gb(room)}; "
                "make room, save less often, or set STUDIO_HOME to another disk."
            )
        card = self._settings.device != "cpu" and has_driver()
        # Of all memory, not of what is free now: the run may wait in line, and by then others have ended.
        total, wanted = psutil.virtual_memory().total, requirements.memory(spec, sizes, card)
        if total < wanted:
            less = ", or a LoRA as the result." if getattr(spec, "form", "") == "full" else "."
            less = " or a lower rank." if less == "." and hasattr(spec, "rank") else less
            raise OutOfMemory(
                f"This run needs at least {_gb(wanted)} of memory and this machine has {_gb(total)}; choose a smaller "
                "model" + less
            )

    def publish(self, id: str, repository: str, private: bool = True) -> str:
        """Upload a run's LoRA to the Hugging Face Hub; the address of the commit."""
        return publish(self._supervisor.get(id).adapter, repository, self._settings, private)

    def defaults(self, kind: str, model: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Fields that a run of this kind on `model` begins with on this machine, beside those that were `given`."""
        small = False
        with suppress(StudioError):  # the start says what is wrong with it
            info = resolve(model, self._settings, with_hash=False)
            small = info.path is not None and info.parameters < LARGE_MODEL
        machine = presets.UNSPARING if small else devices.training_kind(self._settings)
        return RUN_KINDS[kind].defaults(model, given, machine)

    def measure(self, spec: LoraSpec | LcmSpec) -> dict[str, float]:
        """What a run will take (see `Supervisor.measure`), found out by a process of its own."""
        info = resolve(spec.model, self._settings, with_hash=False)
        if info.path is None:
            raise NotFound(f"{info.reference} is not on this machine yet: it can be measured once a run has got it.")
        return self._supervisor.measure(spec)

    def card_classes(self) -> Tables:
        """Tables of what is chosen for cards by size ("sizes" and "sdxl") and by generation ("kinds").

        By the code that chooses. A process of its own finds out, in a minute.
        """
        return self._supervisor.card_classes()

    def list(self, owner: str | None = None) -> list[RunView]:
        """Newest first, without metrics and log. One that can't be read is among them, and hides no other."""
        views = []
        for run in self._supervisor.list():
            with suppress(NotFound):  # deleted since it was listed
                if owner is None or run.owner() in ("", owner):
                    views.append(view(run))
        return views

    def read_from(self, path: Path) -> bool:
        """Whether a run that waits or trains was given this data set, or something in it."""
        given = (run.spec.get("data") for run in self.list() if run.active)
        return any(Path(data).expanduser().resolve().is_relative_to(path) for data in given if data)

    def get(self, id: str, owner: str | None = None) -> RunView:
        """One run with its metrics and the end of its log. Raises `NotFound`."""
        run = self._of(id, owner)
        seen = view(run)
        notes = (*seen.notes, LEFT_THE_CARD) if id in self._left_for and seen.active else seen.notes
        return seen.model_copy(update={"metrics": tuple(run.metrics()), "log": run.tail(), "notes": notes})

    def stop(self, id: str, owner: str | None = None) -> RunView:
        """Ask it to save and end after the step it is in."""
        self._of(id, owner)
        self._supervisor.stop(id)
        return self.get(id)

    def resume(
        self,
        id: str,
        owner: str | None = None,
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
        run = self.get(id, owner)
        if run.state == "done" and (epochs is None or epochs <= run.epochs):
            raise BadInput(f"{run.name} is finished; give it more than {run.epochs} epochs to go on.")
        changes = {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "time_limit_minutes": time_limit_minutes,
            "checkpoint_minutes": checkpoint_minutes,
        }
        self._supervisor.resume(id, **{name: value for name, value in changes.items() if value is not None})
        return self._with_the_card(id)

    def export(self, id: str, owner: str | None = None) -> RunView:
        """Make the LoRA of a run that ended without one from its last good checkpoint. Takes seconds.

        Raises Busy while it trains, BadInput where there is no good one, or the result is more than a LoRA.
        """
        self._of(id, owner)
        self._supervisor.export(id)
        return self.get(id)

    def delete(self, id: str, owner: str | None = None) -> None:
        """Remove a run with its checkpoints and its result; `undo_delete` brings the last one back for a day.

        Raises Busy while it trains.
        """
        self._of(id, owner)
        self._supervisor.delete(id)

    def undo_delete(self, owner: str | None = None) -> RunView:
        """Bring back what this owner deleted last. Raises `NotFound` where there is nothing to bring back."""
        return self.get(self._supervisor.trash.bring_back(owner))

    def _of(self, id: str, owner: str | None) -> RunDir:
        run = self._supervisor.get(id)
        if owner is not None and run.owner() not in ("", owner):
            raise NotFound(f"There is no training run {id[:80]!r} of yours.")
        return run


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _sizes(info: ModelInfo) -> requirements.Sizes:
    """From the headers of the weights; those of the family where they have yet to be downloaded."""
    if info.path is None:
        return requirements.OF_FAMILY[info.family.name]
    unet: dict[str, tuple[int, ...]] = {}
    others: dict[str, tuple[int, ...]] = {}
    if info.path.is_file():
        start = "model.diffusion_model."
        for name, tensor in read_header(info.path).tensors.items():
            (unet if name.startswith(start) else others)[name.removeprefix(start)] = tensor.shape
    else:
        for part in ("unet", "vae", *info.family.text_encoders):
            for file in component_weights(info.path, part):
                start = "" if part == "unet" else f"{part}."  # two text encoders have the same names
                shapes = {start + name: tensor.shape for name, tensor in read_header(file).tensors.items()}
                (unet if part == "unet" else others).update(shapes)
    return requirements.sizes_of(unet, others, info.family.lora_targets, info.family.lcm_lora_targets)


def view(run: RunDir) -> RunView:
    """The folder as it stands now, without metrics and log. Raises NotFound when it is gone."""
    try:
        return _view(run, run.spec())
    except NotFound:
        raise
    except BadInput as problem:
        return _unreadable(run, str(problem))
    except ValidationError as error:  # of the view: the status holds what no trainer of ours writes
        reason = explain(error).rstrip(".")
        return _unreadable(run, f"The status of run {run.id} can't be read ({reason}): delete the run.")


def _unreadable(run: RunDir, sentence: str) -> RunView:
    # What there is to show, so that it can be recognised and deleted; while it trains it can be stopped.
    spec, state = run.raw_spec(), run.status().get("state")
    return RunView(
        id=run.id,
        kind=next((kind for kind in RUN_KINDS if kind == spec.get("kind")), "lora"),
        name=str(spec.get("name") or run.id),
        model=str(spec.get("model") or ""),
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
