"""The A/B experiment as a job, on the model that ships."""

import pytest

from studio.core.settings import Settings
from studio.core.specs import GenerateSpec
from studio.features.experiment.report import Report
from studio.features.experiment.spec import ExperimentSpec
from studio.service import Studio


def test_an_experiment_draws_judges_and_keeps_its_report(tmp_path) -> None:
    studio = Studio(Settings(home=tmp_path))
    base = GenerateSpec(text="red hair", seed=3, steps=3)
    job = studio.submit(ExperimentSpec(base=base, compare="clean_attacked", seeds=3, share=0.5), "me")
    job = studio.wait(job.id, "me", 300)
    assert job.state == "done", job.error
    assert len(job.result["pairs"]) == 3
    assert all(left != right for left, right in job.result["pairs"])
    for left, right in job.result["pairs"]:
        recipes = [studio.picture(id, "me").recipe for id in (left, right)]
        assert recipes[0].seed == recipes[1].seed
        assert recipes[0].prompt != recipes[1].prompt
    kept = studio.picture(job.result["report"], "me")
    report = Report.model_validate(kept.details["report"])
    assert report.sentence() == job.result["sentence"]
    assert [outcome.left.picture for outcome in report.outcomes] == [left for left, _ in job.result["pairs"]]
    again = studio.wait(
        studio.submit(ExperimentSpec(base=base, compare="clean_attacked", seeds=3, share=0.5), "me").id, "me", 300
    )
    assert again.result["pairs"] == job.result["pairs"]


def test_a_model_without_a_judge_says_so(tmp_path, tiny_model) -> None:
    studio = Studio(Settings(home=tmp_path))
    spec = ExperimentSpec(base=GenerateSpec(model=str(tiny_model), seed=1), seeds=2)
    job = studio.wait(studio.submit(spec, "me").id, "me", 120)
    assert job.state == "failed"
    assert "judge" in (job.error or "")


@pytest.mark.parametrize("seeds", [1, 1001])
def test_an_experiment_needs_a_sensible_number_of_seeds(seeds: int) -> None:
    with pytest.raises(ValueError, match="seeds"):
        ExperimentSpec(seeds=seeds)
