"""The whole way of a request, on a real (tiny) model: submit, draw, store, find again; and every wrong request."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from support.checkpoints import tiny_sd
from support.watching import watch

from studio.core.errors import BadInput, DiskFull, NotFound, StudioError
from studio.core.settings import Settings
from studio.core.specs import BatchRow, GenerateSpec, LoraRef, LoraSpec
from studio.features.morph.spec import MorphSpec
from studio.features.sheets.spec import Axis, BatchSpec, GridSpec, SheetSpec
from studio.service import Studio, parse_run, parse_spec
from studio.service.resolving import sampling

WAIT = 120  # seconds: a cold import of torch on a busy machine


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_sd(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    studio = Studio(Settings(home=tmp_path_factory.mktemp("home"), preview_every=1, _env_file=None))
    yield studio
    studio.close()


def drawn(studio: Studio, spec: Any, owner: str = "me") -> Any:
    view = studio.wait(studio.submit(spec, owner).id, owner, WAIT)
    assert view.state == "done", view.error
    return view


def pixels(studio: Studio, id: str, owner: str = "me") -> bytes:
    with Image.open(BytesIO(studio.picture_bytes(id, owner))) as image:
        return image.convert("RGB").tobytes()


def test_a_picture_from_request_to_gallery(studio: Studio, model: str) -> None:
    spec = GenerateSpec(emotion="sad", text="red hair", model=model, steps=2, seed=5, count=2)
    view = drawn(studio, spec)
    assert len(view.pictures) == 2
    assert view.fraction == 1
    first, second = (studio.picture(id, "me") for id in view.pictures)
    assert first.recipe is not None
    assert second.recipe is not None
    assert (first.recipe.seed, second.recipe.seed) == (5, 6)
    assert (first.width, first.height) == (64, 64)
    assert "red hair" in first.recipe.prompt
    assert first.recipe.labels["emotion"] == "sad"
    with Image.open(BytesIO(studio.picture_bytes(first.id, "me"))) as image:
        assert image.format == "PNG"
        assert len(image.getcolors(64 * 64) or []) > 16
    assert {picture.id for picture in studio.gallery("me", query="red sad")} >= set(view.pictures)
    found = studio.read_recipe(studio.picture_bytes(second.id, "me"))
    assert found.origin == "studio"
    assert found.spec.model == model  # not in the file: found by the hash of its weights
    assert studio.submit(found.spec, "me").pictures == (second.id,)


def test_the_same_recipe_is_there_at_once_and_it_is_said(studio: Studio, model: str) -> None:
    spec = GenerateSpec(prompt="cat", model=model, steps=2, seed=11)
    first = drawn(studio, spec)
    assert first.cached == ()
    for owner in ("me", "somebody else"):
        again = studio.submit(spec, owner)
        assert (again.state, again.pictures, again.cached) == ("done", first.pictures, first.pictures)
        assert "there already" in again.notes[-1]
        assert studio.job(again.id, owner) == again  # and it is found again after a reload
    more = drawn(studio, spec.model_copy(update={"count": 3}))
    assert more.cached == first.pictures
    assert len(set(more.pictures)) == 3
    assert "1 of 3" in more.notes[-1]


def test_picture_k_is_made_again_alone(studio: Studio, model: str) -> None:
    batch = drawn(studio, GenerateSpec(prompt="dog", model=model, steps=2, seed=40, count=3))
    third = pixels(studio, batch.pictures[2])
    studio.delete(batch.pictures, "me")
    studio._pictures.purge(older_than=-1)
    alone = drawn(studio, GenerateSpec(prompt="dog", model=model, steps=2, seed=42))
    assert alone.cached == ()
    assert pixels(studio, alone.pictures[0]) == third


def test_a_blank_seed_is_filled_in_once_and_for_all(studio: Studio, model: str) -> None:
    spec = GenerateSpec(prompt="x", model=model, steps=1)
    one, two = drawn(studio, spec), drawn(studio, spec)
    assert one.pictures != two.pictures
    resolved = studio.job_spec(one.id, "me")
    assert isinstance(resolved, GenerateSpec)
    assert resolved.seed is not None
    assert studio.again(one.id, "me").pictures == one.pictures


def test_a_picture_can_start_from_another(studio: Studio, model: str) -> None:
    buffer = BytesIO()
    Image.linear_gradient("L").resize((90, 60)).save(buffer, "PNG")
    source = studio.upload(buffer.getvalue(), "me", "../../etc/drawing.png")
    assert (source.title, source.kind) == ("drawing.png", "upload")
    spec = GenerateSpec(prompt="x", model=model, steps=4, seed=3, source=source.id, strength=0.5)
    near = drawn(studio, spec)
    picture = studio.picture(near.pictures[0], "me")
    assert (picture.width, picture.height) == (80, 64)  # the source's shape, about the model's area
    far = drawn(studio, spec.model_copy(update={"strength": 1.0}))
    assert pixels(studio, far.pictures[0]) != pixels(studio, near.pictures[0])
    with pytest.raises(NotFound):
        studio.submit(spec, "somebody else")  # not their picture
    with pytest.raises(NotFound):
        studio.submit(spec.model_copy(update={"source": "/etc/passwd"}), "me")


def test_a_sheet_and_its_tiles(studio: Studio, model: str) -> None:
    base = GenerateSpec(model=model, steps=1, seed=9, text="red hair, long hair, blue eyes, fair skin")
    view = drawn(studio, SheetSpec(base=base, emotions=("happy", "sad"), styles=("casual", "formal")))
    assert (len(view.pictures), view.result["columns"], view.result["rows"]) == (
        5,
        ["happy", "sad"],
        ["casual", "formal"],
    )
    tiles = [studio.picture(id, "me") for id in view.result["tiles"]]
    labels = [(t.recipe.labels["style"], t.recipe.labels["emotion"]) for t in tiles if t.recipe]
    assert labels == [("casual", "happy"), ("casual", "sad"), ("formal", "happy"), ("formal", "sad")]
    sheet = studio.picture(view.pictures[-1], "me")
    assert sheet.kind == "sheet"
    assert sheet.details["tiles"] == view.result["tiles"]
    assert sheet.width > 2 * 64
    assert sheet.id == view.result["sheet"]
    assert {sheet.id, *view.result["tiles"]} <= {picture.id for picture in studio.gallery("me", limit=1000)}
    alone = studio.submit(base.model_copy(update={"emotion": "sad", "style": "formal"}), "me")
    assert alone.pictures == (tiles[3].id,)  # a tile is the picture that Generate would have drawn


@pytest.mark.parametrize(
    "asked", [SheetSpec(emotions=("happy", "sad")), GridSpec(x=Axis(name="emotion", values=("happy", "sad")))]
)
def test_what_was_decided_for_a_sheet_stands_in_its_recipes_alone(
    studio: Studio, model: str, asked: SheetSpec | GridSpec
) -> None:
    asked = asked.model_copy(update={"base": GenerateSpec(model=model, steps=1, text="red hair")})
    plan = studio._resolver.plan(asked, "me")
    assert isinstance(plan.spec, SheetSpec | GridSpec)
    assert (plan.spec.base.text, plan.title) == ("red hair", "red hair")  # a reload fills the form with it
    assert all("eyes" in recipe.prompt for recipe in plan.recipes)
    assert studio._resolver.plan(plan.spec, "me").recipes == plan.recipes  # again: decided by its seed


def test_an_edited_prompt_changes_its_emotion_where_it_stands(studio: Studio, model: str) -> None:
    written = studio._resolver.wording.written(GenerateSpec(emotion="happy", text="red hair"))
    edited = written.positive_prompt.replace("1girl", "my own girl")
    view = drawn(studio, SheetSpec(base=GenerateSpec(model=model, steps=1, prompt=edited), emotions=("happy", "angry")))
    prompts = [studio.picture(id, "me").recipe.prompt for id in view.result["tiles"]]  # type: ignore[union-attr]
    angry = studio._resolver.wording.written(GenerateSpec(emotion="angry"))
    assert prompts[0] == edited
    assert "my own girl" in prompts[1]
    assert all(word in prompts[1].split(", ") for word in angry.layers.emotion)
    assert not any(word in prompts[1].split(", ") for word in written.layers.emotion)
    assert prompts[1].index(angry.layers.emotion[0]) < prompts[1].index("red hair")


def test_a_grid_has_every_combination(studio: Studio, model: str) -> None:
    base = GenerateSpec(model=model, prompt="x", seed=4)
    grid = GridSpec(base=base, x=Axis(name="steps", values=("1", "2")), y=Axis(name="guidance", values=("1", "3", "5")))
    view = drawn(studio, grid)
    recipes = [studio.picture(id, "me").recipe for id in view.result["tiles"]]
    assert [(r.steps, r.guidance) for r in recipes if r] == [(s, g) for g in (1, 3, 5) for s in (1, 2)]
    assert view.result["columns"] == ["steps 1", "steps 2"]
    assert studio.picture(view.pictures[-1], "me").kind == "grid"
    twice = drawn(studio, GridSpec(base=base, x=Axis(name="seed", values=("7", "7", " 8 "))))
    assert twice.result["tiles"][0] == twice.result["tiles"][1] != twice.result["tiles"][2]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("steps", "many", "steps can't be 'many'"),
        ("steps", "51", "steps can't be '51'"),
        ("seed", "nan", "seed can't be 'nan'"),
        ("emotion", "grumpy", "emotion can't be 'grumpy'"),
        ("guidance", "inf", "guidance can't be 'inf'"),
        ("lora_weight", "1", "needs a LoRA"),
        ("sampler", "heun", "sampler can't be 'heun'"),
    ],
)
def test_a_wrong_value_in_a_grid_is_named(studio: Studio, model: str, name: Any, value: str, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        studio.submit(GridSpec(base=GenerateSpec(model=model), x=Axis(name=name, values=(value,))), "me")


def test_a_batch_is_resumed_where_it_was_cancelled(studio: Studio, model: str) -> None:
    rows = tuple(BatchRow(prompt=f"number {n}", seed=1000 if n == 3 else None) for n in range(20))
    spec = BatchSpec(base=GenerateSpec(model=model, steps=3), rows=rows)
    job = studio.submit(spec, "me")
    while len(studio.job(job.id, "me").pictures) < 4:
        time.sleep(0.01)
    studio.cancel(job.id, "me")
    stopped = studio.wait(job.id, "me", WAIT)
    assert stopped.state == "cancelled"
    assert 4 <= len(stopped.pictures) < 20
    resumed = studio.again(job.id, "me")
    assert set(resumed.cached) >= set(stopped.pictures)
    view = studio.wait(resumed.id, "me", WAIT)
    assert view.state == "done"
    assert len(view.pictures) == len(view.result["rows"]) == 20
    prompts = [studio.picture(id, "me").recipe.prompt for [id] in view.result["rows"]]  # type: ignore[union-attr]
    assert prompts == [row.prompt for row in rows]
    seeds = [studio.picture(id, "me").recipe.seed for [id] in view.result["rows"]]  # type: ignore[union-attr]
    assert seeds[3] == 1000
    assert len(set(seeds)) == 20


def test_previews_and_progress_while_it_draws(studio: Studio, model: str) -> None:
    job = studio.submit(GenerateSpec(model=model, prompt="slow", steps=10, seed=1, count=2), "me")
    views = list(watch(studio, job.id))
    assert views[-1].state == "done"
    assert [view.done for view in views] == sorted(view.done for view in views)
    assert views[-1].total == 20
    running = [view for view in views if view.state == "running" and view.preview]
    assert running
    with Image.open(BytesIO(running[-1].preview or b"")) as preview:
        assert preview.format == "JPEG"


def test_somebody_elses_picture_is_not_behind_all_of_a_long_job(studio: Studio, model: str) -> None:
    long = studio.submit(GenerateSpec(model=model, prompt="long", steps=20, seed=1, count=12), "long")
    while not studio.job(long.id, "long").pictures:
        time.sleep(0.005)
    short = drawn(studio, GenerateSpec(model=model, prompt="short", steps=1, seed=1), "short")
    first = studio.wait(long.id, "long", WAIT)
    assert first.state == "done"
    assert short.finished < first.finished


def test_pictures_are_drawn_in_slices_of_one_batch(studio: Studio, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn(studio, GenerateSpec(model=model, prompt="engine", steps=1, seed=1))  # so that it is there
    engine = studio._jobs.engine
    draw, slices, notes = engine.draw, [], []

    def counted(recipes: Any, on_step: Any, files: Any) -> Any:
        slices.append(len(recipes))

        def heard(step: Any) -> None:
            on_step(step)
            notes.append(studio.job(job.id, "me").note)

        return draw(recipes, heard, files)

    monkeypatch.setattr(engine, "draw", counted)
    for size, expected in ((1, [1] * 5), (2, [2, 2, 1])):
        monkeypatch.setattr(engine, "at_once", lambda recipes, on_note, size=size: min(size, len(recipes)))
        slices.clear()
        notes.clear()
        job = studio.submit(GenerateSpec(model=model, prompt=f"slices of {size}", steps=2, seed=1, count=5), "me")
        assert studio.wait(job.id, "me", WAIT).state == "done"
        assert slices == expected
        assert notes[-1] == "picture 5 of 5"
        assert notes[0] == ("picture 1 of 5" if size == 1 else "pictures 1 to 2 of 5")


def test_system_says_what_there_is(studio: Studio, model: str) -> None:
    drawn(studio, GenerateSpec(model=model, prompt="x", steps=1, seed=1))
    status = studio.system()
    assert status.loaded
    assert status.model == model
    assert status.pictures > 0
    assert status.disk_used > 0
    assert status.queue_waiting == 0
    assert {"torch", "diffusers", "python"} <= set(status.versions)
    json.loads(status.model_dump_json())


def test_steps_and_sampler_come_from_the_fast_path_until_somebody_wants_more(tmp_path: Path) -> None:
    from dataclasses import replace

    from studio.engine.models.catalogue import FastPath, LoraInfo, resolve

    settings = Settings(home=tmp_path, _env_file=None)
    slow = resolve(str(tiny_sd(tmp_path / "m", studio={"steps": 20, "guidance": 3.0})), settings)
    fast = replace(slow, fast=FastPath(tmp_path / "lcm.safetensors", 4, 1.0, "lcm"))
    auto = GenerateSpec()
    assert sampling(auto, slow) == (20, 3.0, "dpmpp_2m", False)
    assert sampling(auto, fast) == (4, 1.0, "lcm", True)
    assert sampling(GenerateSpec(steps=8), fast) == (8, 1.0, "lcm", True)
    assert sampling(GenerateSpec(steps=20), fast) == (20, 3.0, "dpmpp_2m", False)
    assert sampling(GenerateSpec(guidance=7), fast) == (20, 7.0, "dpmpp_2m", False)
    assert sampling(GenerateSpec(sampler="euler_a"), fast) == (20, 3.0, "euler_a", False)
    assert sampling(GenerateSpec(sampler="tcd", steps=6), fast) == (6, 1.0, "tcd", True)
    own = LoraInfo(tmp_path / "x.safetensors", "x", "h", fast=FastPath(tmp_path / "x.safetensors", 2, 1.0, "tcd"))
    assert sampling(auto, fast, [own]) == (2, 1.0, "tcd", False)  # never two few-step adapters at once
    assert sampling(auto, slow, [own]) == (2, 1.0, "tcd", False)
    assert sampling(GenerateSpec(quality="high"), fast) == (20, 3.0, "dpmpp_2m", False)  # the model at its best
    assert sampling(GenerateSpec(quality="high", steps=4), fast) == (4, 1.0, "lcm", True)
    assert sampling(GenerateSpec(quality="high"), fast, [own]) == (2, 1.0, "tcd", False)
    assert sampling(GenerateSpec(quality="draft"), slow) == (10, 3.0, "dpmpp_2m", False)
    phased = replace(slow, fast=FastPath(tmp_path / "pcm.safetensors", 4, 1.0, "ddim"))
    assert sampling(auto, phased) == (4, 1.0, "ddim", True)
    assert sampling(GenerateSpec(source="a" * 64), phased) == (8, 1.0, "ddim", True)  # more levels to begin at
    assert sampling(GenerateSpec(sampler="ddim"), phased) == (20, 3.0, "ddim", False)


# --- wrong requests -------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = sorted(GenerateSpec.model_fields)


@example({"clip_skip": "\n\x1b[31m"})
@example({"\n": 1})
@hypothesis_settings(max_examples=150)
@given(st.dictionaries(st.sampled_from([*FIELDS, "rows", "x", "y", "base", "frames", "nonsense"]), JSON, max_size=5))
def test_any_json_is_a_request_or_one_sentence(fields: dict[str, Any]) -> None:
    for parse in (parse_spec, parse_run):
        try:
            spec = parse(fields)
        except BadInput as error:
            sentence = str(error)
        else:
            seed = getattr(getattr(spec, "base", spec), "seed", None)
            assert seed is None or 0 <= seed <= 2**32 - 1
            continue
        assert 0 < len(sentence) < 400
        assert "\n" not in sentence.strip()
        assert "pydantic" not in sentence


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"seed": math.nan}, "a seed is a whole number"),
        ({"seed": -1}, "seed should be greater"),
        ({"seed": 2**32}, "seed should be less"),
        ({"steps": 10**9}, "steps should be less than or equal to 50"),
        ({"width": 7}, "width should be"),
        ({"width": 10**6}, "width should be"),
        ({"guidance": math.inf}, "guidance should be a finite number"),
        ({"emotion": "grumpy"}, "emotion should be 'happy'"),
        ({"count": 65}, "count should be"),
        ({"strength": 0}, "strength should be"),
        ({"prompt": "a\x00b"}, "NUL"),
        ({"prompt": "x" * 5000}, "at most 4000"),
        ({"kind": "magic"}, "no job of kind 'magic'"),
        ({"typo": 1}, "typo: extra inputs"),
        ({"kind": "morph", "frames": 2}, "frames should be"),
        (
            {"kind": "grid", "x": {"name": "seed", "values": ["1"]}, "y": {"name": "seed", "values": ["1"]}},
            "must differ",
        ),
        ({"control": {"image": "x", "low": 9, "high": 3}}, "below the high"),
        ({"loras": [{"path": "x", "weight": 99}]}, "weight should be"),
    ],
)
def test_wrong_values_are_named(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        parse_spec(fields)


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory, model: str) -> dict[str, str]:
    """Files that aren't what their names say."""
    folder = tmp_path_factory.mktemp("strange")
    weights = (Path(model) / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(weights[: len(weights) // 2])
    torch.save({"weights": torch.zeros(4)}, folder / "renamed.safetensors")
    torch.save({"weights": torch.zeros(4)}, folder / "plain.ckpt")
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "text.safetensors").write_text("not found: 404")
    half = folder / "half"
    tiny_sd(half)
    damaged = half / "unet" / "diffusion_pytorch_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    missing = folder / "missing"
    tiny_sd(missing)
    (missing / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    return {name.name: str(name) for name in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cut.safetensors", "cut off|damaged|truncated|incomplete|shorter"),
        ("renamed.safetensors", "pickle|not a safetensors|damaged"),
        ("plain.ckpt", "pickle"),
        ("empty.safetensors", "empty|cut off|damaged"),
        ("text.safetensors", "safetensors"),
        ("half", "cut off|damaged|truncated|incomplete|shorter"),
        ("missing", "no weights for its vae"),
        ("nowhere.safetensors", "There is no model"),
        ("", "no model|at least 1|There is"),
    ],
)
def test_a_model_that_can_not_be_used_is_refused_at_once(
    studio: Studio, strange: dict[str, str], name: str, sentence: str
) -> None:
    before = len(studio.jobs("nobody"))
    with pytest.raises((BadInput, ValueError), match=sentence):
        studio.submit(GenerateSpec(model=strange.get(name, name), steps=1), "nobody")
    assert len(studio.jobs("nobody")) == before  # nothing was queued


def test_a_lora_for_another_architecture_fails_with_a_sentence_and_the_studio_goes_on(
    studio: Studio, model: str, tmp_path: Path
) -> None:
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    path = tmp_path / "other.safetensors"
    save_file({f"{key}.lora_down.weight": torch.ones(4, 999), f"{key}.lora_up.weight": torch.ones(999, 4)}, path)
    spec = GenerateSpec(model=model, steps=1, prompt="x", seed=2, loras=(LoraRef(path=str(path)),))
    view = studio.wait(studio.submit(spec, "me").id, "me", WAIT)
    assert view.state == "failed"
    assert view.bad_input
    assert "other.safetensors" in (view.error or "")
    clean = drawn(studio, spec.model_copy(update={"loras": (), "seed": 77}))
    assert clean.state == "done"
    for wrong in (tmp_path / "gone.safetensors", Path(model) / "unet" / "diffusion_pytorch_model.safetensors"):
        with pytest.raises(BadInput, match="LoRA"):
            studio.submit(spec.model_copy(update={"loras": (LoraRef(path=str(wrong)),)}), "me")


def test_weights_with_nan_do_not_end_the_worker(studio: Studio, tmp_path: Path, model: str) -> None:
    broken = tiny_sd(tmp_path / "broken")
    path = broken / "vae" / "diffusion_pytorch_model.safetensors"
    weights = {name: torch.full_like(tensor, math.nan) for name, tensor in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})
    view = studio.wait(studio.submit(GenerateSpec(model=str(broken), prompt="x", steps=1, seed=1), "me").id, "me", WAIT)
    assert view.state == "failed"
    assert "numbers overflowed" in (view.error or "")
    assert drawn(studio, GenerateSpec(model=model, prompt="x", steps=1, seed=123)).state == "done"


def test_a_full_disk_fails_the_job_with_a_sentence_and_loses_nothing(
    studio: Studio, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = drawn(studio, GenerateSpec(model=model, prompt="kept", steps=1, seed=1))
    count = studio.gallery_count("me")

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("studio.store.pictures.os.replace", full)
        view = studio.wait(
            studio.submit(GenerateSpec(model=model, prompt="full", steps=1, seed=2), "me").id, "me", WAIT
        )
        assert view.state == "failed"
        assert (view.error or "").startswith("The disk is full")
        with pytest.raises(DiskFull):
            studio.upload(studio.picture_bytes(kept.pictures[0], "me"), "me")
    assert studio.gallery_count("me") == count
    assert pixels(studio, kept.pictures[0])
    assert drawn(studio, GenerateSpec(model=model, prompt="full", steps=1, seed=2)).state == "done"


def test_runs_are_checked_before_anything_starts(studio: Studio, model: str, tmp_path: Path) -> None:
    for data in ("/nowhere", str(tmp_path), "a\x00b"):
        with pytest.raises(BadInput):
            studio.runs.start(LoraSpec(data=data, model=model))
    with pytest.raises(NotFound):
        studio.runs.start(LoraSpec(data=str(tmp_path), model="/nowhere/x"))
    assert studio.runs.list() == []
    with pytest.raises(NotFound):
        studio.runs.get("../../etc")


def test_two_studios_on_one_home_share_pictures_and_jobs(studio: Studio, model: str) -> None:
    view = drawn(studio, GenerateSpec(model=model, prompt="shared", steps=1, seed=5))
    other = Studio(studio.settings)
    assert other.job(view.id, "me").pictures == view.pictures
    assert other.submit(GenerateSpec(model=model, prompt="shared", steps=1, seed=5), "me").pictures == view.pictures
    other.close()
    assert studio.picture(view.pictures[0], "me").id == view.pictures[0]


def test_a_job_that_asks_for_somebody_elses_picture_is_refused(studio: Studio, model: str) -> None:
    view = drawn(studio, GenerateSpec(model=model, prompt="mine", steps=1, seed=5))
    with pytest.raises(StudioError, match="no such picture"):
        studio.submit(MorphSpec(base=GenerateSpec(model=model, steps=1), image=view.pictures[0]), "somebody else")
