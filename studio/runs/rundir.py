"""One training run on disk: names of files, atomic JSON, the lock that means "alive".

One writer per file. The parent (service, command line) writes `spec.json` and `stop` (which whoever starts a trainer
removes); the trainer writes the rest:
`status.json metrics.jsonl log.txt run.lock checkpoints/ samples/ adapter/`. A run is alive while somebody holds the
lock, which the system gives back however the process ends; "crashed" is therefore derived on reading (the status says
running, the lock is free) and never written. Knows nothing of models, tensors or what a trainer does.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from studio.core import locks
from studio.core.errors import BadInput, Busy, DiskFull, NotFound, StudioError, explain
from studio.core.specs import RUN_KINDS, RunSpec

RunState = Literal["queued", "starting", "running", "done", "stopped", "failed", "crashed"]
ACTIVE: tuple[RunState, ...] = ("queued", "starting", "running")
TRAINERS = {name: kind.trainer for name, kind in RUN_KINDS.items()}

# Set by `runs.launch` for the process that it turns into: the lock on this folder came with it.
LOCK_INHERITED = "STUDIO_RUN_LOCKED"
_PATIENCE = 2.0  # seconds; a reader that asks "alive?" holds the lock for microseconds
_ATTEMPTS = 25  # to replace a file that others read
_RESERVE = 64 * 1024  # bytes set aside, so that the last words can be written on a full disk


def write_json(path: Path, data: Any, sync: bool = False) -> None:
    """Replace `path`: a reader sees the old file or the new one. `sync`: also survive a power cut."""
    fresh = path.with_name(path.name + ".tmp")
    with open(fresh, "w", encoding="utf-8") as file:
        json.dump(data, file, ensure_ascii=False)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    for attempt in range(_ATTEMPTS):
        try:
            os.replace(fresh, path)
        except PermissionError:  # Windows: somebody reads the old one at this moment
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.02)
        else:
            return


def write_failure(what: str, folder: Path, error: OSError) -> StudioError:
    """What to raise where `what` could not be written below `place`: more room helps against a full disk only."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{what} ({error.strerror}): make room in {folder}.")
    return StudioError(f"{what} ({error.strerror or error}): look whether {folder} can be written to.")


