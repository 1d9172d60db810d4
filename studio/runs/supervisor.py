"""Start, stop, resume, list and delete training runs. Knows processes and folders; a trainer is only a name to spawn.

A run needs nobody: the server that started it may die, and another one finds it by its folder and its lock.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from studio.core import locks
from studio.core.errors import BadInput, Busy, NotFound, explain
from studio.core.settings import REPOSITORY, Settings
from studio.core.specs import RUN_KINDS, ControlRunSpec, LcmSpec, LoraRef, LoraSpec, RunSpec, makes_lora
from studio.runs.rundir import ACTIVE, LOCK_INHERITED, RunDir, take_lock, write_failure
from studio.runs.trash import Trash

Tables = dict[str, list[dict[str, str]]]  # rows by the name of the table

# What opens the studio to people, or costs money: no trainer needs it, and nobody finds it in its environment.
SECRETS = {"STUDIO_API_KEY", "STUDIO_BACKEND_KEY", "STUDIO_PASSWORD", "STUDIO_ANTHROPIC_API_KEY", "ANTHROPIC_API_KEY"}
_ENDING = 30.0  # seconds
_DYING = 3.0  # seconds in which a process that was killed is really gone, with its lock: it has memory to give back
# Windows: what is pressed in the server's console isn't meant for its runs, which need no window
_APART = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "CREATE_NO_WINDOW", 0)
LONGEST_ID = 200  # characters: a folder's name has at most 255 bytes
_ID = re.compile(r"[a-z0-9][a-z0-9-]*")


def _absolute(reference: str) -> str:
    """A file or folder that is there, by its full path; anything else (a name, a hub id) as it is."""
    path = Path(reference).expanduser() if os.sep in reference else None
    return str(path.resolve()) if path is not None and path.exists() else reference


def _absolute_paths(spec: RunSpec) -> dict[str, Any]:
    """Every field of a request that names files, as the trainer finds it from its own working directory."""
    changes: dict[str, Any] = {"model": _absolute(spec.model)}
    if spec.data is not None:
        changes["data"] = str(Path(spec.data).expanduser().resolve())
    if isinstance(spec, ControlRunSpec) and spec.init not in (None, "lines", "canny", "scribble"):
        path = Path(spec.init).expanduser()  # `init` is a path first, also without a separator
        changes["init"] = str(path.resolve()) if path.exists() else spec.init
    if isinstance(spec, LcmSpec):
        changes["loras"] = tuple(LoraRef(path=_absolute(ref.path), weight=ref.weight) for ref in spec.loras)
    return changes


class Supervisor:
    """The runs under `settings.runs_dir`. May be made any number of times, in any number of processes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = settings.runs_dir.resolve()
        self.trash = Trash(self.folder)
        self._children: list[subprocess.Popen[bytes]] = []  # kept only to be reaped

    def start(self, spec: RunSpec, owner: str = "") -> str:
        """Spawn a trainer for `spec` and return the run's id. It queues by itself where the device is taken.

        Raises DiskFull when not even the request can be written.
        """
        spec = spec.model_copy(update=_absolute_paths(spec))
        name = re.sub(r"[^a-z0-9]+", "-", spec.name.lower()).strip("-") or spec.kind
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            run = self._new_folder(f"{time.strftime('%Y%m%d-%H%M%S')}-{name}")
            run.write_owner(owner)
            run.write_spec(spec)
            run.set_reserve()  # here already: a trainer that finds the disk full has to be able to say so
        except OSError as error:
            raise write_failure("The run can't be written", self.folder, error) from error
        self._spawn(run)
        return run.id

    def _new_folder(self, name: str) -> RunDir:
        number = 1
        while True:
            path = self.folder / (name if number == 1 else f"{name}-{number}")
            try:
                path.mkdir()
                return RunDir(path)
            except FileExistsError:
                number += 1

    def _spawn(self, run: RunDir) -> None:
        # Locked here and handed over, so that there is no moment at which a started run looks dead.
        held = take_lock(run.lock_file)
        if held is None:
            raise Busy(f"Run {run.id} is training already: stop it first.")
        try:
            kept = {name: value for name, value in os.environ.items() if name.upper() not in SECRETS}
            environment = kept | self._environment() | {"PYTHONUTF8": "1"}
            apart: dict[str, Any] = {"creationflags": _APART}
            if locks.INHERITABLE:
                environment[LOCK_INHERITED] = str(run.path)
                apart = {"pass_fds": (held.fileno(),), "start_new_session": True}
            with open(run.log_file, "ab") as log:
                child = subprocess.Popen(
                    [sys.executable, "-u", "-m", "studio.runs.launch", str(run.path)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, **apart,
                )  # fmt: skip
            self._children.append(child)
        finally:
            held.close()
        if not locks.INHERITABLE:  # the child takes the lock itself: until it has, the run would look dead
            deadline = time.monotonic() + _ENDING
            while child.poll() is None and not run.alive() and time.monotonic() < deadline:
                time.sleep(0.05)

    def _environment(self) -> dict[str, str]:
        variables = {"PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))}
        # `named_only` is for what strangers name: a run's request has been looked at, and has paths.
        for name in (self.settings.model_fields_set | {"home"}) - {"named_only"}:
            if f"STUDIO_{name.upper()}" in SECRETS:
                continue
            value = getattr(self.settings, name)
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            if value is not None:
                variables[f"STUDIO_{name.upper()}"] = str(value.resolve() if isinstance(value, Path) else value)
        return variables

    def get(self, run_id: str) -> RunDir:
        """The run with this id. Raises NotFound."""
        self._reap()
        run = RunDir(self.folder / run_id[:LONGEST_ID])
        if len(run_id) > LONGEST_ID or not _ID.fullmatch(run_id) or not run.spec_file.exists():
            raise NotFound(f"There is no training run {run_id[:80]!r}; `runs list` shows those that are there.")
        return run

    def list(self) -> list[RunDir]:
        """All runs, newest first."""
        self._reap()
        if not self.folder.exists():
            return []
        runs = [RunDir(path) for path in self.folder.iterdir() if _ID.fullmatch(path.name)]
        return sorted((run for run in runs if run.spec_file.exists()), key=lambda run: run.id, reverse=True)

    def _reap(self) -> None:
        self._children = [child for child in self._children if child.poll() is None]

    def stop(self, run_id: str) -> None:
        """Ask the trainer to save and end after the step it is in; nothing happens to a run that isn't alive."""
        run = self.get(run_id)
        if run.alive():
            run.request_stop()

    def resume(self, run_id: str, **changes: Any) -> None:
        """Go on where the last good checkpoint is, with some fields of the request changed (more epochs, another rate).

        Raises Busy while the run is alive, BadInput for a change that the request doesn't allow, or for a request that
        can't be read.
        """
        run = self.get(run_id)
        self._let_it_end(run)
        deadline = time.monotonic() + _DYING
        while run.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        if run.alive():
            raise Busy(f"Run {run_id} is training already: stop it first.")
        spec = run.spec()
        if changes:
            try:
                run.write_spec(type(spec).model_validate(spec.model_dump() | changes))
            except ValidationError as error:
                raise BadInput(f"Run {run_id} can't be resumed: {explain(error)}") from error
        run.clear_stop()
        self._spawn(run)

    def measure(self, spec: LoraSpec | LcmSpec, timeout: float = 600) -> dict[str, float]:
        """Seconds per step, seconds to load and bytes of memory of a run like `spec`, from three real steps.

        Of a distillation: bytes of memory, bytes that are free, from the sizes of its parts, and seconds of all that it
        draws first and of all its steps.
        Takes as long as loading the model. Raises BadInput with the reason when it can't be measured.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "spec.json"
            file.write_text(spec.model_dump_json(), encoding="utf-8")
            try:
                done = subprocess.run(
                    [sys.executable, "-m", RUN_KINDS[spec.kind].estimate, str(file)],
                    env=os.environ | self._environment(),
                    capture_output=True,
                    text=True,
                    timeout=timeout,
                )
            except subprocess.TimeoutExpired:
                raise BadInput(f"Three steps took more than {timeout:.0f} seconds: choose a smaller model.") from None
        if done.returncode:
            last = (done.stderr.strip() or "no reason given").splitlines()[-1]
            if done.returncode < 0 or "MemoryError" in last:  # ended by the system, as a rule for want of memory
                last = "there is probably not enough memory for it"
            said = re.sub(r"^[\w.]+: ", "", last).rstrip(".")[:200]  # without the name of the exception
            raise BadInput(f"The run can't be measured: {said}.")
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def card_classes(self) -> Tables:
        """What is chosen for cards of each size and of each generation; see `training.classes`. Takes a minute."""
        done = subprocess.run(
            [sys.executable, "-m", "studio.training.classes"],
            env=os.environ | self._environment(), capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise BadInput((done.stderr.strip() or "no reason given").splitlines()[-1])
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def export(self, run_id: str) -> None:
        """Make the result of a run that ended without one, from its last good checkpoint.

        Takes as long as reading that. Raises Busy while the run is alive, BadInput with the reason when it can't be.
        """
        run = self.get(run_id)
        self._let_it_end(run)
        if run.alive():
            raise Busy(f"Run {run_id} is training: it makes its result itself when it ends.")
        spec = run.spec()
        if not makes_lora(spec.kind, spec.model_dump()):
            raise BadInput(
                f"Run {run_id} makes a whole network and not a LoRA: resume it, and stop it to have its result."
            )
        if not run.checkpoint_names():
            raise BadInput(f"Run {run_id} has no checkpoint yet: there is nothing to use.")
        done = subprocess.run(
            [sys.executable, "-m", "studio.training.export_checkpoint", str(run.path)],
            env=os.environ | self._environment(),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise BadInput((done.stderr.strip() or "No reason given.").splitlines()[-1])

    def delete(self, run_id: str) -> None:
        """Remove the run with its checkpoints; the trash brings it back for a day. Raises Busy while it is alive."""
        run = self.get(run_id)
        self._let_it_end(run)
        self.trash.purge()
        self.trash.put(run)

    def _let_it_end(self, run: RunDir) -> None:
        # Between a trainer's last word and the end of its process lie a few seconds, in which its lock is still held.
        deadline = time.monotonic() + _ENDING
        while run.alive() and run.status()["state"] not in ACTIVE and time.monotonic() < deadline:
            time.sleep(0.05)

    def wait(self, run_id: str, timeout: float) -> dict[str, Any]:
        """Block until the run isn't alive any more, at most `timeout` seconds; its status."""
        run = self.get(run_id)
        deadline = time.monotonic() + timeout
        while run.alive() and time.monotonic() < deadline:
            time.sleep(0.1)
            self._reap()
        return run.status()
