"""LoRA runs on a tiny model, as processes: what they leave, several processes, and bad days."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from support.checkpoints import tiny_sd
from support.training_sets import finish, train, trainer, write_run, write_set

from studio.core.errors import Cancelled
from studio.core.settings import Settings, settings
from studio.core.specs import LoraSpec, Recipe
from studio.engine.engine import Engine
from studio.engine.models import hub
from studio.runs.rundir import RunDir
from studio.training.lora import estimate, samples
from studio.training.lora import train as lora
from studio.training.runtime import checkpoints, models, session
from studio.training.runtime.average import MovingAverage
from studio.training.runtime.runtime import Runtime
from studio.training.runtime.session import Session


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("lora")
    tiny_sd(home / "model")
    write_set(home / "data", 4)
    return home


def spec(home: Path, **changes: object) -> LoraSpec:
    base = LoraSpec(
        data=str(home / "data"),
        model=str(home / "model"),
        epochs=2,
        rank=2,
        batch_size=4,
        repeats=2,
        checkpoint_epochs=1,
        sample_prompts=("1girl",),
    )
    return base.model_copy(update=changes)


def first_moments(run: RunDir, name: str = "epoch-0001") -> torch.Tensor:
    """Adam's first moments: after one step, 0.1 times the (clipped) gradient of every parameter."""
    tensors = load_file(run.checkpoints / name / "optimizer.safetensors")
    return torch.cat([tensors[key].flatten() for key in sorted(tensors) if key.endswith(".exp_avg")])


@pytest.fixture(scope="module")
def one_step(home: Path) -> RunDir:
    """One epoch of one step of eight pictures in one process."""
    run = write_run(home, "one", spec(home, epochs=1, batch_size=8))
    assert train(run) == 0, run.tail()
    return run


def test_what_a_run_leaves(one_step: RunDir) -> None:
    status, spec = one_step.status(), one_step.spec()
    assert (status["state"], status["step"], status["steps"], status["epoch"]) == ("done", 1, 1, 1)
    assert status["seconds_left"] is None
    assert sorted(p.name for p in one_step.samples.iterdir()) == ["step-000000-0.png", "step-000001-0.png"]
    # An untrained LoRA changes nothing (B is zero until the first step): the first sample is the base model's.
    recipe = Recipe(
        model=spec.model, model_hash="", prompt="1girl", seed=spec.seed, steps=4, guidance=3.0, sampler="auto",
        width=64, height=64,
    )  # fmt: skip
    [(_, drawn)] = Engine(Settings(home=one_step.path.parent.parent, device="cpu")).draw([recipe])
    first = np.asarray(Image.open(one_step.samples / "step-000000-0.png"), dtype=float)
    assert np.abs(first - np.asarray(drawn, dtype=float)).max() <= 2
    assert Path(status["adapter"]).parent == one_step.adapter
    assert "trainable (" in one_step.tail()
    assert not one_step.reserve_file.exists()


def test_neither_autoencoder_nor_text_encoder_stays_in_memory(home: Path) -> None:
    run = write_run(home, "audit", spec(home, epochs=1))
    assert train(run, patch="audit") == 0, run.tail()
    assert (run.path / "held.txt").read_text() == "UNet2DConditionModel"


def train_together(run: RunDir, count: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    together = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [trainer(run, RANK=str(k), LOCAL_RANK=str(k), **together) for k in range(count)]
    assert [finish(process) for process in processes] == [0] * count, run.tail()


def test_two_processes_give_the_gradients_of_one(home: Path, one_step: RunDir) -> None:
    run = write_run(home, "two", spec(home, epochs=1, batch_size=4))
    train_together(run, 2)
    theirs, ours = first_moments(one_step), first_moments(run)
    assert theirs.abs().max() > 1e-6
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-8)
    assert run.metrics()[0]["loss"] == pytest.approx(one_step.metrics()[0]["loss"], rel=1e-5)


def test_processes_without_a_picture_of_the_last_step_add_nothing(home: Path) -> None:
    alone, together = (write_run(home, f"rest-{n}", spec(home, epochs=1, batch_size=n)) for n in (3, 1))
    assert train(alone) == 0, alone.tail()
    train_together(together, 3)  # of eight pictures two are left for the third step
    losses = [line["loss"] for line in alone.metrics()]
    assert len(losses) == 3
    assert [line["loss"] for line in together.metrics()] == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(first_moments(together), first_moments(alone), rtol=1e-3, atol=1e-7)


def test_accumulation_gives_the_gradients_of_the_whole_batch(home: Path, one_step: RunDir) -> None:
    run = write_run(home, "accumulated", spec(home, epochs=1, batch_size=2, accumulation=4))
    assert train(run) == 0, run.tail()
    torch.testing.assert_close(first_moments(run), first_moments(one_step), rtol=1e-4, atol=1e-8)