def epoch_and_step(checkpoint: Path) -> tuple[int, int]:
    """(epochs, steps) done: epochs first, because a smaller data set makes steps fewer in a later epoch."""
    try:
        meta = json.loads((checkpoint / "meta.json").read_text(encoding="utf-8"))
        return int(meta["epoch"]), int(meta["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return -1, -1  # unreadable: the first to be forgotten, and `checkpoints.load` says what is wrong with it


def take_lock(path: Path, patience: float = _PATIENCE) -> locks.Lock | None:
    """Lock `path` for this process until what is returned is closed; None where somebody else has it.

    The file then holds the time at which it was taken (seconds since 1970).
    """
    lock = locks.take(path, patience)
    if lock is not None:
        lock.write(f"{time.time():.6f}\n")
    return lock


class RunDir:
    """The folder of one run. Cheap to make, holds no state but the trainer's last status."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec_file = path / "spec.json"
        self.owner_file = path / "owner.txt"
        self.status_file = path / "status.json"
        self.metrics_file = path / "metrics.jsonl"
        self.log_file = path / "log.txt"
        self.lock_file = path / "run.lock"
        self.stop_file = path / "stop"
        self.reserve_file = path / "reserve"
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.adapter = path / "adapter"
        self._written: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        return self.path.name

    # --- the request (written by the parent) ---

    def write_spec(self, spec: RunSpec) -> None:
        write_json(self.spec_file, spec.model_dump(mode="json"), sync=True)

    def write_owner(self, owner: str) -> None:
        self.owner_file.write_text(owner, encoding="utf-8")

    def owner(self) -> str:
        """Who started it; "" where nobody wrote that down."""
        try:
            return self.owner_file.read_text(encoding="utf-8")
        except (OSError, ValueError):
            return ""

    def spec(self) -> RunSpec:
        """The request. Raises NotFound where there is no run, BadInput where the file isn't a request we know."""
        try:
            data = json.loads(self.spec_file.read_text(encoding="utf-8"))
            return RUN_KINDS[data["kind"]].spec.model_validate(data)
        except FileNotFoundError:
            raise NotFound(f"There is no training run {self.id!r}; `runs list` shows those that are there.") from None
        except ValidationError as error:
            reason = explain(error).rstrip(".")
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
        raise BadInput(
            f"The request of run {self.id} can't be read ({reason}): it is damaged or from another version of the "
            "studio. Delete the run, or open it with the version that it was started with."
        )

    def raw_spec(self) -> dict[str, Any]:
        """Whatever the request's file says, unchecked; empty where it isn't even JSON. For showing a broken run."""
        try:
            data = json.loads(self.spec_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def request_stop(self) -> None:
        self.stop_file.touch()

    def clear_stop(self) -> None:
        self.stop_file.unlink(missing_ok=True)

    def stop_requested(self) -> bool:
        return self.stop_file.exists()

    # --- life ---

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be this run's one trainer. Raises Busy where another process is.

        Where `runs.launch` took the lock before it turned into this process, it is ours already. Otherwise the trainer
        was started by hand, and a request to stop is one that an earlier trainer obeyed: it is forgotten.
        """
        if os.environ.get(LOCK_INHERITED) == str(self.path.resolve()):
            yield
            return
        held = take_lock(self.lock_file)
        if held is None:
            raise Busy(f"Run {self.id} is training already, in another process.")
        try:
            self.clear_stop()
            yield
        finally:
            held.close()

    def alive(self) -> bool:
        """Whether a process holds the lock, whatever its number and whoever started it."""
        return locks.is_locked(self.lock_file)

    def _locked_since(self) -> float:
        try:
            return float(self.lock_file.read_text(encoding="utf-8") or 0)
        except (FileNotFoundError, ValueError):
            return 0.0

    # --- status and metrics (written by the trainer) ---

    def update(self, **fields: Any) -> None:
        """Merge `fields` into `status.json`. Raises FileNotFoundError when the folder is gone, OSError when full."""
        if self._written is None:
            self._written = self._read_status()
        self._written.update(fields, updated=time.time())
        write_json(self.status_file, self._written)

    def _read_status(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.status_file.read_text(encoding="utf-8")))
        except (FileNotFoundError, PermissionError, ValueError, TypeError):
            return {}  # none yet, or a power cut emptied it: the next word of the trainer writes it anew

    def status(self) -> dict[str, Any]:
        """The trainer's last status with a true `state`: one of `RunState`."""
        # The lock first: a trainer that ends between the two reads has then written its last state.
        alive = self.alive()
        since = self._locked_since()
        status = self._read_status()
        if alive and status.get("updated", 0.0) < since:
            status["state"] = "starting"  # the status is an earlier process's
            self._forget_moment(status)
        elif not alive and status.get("state", "starting") in ACTIVE:
            status["state"] = "crashed"
            self._forget_moment(status)
        return status

    def _forget_moment(self, status: dict[str, Any]) -> None:
        """What an earlier process was about to do isn't done any more."""
        for name in ("stage", "seconds_left"):
            status.pop(name, None)

    def append_metric(self, metric: dict[str, Any]) -> None:
        """One line of JSON with at least `step`. Raises FileNotFoundError when the run's folder is gone."""
        with open(self.metrics_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(metric) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All lines that are whole; the last one may be in the middle of being written."""
        metrics = []
        try:
            text = self.metrics_file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        for line in text.splitlines():
            try:
                metrics.append(dict(json.loads(line)))
            except ValueError:
                continue  # torn by a kill or a full disk; a metric is never worth a run
        return metrics

    def truncate_metrics(self, step: int) -> None:
        """Forget what came after `step`: a run that goes back to a checkpoint writes those steps again."""
        if not self.metrics_file.exists():
            return
        fresh = self.metrics_file.with_name(self.metrics_file.name + ".tmp")
        fresh.write_text(
            "".join(json.dumps(line) + "\n" for line in self.metrics() if line["step"] <= step), encoding="utf-8"
        )
        os.replace(fresh, self.metrics_file)

    def checkpoint_names(self) -> list[str]:
        """Complete checkpoints by name, oldest first; not verified."""
        if not self.checkpoints.exists():
            return []
        there = [p for p in self.checkpoints.iterdir() if p.suffix not in (".tmp", ".old")]
        return [name for _, name in sorted((epoch_and_step(p), p.name) for p in there if (p / "meta.json").exists())]

    def tail(self, size: int = 8192) -> str:
        """The last `size` bytes of the log, from the start of a line."""
        try:
            with open(self.log_file, "rb") as file:
                length = file.seek(0, os.SEEK_END)
                file.seek(max(0, length - size))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return text if length <= size else text.partition("\n")[2]

    # --- bad days ---

    def set_reserve(self) -> None:
        """Set a few kilobytes aside for the last status on a full disk."""
        if not self.reserve_file.exists():
            self.reserve_file.write_bytes(os.urandom(_RESERVE))  # random: no file system compresses it away

    def release_reserve(self) -> None:
        self.reserve_file.unlink(missing_ok=True)

    def check_idle(self) -> None:
        """Raises Busy while it is alive."""
        if self.alive():
            raise Busy(f"Run {self.id} is training: stop it first, then delete it.")
