"""The A/B experiment and the search for the worst spelling as jobs, with a model that shows what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from streamlit.testing.v1 import AppTest
from support.checkpoints import tiny_sd

from studio.core.errors import BadInput
from studio.core.settings import Settings
from studio.core.specs import EMOTIONS, GenerateSpec, LoraRef, Recipe
from studio.core.views import JobView
from studio.engine import judging
from studio.engine.progress import Step
from studio.features.experiment import job as experiments
from studio.features.experiment import report as experiment
from studio.features.experiment.spec import ExperimentSpec
from studio.jobs.job import Job
from studio.prompting import attacks
from studio.service import Studio


class Engine:
    """Draws a bright picture where the prompt has the word "tearful", else a dark one."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.drawn: list[Recipe] = []
        self.before: Callable[[int], None] = lambda number: None

    def components(self, model: str) -> Any:
        return SimpleNamespace(info=SimpleNamespace(judge=Path("judge")))

    def fetched_lora(self, reference: str, on_note: Any) -> Iterator[None]:
        yield from ()

    def at_once(self, recipes: Sequence[Recipe], say: Any) -> int:
        return min(3, len(recipes))

    def draw(self, recipes: Sequence[Recipe], on_step: Any, files: Any) -> Iterator[tuple[int, Image.Image]]:
        for index, recipe in enumerate(recipes):
            self.before(len(self.drawn))
            on_step(Step(index + 1, len(recipes)))
            self.drawn.append(recipe)
            light = 230 if "tearful" in recipe.prompt else 25
            yield index, Image.new("RGB", (16, 16), (light, recipe.seed % 256, len(recipe.prompt) % 256))

    def status(self) -> dict[str, Any]:
        return {}


def look(folder: Path, pictures: Sequence[Image.Image]) -> list[judging.Classification]:
    found = []
    for picture in pictures:
        pixel = picture.getpixel((0, 0))
        assert isinstance(pixel, tuple)
        sad = pixel[0] / 255
        found.append(judging.Classification("sad" if sad > 0.5 else "calm", "casual", dict.fromkeys(EMOTIONS, sad)))
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("experiments")
    tiny_sd(home / "models" / "tiny")
    half = np.zeros((1, 1), np.float32)
    path = home / "models" / "loras" / "mine.safetensors"
    path.parent.mkdir()
    save_file(
        {"lora_unet_x.lora_down.weight": half, "lora_unet_x.lora_up.weight": half}, path,
        metadata={"modelspec.trigger_phrase": "smyle"},
    )  # fmt: skip
    return home


@pytest.fixture
def settings(home: Path, tmp_path: Path) -> Settings:
    (tmp_path / "models").symlink_to(home / "models")
    return Settings(home=tmp_path, device="cpu", model="tiny", offline=True, _env_file=None)


