"""The Distill page: what it starts, the curve of a real (tiny) run, and the slider that sets the steps in Generate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from support.pages import app

from studio.core.settings import settings
from studio.core.specs import LcmSpec
from studio.runs.rundir import RunDir
from studio.runs.supervisor import Supervisor
from studio.training.distill import memory, train

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def distill_page() -> AppTest:
    return app("distill_lcm", owner=None)


def texts(at: AppTest) -> str:
    kinds = ("success", "error", "caption", "markdown", "info", "warning")
    return " ".join(str(e.value) for kind in kinds for e in at.get(kind))


def quick_run(model: Path, **changes: Any) -> RunDir:
    run = RunDir(settings().runs_dir / "20260101-000000-quick")
    run.path.mkdir(parents=True)
    fields = {"name": "quick", "model": str(model), "epochs": 1, "steps_per_epoch": 1, "batch_size": 2, "latents": 8,
              "rank": 4, "checkpoint_epochs": 1, "curve_pictures": 2}  # fmt: skip
    run.write_spec(LcmSpec(**{**fields, **changes}))
    return run


def test_a_request_with_a_mistake_is_a_sentence_and_starts_nothing(page_home: Path) -> None:
    at = distill_page()
    assert not at.exception
    assert "1,000 steps in all" in texts(at)
    at.number_input(key="lcm_epochs").set_value(3).run()
    assert "150 steps in all" in texts(at)
    at.text_input(key="lcm_name").set_value("../x").run()
    assert "Name: letters, digits, _ and" in texts(at).replace("\\", "")
    assert at.button(key="lcm_start").disabled
    at.text_input(key="lcm_name").set_value("fine").run()
    at.radio(key="lcm_source").set_value("folder").run()
    assert at.button(key="lcm_start").disabled
    at.text_input(key="lcm_data").set_value("/nowhere").run()
    at.button(key="lcm_start").click().run()
    assert not at.exception
    assert "There is no data set at" in texts(at)
    assert Supervisor(settings()).list() == []


def test_the_curve_and_the_trade_off(page_home: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = quick_run(tiny_model, epochs=2)
    train.main(run.path)
    at = distill_page()
    at.selectbox(key="distill_lcm_run").set_value(run.id).run()
    assert not at.exception
    said = texts(at)
    assert "This model has no judge" in said
    assert "Kept: epoch-000" in said
    for words in (
        "Teacher at its best · 4 steps at guidance 3",
        "DPM++ 2M · 1 step",
        "Student · 8 steps at guidance 1",
    ):
        assert words in said
    assert "times faster than the teacher" in said
    at.select_slider(key="lcm_steps").set_value(2).run()
    at.button(key="lcm_use").click().run()
    assert at.session_state["gen_steps"] == 2
    assert at.session_state["gen_loras"] == [str(run.adapter / "quick.safetensors")]
    assert at.session_state["gen_model"] == str(tiny_model)


def test_an_unmeasured_result_is_used_with_its_character(
    page_home: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    first = quick_run(tiny_model, curve_pictures=0)
    train.main(first.path)
    place = settings().models_dir / "loras"
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(first.adapter / "quick.safetensors", place / "mika.safetensors")
    (place / "mika.json").write_text(json.dumps({"title": "Mika"}))
    shutil.rmtree(first.path)
    run = quick_run(tiny_model, curve_pictures=0, loras=[{"path": "mika", "weight": 0.8}])
    train.main(run.path)
    at = distill_page()
    at.selectbox(key="distill_lcm_run").set_value(run.id).run()
    assert not at.exception
    said = texts(at)
    assert "Nothing was measured" in said
    assert "used beside it: mika (0.8)" in said
    assert [button.proto.label for button in at.get("download_button")] == [
        "Download for A1111 and ComfyUI", "All formats"
    ]  # fmt: skip
    at.button(key="lcm_use").click().run()
    assert not at.exception
    assert [Path(path).stem for path in at.session_state["gen_loras"]] == ["mika", "quick"]
    sliders = [slider.value for slider in at.slider if str(slider.key).startswith("gen_loras_weight")]
    assert sliders == [0.8, 1.0]
    assert at.session_state["gen_steps"] is None
    assert "quick was made with Mika (0.8)" in texts(at)


def test_the_memory_and_the_time_that_a_run_takes_are_told_before(
    page_home: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = memory.measure(LcmSpec(model=str(tiny_model), rank=4, batch_size=1))
    assert memory.RUNTIME < said["memory"] < 2 * memory.RUNTIME
    assert said["free"] > 0
    assert said["latents"] > 0 < said["steps"]
    figures = iter([{"memory": 3e9, "free": 2e9, "latents": 600.0, "steps": 7200.0}])
    monkeypatch.setattr(Supervisor, "measure", lambda *_: next(figures))
    at = distill_page()
    at.button(key="lcm_memory").click().run()
    assert not at.exception
    assert "About 3.0 GB of memory in full precision; 2.0 GB are free." in texts(at)
    assert "That is more than is free" in texts(at)
    assert "About 2 h 10 min on this machine, measuring left out: 10 min for the pictures" in texts(at)
    at.number_input(key="lcm_batch_size").set_value(1).run()  # another run now
    assert "in full precision" not in texts(at)