def test_out_of_memory_halves_the_batch_and_changes_no_result(home: Path, one_step: RunDir) -> None:
    run = write_run(home, "memory", spec(home, epochs=1, batch_size=8))
    assert train(run, patch="memory") == 0, run.tail()
    notes = run.status()["notes"]
    assert [note[:21] for note in notes] == ["Not enough memory: 4 ", "Not enough memory: 2 ", "Not enough memory: 1 "]
    torch.testing.assert_close(first_moments(run), first_moments(one_step), rtol=1e-4, atol=1e-8)


def test_an_infinite_gradient_never_reaches_the_weights(home: Path) -> None:
    run = write_run(home, "infinite", spec(home, epochs=4))
    assert train(run, patch="infinite") == 1
    assert run.status()["error"].startswith("The gradient became inf at step 4.")
    found, _ = checkpoints.latest_good(run)
    assert found is not None
    assert found.step == 2
    assert all(tensor.isfinite().all() for tensor in found.groups["lora"].values())


def test_a_nan_stops_the_run_at_the_last_good_checkpoint(home: Path) -> None:
    run = write_run(home, "nan", spec(home, epochs=8))
    assert train(run, patch="nan") == 1
    status = run.status()
    assert status["state"] == "failed"
    assert status["error"].startswith("The loss became nan at step 8. The last good checkpoint is kept")
    found, _ = checkpoints.latest_good(run)
    assert found is not None
    assert (found.name, found.step) == ("epoch-0003", 6)
    assert all(tensor.isfinite().all() for tensor in found.groups["lora"].values())
    run.write_spec(spec(home, epochs=4, learning_rate=1e-5))
    assert train(run) == 0, run.tail()
    assert [line["step"] for line in run.metrics()] == list(range(1, 9))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_loses_nothing(home: Path, small_disk: Path) -> None:
    run = write_run(small_disk, "full", spec(home, epochs=200, rank=8))
    assert train(run) == 1
    status = run.status()
    assert status["state"] == "failed"
    assert status["error"].startswith("The disk is full"), status
    found, damaged = checkpoints.latest_good(run)
    assert found is not None
    assert damaged == []
    assert list(run.checkpoints.glob("*.tmp")) == []
    for path in run.checkpoints.iterdir():
        if path.name != found.name:
            shutil.rmtree(path)
    shutil.rmtree(run.samples)
    run.write_spec(spec(home, epochs=found.epoch + 1, rank=8))
    assert train(run) == 0, run.tail()
    assert f"Resumed from {found.name}" in " ".join(run.status()["notes"])


def test_a_folder_deleted_under_the_trainer_ends_it(home: Path) -> None:
    run = write_run(home, "deleted", spec(home, epochs=1000))
    process = trainer(run)
    while len(run.metrics()) < 2:
        assert process.is_alive(), run.tail()
    while run.path.exists():  # it writes meanwhile
        shutil.rmtree(run.path, ignore_errors=True)
    assert finish(process) == 1
    assert not run.path.exists()


def test_a_time_limit_saves_before_it_is_reached(home: Path) -> None:
    # half a minute: a busy machine takes its time to begin
    run = write_run(home, "limited", spec(home, epochs=1000, time_limit_minutes=0.4, checkpoint_epochs=100))
    assert train(run) == 0, run.tail()
    status = run.status()
    assert status["state"] == "stopped"
    assert status["step"] < status["steps"]
    assert "The time limit is reached." in status["notes"]
    assert checkpoints.latest_good(run)[0] is not None


@pytest.mark.parametrize("where", ["cache_latents", "cache_texts", "samples"])
def test_long_work_before_the_first_step_heeds_stop(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path))
    monkeypatch.setenv("STUDIO_DEVICE", "cpu")
    settings.cache_clear()
    run = write_run(tmp_path, where, spec(home, batch_size=8, sample_prompts=("1girl", "1boy")))
    place, name = (samples.latents, "decode") if where == "samples" else (lora.dataset, where)
    real = getattr(place, name)

    def then_it_is_stopped(*args: Any) -> Any:
        run.request_stop()
        return real(*args)

    monkeypatch.setattr(place, name, then_it_is_stopped)
    lora.main(run.path)
    settings.cache_clear()
    assert run.status()["state"] == "stopped"
    if where == "samples":  # the second is not begun; one step is made and saved, and shown, for that is quick
        assert run.status()["step"] == 1
        assert not (run.samples / "step-000000-1.png").exists()
        assert (run.samples / "step-000001-1.png").exists()
    else:
        assert run.metrics() == []


def test_there_is_time_for_a_step_and_two_checkpoints_before_the_limit(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=lambda: now[0], time=lambda: 0.0, strftime=str))
    trainer = Session(write_run(tmp_path, "clock", spec(home)))
    trainer.limit_minutes = 1
    trainer.begin(0, 100, 1)
    now[0] += 5
    trainer.step_done(1, 1, 0.5, 1e-4)
    trainer.saved("epoch-0001", 10)
    now[0] = 134.9
    assert trainer.must_stop() == ""
    now[0] = 135.0  # 25 s before the limit: one step of 5 s, and a checkpoint that may take twice its 10 s
    assert trainer.must_stop() == "time"


