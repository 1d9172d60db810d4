"""Training runs as service and API give them: resumed with changes, one that can't be read, packages, imports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import tiny_sd
from fastapi.testclient import TestClient
from safetensors.torch import save
from training_sets import write_run, write_set

from studio import api, training_runs
from studio.errors import BadInput
from studio.runs.rundir import RunDir
from studio.runs.supervisor import Supervisor
from studio.service import Studio
from studio.settings import Settings
from studio.specs import LcmSpec, LoraSpec
from studio.training_runs import TrainingRuns

KEY = "a-key-that-is-long-enough"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A studio whose runs never really start."""
    monkeypatch.setattr(Supervisor, "_spawn", lambda self, run: None)
    return Settings(home=tmp_path, device="cpu", api_key=KEY, _env_file=None)


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    studio = Studio(settings)
    with TestClient(api.create(settings, studio)) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        yield client
    studio.close()


def ended(home: Path, name: str, state: str = "failed", spec: Any = None) -> RunDir:
    run = write_run(home, name, spec or LoraSpec(data="somewhere", name=name))
    run.update(state=state)
    return run


def test_a_run_is_resumed_with_a_lower_rate_and_more_epochs(settings: Settings, tmp_path: Path) -> None:
    run, runs = ended(tmp_path, "diverged"), TrainingRuns(settings)
    runs.resume("diverged")
    assert (run.spec().epochs, run.spec().learning_rate) == (20, 2e-4)
    runs.resume("diverged", epochs=30, learning_rate=5e-5)
    assert (run.spec().epochs, run.spec().learning_rate) == (30, 5e-5)
    with pytest.raises(BadInput, match="learning_rate"):
        runs.resume("diverged", learning_rate=0.0)
    assert run.spec().learning_rate == 5e-5


def test_the_api_resumes_with_changes(client: TestClient, tmp_path: Path) -> None:
    run = ended(tmp_path, "lora")
    ended(tmp_path, "lcm", spec=LcmSpec(name="lcm"))
    assert client.post("/runs/lora/resume").status_code == 200
    answer = client.post("/runs/lora/resume", json={"learning_rate": 1e-5})
    assert answer.json()["spec"]["learning_rate"] == 1e-5
    answer = client.post("/runs/lcm/resume", json={"epochs": 40})
    assert (answer.json()["spec"]["epochs"], answer.json()["spec"]["learning_rate"]) == (40, None)
    for body in ({"epochs": 0}, {"learning_rate": 2}, {"rate": 1e-5}, {"epochs": "many"}):
        assert client.post("/runs/lora/resume", json=body).status_code == 422
    assert run.spec().epochs == 20


@pytest.mark.parametrize(
    "broken", ["{", "[]", '{"kind": "painting"}', '{"kind": "lora", "name": "theirs", "data": "x", "taste": 1}']
)
def test_a_run_that_cannot_be_read_hides_no_other_and_can_be_deleted(
    settings: Settings, tmp_path: Path, broken: str
) -> None:
    runs = TrainingRuns(settings)
    ended(tmp_path, "good", "stopped")
    run = ended(tmp_path, "other", "done")
    run.spec_file.write_text(broken)
    views = {view.id: view for view in runs.list()}
    assert views["good"].state == "stopped"
    assert views["other"].state == "unreadable"
    assert views["other"].name == ("theirs" if "theirs" in broken else "other")
    assert "The request of run other can't be read" in str(runs.get("other").error)
    with pytest.raises(BadInput, match="can't be read"):
        runs.resume("other")
    runs.delete("other")
    assert [view.id for view in runs.list()] == ["good"]


def test_a_status_that_makes_no_sense_hides_no_other(settings: Settings, tmp_path: Path) -> None:
    runs = TrainingRuns(settings)
    ended(tmp_path, "good", "stopped")
    ended(tmp_path, "odd", "done").update(step="many")
    assert {view.id: view.state for view in runs.list()} == {"good": "stopped", "odd": "unreadable"}


@pytest.mark.parametrize(("optimizer", "package"), [("prodigy", "prodigyopt"), ("adamw8bit", "bitsandbytes")])
def test_a_missing_package_is_said_before_anything_starts(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: Any, package: str
) -> None:
    runs, spec = TrainingRuns(settings), LoraSpec(
        data=str(write_set(tmp_path / "data", 2)), model=str(tiny_sd(tmp_path / "model")), optimizer=optimizer
    )  # fmt: skip
    monkeypatch.setattr(training_runs, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=f"pip install {package}"):
        runs.start(spec)
    assert runs.list() == []
    monkeypatch.setattr(training_runs, "find_spec", lambda name: object())
    assert runs.start(spec).spec["optimizer"] == optimizer


def test_an_import_never_replaces_another_lora(settings: Settings) -> None:
    runs = TrainingRuns(settings)

    def lora(value: float) -> bytes:
        layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
        return save({
            f"{layer}.lora_down.weight": torch.full((2, 4), value),
            f"{layer}.lora_up.weight": torch.full((4, 2), value),
            f"{layer}.alpha": torch.tensor(2.0),
        })  # fmt: skip

    first = runs.import_lora(lora(1.0), "style.safetensors", ("one",))
    second = runs.import_lora(lora(2.0), "style.safetensors", ("two",))
    assert (first.path.name, second.path.name) == ("style.safetensors", "style-2.safetensors")
    assert (first.title, second.title) == ("style", "style (2)")
    assert first.path.read_bytes() == lora(1.0)
    assert json.loads(first.path.with_suffix(".json").read_text())["trigger_words"] == ["one"]
    again = runs.import_lora(lora(2.0), "style.safetensors", ("zwei",))
    assert (again.path, again.trigger_words) == (second.path, ("zwei",))
    assert len(list(first.path.parent.glob("*.safetensors"))) == 2
