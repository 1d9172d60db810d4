"""The studio without what Windows lacks: fcntl, resource, exec, sessions, descriptors to inherit, open files to rename.

`support/windows/sitecustomize.py` refuses them to the studio's modules, in every process that these tests start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.checkpoints import tiny_sd
from support.training_sets import write_set

from studio.core import locks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Windows is imitated on Linux")
REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN = """
import json, sys
from studio.core import locks
from studio.core.errors import Busy
from studio.core.settings import Settings
from studio.core.specs import LoraSpec
from studio.runs.supervisor import Supervisor
assert not locks.INHERITABLE
model, data = sys.argv[1:]
supervisor = Supervisor(Settings(device="cpu"))
spec = LoraSpec(model=model, data=data, epochs=2, rank=2, repeats=1, batch_size=4, checkpoint_epochs=1, samples=False)
run = supervisor.start(spec)
assert supervisor.get(run).alive()
try:
    supervisor.resume(run)
except Busy as error:
    print(error, file=sys.stderr)
else:
    raise AssertionError("two trainers")
status = supervisor.wait(run, 240)
print(supervisor.get(run).tail(), file=sys.stderr)
supervisor.resume(run, epochs=3)
print(json.dumps([status, supervisor.wait(run, 240)]))
"""
ALIVE = """
import sys
from pathlib import Path
from studio.jobs.log import Processes
from studio.store.database import Database
folder = Path(sys.argv[1])
processes = Processes(Database(folder.with_name("studio.db")), folder)
processes.enter()
print(processes.own, flush=True)
sys.stdin.read()
processes.leave()
"""


def windows(home: Path) -> dict[str, str]:
    path = os.pathsep.join([str(REPOSITORY / "tests" / "support" / "windows"), str(REPOSITORY)])
    return os.environ | {"STUDIO_HOME": str(home.resolve()), "STUDIO_DEVICE": "cpu", "PYTHONPATH": path}


def run(home: Path, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, *arguments], env=windows(home), cwd=home, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    return done.stdout.splitlines()


def test_the_imitation_refuses(tmp_path: Path) -> None:
    (tmp_path / "studio_probe.py").write_text(
        "import os, subprocess, sys\n"
        "assert not hasattr(os, 'setsid') and not hasattr(os, 'nice')\n"
        "def refused(kind, function, *arguments, **named):\n"
        "    try: function(*arguments, **named)\n"
        "    except kind: return\n"
        "    raise SystemExit(f'{function} was not refused')\n"
        "def imports(name): exec(f'import {name}', globals())\n"
        "file = open('held.txt', 'w')\n"
        "refused(ImportError, imports, 'fcntl')\n"
        "refused(ImportError, imports, 'resource')\n"
        "exec('def at(function, *a, **k): return function(*a, **k)')\n"
        "refused(PermissionError, lambda: os.open('.', os.O_RDONLY))\n"
        "refused(OSError, lambda: os.fsync(os.open('held.txt', os.O_RDONLY)))\n"
        "refused(PermissionError, os.rename, 'held.txt', 'other.txt')\n"
        "refused(ValueError, lambda: subprocess.Popen(['true'], start_new_session=True))\n"
        "refused(OSError, os.execv, sys.executable, ['python'])\n"
    )
    run(tmp_path, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import studio_probe")


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    model = tiny_sd(tmp_path / "model")
    line = run(tmp_path, "-m", "studio", "generate", "--text", "red hair", "--model", str(model), "--json")[-1]
    [image] = json.loads(line)["images"]
    assert Path(image["path"]).stat().st_size > 0


@pytest.mark.slow
def test_two_steps_are_trained_and_the_run_resumes(tmp_path: Path) -> None:
    model, data = tiny_sd(tmp_path / "model"), write_set(tmp_path / "data", 4)
    first, second = json.loads(run(tmp_path, "-c", TRAIN, str(model), str(data))[-1])
    assert (first["state"], first["step"]) == ("done", 2), first
    assert (second["state"], second["step"]) == ("done", 3), second


def test_who_is_alive_is_known_to_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "INHERITABLE", False)
    from studio.jobs.log import Processes
    from studio.store.database import Database

    def begin() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", ALIVE, str(tmp_path / "processes")], env=windows(tmp_path), cwd=tmp_path,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    looks = Processes(Database(tmp_path / "studio.db"), tmp_path / "processes")
    for kill in (True, False):
        process = begin()
        assert process.stdout is not None
        assert process.stdin is not None
        name = process.stdout.readline().strip()
        assert looks.alive(name)
        if kill:
            process.kill()
        process.communicate(timeout=30)  # closes its input, which ends it
        assert not looks.alive(name)
        assert list((tmp_path / "processes").iterdir()) == []


@pytest.mark.parametrize("inheritable", [True, False])
def test_a_lock_is_one_holders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inheritable: bool) -> None:
    monkeypatch.setattr(locks, "INHERITABLE", inheritable)
    path = tmp_path / "run.lock"
    assert not locks.is_locked(path)
    first = locks.take(path)
    assert first is not None
    with first:
        first.write("1\n")
        first.write("2\n")
        began = time.monotonic()
        assert locks.take(path, patience=0.1) is None
        assert time.monotonic() - began >= 0.1
        assert locks.is_locked(path)
        assert path.read_text() == "2\n"
    assert not locks.is_locked(path)
    with locks.take(path) or pytest.fail("it is free"):
        assert locks.is_locked(path)
    locks.remove(path)
    assert list(tmp_path.iterdir()) == []
