"""Words that a model can't draw, from a request to its picture's recipe: left out, said, found by no search."""

from __future__ import annotations

from pathlib import Path

from support.checkpoints import tiny_sd

from studio.core.settings import Settings
from studio.core.specs import GenerateSpec
from studio.service import Studio


def test_a_picture_says_what_was_left_out_of_it(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "m")
    about = '{"tags": ["red hair", "glasses"], "unreliable": ["glasses"]}'
    (folder / "studio.json").write_text(about)
    studio = Studio(Settings(home=tmp_path / "home", model=str(folder), device="cpu", _env_file=None))
    try:
        spec = GenerateSpec(model=str(folder), text="red hair, glasses", seed=5, steps=1)
        plan = studio._resolver.plan(spec, "me")
        [recipe] = plan.recipes
        assert "glasses" not in recipe.prompt
        assert (recipe.labels["left_out"], recipe.labels["text"], plan.title) == ("glasses", "red hair", "red hair")
        assert any("left out" in note and "'glasses'" in note for note in plan.notes)
        fixed = studio._resolver.plan(spec.model_copy(update={"on_low_confidence": "fixed"}), "me").recipes[0]
        assert "glasses" not in fixed.prompt
        [every] = studio._resolver.plan(spec.model_copy(update={"every_word": True}), "me").recipes
        assert "glasses" in every.prompt
        assert "left_out" not in every.labels
        [own] = studio._resolver.plan(spec.model_copy(update={"prompt": "1girl, glasses"}), "me").recipes
        assert own.prompt == "1girl, glasses"  # nobody changes a prompt of one's own
        assert "left_out" not in own.labels
        [slip] = studio._resolver.plan(spec.model_copy(update={"text": "redd hair, glsses"}), "me").recipes
        assert "redd hair, glsses" in slip.prompt  # to be put right by whoever wrote it, not to be lost
        earlier = spec.model_copy(update={"prompt": recipe.prompt})  # written before, by whomever
        assert studio._resolver.plan(earlier, "me").recipes[0].labels["left_out"] == "glasses"
        done = studio.wait(studio.submit(spec, "me").id, "me", 60)
        assert done.state == "done", done.error
        assert [picture.id for picture in studio.gallery("me", query="red hair")] == list(done.pictures)
        assert studio.gallery("me", query="glasses") == []
    finally:
        studio.close()
