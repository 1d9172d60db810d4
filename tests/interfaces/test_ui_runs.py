"""Runs on pages: going on with another rate, one that can't be read, a measurement that is stale, the frame's word."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect
from safetensors.torch import save_file
from streamlit.testing.v1 import AppTest
from support.browser import PATIENCE, Server, open_page, settle
from support.pages import app, to
from support.training_sets import write_run, write_set

from studio.core.specs import LoraSpec
from studio.interfaces.web.resources import studio
from studio.runs.rundir import RunDir, take_lock
from studio.runs.supervisor import Supervisor
from studio.service.runs import TrainingRuns


def train_page(run: str | None = None) -> AppTest:
    at = app("train_lora", owner=None, **({"run:train_lora": run} if run else {}))
    if run:
        at.selectbox(key="train_lora_run").set_value(run).run()
    assert not at.exception
    return at


def failed(home: Path, folder: str = "mine", **fields: Any) -> RunDir:
    run = write_run(home, folder, LoraSpec(data="somewhere", **{"name": folder} | fields))
    run.update(state="failed", error="The loss is not a number any more.", epoch=3, epochs=20, step=30, steps=200)
    return run


def test_a_failed_run_goes_on_with_a_lower_rate(page_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spawned: list[str] = []
    monkeypatch.setattr(Supervisor, "_spawn", lambda self, run: spawned.append(run.id))
    run = failed(page_home)
    at = train_page("mine")
    assert at.number_input(key="train_lora_more:mine").value == 20
    assert at.number_input(key="train_lora_rate:mine").value == pytest.approx(2e-4)
    at.number_input(key="train_lora_rate:mine").set_value(5e-5)
    at.number_input(key="train_lora_more:mine").set_value(10)
    at.button(key="train_lora_resume").click().run()
    assert not at.exception
    assert spawned == ["mine"]
    assert (run.spec().epochs, run.spec().learning_rate) == (10, pytest.approx(5e-5))


def checkpoint(run: RunDir, name: str = "epoch-0003", epoch: int = 3, step: int = 30) -> None:
    (run.checkpoints / name).mkdir(parents=True)
    (run.checkpoints / name / "meta.json").write_text(json.dumps({"epoch": epoch, "step": step}))


def test_a_failed_runs_last_good_checkpoint_can_be_used(page_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported: list[str] = []
    monkeypatch.setattr(Supervisor, "export", lambda self, id: exported.append(id))
    run = failed(page_home)
    assert "train_lora_export" not in [button.key for button in train_page("mine").button]
    checkpoint(run)
    at = train_page("mine")
    at.button(key="train_lora_export").click().run()
    assert not at.exception
    assert exported == ["mine"]
    assert [toast.value for toast in at.toast] == ["It is in the LoRA list now."]


def test_a_run_that_was_stopped_in_the_queue_saved_nothing(page_home: Path) -> None:
    failed(page_home).update(state="stopped", error=None)

    def said(at: AppTest) -> str:
        return " ".join(element.value for element in at.markdown)

    assert "Stopped before it learnt anything" in said(train_page("mine"))
    checkpoint(RunDir(page_home / "runs" / "mine"))
    assert "Stopped and saved" in said(train_page("mine"))


def test_a_result_is_chosen_in_generate(page_home: Path, tiny_model: Path) -> None:
    run = failed(page_home, model=str(tiny_model))
    checkpoint(run)
    run.adapter.mkdir()
    file = run.adapter / "mine.safetensors"
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file({f"{layer}.lora_down.weight": torch.ones(2, 16), f"{layer}.lora_up.weight": torch.ones(16, 2)}, file)
    facts = {"title": "mine", "trigger_words": ["style_1"], "weight": 0.7}
    (run.adapter / "studio.json").write_text(json.dumps(facts))
    at = train_page("mine")
    digest = studio().models.lora(str(file)).hash
    at.session_state["gen_text"] = "red hair"
    at.session_state[f"gen_loras_weight_{digest}"] = 1.3  # of an earlier result
    at.button(key="lora_use").click().run()
    assert at.session_state["gen_loras"] == [str(file)]
    assert at.session_state[f"gen_loras_weight_{digest}"] == 0.7
    assert (at.session_state["gen_model"], at.session_state["gen_text"]) == (str(tiny_model), "red hair, style_1")
    at = train_page("mine")
    at.session_state["gen_text"] = "red hair, Style_1"
    at.button(key="lora_use").click().run()
    assert at.session_state["gen_text"] == "red hair, Style_1"


def test_prodigy_has_no_rate_to_choose(page_home: Path) -> None:
    failed(page_home, optimizer="prodigy")
    at = train_page("mine")
    assert "train_lora_rate:mine" not in [field.key for field in at.number_input]


def test_a_run_that_cannot_be_read_is_shown_and_deleted(page_home: Path) -> None:
    failed(page_home)
    broken = failed(page_home, "theirs")
    broken.spec_file.write_text('{"kind": "lora", "name": "theirs", "data": "x", "taste": 1}')
    at = train_page("theirs")
    assert "can't be read" in at.error[0].value
    keys = [button.key for button in at.button]
    assert "train_lora_resume" not in keys
    at.button(key="train_lora_delete_yes").click().run()
    assert not at.exception
    assert not broken.path.exists()


def test_a_finished_run_goes_on_only_with_more_epochs(page_home: Path) -> None:
    failed(page_home).update(state="done", error=None)
    at = train_page("mine")
    assert at.button(key="train_lora_resume").disabled
    at.number_input(key="train_lora_more:mine").set_value(30).run()
    assert not at.button(key="train_lora_resume").disabled


def test_losses_of_another_kind_have_a_chart_of_their_own(page_home: Path) -> None:
    run = failed(page_home)
    for step in range(1, 7):
        more = {} if step < 4 else {"critic": 0.5}
        rate = 0.0 if step == 4 else 1e-4
        run.append_metric({"step": step, "epoch": 1, "loss": 0.1 * step, "smoothed": 0.2 * step, "rate": rate, **more})
    assert len(train_page("mine").get("vega_lite_chart")) == 3  # losses, losses while matching, rate
    run.truncate_metrics(3)
    assert len(train_page("mine").get("vega_lite_chart")) == 2


def test_a_measurement_of_other_settings_is_not_shown(
    page_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"seconds_per_step": 1.0, "seconds_to_load": 5.0, "memory": 1e9}
    monkeypatch.setattr(TrainingRuns, "measure", lambda self, spec: found)
    at = train_page()
    at.text_input(key="lora_folder").set_value(str(write_set(tmp_path / "data", 3))).run()
    at.button(key="lora_measure").click().run()

    def shown() -> bool:
        assert not at.exception
        return any("for the whole run" in caption.value for caption in at.caption)

    assert shown()
    at.number_input(key="lora_epochs").set_value(7).run()
    assert shown()  # it is counted anew from the same step
    at.number_input(key="lora_batch_size").set_value(2).run()
    assert not shown()
    at.number_input(key="lora_batch_size").set_value(4).run()
    assert not shown()


def test_the_form_has_minutes_between_checkpoints(page_home: Path, tmp_path: Path) -> None:
    at = train_page()
    assert at.number_input(key="lora_checkpoint_minutes").value is None
    assert at.number_input(key="lora_time_limit_minutes").value is None
    at.number_input(key="lora_checkpoint_minutes").set_value(15).run()
    at.text_input(key="lora_folder").set_value(str(write_set(tmp_path / "data", 2))).run()
    assert not at.exception
    assert not at.error


def test_any_page_says_that_a_run_ended(page_home: Path) -> None:
    runs = [failed(page_home, "first", name="first_one"), failed(page_home, "second")]
    held = [take_lock(run.lock_file) for run in runs]
    for run in runs:
        run.update(state="running")
    at = app(owner=None)
    assert not at.exception
    assert not at.toast
    for lock in held:
        assert lock is not None
        lock.close()
    runs[0].update(state="done")
    to(at, "gallery")
    assert sorted(toast.value for toast in at.toast) == [
        "first\\_one is finished.",
        "second was cut off: its process was ended from outside.",
    ]
    at.run()
    assert not at.toast


@pytest.mark.browser
def test_it_is_said_without_a_click(server: Server, visitor: Callable[..., Page]) -> None:
    run = failed(server.home, "first", name="first_one")
    with take_lock(run.lock_file) or pytest.fail("the lock is taken"):
        run.update(state="running")
        page = visitor()
        open_page(page, f"{server.url}/gallery")
        settle(page)
        run.update(state="done")
    expect(page.get_by_text("first_one is finished.")).to_be_visible(timeout=PATIENCE)
    shutil.rmtree(run.path)  # the server is that of other tests too
