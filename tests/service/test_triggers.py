"""Trigger words of chosen LoRAs are protected wherever a prompt is written, attacked or corrected."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.checkpoints import tiny_sd

from studio.core.errors import NotFound
from studio.core.settings import Settings
from studio.core.specs import BatchRow, GenerateSpec, LoraRef, Request
from studio.features.experiment.report import arms, pairs
from studio.features.experiment.spec import ExperimentSpec
from studio.features.sheets.spec import Axis, BatchSpec, GridSpec, SheetSpec
from studio.interfaces.cli import terminal, verbs
from studio.prompting import triggers
from studio.prompting.writers import PromptRequest
from studio.service import Studio


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    home = tmp_path_factory.mktemp("triggers")
    tiny_sd(home / "models" / "tiny")
    path = home / "models" / "loras" / "sakurako.safetensors"
    path.parent.mkdir(parents=True)
    half = np.zeros((1, 1), np.float32)
    save_file(
        {"lora_unet_x.lora_down.weight": half, "lora_unet_x.lora_up.weight": half}, path,
        metadata={"modelspec.trigger_phrase": "桜子, smyle"},
    )  # fmt: skip
    studio = Studio(Settings(home=home, device="cpu", model="tiny", offline=True, _env_file=None))
    yield studio
    studio.close()


def base(text: str = "桜子, red hair", *loras: str) -> GenerateSpec:
    return GenerateSpec(model="tiny", seed=1, text=text, loras=tuple(LoraRef(path=path) for path in loras))


def test_a_prompt_keeps_the_trigger_of_its_lora(studio: Studio) -> None:
    without, with_lora = (
        studio._resolver.wording.written(base()),
        studio._resolver.wording.written(base("桜子, red hair", "sakurako")),
    )
    assert "桜子" not in without.positive_prompt
    assert without.doubtful
    assert "桜子" in with_lora.positive_prompt
    assert with_lora.confidence >= 0.9
    with pytest.raises(NotFound, match="nobody"):
        studio._resolver.wording.written(base("red hair", "nobody"))


@pytest.mark.parametrize(
    "spec",
    [
        SheetSpec(base=base("桜子, red hair", "sakurako")),
        GridSpec(base=base("桜子, red hair", "sakurako"), x=Axis(name="emotion", values=("sad", "calm"))),
        GridSpec(base=base(), x=Axis(name="lora", values=("sakurako", "sakurako.safetensors"))),
        BatchSpec(base=base("", "sakurako"), rows=(BatchRow(prompt="桜子, red hair", emotion="sad"),)),
    ],
)
def test_every_kind_of_request_keeps_it(studio: Studio, spec: Request) -> None:
    plan = studio._resolver.plan(spec, "me")
    assert plan.recipes
    assert all("桜子" in recipe.prompt for recipe in plan.recipes)
    assert not [note for note in plan.notes if "left out" in note]


@pytest.mark.parametrize("compare", ["plain_hardened", "clean_attacked"])
def test_neither_attack_nor_correction_touches_it(compare: str) -> None:
    spec = ExperimentSpec(base=GenerateSpec(text="smyle"), compare=compare, seeds=10, share=1.0)  # type: ignore[arg-type]
    found = pairs(spec, triggers=("smyle",))
    assert all("smyle" in side.prompt for pair in found for side in pair.sides)
    assert not all("smyle" in side.prompt for pair in pairs(spec) for side in pair.sides)


def test_the_arms_of_the_measurement_keep_it_too() -> None:
    found = arms(PromptRequest(text="smyle", trigger_words=("smyle",)), "mixed", 1.0, seed=5)
    assert all("smyle" in side.prompt for side in found.values())


def test_what_files_say_of_themselves_is_cut_to_what_a_request_takes() -> None:
    assert triggers.split(["a, b", " b ", "", ",", "x" * 300]) == ("a", "b")
    many = triggers.split(f"word{number}" for number in range(200))
    assert len(PromptRequest(trigger_words=many).trigger_words) == triggers.MOST


def test_the_command_line_s_own_prompt_keeps_it(studio: Studio) -> None:
    typed = {"text": "桜子, red hair", "loras": terminal.lora_refs(["sakurako:0.5"])}
    fields = verbs.drawing_request(studio, typed, {"prompts": None, "offline": False})
    assert "桜子" in fields["prompt"]


def test_harden_protects_words(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.harden(studio, "smlie, reb hair", json=True)
    assert json.loads(capsys.readouterr().out)["text"] == "smile, red hair"
    terminal.harden(studio, "smlie, reb hair", ["other, smlie", "someone"], json=True)
    assert json.loads(capsys.readouterr().out)["text"] == "smlie, red hair"
    terminal.harden(studio, "smlie, reb hair", ["smlie,reb hair"])
    assert capsys.readouterr().out == "smlie, reb hair\n"