def test_the_time_left_knows_that_later_steps_take_longer(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=lambda: now[0], time=lambda: 0.0, strftime=str))
    run = write_run(tmp_path, "phases", spec(home))
    trainer = Session(run)
    trainer.phases = [(4, 1.0), (6, 3.0), (10, 5.0)]
    left = []
    with run.lock():
        trainer.begin(0, 10, 1)
        for step in range(1, 11):
            now[0] += 2 * (1 if step <= 4 else 3 if step <= 6 else 5)
            trainer.step_done(step, 1, 1.0 if step < 5 else 9.0, 1e-4, anew=step == 5)
            left.append(run.status()["seconds_left"])
    assert left == [2 * (k + 6 + 20) for k in (3, 2, 1, 0)] + [2 * 23, 2 * 20, 30, 20, 10, 0]
    assert run.status()["seconds_per_step"] == 10
    assert [line["smoothed"] for line in run.metrics()] == [1.0] * 4 + [9.0] * 6  # another loss isn't mixed in


def test_text_encoder_v_prediction_buckets_and_bf16_in_one_run(home: Path, tmp_path: Path) -> None:
    write_set(tmp_path / "data", 2, (64, 64), "1_round")
    write_set(tmp_path / "data", 2, (128, 64), "2_wide")
    run = write_run(
        home,
        "mixed",
        spec(
            home,
            data=str(tmp_path / "data"),
            epochs=1,
            batch_size=2,
            accumulation=2,
            text_encoder_lr=1e-4,
            precision="bf16",
            gradient_checkpointing=True,
            repeats=None,
        ),
    )
    assert train(run) == 0, run.tail()
    adapter = load_file(run.adapter / "my-style.safetensors")
    assert any(key.startswith("lora_te_text_model_encoder_layers_0_self_attn_q_proj") for key in adapter)
    assert all(
        tensor.dtype == torch.float32
        for tensor in load_file(run.checkpoints / "epoch-0001" / "lora.safetensors").values()
    )
    assert "6 per epoch; trigger words: {'round': 2, 'wide': 2}" in run.log_file.read_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "/nowhere"}, "There is no data set at /nowhere"),
        ({"model": "nowhere"}, "There is no model"),
        ({"precision": "fp16"}, "trains on NVIDIA cards only"),
        ({"optimizer": "prodigy"}, "pip install prodigyopt"),
        ({"optimizer": "adamw8bit"}, "pip install bitsandbytes"),
    ],
)
def test_what_cannot_be_met_is_one_sentence_and_exit_code_2(home: Path, changes: dict[str, str], words: str) -> None:
    package = {"prodigy": "prodigyopt", "adamw8bit": "bitsandbytes"}.get(changes.get("optimizer", ""), "")
    if package and importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed here")
    run = write_run(home, f"bad-{len(words)}", spec(home, **changes))
    assert train(run) == 2
    status = run.status()
    assert status["state"] == "failed"
    assert words in status["error"]


def test_a_model_that_is_not_here_is_downloaded_with_its_progress(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, here = write_run(tmp_path, "fresh", spec(home)), []
    monkeypatch.setattr(hub, "snapshot", lambda *_: home / "model" if here else None)
    stages = []

    def get(reference: str, settings: Settings, on_note: Any, **_: object) -> None:
        on_note(f"downloading {reference}: 1 of 2 MB")
        stages.append(run.status()["stage"])
        here.append(reference)

    monkeypatch.setattr(hub, "get", get)
    config = Settings(home=tmp_path, device="cpu")
    runtime = Runtime(Session(run), "auto", config)
    with run.lock():
        assert models.get_model(runtime, "some/model", config).path == home / "model"
        assert stages == ["1. Downloading some/model: 1 of 2 MB"]
        here.clear()
        run.request_stop()
        with pytest.raises(Cancelled):
            models.get_model(runtime, "some/model", config)
        runtime.processes = 2  # none of several may leave alone: they end together, at the first step
        assert models.get_model(runtime, "some/model", config).path == home / "model"


def test_a_measurement_trains_what_the_run_will(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    real, forward, update = estimate.make_optimizer, UNet2DConditionModel.forward, MovingAverage.update
    averaged = []

    def look(spec: LoraSpec, parameters: dict[str, torch.nn.Parameter]) -> Any:
        seen["parts"] = {name.partition(".")[0] for name in parameters}
        seen["learnt"] = {p.dtype for p in parameters.values()}
        return real(spec, parameters)

    def watched(self: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen["computed"] = sample.dtype
        return forward(self, sample, *args, **kwargs)

    monkeypatch.setenv("STUDIO_DEVICE", "cpu")
    monkeypatch.setattr(estimate, "make_optimizer", look)
    monkeypatch.setattr(UNet2DConditionModel, "forward", watched)
    monkeypatch.setattr(MovingAverage, "update", lambda *given: averaged.append(1) or update(*given))
    settings.cache_clear()
    found = estimate.measure(spec(home, text_encoder_lr=1e-4, precision="bf16", ema=True))
    settings.cache_clear()
    assert seen == {"parts": {"unet", "text_encoder"}, "learnt": {torch.float32}, "computed": torch.bfloat16}
    assert len(averaged) == estimate.STEPS
    assert found["seconds_per_step"] > 0
