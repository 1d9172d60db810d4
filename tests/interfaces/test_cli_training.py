"""The verbs that train: what they take, what they resume, and each run to its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from support.training_sets import write_set
from support.verbs import Done

from studio.core import presets
from studio.core.errors import BadInput
from studio.core.settings import settings
from studio.core.specs import LcmSpec, LoraSpec
from studio.core.views import RunView
from studio.engine.models.catalogue import find_lora
from studio.interfaces.cli import training
from studio.runs.rundir import RunDir
from studio.runs.supervisor import Supervisor
from studio.service.runs import TrainingRuns
from studio.training.controlnet import train as control
from studio.training.distill import train as lcm
from studio.training.export_checkpoint import export_checkpoint
from studio.training.lora import train as lora


def test_training_takes_limits_and_resuming_another_rate(
    run: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def stop(said: dict[str, Any]) -> Any:
        asked.update(said)
        raise BadInput("enough")

    monkeypatch.setattr(TrainingRuns, "resume", lambda self, id, **changes: stop(changes))
    monkeypatch.setattr(TrainingRuns, "start", lambda self, spec, *rest: stop(spec.model_dump()))
    limits = ("--time-limit", "660", "--checkpoint-minutes", "5", "--batch", "2", "--repeats", "3")
    assert "enough" in run("train-lora", "--data", str(tmp_path), "--learning-rate", "0.0001", *limits).err
    assert (asked["time_limit_minutes"], asked["checkpoint_minutes"], asked["batch_size"]) == (660, 5, 2)
    assert (asked["repeats"], asked["learning_rate"]) == (3, 1e-4)
    assert "enough" in run("runs", "resume", "abc", "--epochs", "9", "--learning-rate", "0.001").err
    assert (asked["epochs"], asked["learning_rate"]) == (9, 1e-3)
    more = ("--form", "full", "--objective", "tcd", "--steps", "7", "--rank", "8", "--batch", "3", "--latents", "9")
    assert "enough" in run("distill", *more, "--learning-rate", "0.01", *limits[:4]).err
    assert (asked["form"], asked["objective"], asked["steps_per_epoch"], asked["rank"]) == ("full", "tcd", 7, 8)
    assert (asked["batch_size"], asked["latents"], asked["time_limit_minutes"]) == (3, 9, 660)


def test_the_embedded_model_is_trained_as_the_pages_preset_does(
    run: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[LoraSpec] = []

    def start(self: TrainingRuns, spec: LoraSpec, *rest: object) -> Any:
        asked.append(spec)
        raise BadInput("enough")

    monkeypatch.setattr(TrainingRuns, "start", start)
    run("train-lora", "--data", tmp_path, "--model", "embedded")
    run("train-lora", "--data", tmp_path, "--model", "embedded", "--learning-rate", "0.0001")
    run("train-lora", "--data", tmp_path)  # another model
    assert [spec.learning_rate for spec in asked] == [presets.LORA[presets.EMBEDDED]["learning_rate"], 1e-4, 2e-4]


class Runs:
    """A studio that has these runs and starts nothing: `resumed` is what it was asked to go on with."""

    def __init__(self, *specs: LoraSpec | LcmSpec, state: str = "stopped") -> None:
        self.views = [
            RunView(id=str(k), kind=spec.kind, name=spec.name, model=spec.model, state=state, epochs=spec.epochs,
                    spec=spec.model_dump(mode="json"))
            for k, spec in enumerate(specs)
        ]  # fmt: skip
        self.resumed: list[tuple[str, dict[str, Any]]] = []
        self.runs = self

    def list(self, owner: str | None = None) -> Any:
        return self.views

    def start(self, spec: LoraSpec | LcmSpec, *rest: object) -> RunView:
        return self.views[0].model_copy(update={"id": "new"})

    def resume(self, id: str, owner: str, **changes: Any) -> RunView:
        self.resumed.append((id, changes))
        return self.views[0].model_copy(update={"id": id})


def test_resume_compares_only_what_was_said() -> None:
    def go(studio: Runs, kind: Any, defaults: dict[str, Any], **given: Any) -> str:
        return training.carry_out(studio, kind, defaults, given, True, True).id  # type: ignore[arg-type]

    short = LoraSpec(data="/data", model="/models/mine", epochs=10, learning_rate=1e-3)
    cut = Runs(short)
    assert go(cut, LoraSpec, {"model": "embedded"}, data="/data") == "0"
    assert go(cut, LoraSpec, {}, data="/data", epochs=12, learning_rate=1e-3, time_limit_minutes=5) == "0"
    assert cut.resumed == [("0", {}), ("0", {"epochs": 12, "time_limit_minutes": 5.0})]
    for other in ({"data": "/other"}, {"data": "/data", "rank": 8}, {"data": "/data", "model": "embedded"}):
        assert go(cut, LoraSpec, {}, **other) == "new"
    over = Runs(short, state="done")
    for asked in ({}, {"epochs": 10}, {"epochs": 5}):  # it isn't trained again, nor longer than it was asked to
        assert go(over, LoraSpec, {}, data="/data", **asked) == "0"
    assert over.resumed == []
    assert go(over, LoraSpec, {}, data="/data", epochs=20) == "0"
    assert over.resumed == [("0", {"epochs": 20})]
    lcm = Runs(LcmSpec(model="/m", loras=({"path": "/a.safetensors", "weight": 0.5},), data="/data", name="mine"))
    same = {"loras": [{"path": "/a.safetensors", "weight": "0.5"}], "data": "/data"}
    assert go(lcm, LcmSpec, {}) == "0"
    assert go(lcm, LcmSpec, {}, **same) == "0"
    for other in ({"loras": [{"path": "/b.safetensors"}]}, {"data": "/other"}, {"objective": "tcd"}):
        assert go(lcm, LcmSpec, {}, **same | other) == "new"


@pytest.fixture
def trainers_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers run in this process, which has the libraries loaded already."""

    def here(self: Supervisor, started: RunDir) -> None:
        {"lora": lora.main, "lcm": lcm.main, "control": control.main}[started.spec().kind](started.path)

    monkeypatch.setattr(Supervisor, "_spawn", here)
    monkeypatch.setattr(Supervisor, "export", lambda self, id: export_checkpoint(self.get(id)))
    monkeypatch.setenv("STUDIO_DEVICE", "cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings.cache_clear()


@pytest.mark.usefixtures("trainers_here")
def test_train_lora_to_its_end(run: Callable[..., Done], tmp_path: Path) -> None:
    options = ["--data", write_set(tmp_path / "set", 2), "--epochs", 1, "--repeats", 1, "--rank", 2, "--seed", 3]
    done = run("train-lora", *options, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert set(done.json) == {"run", "state", "epoch", "loss", "adapter", "checkpoints", "data"}
    assert (done.json["state"], done.json["epoch"], done.json["checkpoints"]) == ("done", 1, ["epoch-0001"])
    assert (done.json["data"]["pictures"], done.json["data"]["trigger_words"]) == (2, {"style_1": 2})
    assert "2 pictures, 2 in an epoch (repeats: 1). Trigger words: style_1 (2)." in done.err
    found = find_lora(done.json["adapter"], settings())
    assert (found.path.parent, found.title, found.trigger_words) == (tmp_path / "out", "out", ("style_1",))
    shown = run("runs", "show", done.json["run"], "--json").json
    assert (shown["state"], shown["step"]) == ("done", 1)
    again = run("runs", "export", done.json["run"], "--out", tmp_path / "again", "--json")
    assert Path(again.json["adapter"]).read_bytes() == found.path.read_bytes()
    resumed = run("train-lora", *options, "--resume", "--out", tmp_path / "out", "--json")  # a script that was cut off
    assert (resumed.json["run"], resumed.json["adapter"]) == (done.json["run"], done.json["adapter"])
    here: Any = SimpleNamespace(runs=TrainingRuns(settings()))
    for owner, found in (("somebody", False), ("local", True)):
        RunDir(settings().runs_dir / done.json["run"]).write_owner(owner)
        agrees = training.agreeing(here, LoraSpec(data=str(tmp_path / "set")), {"data": str(tmp_path / "set")})
        assert (agrees is not None) is found
    assert run("runs", "delete", done.json["run"]).code == 0


@pytest.mark.usefixtures("trainers_here")
def test_distill_to_its_end(run: Callable[..., Done], tmp_path: Path) -> None:
    small = ["--epochs", 1, "--steps", 2, "--batch", 2, "--rank", 2, "--latents", 8, "--objective", "tcd"]
    small += ["--w-min", 1, "--w-max", 2, "--curve-pictures", 4, "--checkpoint-epochs", 1, "--patience", 2]
    done = run("distill", *small, "--out", tmp_path / "fast", "--json")
    assert done.code == 0, done.err
    assert set(done.json) == {"run", "state", "adapter", "curve"}
    assert done.json["state"] == "done"
    assert {row["who"] for row in done.json["curve"]["rows"]} == {"teacher", "dpmpp_2m", "student"}
    fast = find_lora(done.json["adapter"], settings()).fast
    assert fast is not None
    assert (fast.adapter.parent, fast.steps, fast.sampler) == (tmp_path / "fast", 4, "tcd")
    again = run("runs", "export", done.json["run"], "--out", tmp_path / "again", "--json")
    assert find_lora(again.json["adapter"], settings()).fast == replace(fast, adapter=Path(again.json["adapter"]))
    assert load_file(again.json["adapter"]).keys() == load_file(done.json["adapter"]).keys()
    assert run("runs", "delete", done.json["run"]).code == 0


@pytest.mark.usefixtures("trainers_here")
def test_train_control_to_its_end(run: Callable[..., Done], tmp_path: Path) -> None:
    data = write_set(tmp_path / "set", 6)  # of which one is held out
    options = ["--data", data, "--epochs", 1, "--batch", 1, "--steps", 2, "--seed", 3, "--learning-rate", 0.001]
    done = run("train-control", *options, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert (done.json["state"], done.json["epoch"]) == ("done", 1)
    assert done.json["held_out"] > 0
    assert done.json["held_out_without"] > 0
    assert (tmp_path / "out" / "diffusion_pytorch_model.safetensors").is_file()
    # what it leaves is what `sketch` takes
    drawn = Image.new("L", (128, 128), 255)
    ImageDraw.Draw(drawn).ellipse((30, 30, 100, 100), outline=0, width=3)
    drawn.save(tmp_path / "drawn.png")
    said = ["--image", tmp_path / "drawn.png", "--prompt", "girl", "--seed", 1, "--steps", 2, "--out", tmp_path / "p"]
    steered = run("sketch", *said, "--controlnet", tmp_path / "out", "--json")
    assert steered.code == 0, steered.err
    again = run("train-control", *options, "--resume", "--json")
    assert again.json["run"] == done.json["run"]  # it has nothing left to do
    assert Path(again.json["adapter"]).exists()
    fresh = run("train-control", *options, "--init", "none", "--json")
    assert RunDir(settings().runs_dir / fresh.json["run"]).spec().init is None
    refused = run("train-control", "--data", data, "--init", tmp_path / "nothing", "--json")
    assert refused.code == 2
    assert "There is no ControlNet" in refused.err
