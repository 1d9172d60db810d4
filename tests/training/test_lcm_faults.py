"""Bad moments of a distillation: killed while it measures, changed before it resumes, without memory, time, numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.distillations import judged_teacher, run_of, same, tensors

from studio.core.settings import settings
from studio.core.specs import LcmSpec
from studio.runs.rundir import RunDir
from studio.training.distill import curve, history, latent_dataset, result, train
from studio.training.runtime import checkpoints, session
from studio.training.runtime.batch_sizer import OomBatchSizer
from studio.training.runtime.runtime import Runtime

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


class Killed(BaseException):
    """What nothing catches, as a kill."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judged_teacher(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path))
    monkeypatch.setenv("STUDIO_DEVICE", "cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(curve, "STEPS", (1, 4))  # the least that is measured with
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


@pytest.fixture
def new_run(home: Path, teacher: Path) -> Callable[..., RunDir]:
    def make(name: str, **changes: Any) -> RunDir:
        small = {"steps_per_epoch": 1, "latents": 8, "curve_pictures": 2}
        return run_of(home / "runs" / name, **{"model": str(teacher), **small, **changes})

    return make


def without_seconds(run: RunDir) -> Any:
    found = json.loads((run.path / "curve.json").read_text())
    for row in [*found["baseline"], *(row for point in found["checkpoints"] for row in point["rows"])]:
        del row["seconds"], row["decoding"]
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_killed_while_measuring_ends_at_the_same_export(
    new_run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {"epoch-0001": 0.1, "epoch-0002": 0.9, "epoch-0003": 0.3}  # the best is the one that was cut off
    real_look, now = history.QualityHistory.measure, []

    def look(self: history.QualityHistory, name: str, step: int) -> None:
        now[:] = [name]
        real_look(self, name, step)

    monkeypatch.setattr(history.QualityHistory, "measure", look)
    monkeypatch.setattr(curve, "quality", lambda *_: scores[now[0]])
    straight, killed = new_run("straight"), new_run("killed")
    train.main(straight.path)
    real_measure = curve.Evaluator.measure

    def dies(self: curve.Evaluator, *args: Any) -> curve.Row:
        if args[-1] == "epoch-0002-4":
            raise Killed
        return real_measure(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(curve.Evaluator, "measure", dies)
        with pytest.raises(Killed):
            train.main(killed.path)
    assert checkpoints.names(killed)[-1] == "epoch-0002"
    assert len(without_seconds(killed)["checkpoints"]) == 1
    train.main(killed.path)
    assert (killed.status()["state"], killed.status()["best"]) == ("done", "epoch-0002")
    assert without_seconds(killed) == without_seconds(straight)
    assert files(killed.adapter) == files(straight.adapter)


def test_killed_between_the_last_look_and_the_end_ends_there(
    new_run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    falling = iter([0.5, 0.4, 0.3, 0.9])
    monkeypatch.setattr(curve, "quality", lambda *_: next(falling))
    run = new_run("falling", epochs=4, patience=2)

    def dies(*_: Any) -> Path:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(result, "write_lora", dies)
        with pytest.raises(Killed):
            train.main(run.path)
    train.main(run.path)
    status = run.status()
    assert (status["state"], status["step"], status["best"]) == ("done", 3, "epoch-0001")
    train.main(run.path)  # whoever resumes a run that had ended wants it to go on
    assert (run.status()["step"], run.status()["best"]) == (4, "epoch-0004")


def test_the_best_weights_are_found_again_or_replaced(
    new_run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    falling = iter([0.9, 0.5])
    monkeypatch.setattr(curve, "quality", lambda *_: next(falling))
    run = new_run("best", epochs=2)
    train.main(run.path)
    assert history.best_of(run) == {"name": "epoch-0001", "step": 1}
    best = {name: t.clone() for name, t in tensors(run.path / "best").items()}  # no map of a file that is torn next
    (run.path / history.BEST).write_bytes(b"torn")
    train.main(run.path)
    assert history.best_of(run)["name"] == run.status()["best"] == "epoch-0001"
    assert same(tensors(run.path / "best"), best)
    (run.path / history.BEST).unlink()
    (run.checkpoints / "epoch-0001" / "ema.safetensors").write_bytes(b"torn")
    train.main(run.path)
    status = run.status()
    assert (status["state"], status["best"]) == ("done", "now")
    assert any("the last weights are the result" in note for note in status["notes"])
    last = load_file(run.checkpoints / "epoch-0002" / "ema.safetensors")
    assert same(load_file(run.path / history.BEST), last)


def test_a_kill_while_keeping_leaves_the_old_best(
    new_run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve, "quality", lambda *_: 0.5)
    run = new_run("kept", epochs=1)
    train.main(run.path)
    before = files(run.path / "best")

    def dies(_: Any, file: Path, **__: Any) -> None:
        file.write_bytes(b"torn")
        raise Killed

    monkeypatch.setattr(history, "save_file", dies)
    monkeypatch.setattr(curve, "quality", lambda *_: 0.9)
    run.write_spec(run.spec().model_copy(update={"epochs": 2}))
    with pytest.raises(Killed):
        train.main(run.path)
    assert history.best_of(run) == {"name": "epoch-0001", "step": 1}
    assert before.items() <= files(run.path / "best").items()


@pytest.mark.parametrize("change", ["model", "loras", "rank", "settings"])
def test_what_changed_is_said_before_a_run_goes_on(
    new_run: Callable[..., RunDir], teacher: Path, tmp_path: Path, change: str
) -> None:
    run = new_run("changed", epochs=1, curve_pictures=0)
    train.main(run.path)
    spec = run.spec()
    assert isinstance(spec, LcmSpec)
    changes: dict[str, dict[str, Any]] = {
        "model": {"model": str(judged_teacher(tmp_path / "other"))},
        "loras": {"loras": [{"path": run.status()["adapter"]}]},
        "rank": {"rank": 8},
        "settings": {"epochs": 2, "ema_decay": 0.5, "latents": 9},
    }
    if change == "model":  # the same layers, other weights
        file = next((tmp_path / "other" / "unet").glob("*.safetensors"))
        held = load_file(file)
        held["conv_in.bias"] = held["conv_in.bias"] + 1
        save_file(held, file, metadata={"format": "pt"})
    run.write_spec(LcmSpec(**{**spec.model_dump(), **changes[change]}))
    if change == "settings":
        train.main(run.path)
        said = " ".join(run.status()["notes"])
        assert "ema_decay was 0.95, is 0.5" in said
        assert "The data set has changed since the checkpoint" in said
        assert "curve_pictures" not in said
        return
    with pytest.raises(SystemExit) as ended:
        train.main(run.path)
    assert ended.value.code == 2
    assert "start a new run" in run.status()["error"]


def test_a_loss_scale_is_taken_over_only_where_there_was_one() -> None:
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    checkpoints.restore_scaler(scaler, torch.amp.GradScaler("cpu", enabled=False).state_dict())
    assert scaler.get_scale() == 65536.0
    checkpoints.restore_scaler(scaler, torch.amp.GradScaler("cpu", init_scale=8.0).state_dict())
    assert scaler.get_scale() == 8.0


def test_too_little_memory_halves_what_is_done_at_once(
    new_run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = new_run("small", epochs=2, batch_size=4, curve_pictures=3)
    real_student, real_sample, drawn = train.LoraStudent.student, curve.sampling.sample, []

    def student(self: Any, z: torch.Tensor, *args: Any) -> torch.Tensor:
        if len(z) > 1 and torch.is_grad_enabled() and not z.is_meta:  # that is the estimate before the start
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return real_student(self, z, *args)

    def sample(denoiser: Any, scheduler: Any, x: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
        if len(x) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        drawn.append(len(x))
        return real_sample(denoiser, scheduler, x, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(train.LoraStudent, "student", student)
        patch.setattr(curve.sampling, "sample", sample)
        train.main(small.path)
    assert small.status()["state"] == "done"
    assert any("1 pictures at a time now" in note for note in small.status()["notes"])
    assert set(drawn) == {1, 2}
    assert checkpoints.load(small.checkpoints / "epoch-0002").meta["micro_batch"] == 1
    straight = new_run("straight", epochs=2, batch_size=4, curve_pictures=0)  # from the same latents
    train.main(straight.path)
    for ours, theirs in zip(small.metrics(), straight.metrics(), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


def test_not_even_one_picture_is_said_with_what_to_change(
    new_run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    def teacher(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train.LoraStudent, "teacher", teacher)
    run = new_run("none", epochs=1, curve_pictures=0)
    with pytest.raises(SystemExit):
        train.main(run.path)
    said = run.status()["error"]
    assert "not enough memory even for single pictures" in said
    assert "gradient checkpointing" in said
    assert "resolution" not in said  # a distillation has none to choose


def test_work_in_parts_keeps_its_order() -> None:
    sizer, tried = OomBatchSizer(8), []

    def work(start: int, stop: int) -> list[int]:
        tried.append(stop - start)
        if stop - start > 3:
            raise MemoryError
        return list(range(start, stop))

    assert [k for part in sizer.map(2, 9, work) for k in part] == list(range(2, 9))
    assert tried == [7, 4, 2, 2, 2, 1]
    with pytest.raises(ValueError, match="another"):
        sizer.map(0, 1, lambda *_: (_ for _ in ()).throw(ValueError("another")))


def test_a_gradient_that_is_no_number_is_never_stepped(
    new_run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = new_run("nan"), []
    real = Runtime.step

    def breaks(self: Runtime, optimizer: Any, *given: Any) -> float:
        calls.append(None)
        if len(calls) == 2:
            optimizer.param_groups[0]["params"][0].grad[0] = float("inf")  # and the loss is a fine number
        return real(self, optimizer, *given)

    monkeypatch.setattr(Runtime, "step", breaks)
    with pytest.raises(SystemExit) as ended:
        train.main(run.path)
    assert ended.value.code == 1
    assert "The gradient became inf at step 2" in run.status()["error"]
    found, _ = checkpoints.latest_good(run)
    assert found is not None
    assert found.step == 1


@pytest.mark.parametrize("where", ["latents", "baseline", "look"])
@pytest.mark.parametrize("why", ["stop", "time"])
def test_long_work_between_steps_heeds_stop_and_clock(
    new_run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch, where: str, why: str
) -> None:
    run, over = new_run("waiting", epochs=1, latents=20), []
    monkeypatch.setattr(session.Session, "must_stop", lambda _: why if over else "")
    place, name = {
        "latents": (latent_dataset, "_write"),
        "baseline": (curve.Evaluator, "_decode"),
        "look": (history.QualityHistory, "measure"),
    }[where]
    real = getattr(place, name)

    def then_it_is_over(*args: Any) -> Any:
        if where == "look":
            over.append(True)
            return real(*args)
        found = real(*args)
        over.append(True)
        return found

    monkeypatch.setattr(place, name, then_it_is_over)
    train.main(run.path)
    status = run.status()
    assert status["state"] == "stopped"
    assert ("The time limit is reached." in status["notes"]) is (why == "time")
    assert status.get("step", 0) == (1 if where == "look" else 0)
    monkeypatch.setattr(place, name, real)
    over.clear()
    train.main(run.path)
    assert run.status()["state"] == "done"
    assert [point["name"] for point in run.status()["curve"]["checkpoints"]] == ["epoch-0001"]


def test_one_picture_has_no_frechet_distance(new_run: Callable[..., RunDir]) -> None:
    run = new_run("one", epochs=1, curve_pictures=1)
    train.main(run.path)
    status = run.status()
    assert status["state"] == "done"
    assert {row["frechet"] for row in status["curve"]["rows"]} == {None}
    (point,) = status["curve"]["checkpoints"]
    assert 0 <= point["quality"] <= 1


def test_a_damaged_curve_is_measured_again(new_run: Callable[..., RunDir]) -> None:
    run = new_run("power", epochs=1)
    train.main(run.path)
    for file in (run.path / "curve.json", run.path / "curve" / "baseline.json"):
        file.write_text("")
    run.write_spec(run.spec().model_copy(update={"epochs": 2}))
    train.main(run.path)
    assert run.status()["state"] == "done"
    assert len(json.loads((run.path / "curve" / "baseline.json").read_text())["rows"]) == 1 + len(curve.STEPS)
