"""Training runs as service and API give them: resumed with changes, one that can't be read, packages, imports."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from diffusers import UNet2DConditionModel
from fastapi.testclient import TestClient
from peft import LoraConfig
from safetensors.torch import save
from support.checkpoints import tiny_sd, to_single_file
from support.training_sets import write_run, write_set

from studio.core.errors import BadInput, DiskFull, NotFound, Offline, OutOfMemory
from studio.core.settings import Settings
from studio.core.specs import LcmSpec, LoraSpec
from studio.engine.models import hub
from studio.engine.models.catalogue import resolve
from studio.engine.models.families import SD15
from studio.interfaces.api import app
from studio.runs import requirements
from studio.runs.rundir import RunDir
from studio.runs.supervisor import Supervisor
from studio.service import Studio
from studio.service import runs as training_runs
from studio.service.models import ModelLibrary
from studio.service.runs import TrainingRuns

KEY = "a-key-that-is-long-enough"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A studio whose runs never really start."""
    monkeypatch.setattr(Supervisor, "_spawn", lambda self, run: None)
    return Settings(home=tmp_path, device="cpu", api_key=KEY, _env_file=None)


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    studio = Studio(settings.model_copy(update={"named_only": True}))
    with TestClient(app.create(settings, studio)) as client:
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


def test_a_finished_run_goes_on_only_with_more_epochs(settings: Settings, tmp_path: Path) -> None:
    run, runs = ended(tmp_path, "whole", "done"), TrainingRuns(settings)
    run.update(epochs=20)
    for epochs in (None, 20):
        with pytest.raises(BadInput, match="whole is finished; give it more than 20 epochs"):
            runs.resume("whole", epochs=epochs)
    assert run.status()["state"] == "done"
    runs.resume("whole", epochs=25)
    assert run.spec().epochs == 25


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


def test_what_a_run_needs_is_counted_from_its_request() -> None:
    sd15, gb = requirements.SD15, 1e9
    lcm = LcmSpec(form="lora", epochs=1, checkpoint_epochs=1)
    one = requirements.FLOAT * requirements.trained(lcm, sd15)
    assert 4 * one == pytest.approx(1.08 * gb, rel=0.01)  # LCM-LoRA: weights, Adam, mean
    full = LcmSpec(form="full", epochs=1, checkpoint_epochs=1, data="x")
    more = full.model_copy(update={"epochs": 2})
    assert requirements.disk(more, sd15, 512) - requirements.disk(full, sd15, 512) == pytest.approx(
        13.75 * gb, rel=0.01
    )
    many = LcmSpec(epochs=100, checkpoint_epochs=1)
    few = many.model_copy(update={"keep_checkpoints": 2})
    assert requirements.disk(many, sd15, 512) - requirements.disk(few, sd15, 512) == 8 * 4 * one
    lora = LoraSpec(data="x", rank=32)
    assert requirements.trained(lora, sd15) == 6_377_472
    assert requirements.trained(lora.model_copy(update={"text_encoder_lr": 1e-5}), sd15) > 6_377_472
    assert requirements.memory(full, sd15, card=False) > 3 * requirements.FLOAT * sd15.unet
    assert requirements.memory(full, sd15, card=True) < requirements.memory(lora, sd15, card=False) + gb


def test_sizes_are_read_from_either_layout(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "tiny", addition_embed_type=None, latent_channels=4)
    file = to_single_file(folder, tmp_path / "tiny.safetensors")
    settings = Settings(home=tmp_path)
    ours, theirs = (training_runs._sizes(resolve(str(p), settings, with_hash=False)) for p in (folder, file))
    assert (ours.unet, ours.lora, ours.lcm_lora, ours.text_lora) == (
        theirs.unet, theirs.lora, theirs.lcm_lora, theirs.text_lora
    )  # fmt: skip
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    assert ours.unet == sum(p.numel() for p in unet.parameters())
    for targets, per_rank in ((SD15.lora_targets, ours.lora), (SD15.lcm_lora_targets, ours.lcm_lora)):
        model = UNet2DConditionModel.from_config(unet.config).requires_grad_(False)
        model.add_adapter(LoraConfig(r=3, target_modules=list(targets)))
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 3 * per_rank


def test_too_small_a_disk_or_memory_is_said_before_anything_starts(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = TrainingRuns(settings)
    spec = LcmSpec(model=SD15.default_model, form="full")
    monkeypatch.setattr(hub, "snapshot", lambda *_: None)
    disk, machine = shutil.disk_usage(tmp_path), psutil.virtual_memory()
    monkeypatch.setattr(training_runs.shutil, "disk_usage", lambda _: disk._replace(free=40 * 10**9))
    with pytest.raises(DiskFull, match=r"Only 40\.0 GB are free .* need about \d\d\.\d GB"):
        runs.start(spec)
    monkeypatch.setattr(training_runs.shutil, "disk_usage", lambda _: disk._replace(free=400 * 10**9))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine._replace(total=16 * 10**9))
    with pytest.raises(OutOfMemory, match="or a LoRA as the result"):
        runs.start(spec)
    assert runs.list() == []
    assert runs.start(spec.model_copy(update={"form": "lora"})).kind == "lcm"
    with pytest.raises(Offline, match="not on this machine"):
        TrainingRuns(settings.model_copy(update={"offline": True})).start(spec)
    with pytest.raises(NotFound, match="can be measured once"):
        runs.measure(LoraSpec(data="x", model=SD15.default_model))


def test_checkpoints_are_listed_by_training_and_only_whole_ones(settings: Settings, tmp_path: Path) -> None:
    run = ended(tmp_path, "mine", "stopped")
    for name, epoch, step in (("step-00000035", 3, 35), ("epoch-0004", 4, 40), ("epoch-0002.old", 2, 20)):
        (run.checkpoints / name).mkdir(parents=True)
        (run.checkpoints / name / "meta.json").write_text(json.dumps({"epoch": epoch, "step": step}))
    (run.checkpoints / "epoch-0009").mkdir()
    assert TrainingRuns(settings).get("mine").checkpoints == ("step-00000035", "epoch-0004")


def test_a_result_is_made_only_of_what_is_there(settings: Settings, tmp_path: Path) -> None:
    runs = TrainingRuns(settings)
    ended(tmp_path, "whole", spec=LcmSpec(form="full"))
    with pytest.raises(BadInput, match="makes a whole network and not a LoRA"):
        runs.export("whole")
    ended(tmp_path, "nothing")
    with pytest.raises(BadInput, match="no checkpoint yet"):
        runs.export("nothing")


def test_an_import_never_replaces_another_lora(settings: Settings) -> None:
    library = ModelLibrary(settings)

    def lora(value: float) -> bytes:
        layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
        return save({
            f"{layer}.lora_down.weight": torch.full((2, 4), value),
            f"{layer}.lora_up.weight": torch.full((4, 2), value),
            f"{layer}.alpha": torch.tensor(2.0),
        })  # fmt: skip

    first = library.import_lora(lora(1.0), "style.safetensors", ("one",))
    second = library.import_lora(lora(2.0), "style.safetensors", ("two",))
    assert (first.path.name, second.path.name) == ("style.safetensors", "style-2.safetensors")
    assert (first.title, second.title) == ("style", "style (2)")
    assert first.path.read_bytes() == lora(1.0)
    assert json.loads(first.path.with_suffix(".json").read_text())["trigger_words"] == ["one"]
    again = library.import_lora(lora(2.0), "style.safetensors", ("zwei",))
    assert (again.path, again.trigger_words) == (second.path, ("zwei",))
    assert len(list(first.path.parent.glob("*.safetensors"))) == 2
