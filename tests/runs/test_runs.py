"""Run folders: atomic files, the lock that means alive, the line for the device, the supervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from studio.core.errors import BadInput, Busy, NotFound
from studio.core.settings import REPOSITORY, Settings
from studio.core.specs import LcmSpec, LoraSpec
from studio.features.morph.spec import MorphSpec
from studio.runs import launch
from studio.runs.rundir import LOCK_INHERITED, RunDir, take_lock
from studio.runs.supervisor import Supervisor
from studio.runs.trash import Trash

HOLDER = """
import sys, time
from pathlib import Path
from studio.runs.rundir import RunDir
run = RunDir(Path(sys.argv[1]))
with run.lock():
    run.update(state="running", step=3)
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "runs" / "a")
    run.path.mkdir(parents=True)
    run.write_spec(LoraSpec(data="somewhere", name="A style"))
    return run


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    monkeypatch.delenv("STUDIO_DEVICE", raising=False)
    return Supervisor(Settings(home=tmp_path, device="cpu"))


@pytest.fixture
def busy_device(tmp_path: Path) -> Iterator[None]:
    """Somebody trains already."""
    (tmp_path / "runs").mkdir()
    held = take_lock(tmp_path / "runs" / ".device-cpu.lock")
    assert held is not None
    yield
    held.close()


def test_requests_of_earlier_versions_are_read(run: RunDir) -> None:
    """Fields by their old names, as run folders, JSON bodies and pictures have them; the new ones are written."""
    old = json.loads(run.spec_file.read_text())
    old["text_encoder_rate"] = 1e-5
    del old["text_encoder_lr"]
    run.spec_file.write_text(json.dumps(old))
    spec = run.spec()
    assert isinstance(spec, LoraSpec)
    assert spec.text_encoder_lr == 1e-5
    run.write_spec(spec)
    assert "text_encoder_rate" not in json.loads(run.spec_file.read_text())
    lcm = LcmSpec.model_validate({"finish": 0.4, "match": 0.2})
    assert (lcm.exact_target_share, lcm.dmd_share) == (0.4, 0.2)
    assert MorphSpec.model_validate({"held": 0.3}) == MorphSpec(shared_steps=0.3)
    for kind, name in ((LoraSpec, "text_encoder_lr"), (LcmSpec, "dmd_share"), (MorphSpec, "shared_steps")):
        assert name in kind.model_json_schema()["properties"]


