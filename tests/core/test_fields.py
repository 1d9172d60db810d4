"""Fields are written once: what stands in a spec reaches keys, infotext and grids, and old pictures keep their keys."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from studio.core.errors import BadInput
from studio.core.fields import About, Infotext, bounds, describe, fields, infotext, key_data
from studio.core.specs import RUN_KINDS, ControlSpec, GenerateSpec, LoraRef, Recipe, Spec
from studio.features.morph.spec import MorphSpec
from studio.features.registry import FEATURES
from studio.features.sheets.spec import AXES
from studio.service import parse_spec

SPECS = [feature.spec for feature in FEATURES.values()]

PLAIN: dict[str, Any] = {
    "model": "embedded", "model_hash": "a" * 64, "prompt": "1girl, red hair", "negative": "bad hands", "seed": 7,
    "steps": 4, "guidance": 1.5, "sampler": "lcm", "width": 256, "height": 320, "fast": True,
    "labels": {"emotion": "happy"},
}  # fmt: skip
FOLLOWED = ControlSpec(
    image="e" * 32, kind="canny", low=50, high=120, weight=0.8, start=0.1, end=0.9, control_mode="sketch",
    model="some/net",
)  # fmt: skip
# Keys that these recipes had before defaults were left out of them.
OLD_KEYS = {
    "a3b6576a8762167b51ae9541723bf8b3": Recipe(**PLAIN),
    "24fbb5a3605c2f8207fa3681dba62c1c": Recipe(
        model="m", model_hash="b", prompt="x", seed=0, steps=20, guidance=7, sampler="dpmpp_2m", width=64, height=64
    ),
    "c9a1014085360f9fb74ce08d69442050": Recipe(
        **PLAIN,
        loras=(LoraRef(path="/a/b.safetensors", weight=0.5), LoraRef(path="c")),
        lora_hashes=("1" * 64, "2" * 64),
    ),
    "10c69bda9ebcb0e3411bf4b888cb127d": Recipe(**PLAIN, source="f" * 32, strength=0.45),
    "59fb61aff36e70f3033b966f3ebf0abb": Recipe(**PLAIN, control=ControlSpec(image="e" * 32)),
    "cf378f1231e57229c077c2584c885ba2": Recipe(**PLAIN, control=FOLLOWED, control_hash="c" * 64),
    "cc6f6df52afb3f42379f6077aaf9bbf5": Recipe(
        **PLAIN, control=ControlSpec(image="e" * 32, control_mode="prompt", model="some/net")
    ),
    "749f1a2a44e1e7f0881ff37153076662": Recipe(**PLAIN, frame=json.dumps({"morph": "prompt", "place": 0.5})),
}


@pytest.mark.parametrize("key", OLD_KEYS)
def test_pictures_keep_the_keys_that_they_had(key: str) -> None:
    assert OLD_KEYS[key].key == key


def test_a_new_field_counts_in_the_key_where_it_is_not_its_default() -> None:
    class Newer(Recipe):
        hue: int = 0
        note: Annotated[str, About(in_key=False)] = ""

    class Steered(ControlSpec):
        soft: bool = False

    assert Newer(**PLAIN, note="x").key == Recipe(**PLAIN).key
    assert Newer(**PLAIN, hue=3).key != Recipe(**PLAIN).key
    image = {"image": "e" * 32}
    plain = key_data(Recipe(**PLAIN, control=ControlSpec(**image)))
    assert key_data(Recipe(**PLAIN).model_copy(update={"control": Steered(**image)})) == plain
    assert "soft" in key_data(Recipe(**PLAIN).model_copy(update={"control": Steered(**image, soft=True)}))["control"]


def test_a_field_is_described_whole() -> None:
    class Sample(Spec):
        size: Annotated[
            int | None,
            Field(title="Size", description="How large.", ge=8, le=64, multiple_of=8),
            About(unit="px", blank="automatic", infotext=Infotext("Tile", write="{}px".format), axis="8, 16"),
        ] = None
        form: Annotated[Literal["a", "b"], About(names={"a": "First", "b": "Second"})] = "a"
        needed: float

    size = describe(Sample, "size")
    assert (size.label, size.help, size.whole, size.optional, size.default) == ("Size", "How large.", True, True, None)
    assert size.bounds == {"ge": 8, "le": 64, "multiple_of": 8}
    assert size.range == "8 to 64"
    assert bounds(Sample, "size") == {"default": None, "ge": 8, "le": 64, "multiple_of": 8}
    assert describe(Sample, "form").choices == ("a", "b")
    assert describe(Sample, "form").range == "a or b"
    assert describe(Sample, "needed").required
    assert describe(Sample, "needed").label == "Needed"
    assert infotext(Sample, Sample(size=16, needed=1)) == {"Tile": "16px"}
    assert infotext(Sample, Sample(needed=1)) == {}
    with pytest.raises(KeyError):
        describe(Sample, "nothing")


@pytest.mark.parametrize("spec", [*SPECS, *(kind.spec for kind in RUN_KINDS.values())])
def test_every_field_that_a_person_sets_has_a_label(spec: type[Spec]) -> None:
    untold = {"kind", "base", "rows", "control"}  # what isn't one field of a form
    assert [name for name in fields(spec) if name not in untold and spec.model_fields[name].title is None] == []


def test_choices_have_names() -> None:
    for spec in [*SPECS, *(kind.spec for kind in RUN_KINDS.values())]:
        for field in fields(spec).values():
            assert set(field.about.names) <= set(field.choices)
            assert not field.about.names or set(field.about.names) == set(field.choices)


def test_axes_are_the_fields_that_have_values_for_one() -> None:
    assert set(AXES) == {
        "seed", "steps", "guidance", "sampler", "emotion", "style", "lora_weight", "lora"
    } | {name for name, field in fields(GenerateSpec).items() if field.about.axis}  # fmt: skip


def test_old_spellings_are_read() -> None:
    old = parse_spec({"kind": "sketch", "control": {"image": "x", "favour": "sketch"}})
    assert old == parse_spec({"kind": "sketch", "control": {"image": "x", "control_mode": "sketch"}})
    morph = parse_spec({"kind": "morph", "held": 0.4})
    assert isinstance(morph, MorphSpec)
    assert morph.shared_steps == 0.4
    with pytest.raises(BadInput, match="favour should be"):
        parse_spec({"kind": "sketch", "control": {"image": "x", "favour": "nobody"}})


@pytest.mark.parametrize(
    ("fields_", "said"),
    [
        ({"kind": "magic"}, "There is no job of kind 'magic'; there are generate, sheet,"),
        ({"kind": []}, "There is no job of kind '[]'"),
        ({"steps": 99}, "steps should be less than or equal to 50 (given: 99)."),
        ({"kind": "grid", "x": {"name": "hue", "values": ["1"]}}, "x.name should be '"),
        ({"kind": "sketch", "control": {"image": "x", "low": 9, "high": 3}}, "control: the low Canny threshold"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_field(fields_: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as problem:
        parse_spec(fields_)
    assert str(problem.value).startswith(said)
