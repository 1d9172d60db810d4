"""Wait in line for the device, then become the trainer: `python -m studio.runs.launch DIR`.

The waiting process is small (no torch) and turns into its trainer by exec, so that process
number, session, log and both locks (the run's, the device's) stay. Nobody else has to be alive for the line to move.
Windows knows no exec, and its locks can't be handed over: there the trainer runs as a module of the same process.
"""

from __future__ import annotations

import errno
import os
import runpy
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from studio.core import locks
from studio.runs.rundir import LOCK_INHERITED, TRAINERS, RunDir, take_lock

_POLL = 0.3  # seconds
# NVIDIA's, WSL's, AMD's, NVIDIA's on Windows: one is there wherever torch has a card
_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", r"C:\Windows\System32\nvcuda.dll")
_NICE = 10  # a run of hours must leave the processor to whoever draws or opens a page meanwhile
_SESSION_NICE = 5  # a third of another busy session's share: with 10 it would hardly move beside a few of them


def _first_in_line(run: RunDir, since: float, lock: str) -> bool:
    for folder in run.path.parent.iterdir():
        if folder == run.path or not (folder / "spec.json").exists():
            continue
        status = RunDir(folder).status()
        if status.get("state") == "queued" and status.get("device_lock") == lock:
            other = float(status.get("queued", 0.0))
            if (other, folder.name) < (since, run.id):
                return False
    return True


def _device() -> str:
    """What the trainer will really train on, as trainers choose it: the same name however it was asked for."""
    if os.environ.get("STUDIO_DEVICE", "auto") == "cpu" or not _has_card():
        return "cpu"
    # one process trains on the first card that it sees
    return f"cuda-{os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',')[0].strip() or '0'}"


def has_driver() -> bool:
    """Whether there may be a card that torch can use; without a driver there is none."""
    return any(Path(driver).exists() for driver in _DRIVERS)


def _has_card() -> bool:
    # Only torch knows whether it can use a card: it is asked in a process that ends, where a driver is there at all.
    if not has_driver():
        return False
    question = "import torch; raise SystemExit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", question], capture_output=True).returncode == 0


def _device_lock(run: RunDir) -> Path:
    return run.path.parent / f".device-{_device()}.lock"


def _step_back() -> None:
    """Leave the processor to others, as far as this system knows how."""
    if hasattr(os, "nice"):
        os.nice(max(0, _NICE - os.nice(0)))
    elif sys.platform == "win32":
        psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
    # Desktops with Linux weigh sessions against each other, and processes only inside of one (autogroup, sched(7)).
    group = Path("/proc/self/autogroup")
    if (
        group.exists() and hasattr(os, "getsid") and os.getsid(0) == os.getpid()
    ):  # a session of its own, as the supervisor makes it
        with suppress(OSError):
            group.write_text(str(_SESSION_NICE), encoding="utf-8")


def main(path: Path) -> None:
    run = RunDir(path.resolve())
    if os.environ.get(LOCK_INHERITED) != str(run.path):
        held = take_lock(run.lock_file)
        if held is None:
            raise SystemExit(f"Run {run.id} is training already.")
        run.clear_stop()  # started by hand: an earlier trainer obeyed it
        _pass_on(held)
        os.environ[LOCK_INHERITED] = str(run.path)
    _step_back()
    try:
        _wait_in_line(run)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        run.release_reserve()  # room for the last word
        run.update(state="failed", error="The disk is full: the run couldn't begin; make room and resume it.")
        raise SystemExit(1) from None


def _wait_in_line(run: RunDir) -> None:
    """Until it is this run's turn; then become its trainer."""
    since = time.time()
    lock = _device_lock(run)
    run.update(state="queued", queued=since, device_lock=lock.name, pid=os.getpid(), error=None)
    device = None
    while device is None:
        if run.stop_requested():
            run.update(state="stopped")
            return
        if _first_in_line(run, since, lock.name):
            device = take_lock(lock, patience=0)
        if device is None:
            time.sleep(_POLL)
    _pass_on(device)
    run.update(state="starting")
    trainer = TRAINERS[run.spec().kind]
    if locks.INHERITABLE:
        os.execv(sys.executable, [sys.executable, "-u", "-m", trainer, str(run.path)])
    sys.argv[1:] = [str(run.path)]
    runpy.run_module(trainer, run_name="__main__", alter_sys=True)


def _pass_on(lock: locks.Lock) -> None:
    if locks.INHERITABLE:
        os.set_inheritable(lock.fileno(), True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
