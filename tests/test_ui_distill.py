"""The Distill page: what it starts, the curve of a real (tiny) run, and the slider that sets the steps in Generate."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import REPOSITORY
from streamlit.testing.v1 import AppTest

from studio.runs.rundir import RunDir
from studio.runs.supervisor import Supervisor
from studio.settings import settings
from studio.specs import LcmSpec
from studio.training import lcm

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def distill_page() -> AppTest:
    at = AppTest.from_file(str(REPOSITORY / "studio" / "ui" / "main.py"), default_timeout=90).run()
    return at.switch_page(str(REPOSITORY / "pages" / "distill_lcm.py")).run()


def texts(at: AppTest) -> str:
    kinds = ("success", "error", "caption", "markdown", "info", "warning")
    return " ".join(str(e.value) for kind in kinds for e in at.get(kind))


def test_a_request_with_a_mistake_is_a_sentence_and_starts_nothing(page_home: Path) -> None:
    at = distill_page()
    assert not at.exception
    assert "1,000 steps in all" in texts(at)
    at.number_input(key="lcm_epochs").set_value(3).run()
    assert "150 steps in all" in texts(at)
    at.text_input(key="lcm_name").set_value("../x").run()
    assert "Name: String should match" in texts(at)
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
    run = RunDir(settings().runs_dir / "20260101-000000-quick")
    run.path.mkdir(parents=True)
    run.write_spec(
        LcmSpec(
            name="quick", model=str(tiny_model), epochs=2, steps_per_epoch=1, batch_size=2, latents=8, rank=4,
            checkpoint_epochs=1, curve_pictures=2,
        )
    )  # fmt: skip
    lcm.main(run.path)
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
