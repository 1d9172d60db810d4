"""Foreign syntax in requests: applied, or left out and said; never drawn as words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.checkpoints import tiny_sd

from studio.core.settings import Settings
from studio.core.specs import GenerateSpec, LoraRef
from studio.features.sheets.spec import Axis, BatchSpec, GridSpec, SheetSpec
from studio.service import PromptRequest, Studio
from studio.service.resolving import weighted


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    home = tmp_path_factory.mktemp("wording")
    tiny_sd(home / "models" / "tiny")
    for name, words in (("ink", "inkstyle"), ("Soft_Light-v2", "")):
        path = home / "models" / "loras" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        half = np.zeros((1, 1), np.float32)
        save_file(
            {"lora_unet_x.lora_down.weight": half, "lora_unet_x.lora_up.weight": half}, path,
            metadata={"modelspec.trigger_phrase": words, "of": name},
        )  # fmt: skip
    (home / "wildcards").mkdir()
    (home / "wildcards" / "color.txt").write_text("red\nblue\n")
    studio = Studio(Settings(home=home, device="cpu", model="tiny", offline=True, _env_file=None))
    yield studio
    studio.close()


def spec(prompt: str, **more: object) -> GenerateSpec:
    return GenerateSpec.model_validate({"model": "tiny", "seed": 7, "prompt": prompt} | more)


def test_a_lora_in_the_prompt_is_applied_and_its_words_offered(studio: Studio) -> None:
    plan = studio._resolver.plan(spec("1girl, happy, <lora:ink:0.8>, <lora:soft light v2>"), "me")
    [recipe] = plan.recipes
    assert recipe.prompt == "1girl, happy"
    assert [(Path(ref.path).stem, ref.weight) for ref in recipe.loras] == [("ink", 0.8), ("Soft_Light-v2", 1.0)]
    assert len(recipe.lora_hashes) == 2
    assert plan.notes == ("The LoRA 'ink' listens to words that the prompt lacks: inkstyle.",)
    assert studio._resolver.plan(spec("1girl, InkStyle, <lora:ink:0.8>"), "me").notes == ()


def test_a_lora_that_isnt_here_is_named(studio: Studio) -> None:
    plan = studio._resolver.plan(spec("1girl, <lora:nobody:1>", negative="lowres, <lora:ink:1>"), "me")
    assert plan.recipes[0].loras == ()
    assert (plan.recipes[0].prompt, plan.recipes[0].negative) == ("1girl", "lowres")
    assert len(plan.notes) == 2
    assert any("'nobody'" in note and "left out" in note for note in plan.notes)


def test_what_was_chosen_beside_the_prompt_keeps_its_weight(studio: Studio) -> None:
    chosen = spec("1girl, inkstyle, <lora:ink:0.2>", loras=[LoraRef(path="ink", weight=0.9).model_dump()])
    [recipe] = studio._resolver.plan(chosen, "me").recipes
    assert [ref.weight for ref in recipe.loras] == [0.9]


def test_a_lora_has_the_weight_that_its_notes_recommend_where_none_is_said(studio: Studio) -> None:
    place = studio.settings.models_dir / "loras"
    half = np.zeros((1, 1), np.float32)
    save_file({"lora_unet_y.lora_down.weight": half, "lora_unet_y.lora_up.weight": half}, place / "shy.safetensors")
    (place / "shy.json").write_text('{"activation text": "shyline", "preferred weight": 0.7}', encoding="utf-8-sig")
    said = spec("1girl, happy", loras=[{"path": "shy"}])
    plan = studio._resolver.plan(said, "me")
    assert [ref.weight for ref in plan.recipes[0].loras] == [0.7]
    assert [ref.weight for ref in plan.spec.loras] == [0.7], "repeated, it is the same"
    assert len(plan.notes) == 2
    assert any("'shy'" in note and "0.7" in note for note in plan.notes)
    assert any("shyline" in note for note in plan.notes)
    for asked in (1.0, 0.5):
        told = spec("1girl, happy, shyline", loras=[{"path": "shy", "weight": asked}])
        plan = studio._resolver.plan(told, "me")
        assert ([ref.weight for ref in plan.recipes[0].loras], plan.notes) == ([asked], ())
    sheet = studio._resolver.plan(SheetSpec(base=said, emotions=("happy", "sad")), "me")
    rows = Axis(name="lora", values=("shy", "Soft_Light-v2"))
    grid = studio._resolver.plan(GridSpec(base=spec("1girl, shyline"), x=rows), "me")
    assert [recipe.loras[0].weight for recipe in sheet.recipes] == [0.7, 0.7]
    assert [recipe.loras[0].weight for recipe in grid.recipes] == [0.7, 1.0]
    assert [ref.weight for ref in weighted([LoraRef(path="shy"), LoraRef(path="nobody")], studio.settings)] == [0.7, 1]


def test_every_seed_chooses_for_itself_and_a_sheet_once(studio: Studio) -> None:
    prompts = [recipe.prompt for recipe in studio._resolver.plan(spec("{a|b} __color__", count=16), "me").recipes]
    assert set(prompts) == {"a red", "a blue", "b red", "b blue"}
    sheet = SheetSpec(base=spec("1girl, happy, __color__ hat"), emotions=("happy", "sad", "angry"))
    hats = {recipe.prompt.split(", ")[-1] for recipe in studio._resolver.plan(sheet, "me").recipes}
    assert len(hats) == 1
    missing = studio._resolver.plan(spec("1girl, __nothing__"), "me")
    assert missing.recipes[0].prompt == "1girl"
    assert "'nothing'" in missing.notes[0]


def test_the_words_typed_beside_a_written_prompt_too(studio: Studio) -> None:
    typed = GenerateSpec(model="tiny", seed=7, text="<lora:ink:0.5>, {red|red} hat, [sad:smile:0.2]")
    plan = studio._resolver.plan(typed, "me")
    [recipe] = plan.recipes
    assert [ref.weight for ref in recipe.loras] == [0.5]
    assert "red hat, smile" in recipe.prompt
    assert not set("<>{}[]") & set(recipe.prompt)
    assert any("halfway" in note for note in plan.notes)


def test_options_in_the_lines_of_a_list(studio: Studio) -> None:
    rows = studio.parse_rows('--prompt "1girl, hat" --steps 6 --seed 5\n--prompt "<lora:ink:1>, x" --seed -1\n1girl\n')
    one, two, three = studio._resolver.plan(BatchSpec(base=spec("x", steps=9), rows=rows), "me").recipes
    assert (one.prompt, one.steps, one.seed) == ("1girl, hat", 6, 5)
    assert (two.prompt, two.seed, len(two.loras)) == ("x", 8, 1)
    assert (three.prompt, three.steps) == ("1girl", 9)


def test_words_that_do_little_are_said_of_what_is_drawn(studio: Studio) -> None:
    plan = studio._resolver.plan(spec("1girl, [sad:happy:0.5], {xyzzyq|xyzzyq}, <lora:ink:1>, inkstyle"), "me")
    assert len(plan.notes) == 2
    assert "These words do little with this model: 'xyzzyq'." in plan.notes


def test_the_page_and_the_job_judge_the_same_words(studio: Studio) -> None:
    typed = "1girl, [sad:happy:0.5], {xyzzyq|xyzzyq}, <lora:ink:1>, {red|red} __color__ hair"
    unknown = studio.prompts.unknown_words(typed, "tiny", seed=7)
    assert [one.word for one in unknown] == ["xyzzyq"]
    [note] = [note for note in studio._resolver.plan(spec(typed), "me").notes if "little" in note]
    assert "'xyzzyq'" in note
    for written in (studio.prompts.write_prompt, studio.prompts.write_offline):
        result = written(PromptRequest(text="{red|red} hair, {xyzzyq|xyzzyq}", model="tiny", offline=True))
        assert [one.word for one in result.unknown_words] == ["xyzzyq"]


def test_words_that_a_lora_was_taught_are_known_to_the_prompt_of_the_page(studio: Studio) -> None:
    request = PromptRequest(text="inkstyle", model="tiny", offline=True)
    assert studio.prompts.write_prompt(request).unknown_words
    assert not studio.prompts.write_prompt(request, loras=[studio.models.lora("ink")]).unknown_words
