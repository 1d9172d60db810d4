"""Training a ControlNet on a small real model: it learns, resumes to the same bytes, and what it leaves can be used."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from support.checkpoints import tiny_sd
from support.training_sets import write_set

from studio.core.errors import BadInput
from studio.core.settings import Settings, settings
from studio.core.specs import ControlRunSpec, ControlSpec, LcmSpec, Recipe
from studio.engine.diffusion import text
from studio.engine.diffusion.control import Control
from studio.engine.diffusion.denoiser import Denoiser
from studio.engine.engine import Engine
from studio.runs import dataset as files
from studio.runs.rundir import RunDir
from studio.runs.trash import Trash
from studio.service.runs import TrainingRuns
from studio.training.controlnet import dataset, evaluation, train
from studio.training.controlnet.network import new_controlnet


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("control")
    tiny_sd(home / "models" / "tiny")
    rng = np.random.default_rng(0)
    for name, count in (("a", 7), ("b", 5)):  # two shards, so that rows cross from one to the other
        dataset.write(
            home / "data", name, torch.from_numpy(rng.standard_normal((count, 16, 4, 4))).half(),
            (rng.random((count, 2, 64, 64)) > 0.9).astype(np.uint8) * 255,
            [["1girl, happy", "happy"] for _ in range(count)],
            weight=torch.ones(count, 1, 4, 4).half(), channels=torch.linspace(0.5, 1.5, 16),
        )  # fmt: skip
    return home


@pytest.fixture
def studio_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("STUDIO_HOME", str(home))
    monkeypatch.setenv("STUDIO_DEVICE", "cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings.cache_clear()
    yield home
    settings.cache_clear()


def start(home: Path, name: str, **changes) -> RunDir:
    run = RunDir(home / "runs" / name)
    run.path.mkdir(parents=True)
    values = {"data": str(home / "data"), "model": "tiny", "epochs": 2, "batch_size": 2, "held_out": 2}
    run.write_spec(ControlRunSpec(**(values | {"learning_rate": 1e-3} | changes)))
    return run


def digest(run: RunDir) -> str:
    file = run.adapter / "controlnet" / "diffusion_pytorch_model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def straight(studio_home: Path) -> RunDir:
    """A run that went through; the first test that asks for it trains it."""
    run = RunDir(studio_home / "runs" / "straight")
    if not run.path.exists():
        train.main(start(studio_home, "straight").path)
    return run


def test_a_stopped_and_resumed_run_ends_in_the_same_bytes(
    studio_home: Path, straight: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert straight.status()["state"] == "done"
    assert straight.status()["step"] == 10
    assert [path.stem for path in sorted(straight.samples.iterdir())] == ["step-000000", "step-000005", "step-000010"]
    with Image.open(straight.samples / "step-000010.png") as sheet:
        assert sheet.size == (2 * 64, 2 * 64)
    assert straight.status()["held_out_before"] == straight.status()["held_out_without"] > 0  # it begins as no change
    assert straight.status()["held_out"] != straight.status()["held_out_before"]

    stopped = start(studio_home, "stopped")
    real = train.step_noise

    def stop_in_the_middle(spec, data, rows, step, timesteps):
        if step == 6:
            stopped.request_stop()
        return real(spec, data, rows, step, timesteps)

    with monkeypatch.context() as patch:
        patch.setattr(train, "step_noise", stop_in_the_middle)
        train.main(stopped.path)
    assert stopped.status()["state"] == "stopped"
    assert stopped.status()["checkpoint"] == "step-00000007"
    stopped.clear_stop()
    train.main(stopped.path)
    assert "Resumed from step-00000007: step 8 of 10 is next." in stopped.status()["notes"]
    assert digest(stopped) == digest(straight)
    assert [line["loss"] for line in stopped.metrics()] == [line["loss"] for line in straight.metrics()]


def test_the_result_steers_a_picture_and_shares_the_model(studio_home: Path, straight: RunDir) -> None:
    engine = Engine(Settings(home=studio_home, device="cpu", preview_every=0))
    sketch = Image.new("L", (64, 64), 255)
    ImageDraw.Draw(sketch).ellipse((10, 10, 50, 50), outline=0, width=3)
    sketch.save(studio_home / "sketch.png")
    base = Recipe(
        model="tiny", model_hash="", prompt="1girl", seed=1, steps=2, guidance=3.0, sampler="dpmpp_2m", width=64,
        height=64,
    )  # fmt: skip
    spec = ControlSpec(image=str(studio_home / "sketch.png"), model=str(straight.adapter / "controlnet"))
    ((_, plain),) = engine.draw([base])
    components = engine.components("tiny")
    unet, vae = components.unet, components.vae
    weights = {id(weight) for part in (unet, vae) for weight in part.parameters()}
    ((_, steered),) = engine.draw([base.model_copy(update={"control": spec})])
    assert engine.components("tiny") is components
    assert components.unet is unet
    assert components.vae is vae
    assert {id(weight) for part in (unet, vae) for weight in part.parameters()} == weights
    (net,) = components.controls.values()
    assert not weights & {id(weight) for weight in net.parameters()}
    assert np.abs(np.asarray(plain, int) - np.asarray(steered, int)).max() > 0


def test_it_begins_as_no_change_at_all(studio_home: Path) -> None:
    components = Engine(Settings(home=studio_home, device="cpu")).components("tiny")
    net = new_controlnet(components).eval()
    z, t, lines = torch.randn(1, 16, 4, 4), torch.tensor([500]), torch.rand(1, 3, 64, 64)
    conditioning = text.encode_prompts(components, ["1girl"])
    with torch.no_grad():
        steered = Denoiser(components.unet, conditioning, control=Control(net, lines))(z, t)
        plain = Denoiser(components.unet, conditioning)(z, t)
    assert torch.equal(steered, plain)


def test_pictures_become_shards_once_for_each_state_of_their_drawings(
    studio_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, kept = write_set(studio_home / "pictures", 4), studio_home / "runs" / ".drawings"
    made: list[Path] = []
    prepare = dataset.from_pictures
    monkeypatch.setattr(dataset, "from_pictures", lambda *given: made.append(given[3]) or prepare(*given))

    def sketch(*points: int) -> None:
        for name in ("0", "1"):  # as training pictures they would be too small, and the second a duplicate
            image = Image.new("L", (20, 20), 255)
            ImageDraw.Draw(image).line(points, fill=0, width=2)
            image.save(folder / "style_1" / f"{name}.control.png")

    def run(name: str) -> dataset.ControlDataset:
        run = start(studio_home, name, data=str(folder), epochs=1, steps_per_epoch=1, held_out=0)
        train.main(run.path)
        assert run.status()["state"] == "done"
        return dataset.read(made[-1])

    sketch(2, 2, 18, 12)
    stuff = run("pictures")
    assert "control.png" not in capsys.readouterr().out
    both = stuff.controls([0, 0], [0, 1])
    assert not torch.equal(both[0], both[1])  # its own drawing beside its edges
    others = stuff.controls([2, 2], [0, 1])
    assert torch.equal(others[0], others[1])
    run("pictures_again")
    assert len(made) == 1
    assert list(kept.iterdir()) == made
    sketch(2, 18, 18, 12)  # drawn anew
    changed = run("pictures_drawn_anew").controls([0, 0], [0, 1])
    assert len(made) == 2
    assert torch.equal(changed[0], both[0])
    assert not torch.equal(changed[1], both[1])


def test_a_drawing_lies_on_its_picture_whatever_their_shape(studio_home: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for size, factor in (((96, 144), 1), ((192, 288), 2)):  # the picture, and its drawing at twice the size
        drawn = Image.new("RGB", size, "white")
        ImageDraw.Draw(drawn).ellipse([factor * v for v in (20, 40, 76, 96)], outline="black", width=3 * factor)
        drawn.save(tmp_path / "set" / ("tall.png" if factor == 1 else "tall.control.png"))
    components = Engine(Settings(home=studio_home, device="cpu")).components("tiny")
    entries = files.check(tmp_path / "set", 64).entries
    dataset.from_pictures(components, tmp_path / "set", entries, tmp_path / "out", 64)
    edges, lines = dataset.read(tmp_path / "out").controls([0, 0], [0, 1])
    for axis in (1, 2):
        reach = [torch.nonzero(image.amax((0, axis)) > 0.3).flatten()[[0, -1]] for image in (edges, lines)]
        assert (reach[0] - reach[1]).abs().max() <= 2


def test_drawings_that_cannot_be_followed_are_named(studio_home: Path) -> None:
    folder = write_set(studio_home / "with_bad_drawings", 4) / "style_1"
    (folder / "0.control.png").write_bytes(b"\x89PNG broken")
    Image.new("L", (64, 64), 255).save(folder / "1.control.png")
    Image.new("L", (64, 64), 255).save(folder / "nobody.control.png")
    Image.new("L", (64, 64), 255).save(folder / "2.control.jpg")
    found = files.check(folder.parent, 64)
    assert len(found.entries) == 4
    assert found.drawings == 1
    said = {problem.file: problem.message for problem in found.problems}
    assert "can be read" in said["style_1/0.control.png"]
    assert "no picture of the same name" in said["style_1/nobody.control.png"]
    assert "is a PNG and ends in .control.png" in said["style_1/2.control.jpg"]
    notes: list[str] = []
    components = Engine(Settings(home=studio_home, device="cpu")).components("tiny")
    dataset.from_pictures(
        components, folder.parent, found.entries, studio_home / "made_of_bad", 64, on_note=notes.append
    )
    assert len(dataset.read(studio_home / "made_of_bad")) == 2
    assert notes[0] == "style_1/0.png is left out: its drawing 0.control.png can't be read."
    assert notes[1].startswith("style_1/1.png is left out for 1.control.png. The drawing is empty")


def test_a_drawing_of_another_shape_is_said(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 2) / "style_1"
    Image.new("L", (128, 128), 255).save(folder / "0.control.png")
    Image.new("L", (128, 80), 255).save(folder / "1.control.png")
    found = files.check(tmp_path / "set", 64)
    assert found.drawings == 2
    [said] = found.problems
    assert said.used
    assert "1.control.png is 128 x 80 and its picture 64 x 64" in said.message


def test_peoples_own_drawings_are_what_is_measured_and_shown(studio_home: Path, tmp_path: Path) -> None:
    sheets = []
    for side in (8, 50):
        folder = write_set(tmp_path / str(side), 6) / "style_1"
        for k in range(6):
            drawn = Image.new("L", (64, 64), 255)
            ImageDraw.Draw(drawn).rectangle((4, 4, 4 + side, 4 + side), outline=0, width=2)
            drawn.save(folder / f"{k}.control.png")
        run = start(studio_home, f"own_{side}", data=str(folder.parent), epochs=1, steps_per_epoch=1)
        train.main(run.path)
        with Image.open(run.samples / "step-000000.png") as sheet:
            sheets.append(np.asarray(sheet)[:64].copy())
    assert not np.array_equal(*sheets)


def test_a_run_resumes_without_what_it_began_from(
    studio_home: Path, straight: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = shutil.copytree(straight.adapter / "controlnet", studio_home / "origin")
    runs = [start(studio_home, name, init=str(origin), epochs=1) for name in ("onward", "onward_cut")]
    train.main(runs[0].path)
    assert runs[0].status()["held_out_before"] != runs[0].status()["held_out_without"]
    real = train.step_noise

    def stop_at_once(*given):
        runs[1].request_stop()
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(train, "step_noise", stop_at_once)
        train.main(runs[1].path)
    assert runs[1].status()["state"] == "stopped"
    shutil.rmtree(origin)
    train.main(runs[1].path)
    assert digest(runs[1]) == digest(runs[0])
    assert str(studio_home) not in (runs[0].adapter / "controlnet" / "config.json").read_text()


def test_a_replaced_base_model_is_refused(studio_home: Path, straight: RunDir) -> None:
    run = RunDir(shutil.copytree(straight.path, studio_home / "runs" / "replaced"))
    other = shutil.copytree(studio_home / "models" / "tiny", studio_home / "models" / "other")
    file = next((other / "unet").glob("*.safetensors"))
    weights = load_file(file)
    weights["conv_in.bias"] = weights["conv_in.bias"] + 1  # the same layers, other weights
    save_file(weights, file, metadata={"format": "pt"})
    run.write_spec(run.spec().model_copy(update={"epochs": 3, "model": "other"}))
    with pytest.raises(SystemExit) as ended:
        train.main(run.path)
    assert ended.value.code == 2
    assert run.status()["error"] == "The base model is another one than the run was started with: start a new run."
    # one from before there were fingerprints goes on
    for meta in run.checkpoints.glob("*/meta.json"):
        data = json.loads(meta.read_text())
        del data["fingerprint"]
        meta.write_text(json.dumps(data))
    run.write_spec(run.spec().model_copy(update={"model": "tiny"}))
    train.main(run.path)
    assert (run.status()["state"], run.status()["step"]) == ("done", 15)


def test_a_run_whose_only_checkpoint_is_damaged_begins_as_a_new_one(studio_home: Path) -> None:
    """Not with random weights: nothing tells them from a copy of the UNet's but the pictures."""
    fresh = start(studio_home, "fresh", epochs=1)
    train.main(fresh.path)
    damaged = start(studio_home, "damaged", epochs=1)
    train.main(damaged.path)
    for file in damaged.checkpoints.glob("*/*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    shutil.rmtree(damaged.adapter)
    train.main(damaged.path)
    assert digest(damaged) == digest(fresh)


def test_too_little_memory_to_measure_ends_nothing(studio_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(evaluation.Evaluator, "held_out", full)
    run = start(studio_home, "full_while_measured", epochs=1)
    train.main(run.path)
    assert run.status()["state"] == "done"
    assert "Not enough memory to measure" in (run.path / "metrics.jsonl").read_text() + json.dumps(run.status())


def test_too_little_memory_halves_what_is_done_at_once(
    studio_home: Path, straight: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real = start(studio_home, "little_memory"), UNet2DConditionModel.forward

    def limited(self, sample, *args, **kwargs):
        if torch.is_grad_enabled() and len(sample) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, sample, *args, **kwargs)

    monkeypatch.setattr(UNet2DConditionModel, "forward", limited)
    train.main(run.path)
    assert "Not enough memory: 1 pictures at a time now, with the same result." in run.status()["notes"]
    ours, theirs = ([line["loss"] for line in each.metrics()] for each in (run, straight))
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_samples_can_be_switched_off(studio_home: Path) -> None:
    run = start(studio_home, "no_samples", epochs=1, steps_per_epoch=1, samples=False)
    train.main(run.path)
    assert run.status()["held_out"] > 0
    assert not run.samples.exists()


def test_what_a_killed_run_had_not_measured_is_measured_when_it_goes_on(
    studio_home: Path, straight: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, measure = start(studio_home, "killed_before_it_measured", samples=False), evaluation.Evaluator.measure

    def killed(self: evaluation.Evaluator, step: int) -> None:
        if step == 10:
            raise KeyError("as if it had been killed")
        measure(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation.Evaluator, "measure", killed)
        with pytest.raises(SystemExit):
            train.main(run.path)
    assert run.status()["held_out"] != straight.status()["held_out"]
    train.main(run.path)
    assert run.status()["state"] == "done"
    assert run.status()["held_out"] == straight.status()["held_out"]
    again: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(evaluation.Evaluator, "measure", lambda _, step: again.append(step))
        train.main(run.path)
    assert again == []  # it is known now


def test_a_stop_is_heeded_while_control_images_are_made(studio_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(studio_home, "stopped_early", data=str(write_set(studio_home / "many", 6)))
    made: list[int] = []
    real = dataset.encode

    def encode(*given):
        made.append(1)
        run.request_stop()
        return real(*given)

    monkeypatch.setattr(dataset, "encode", encode)
    train.main(run.path)
    assert run.status()["state"] == "stopped"
    assert len(made) == 1
    assert not run.checkpoint_names()


def test_prepared_drawings_go_with_the_last_run_that_uses_them(studio_home: Path) -> None:
    data = str(write_set(studio_home / "shared", 5))
    for name in ("one", "two"):
        train.main(start(studio_home, name, data=data, epochs=1, steps_per_epoch=1).path)
    runs = TrainingRuns(settings())
    place = settings().runs_dir / ".drawings" / RunDir(settings().runs_dir / "one").status()["drawings"]
    assert place.is_dir()
    runs.delete("one")
    assert place.is_dir()
    runs.delete("two")
    Trash(settings().runs_dir).purge(older_than=0)
    assert not place.exists()


def test_shards_that_do_not_agree_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing to learn from"):
        dataset.read(tmp_path)
    dataset.write(tmp_path, "a", torch.zeros(2, 4, 4, 4), np.zeros((2, 1, 32, 32), np.uint8), [["x"], ["y"]])
    (tmp_path / "a.json").write_text(json.dumps([["x"]]))
    with pytest.raises(BadInput, match=r"The shard a in .* is damaged"):
        dataset.read(tmp_path)


def test_a_run_of_another_kind_is_refused(studio_home: Path) -> None:
    run = RunDir(studio_home / "runs" / "other")
    run.path.mkdir(parents=True)
    run.write_spec(LcmSpec())
    with pytest.raises(SystemExit) as ended:
        train.main(run.path)
    assert ended.value.code == 2
    assert "is of another kind (lcm)" in run.status()["error"]
