"""A LoRA run that is killed at any moment and resumed equals one that wasn't, byte for byte."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import pytest
from support.checkpoints import tiny_sd
from support.training_sets import kill_at_step, outputs, train, trainer, write_run, write_set

from studio.core.errors import BadInput
from studio.core.specs import LoraSpec
from studio.runs.rundir import RunDir
from studio.training.export_checkpoint import export_checkpoint
from studio.training.runtime import checkpoints


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("resume")
    tiny_sd(home / "model")
    write_set(home / "data", 5)
    return home


def spec(home: Path, **changes: object) -> LoraSpec:
    """Every kind of chance at once, and three checkpoints of two epochs of three steps."""
    return LoraSpec(
        data=str(home / "data"),
        model=str(home / "model"),
        epochs=6,
        rank=2,
        batch_size=2,
        repeats=1,
        checkpoint_epochs=2,
        flip=True,
        ema=True,
        caption_dropout=0.3,
        tag_dropout=0.2,
        noise_offset=0.05,
        sample_prompts=("1girl",),
    ).model_copy(update=changes)


@pytest.fixture(scope="module")
def straight(home: Path) -> RunDir:
    """The run that nobody disturbed."""
    run = write_run(home, "straight", spec(home))
    assert train(run) == 0, run.tail()
    return run


def losses(run: RunDir) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in run.metrics()]


def assert_same(run: RunDir, straight: RunDir) -> None:
    assert run.status()["state"] == "done"
    assert losses(run) == losses(straight)
    mine, theirs = outputs(run), outputs(straight)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []
    assert (run.samples / "step-000018-0.png").read_bytes() == (straight.samples / "step-000018-0.png").read_bytes()


def test_killed_three_times_it_ends_in_the_same_bytes(home: Path, straight: RunDir) -> None:
    run = write_run(home, "killed", spec(home))
    # in the middle of an epoch; inside the first checkpoint's files; between the checkpoint's rename and its pruning
    kill_at_step(run, 4)
    assert run.status()["state"] == "crashed"
    assert checkpoints.latest_good(run)[0] is None
    assert train(run, die_at=("fsync", 3)) == -9
    assert (run.checkpoints / "epoch-0002.tmp").is_dir()
    assert train(run, die_at=("rename", 2)) == -9  # the first made epoch-0002, the second would have made epoch-0004
    found, damaged = checkpoints.latest_good(run)
    assert found is not None
    assert (found.name, damaged) == ("epoch-0002", [])
    assert train(run) == 0, run.tail()
    assert "Resumed from epoch-0002: step 7 of 18 is next." in run.status()["notes"]
    assert_same(run, straight)


def test_stopped_in_the_middle_of_an_epoch(home: Path, straight: RunDir) -> None:
    run = write_run(home, "stopped", spec(home))
    process = trainer(run)
    while len(run.metrics()) < 4:
        assert process.is_alive()
    run.request_stop()
    process.join(60)
    assert process.exitcode == 0
    status = run.status()
    assert status["state"] == "stopped"
    assert checkpoints.names(run)[-1] == f"step-{status['step']:08d}" or status["step"] % 3 == 0
    assert Path(status["adapter"]).is_file()  # what is learnt so far can be used
    assert (run.samples / f"step-{status['step']:06d}-0.png").is_file()  # and seen
    assert list(run.adapter.rglob("*.png"))
    run.clear_stop()
    assert train(run) == 0, run.tail()
    assert_same(run, straight)


def test_a_damaged_checkpoint_costs_only_itself(home: Path, straight: RunDir) -> None:
    run = RunDir(shutil.copytree(straight.path, home / "runs" / "damaged"))
    for name in ("epoch-0006", "epoch-0004"):
        path = run.checkpoints / name / "lora.safetensors"
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)
    assert train(run) == 0, run.tail()
    notes = run.status()["notes"]
    assert [note for note in notes if "is damaged" in note and "epoch-0006" in note]
    assert "Resumed from epoch-0002: step 7 of 18 is next." in notes
    assert_same(run, straight)


def test_samples_that_a_kill_left_out_are_drawn_when_it_goes_on(home: Path, straight: RunDir) -> None:
    run = RunDir(shutil.copytree(straight.path, home / "runs" / "undrawn"))
    shutil.rmtree(run.checkpoints / "epoch-0006")  # killed right after epoch-0004 was saved
    lost = run.samples / "step-000012-0.png"
    before = lost.read_bytes()
    lost.unlink()
    assert train(run) == 0, run.tail()
    assert lost.read_bytes() == before
    assert_same(run, straight)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_last_good_checkpoint_of_a_run_that_failed_is_made_a_lora(
    home: Path, straight: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(shutil.copytree(straight.path, home / "runs" / "failed"))
    shutil.rmtree(run.adapter)
    run.update(state="failed", error="The loss is not a number any more.")
    file = run.checkpoints / "epoch-0006" / "lora.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    monkeypatch.setenv("STUDIO_HOME", str(home))
    path = export_checkpoint(run)  # epoch-0004
    assert path.read_bytes() != (straight.adapter / path.name).read_bytes()
    file.write_bytes(whole)
    assert export_checkpoint(run) == path
    assert path.read_bytes() == (straight.adapter / path.name).read_bytes()
    assert files(run.adapter / "epochs") == files(straight.adapter / "epochs")  # for the grid
    assert (run.adapter / "studio.json").read_bytes() == (straight.adapter / "studio.json").read_bytes()
    assert run.status()["state"] == "failed"
    shutil.rmtree(run.checkpoints)
    with pytest.raises(BadInput, match="no checkpoint yet"):
        export_checkpoint(run)


def test_a_finished_run_stays_what_it_is(home: Path, straight: RunDir) -> None:
    before = outputs(straight)
    assert train(straight) == 0
    assert outputs(straight) == before


def test_changes_are_said_before_it_goes_on(home: Path, straight: RunDir) -> None:
    run = RunDir(shutil.copytree(straight.path, home / "runs" / "changed"))
    for name in ("epoch-0004", "epoch-0006"):
        shutil.rmtree(run.checkpoints / name)
    meta = run.checkpoints / "epoch-0002" / "meta.json"
    data = json.loads(meta.read_text())
    data["fingerprint"]["versions"]["torch"] = "1.13.1"
    data["fingerprint"]["threads"] = 64
    meta.write_text(json.dumps(data))
    (home / "data2").mkdir()
    write_set(home / "data2", 6)
    run.write_spec(spec(home, epochs=3, data=str(home / "data2"), learning_rate=1e-5))
    assert train(run) == 0, run.tail()
    notes = " ".join(run.status()["notes"])
    for words in (
        "learning_rate was 0.0002, is 1e-05",
        "data set has changed",
        "torch was 1.13.1",
        "Threads: 64 before",
    ):
        assert words in notes
    assert max(line["rate"] for line in run.metrics() if line["step"] > 6) <= 1e-5


def test_a_damaged_older_checkpoint_costs_only_its_row_of_the_export(home: Path, straight: RunDir) -> None:
    run = RunDir(shutil.copytree(straight.path, home / "runs" / "oldest"))
    path = run.checkpoints / "epoch-0002" / "lora.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    shutil.rmtree(run.adapter)
    assert train(run) == 0, run.tail()
    assert run.status()["state"] == "done"
    assert [note for note in run.status()["notes"] if "epoch-0002 is damaged" in note and "left out" in note]
    rows = {path.stem for path in (straight.adapter / "epochs").glob("*.safetensors")}
    assert {path.stem for path in (run.adapter / "epochs").glob("*.safetensors")} == {
        row for row in rows if "0002" not in row
    }
    assert len(rows) == 3


def test_what_cannot_be_resumed_says_so(home: Path, straight: RunDir) -> None:
    run = RunDir(shutil.copytree(straight.path, home / "runs" / "fatal"))
    run.write_spec(spec(home, epochs=8, rank=8))
    assert train(run) == 2
    assert run.status()["error"] == "The run was started with rank 2, not 8: start a new run."
    assert run.status()["state"] == "failed"
    assert checkpoints.names(run) == ["epoch-0002", "epoch-0004", "epoch-0006"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_ten_random_moments(home: Path, straight: RunDir, seed: int) -> None:
    """Between or inside steps, or in any system call of a checkpoint's or the export's writing."""
    chance, kills, runs = random.Random(seed), 0, 0
    while kills < 10:
        runs += 1
        run = write_run(home, f"random-{seed}-{runs}", spec(home))
        while kills < 10 and run.status().get("state") != "done":
            if chance.random() < 0.5:
                process = trainer(run)
                ends = time.monotonic() + chance.uniform(0.5, 6)  # seconds; loading takes some of them
                while process.is_alive() and time.monotonic() < ends:
                    time.sleep(0.005)
                process.kill()
                process.join()
                kills += process.exitcode == -9
            else:
                kills += (
                    train(run, die_at=(chance.choice(["fsync", "rename", "replace"]), chance.randrange(1, 40))) == -9
                )
        assert train(run) == 0, run.tail()
        assert_same(run, straight)