@pytest.fixture
def studio(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    monkeypatch.setattr(judging, "classify", look)
    engine = Engine(settings)
    monkeypatch.setattr(Studio, "_make_engine", lambda self: engine)
    studio = Studio(settings)
    studio.engine = engine  # type: ignore[attr-defined]
    yield studio
    studio.close()


def engine_of(studio: Studio) -> Engine:
    engine: Engine = studio.engine  # type: ignore[attr-defined]
    return engine


def spec(compare: str, **changes: Any) -> ExperimentSpec:
    fields = {"model": "tiny", "seed": 7, "steps": 20, "emotion": "sad"} | changes.pop("base", {})
    return ExperimentSpec(base=GenerateSpec(**fields), compare=compare, **changes)  # type: ignore[arg-type]


def test_the_worst_case_is_searched_with_few_small_pictures_and_drawn_beside_its_cure(studio: Studio) -> None:
    prompt = "1girl, red hair, sad, tearful, school uniform, masterpiece"
    job = studio.submit(spec("clean_worst", base={"prompt": prompt}, seeds=3, words=1, emotions=()), "me")
    job = studio.wait(job.id, "me", 60)
    assert job.state == "done", job.error
    drawn = engine_of(studio).drawn
    search, final = drawn[:-6], drawn[-6:]  # what hardening gives back is drawn once
    assert {recipe.steps for recipe in search} == {experiment.SEARCH_STEPS}
    assert {recipe.seed for recipe in search} == {7, 8}
    assert len(search) <= experiment.SEARCH_SEEDS * experiment.SEARCH_PROMPTS
    assert {recipe.steps for recipe in final} == {20}
    assert studio.gallery_count("me", kind="picture") == 6  # nothing of the search is kept
    assert job.result["names"] == ["Clean", "Worst case", "Hardened"]
    for number, ids in enumerate(job.result["pairs"]):
        recipes = [studio.picture(id, "me").recipe for id in ids]
        assert [recipe.seed for recipe in recipes if recipe] == [7 + number] * 3
        clean, worst, cured = [recipe.prompt for recipe in recipes if recipe]
        assert clean == cured == prompt
        assert "tearful" not in worst
    assert "'tearful' as '" in job.result["sentence"]
    assert "Clean: 90%; Worst case: 10%; Hardened: 90%" in job.result["sentence"]
    assert "gives the clean prompt back" in job.result["sentence"]
    assert job.result["comparisons"] == []  # a p-value would test what was searched for


@pytest.mark.parametrize("compare", ["plain_hardened", "clean_attacked", "clean_worst"])
def test_the_trigger_of_a_lora_is_neither_attacked_nor_corrected(studio: Studio, compare: str) -> None:
    base = {"text": "smyle", "loras": (LoraRef(path="mine"),)}
    job = studio.wait(studio.submit(spec(compare, base=base, seeds=4, share=1.0), "me").id, "me", 60)
    assert job.state == "done", job.error
    recipes = [studio.picture(id, "me").recipe for ids in job.result["pairs"] for id in ids]
    assert all("smyle" in recipe.prompt for recipe in recipes if recipe)


def test_a_worst_case_that_is_not_worse_says_so(studio: Studio) -> None:
    job = studio.submit(spec("clean_worst", base={"prompt": "1girl, red hair"}, seeds=2), "me")
    job = studio.wait(job.id, "me", 60)
    assert job.state == "done", job.error
    assert job.result["sentence"].startswith("None of ")
    assert len({id for ids in job.result["pairs"] for id in ids}) == 2


def test_the_search_is_bounded_and_tries_the_words_of_the_emotion_first() -> None:
    prompt = ", ".join(["quiet", "river"] * 40) + ", tearful"
    most, steps = experiment.worst_case(spec("clean_worst"), prompt)
    assert most == experiment.SEARCH_PROMPTS
    asked = next(steps)
    assert any("tearful" not in prompt for prompt in asked)
    tried = len(asked)
    found = None
    try:
        while True:
            asked = steps.send([float("tearful" in prompt) for prompt in asked])
            tried += len(asked)
    except StopIteration as over:
        found = over.value
    assert found is not None
    assert tried <= most
    assert [swap.source for swap in found[0].swaps] == ["tearful"]


def test_the_search_asks_in_groups_for_what_greedy_asks_one_by_one() -> None:
    prompt, asked = "1girl, red hair, sad, tearful", []

    def score(prompt: str) -> float:
        asked.append(prompt)
        return float("tearful" in prompt)

    found = attacks.greedy(prompt, score, words=2, candidates=3)
    groups: list[str] = []
    steps = attacks.search(prompt, words=2, candidates=3)
    wanted = next(steps)
    try:
        while True:
            groups += wanted
            wanted = steps.send([float("tearful" in prompt) for prompt in wanted])
    except StopIteration as over:
        again = over.value
    assert groups == asked
    assert again == found


def cancelled(studio: Studio, wanted: ExperimentSpec, when: Callable[[list[Recipe]], bool]) -> JobView:
    """A job whose owner cancels it while it draws, as soon as `when` says so of what was drawn."""
    asked: list[str] = []
    known = threading.Event()

    def stop(number: int) -> None:
        if when(engine_of(studio).drawn):
            assert known.wait(60)
            studio.cancel(asked[0], "me")

    engine_of(studio).before = stop
    asked.append(studio.submit(wanted, "me").id)
    known.set()
    job = studio.wait(asked[0], "me", 60)
    assert job.state == "cancelled"
    return job


def test_a_search_can_be_cancelled(studio: Studio) -> None:
    job = cancelled(studio, spec("clean_worst", base={"prompt": "1girl, sad, tearful"}, seeds=5), lambda drawn: True)
    assert not job.result
    assert not studio.gallery("me")


def test_a_cancel_after_the_search_keeps_what_it_found(studio: Studio) -> None:
    wanted = spec("clean_worst", base={"prompt": "1girl, sad, tearful"}, seeds=9, words=1)
    cancelled(studio, wanted, lambda drawn: sum(recipe.steps == 20 for recipe in drawn) > 6)
    [kept] = studio.gallery("me", kind="report")
    assert "'tearful' as '" in experiments.report_of(kept)["sentence"]


def test_a_cancel_keeps_the_report_of_what_was_finished(studio: Studio) -> None:
    job = cancelled(studio, spec("clean_attacked", seeds=20, share=0.5), lambda drawn: len(drawn) > 6)
    [kept] = studio.gallery("me", kind="report")
    report = experiment.opened(kept.details["report"])
    assert not report.complete
    assert len(report.outcomes) == 3
    assert report.sentence().startswith("Stopped after 3 of 20 seeds.")
    assert job.result["report"] == kept.id
    assert experiments.report_of(kept)["sentence"] == report.sentence()


def test_a_cancel_between_two_turns_keeps_it_too(studio: Studio) -> None:
    plan = studio._resolver.plan(spec("clean_attacked", seeds=9, share=0.5), "me")
    made = Job(
        plan.spec, "me", recipes=plan.recipes, pictures=studio._pictures, model_title="tiny",
        resolve=lambda request: studio._resolver.recipes(request, "me"), wording=studio._resolver.wording,
    )  # fmt: skip
    runner = experiments.experiment(engine_of(studio), made, plan.spec)  # type: ignore[arg-type]
    for _ in range(3):
        next(runner)
    runner.close()  # type: ignore[attr-defined]
    [kept] = studio.gallery("me", kind="report")
    assert len(experiment.opened(kept.details["report"]).outcomes) == 4  # nine pictures


def test_a_cancel_before_the_first_pair_keeps_nothing(studio: Studio) -> None:
    plan = studio._resolver.plan(spec("clean_attacked", seeds=9), "me")
    made = Job(
        plan.spec, "me", recipes=plan.recipes, pictures=studio._pictures,
        resolve=lambda request: studio._resolver.recipes(request, "me"), wording=studio._resolver.wording,
    )  # fmt: skip
    made.cancelled.set()
    with pytest.raises(BaseException, match=r"^$"):
        next(experiments.experiment(engine_of(studio), made, plan.spec))  # type: ignore[arg-type]
    assert not studio.gallery("me", kind="report")


def test_a_report_of_another_version_is_refused() -> None:
    with pytest.raises(BadInput, match="can't be opened"):
        experiment.opened({"version": 2})
    with pytest.raises(BadInput):
        experiment.opened(None)


# --- on the page ------------------------------------------------------------------------------------------------------


def _show_large() -> None:
    import streamlit as st

    from studio.interfaces.web import results

    results.large(st.session_state["picture"])


def test_a_saved_report_is_opened_again(page_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from studio.interfaces.web import lab
    from studio.interfaces.web.resources import studio as shared

    monkeypatch.setattr(judging, "classify", look)
    monkeypatch.setattr(Studio, "_make_engine", lambda self: Engine(self.settings))
    base = GenerateSpec(model=shared().settings.model, seed=3, steps=2)
    job = shared().submit(ExperimentSpec(base=base, compare="clean_attacked", seeds=3, share=0.5), "me")
    done = shared().wait(job.id, "me", 60)
    assert done.state == "done", done.error
    kept = shared().picture(done.result["report"], "me")
    assert kept.title == "Clean / Attacked: 3 seeds"
    at = AppTest.from_function(_show_large, default_timeout=60)
    at.session_state["picture"], at.session_state["owner"] = kept, "me"
    at.run()
    assert not at.exception
    assert done.result["sentence"] in at.markdown[0].value.replace("\\", "")
    captions = [part.value for part in at.caption]
    assert captions.count("Clean") == captions.count("Attacked") == 3
    for factor in ("emotion", "style"):  # each is followed by its p-value
        after = captions[captions.index(lab.FACTORS[factor]) + 1]
        assert after.startswith("p = ")
    at.session_state["picture"] = kept.model_copy(update={"details": {"report": {"version": 9}}})
    at.run()
    assert not at.exception
    assert any("can't be opened" in part.value.replace("\\", "") for part in at.caption)


def test_the_page_asks_for_the_worst_case_and_says_what_an_experiment_compares(page_home: Path) -> None:
    from support.pages import app

    from studio.interfaces.web.resources import studio as shared

    at = app(gen_seed=21)
    assert any("edited by hand is not compared" in part.value for part in at.caption)
    at.button_group(key="gen_stress_how").set_value("worst").run()
    at.button(key="gen_stress_draw").click().run()
    assert not at.exception
    asked = shared().job_spec(at.session_state["job:generate"], "me")
    assert isinstance(asked, ExperimentSpec)
    assert asked.compare == "clean_worst"
    assert asked.base.prompt
    done = shared().wait(at.session_state["job:generate"], "me", 60)
    assert "has no judge" in (done.error or "")
