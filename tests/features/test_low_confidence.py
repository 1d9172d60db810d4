"""What becomes of a prompt that its writer doubts: each policy alone, and through every kind of request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from support.checkpoints import tiny_sd

from studio.core.errors import BadInput
from studio.core.settings import Settings
from studio.core.specs import EMOTIONS, BatchRow, GenerateSpec, Keyframe, LowConfidence, Recipe
from studio.features.animate.spec import AnimateSpec, SpritesSpec
from studio.features.experiment.spec import ExperimentSpec
from studio.features.morph.spec import MorphSpec
from studio.features.sheets.spec import Axis, BatchSpec, GridSpec, SheetSpec
from studio.prompting.confidence import apply_policy
from studio.prompting.writers import OfflineWriter, PromptRequest, PromptResult, fixed_template
from studio.service import Studio

WRITER = OfflineWriter()
# Doubtful for every emotion, each for another reason; and one that contradicts "happy" alone.
DOUBTS = ["long hair, short hair", "smlie, bleu eyse, lnog hiar", "未知語彙"]
UNHAPPY = "crying, frown, tears"


class Scripted:
    """Gives prompts of these confidences, one after the other, and remembers the seeds it was asked with."""

    def __init__(self, *confidences: float) -> None:
        self.left = list(confidences)
        self.seeds: list[int] = []

    def __call__(self, request: PromptRequest) -> PromptResult:
        self.seeds.append(request.seed)
        written = WRITER.write(request)
        return written.model_copy(
            update={
                "confidence": self.left.pop(0), "notes": (f"Try {len(self.seeds)}.",), "tokens_in": 10,
                "tokens_out": 1, "cost_usd": 0.5,
            }
        )  # fmt: skip


# --- the policies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["retry", "fixed", "run", "fail"])
def test_a_sure_prompt_is_taken_whatever_the_policy(policy: LowConfidence) -> None:
    write = Scripted(0.8)
    result = apply_policy(write, PromptRequest(seed=4), policy)
    assert (result.writer, result.confidence, result.notes, write.seeds) == ("offline", 0.8, ("Try 1.",), [4])


def test_run_takes_a_doubtful_prompt_as_it_is() -> None:
    write = Scripted(0.2)
    assert apply_policy(write, PromptRequest(), "run") == apply_policy(Scripted(0.2), PromptRequest())
    assert write.seeds == [0]


def test_fixed_takes_the_template_and_says_why() -> None:
    request = PromptRequest(emotion="sad", text="red hair")
    result = apply_policy(Scripted(0.79), request, "fixed")
    assert (result.writer, result.positive_prompt) == ("fixed", fixed_template(request).positive_prompt)
    assert result.negative_prompt == fixed_template(request).negative_prompt
    assert result.notes[-1] == (
        "The prompt for sad, casual with 'red hair' is only 79% sure to show what was asked for: Try 1."
    )
    assert (result.tokens_in, result.cost_usd) == (10, 0.5)  # the call was paid for all the same


def test_retry_ends_with_the_first_sure_prompt() -> None:
    write = Scripted(0.3, 0.9)
    result = apply_policy(write, PromptRequest(seed=2**32 - 1), "retry")
    assert (result.confidence, result.notes, write.seeds) == (0.9, ("Try 2.",), [2**32 - 1, 0])
    assert (result.tokens_in, result.tokens_out, result.cost_usd) == (20, 2, 1.0)


def test_retry_goes_on_with_the_template_after_three_and_quotes_the_best() -> None:
    write = Scripted(0.3, 0.7, 0.5)
    result = apply_policy(write, PromptRequest(), "retry")
    assert (result.writer, write.seeds) == ("fixed", [0, 1, 2])
    assert "only 70% sure" in result.notes[-1]
    assert result.notes[-1].endswith(": Try 2.")
    assert result.tokens_in == 30


def test_fail_is_one_sentence_with_every_reason() -> None:
    text = "long hair, short hair, crying, frown, tears and much more that nobody wants to read again"
    with pytest.raises(BadInput) as caught:
        apply_policy(WRITER.write, PromptRequest(emotion="happy", style="formal", text=text), "fail")
    said = str(caught.value)
    assert said.startswith("The prompt for happy, formal with 'long hair, short hair, crying")
    assert "…' is only 55% sure" in said
    assert "for: 'happy' and 'frown' don't go together: they exclude each other; 'long hair' and 'short hair'" in said
    assert "read again" not in said
    assert said.endswith(".")
    assert not said.endswith("..")
    assert "\n" not in said


@pytest.mark.parametrize("text", [*DOUBTS, UNHAPPY])
def test_the_offline_writer_is_as_sure_of_every_wording(text: str) -> None:
    """What one character in several emotions relies on: writing again changes the words, not the confidence."""
    first = WRITER.write(PromptRequest(text=text))
    assert first.doubtful
    assert {WRITER.write(PromptRequest(text=text, seed=seed)).confidence for seed in range(20)} == {first.confidence}


# --- through the service --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_sd(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    made = Studio(Settings(home=tmp_path_factory.mktemp("home"), device="cpu", offline=True, _env_file=None))
    yield made
    made.close()


def base(model: str, policy: LowConfidence, **given: object) -> GenerateSpec:
    return GenerateSpec.model_validate(
        {"model": model, "text": UNHAPPY, "steps": 1, "seed": 1, "on_low_confidence": policy} | given
    )


def planned(studio: Studio, spec: object) -> list[Recipe]:
    return list(studio._resolver.plan(spec, "me").recipes)  # type: ignore[arg-type]


def is_fixed(prompt: str) -> bool:
    return "solo" not in prompt and "highly detailed" not in prompt


@pytest.mark.parametrize("text", [*DOUBTS, UNHAPPY])
def test_generate_under_every_policy(studio: Studio, model: str, text: str) -> None:
    [run] = planned(studio, base(model, "run", text=text))
    assert not is_fixed(run.prompt)
    assert [run] == planned(studio, GenerateSpec(model=model, text=text, steps=1, seed=1))  # the default
    for policy in ("fixed", "retry"):
        [recipe] = planned(studio, base(model, policy, text=text))
        fixed = fixed_template(PromptRequest(text=text))
        assert (recipe.prompt, recipe.negative) == (fixed.positive_prompt, fixed.negative_prompt)
        plan = studio._resolver.plan(base(model, policy, text=text), "me")
        assert any("% sure to show what was asked for: " in note for note in plan.notes)
        assert studio._resolver.wording.written(base(model, policy, text=text)).positive_prompt == recipe.prompt
    before = len(studio.jobs("me", 1000))
    with pytest.raises(BadInput, match="sure to show what was asked for"):
        studio.submit(base(model, "fail", text=text), "me")
    assert len(studio.jobs("me", 1000)) == before


@pytest.mark.parametrize("policy", ["retry", "fixed", "fail"])
def test_what_is_sure_or_one_s_own_is_left_alone(studio: Studio, model: str, policy: LowConfidence) -> None:
    sure = {"text": "red hair"}
    assert planned(studio, base(model, policy, **sure)) == planned(studio, base(model, "run", **sure))
    own = {"prompt": "crying, happy, ((", "emotion": "sad"}
    assert planned(studio, base(model, policy, **own)) == planned(studio, base(model, "run", **own))
    sheet = SheetSpec(base=base(model, policy, prompt="happy, crying"))
    assert len({recipe.prompt for recipe in planned(studio, sheet)}) == len(EMOTIONS)
    assert planned(studio, ExperimentSpec(base=base(model, policy)))  # draws prompts of its own


def test_every_prompt_of_a_list_is_judged_alone(studio: Studio, model: str) -> None:
    rows = (BatchRow(prompt="red hair", emotion="happy"), BatchRow(prompt=UNHAPPY, emotion="happy"))
    recipes = planned(studio, BatchSpec(base=base(model, "fixed"), rows=rows))
    assert [is_fixed(recipe.prompt) for recipe in recipes] == [False, True]
    with pytest.raises(BadInput, match=f"happy, casual with '{UNHAPPY}'"):
        planned(studio, BatchSpec(base=base(model, "fail"), rows=rows))
    literal = (BatchRow(prompt=UNHAPPY),)
    assert planned(studio, BatchSpec(base=base(model, "fail"), rows=literal))[0].prompt == UNHAPPY


def test_one_character_has_one_wording(studio: Studio, model: str) -> None:
    """The text contradicts "happy" alone, and yet the others follow it."""
    for policy in ("fixed", "retry"):
        sheet = planned(studio, SheetSpec(base=base(model, policy)))
        assert [is_fixed(recipe.prompt) for recipe in sheet] == [True] * 5
        axis = Axis(name="emotion", values=("sad", "happy"))
        assert all(is_fixed(r.prompt) for r in planned(studio, GridSpec(base=base(model, policy), x=axis)))
    others = planned(studio, SheetSpec(base=base(model, "fixed"), emotions=("sad", "angry")))
    assert not any(is_fixed(recipe.prompt) for recipe in others)


@pytest.mark.parametrize(
    "request_",
    [
        MorphSpec(emotions=("sad", "happy")),
        AnimateSpec(emotions=("sad", "happy")),
        AnimateSpec(emotions=("sad",), keyframes=(Keyframe(emotion="happy", frame=1),)),
        SpritesSpec(),
        SheetSpec(),
    ],
    ids=lambda spec: spec.kind,
)
def test_fail_looks_at_every_emotion_before_anything_is_drawn(
    studio: Studio, model: str, request_: MorphSpec | AnimateSpec | SpritesSpec | SheetSpec
) -> None:
    asked = base(model, "fail", emotion="sad")
    before = len(studio.jobs("me", 1000))
    with pytest.raises(BadInput, match="The prompt for happy"):
        studio.submit(request_.model_copy(update={"base": asked}), "me")
    assert len(studio.jobs("me", 1000)) == before
    calm = {"emotions": ("sad", "angry")} | ({"keyframes": ()} if request_.kind == "animate" else {})
    assert studio._resolver.plan(request_.model_copy(update={"base": asked} | calm), "me").fixed is False


def test_the_frames_of_a_morph_are_drawn_with_what_was_decided(studio: Studio, model: str) -> None:
    for policy, fixed in (("fixed", True), ("run", False)):
        spec = MorphSpec(base=base(model, policy), emotions=("sad", "happy"), frames=3)
        view = studio.wait(studio.submit(spec, "me").id, "me", 120)
        assert view.state == "done", view.error
        recipe = studio.picture(view.result["frames"][0], "me").recipe
        assert recipe is not None
        assert [is_fixed(prompt) for prompt in json.loads(recipe.frame)["prompts"]] == [fixed] * 2
        assert any("% sure" in note for note in view.notes) is fixed


def test_a_picture_that_was_drawn_here_brings_its_words(studio: Studio, model: str) -> None:
    view = studio.wait(studio.submit(GenerateSpec(model=model, prompt="x", steps=1, seed=2), "me").id, "me", 120)
    spec = MorphSpec(base=base(model, "fail"), image=view.pictures[0], emotions=("sad", "happy"))
    plan = studio._resolver.plan(spec, "me")
    assert not plan.fixed
    assert all("x" in recipe.prompt for recipe in plan.recipes)
    stream = BytesIO()
    Image.linear_gradient("L").resize((64, 64)).save(stream, "PNG")
    upload = studio.upload(stream.getvalue(), "me", Path("x.png").name)
    with pytest.raises(BadInput, match="The prompt for happy"):
        studio.submit(spec.model_copy(update={"image": upload.id}), "me")