def hold(run: RunDir) -> subprocess.Popen[str]:
    """Another process that is this run's trainer."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_alive_means_that_a_process_holds_the_lock(run: RunDir) -> None:
    assert not run.alive()
    process = hold(run)
    try:
        assert run.alive()
        assert run.status()["state"] == "running"
        with pytest.raises(Busy, match="training already"), run.lock():
            pytest.fail("two trainers")
        with pytest.raises(Busy, match="stop it first"):
            Trash(run.path.parent).put(run)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    # nobody wrote "crashed": it is what running and a free lock mean
    assert json.loads(run.status_file.read_text())["state"] == "running"
    assert run.status()["state"] == "crashed"
    assert run.status()["step"] == 3
    with run.lock():
        assert run.status()["state"] == "starting"  # the status is the dead one's
        run.update(state="running")
        assert run.status()["state"] == "running"


def test_asking_whether_it_is_alive_never_stops_a_trainer_from_starting(run: RunDir) -> None:
    with run.lock():
        pass
    with open(run.lock_file) as reader:
        import fcntl

        fcntl.flock(reader, fcntl.LOCK_SH)
        start = time.monotonic()
        assert take_lock(run.lock_file, patience=0.1) is None
        assert time.monotonic() - start >= 0.1
    held = take_lock(run.lock_file, patience=0.1)
    assert held is not None
    held.close()


def test_a_trainer_that_is_started_by_hand_forgets_an_earlier_stop(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.request_stop()
    with run.lock():
        assert not run.stop_requested()
        run.request_stop()  # while it trains it counts
        assert run.stop_requested()
    monkeypatch.setenv(LOCK_INHERITED, str(run.path.resolve()))
    with run.lock():  # of one that waited in line: it may have been asked meanwhile
        assert run.stop_requested()


def test_metrics_survive_a_torn_line_and_go_back_with_the_run(run: RunDir) -> None:
    for step in range(1, 6):
        run.append_metric({"step": step, "loss": 1 / step})
    with open(run.metrics_file, "a") as file:
        file.write('{"step": 6, "lo')
    assert [line["step"] for line in run.metrics()] == [1, 2, 3, 4, 5]
    run.truncate_metrics(3)
    assert [line["step"] for line in run.metrics()] == [1, 2, 3]


def test_the_log_tail_starts_with_a_whole_line(run: RunDir) -> None:
    assert run.tail() == ""
    run.log_file.write_text("".join(f"line {k}\n" for k in range(100)))
    assert run.tail(30) == "line 97\nline 98\nline 99\n"
    assert run.tail().startswith("line 0\n")


def test_a_deleted_folder_is_not_made_anew(run: RunDir) -> None:
    run.update(state="running")
    trash = Trash(run.path.parent)
    trash.put(run)
    with pytest.raises(FileNotFoundError):
        run.update(step=1)
    with pytest.raises(FileNotFoundError):
        run.append_metric({"step": 1})
    assert not run.path.exists()
    trash.purge(older_than=0)
    assert [path.name for path in run.path.parent.rglob("*")] == [".deleted"]


def test_a_deleted_run_comes_back_for_its_owner(run: RunDir) -> None:
    runs, trash = run.path.parent, Trash(run.path.parent)
    run.update(state="done", drawings="shared")
    run.write_owner("ann")
    (runs / ".drawings" / "shared").mkdir(parents=True)
    trash.put(run)
    with pytest.raises(NotFound, match="brought back"):
        trash.bring_back("bob")
    run.path.mkdir()  # meanwhile another run was given its name
    assert trash.bring_back("ann") == f"{run.id}-2"
    assert RunDir(runs / f"{run.id}-2").status()["state"] == "done"
    with pytest.raises(NotFound):
        trash.bring_back()
    trash.put(RunDir(runs / f"{run.id}-2"))
    trash.purge()
    assert len(trash.kept()) == 1
    assert (runs / ".drawings" / "shared").exists()
    trash.purge(older_than=0)
    assert trash.kept() == []
    assert not (runs / ".drawings" / "shared").exists()


def test_unknown_runs_and_paths_as_ids_are_refused(supervisor: Supervisor) -> None:
    for bad in ("nothing", "../../etc", "", ".", "A"):
        with pytest.raises(NotFound):
            supervisor.get(bad)
    assert supervisor.list() == []


@pytest.mark.usefixtures("busy_device")
def test_waiting_in_line_stopping_and_resuming(supervisor: Supervisor, tmp_path: Path) -> None:
    first = supervisor.start(LoraSpec(data=str(tmp_path), name="Première", model="nowhere"))
    second = supervisor.start(LcmSpec(name="second"))
    assert first.endswith("-premi-re")
    assert supervisor.get(first).alive()  # from the first moment
    assert supervisor.get(first).status()["state"] in ("starting", "queued")
    deadline = time.monotonic() + 60
    while any(supervisor.get(name).status()["state"] != "queued" for name in (first, second)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [run.id for run in supervisor.list()] == sorted([first, second], reverse=True)
    with pytest.raises(Busy):
        supervisor.resume(first)
    with pytest.raises(Busy):
        supervisor.delete(second)
    for name in (first, second):
        supervisor.stop(name)
        assert supervisor.wait(name, 60)["state"] == "stopped"
    with pytest.raises(BadInput, match="epochs"):
        supervisor.resume(first, epochs=0)
    supervisor.resume(first, epochs=7)
    spec = supervisor.get(first).spec()
    assert spec.epochs == 7
    assert supervisor.get(first).alive()
    supervisor.stop(first)
    supervisor.wait(first, 60)
    supervisor.delete(first)
    assert [run.id for run in supervisor.list()] == [second]


def test_a_run_that_has_ended_can_be_resumed_before_its_process_is_gone(
    supervisor: Supervisor, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = take_lock(run.lock_file)
    assert held is not None
    run.update(state="stopped")
    threading.Timer(0.5, held.close).start()
    monkeypatch.setattr(supervisor, "_spawn", lambda run: None)
    supervisor.resume("a")
    assert held.closed
    held = take_lock(run.lock_file)
    assert held is not None
    run.update(state="stopped")
    threading.Timer(0.5, held.close).start()
    supervisor.delete("a")
    assert not run.path.exists()


def test_a_run_that_was_just_killed_can_be_resumed_at_once(
    supervisor: Supervisor, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = take_lock(run.lock_file)  # of a process that is on its way out
    assert held is not None
    run.update(state="running", stage="epoch 3", seconds_left=40)
    assert run.status()["stage"] == "epoch 3"
    threading.Timer(0.5, held.close).start()
    monkeypatch.setattr(supervisor, "_spawn", lambda run: None)
    supervisor.resume("a")
    assert held.closed
    status = run.status()
    assert status["state"] == "crashed"
    assert not {"stage", "seconds_left"} & set(status)  # it does nothing any more


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_disk_that_is_full_before_the_trainer_starts_is_said(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        supervisor = Supervisor(Settings(home=place, device="cpu"))
        (place / "runs").mkdir()
        with take_lock(place / "runs" / ".device-cpu.lock") as held:  # type: ignore[union-attr]
            id = supervisor.start(LcmSpec(name="late"))
            supervisor.stop(id)
            assert supervisor.wait(id, 60)["state"] == "stopped"
            with open(place / "filler", "wb", buffering=0) as filler, suppress(OSError):
                while filler.write(b"x" * 512):
                    pass
            assert not held.closed
        run = supervisor.get(id)
        run.clear_stop()
        supervisor._spawn(run)
        status = supervisor.wait(id, 60)
        assert (status["state"], status["error"]) == (
            "failed", "The disk is full: the run couldn't begin; make room and resume it."
        )  # fmt: skip
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_the_child_gets_the_settings(supervisor: Supervisor, tmp_path: Path) -> None:
    environment = Supervisor(Settings(home=tmp_path / "x", hf_token="secret", offline=True))._environment()
    assert environment["STUDIO_HOME"] == str((tmp_path / "x").resolve())
    assert environment["STUDIO_HF_TOKEN"] == "secret"
    assert environment["STUDIO_OFFLINE"] == "True"
    assert Path(environment["PYTHONPATH"].split(os.pathsep)[0]) == REPOSITORY


@pytest.mark.parametrize(
    ("asked", "visible", "card", "name"),
    [
        ("auto", None, False, "cpu"),
        ("cuda", "0", False, "cpu"),
        ("cpu", "0", True, "cpu"),
        ("auto", None, True, "cuda-0"),
        ("cuda", "0", True, "cuda-0"),
        ("auto", "1,0", True, "cuda-1"),
    ],
)
def test_one_device_has_one_lock_however_it_was_asked_for(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, asked: str, visible: str | None, card: bool, name: str
) -> None:
    monkeypatch.setenv("STUDIO_DEVICE", asked)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(launch, "_has_card", lambda: card)
    assert launch._device_lock(run).name == f".device-{name}.lock"


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="This system doesn't group sessions.")
@pytest.mark.parametrize("own", [True, False])
def test_a_run_steps_back_also_where_sessions_are_weighed(own: bool) -> None:
    said = "import os; from studio.runs import launch; launch._step_back(); print(os.nice(0), end=' ');"
    said += "print(open('/proc/self/autogroup').read().split()[-1])"
    shell = [sys.executable, "-c", said] if own else ["sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, said]
    done = subprocess.run(
        shell, capture_output=True, text=True, check=True, start_new_session=True, cwd=REPOSITORY,
    )  # fmt: skip
    process, group = done.stdout.split()
    assert int(process) >= 10
    assert group == ("5" if own else "0")  # another's session isn't ours to slow down


def test_a_status_that_a_power_cut_emptied_is_none(run: RunDir) -> None:
    run.status_file.write_text("")
    assert run.status()["state"] == "crashed"
    run.update(step=2)
    assert run.status()["step"] == 2


def test_a_lock_that_was_handed_over_counts(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    held = take_lock(run.lock_file)
    assert held is not None
    monkeypatch.setenv(LOCK_INHERITED, str(run.path.resolve()))
    with run.lock():
        assert run.alive()
    assert run.alive()  # it was not ours to give back
    held.close()
    assert not run.alive()


@pytest.mark.usefixtures("busy_device")
def test_relative_paths_are_made_absolute(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    name = supervisor.start(LoraSpec(data="pictures", model="models/mine"))
    spec = supervisor.get(name).spec()
    assert isinstance(spec, LoraSpec)
    assert (spec.data, spec.model) == (str(tmp_path / "pictures"), str(tmp_path / "models" / "mine"))
    supervisor.stop(name)
    assert supervisor.wait(name, 60)["state"] == "stopped"
