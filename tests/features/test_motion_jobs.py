"""Morph, animate and sprites as jobs among others: turns, pictures of every origin, what is kept, what can be read."""

from __future__ import annotations

import io
import json
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from support.checkpoints import tiny_sd

from studio.core.samplers import INVERSION_STEPS
from studio.core.settings import EMBEDDED_MODEL, Settings
from studio.core.specs import MAX_FRAME, ControlSpec, GenerateSpec, LoraRef, Recipe
from studio.engine import judging
from studio.engine.engine import Engine
from studio.engine.models import adapters
from studio.engine.models.catalogue import resolve
from studio.engine.motion import animation, morph
from studio.evaluation.judge import Judge
from studio.features import characters
from studio.features.animate.spec import AnimateSpec, SpritesSpec
from studio.features.morph.spec import MorphSpec
from studio.features.sketch.spec import SketchSpec
from studio.pretraining.painter.picture import paint
from studio.pretraining.painter.spec import CharacterSpec
from studio.service import Studio

LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_v"
SEEN = judging.Description("angry", "casual", ["1girl", "red hair"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("motion")
    tiny_sd(home / "models" / "tiny", controlnet=True)
    tiny_sd(home / "models" / "other", seed=1)
    fast = {"adapter": "fast.safetensors", "steps": 4, "guidance": 1.0, "sampler": "lcm"}
    tiny_sd(home / "models" / "quick", studio={"fast": fast, "steps": 20})
    draw = torch.Generator().manual_seed(0)
    (home / "models" / "loras").mkdir()
    for file in ("loras/look.safetensors", "loras/few.safetensors", "quick/fast.safetensors"):
        save_file(
            {
                f"{LAYER}.lora_down.weight": torch.randn(2, 32, generator=draw),
                f"{LAYER}.lora_up.weight": torch.randn(32, 2, generator=draw),
                f"{LAYER}.alpha": torch.tensor(2.0),
            },
            home / "models" / file,
        )
    (home / "models" / "loras" / "few.json").write_text(json.dumps({"fast": fast}))
    return home


@pytest.fixture(scope="module")
def studio(home: Path) -> Iterator[Studio]:
    made = Studio(Settings(home=home, device="cpu", offline=True))
    yield made
    made.close()


def base(**changes) -> GenerateSpec:
    return GenerateSpec(**{"model": "tiny", "steps": 4, "seed": 3, "text": "red hair"} | changes)


def picture(size: int = 64) -> bytes:
    image = Image.new("RGB", (size, size), (220, 200, 180))
    ImageDraw.Draw(image).ellipse((size // 4, size // 4, size // 2, size // 2), fill=(90, 20, 30))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def done(studio: Studio, spec, owner: str = "me"):
    job = studio.wait(studio.submit(spec, owner).id, owner, 120)
    assert job.state == "done", job.error
    return job


def recipe(studio: Studio, id: str, owner: str = "me") -> Recipe:
    found = studio.picture(id, owner).recipe
    assert found is not None
    return found


def plan(studio: Studio, id: str) -> dict:
    return json.loads(recipe(studio, id).frame)


def pixels(studio: Studio, id: str, owner: str) -> np.ndarray:
    with Image.open(io.BytesIO(studio.picture_bytes(id, owner))) as image:
        return np.asarray(image).astype(int)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The places that are really drawn by the method "prompt"."""
    places: list[float] = []
    original = morph.PromptMorph.latents

    def latents(self, wanted):
        places.extend(wanted)
        return original(self, wanted)

    monkeypatch.setattr(morph.PromptMorph, "latents", latents)
    return places


# --- turns ----------------------------------------------------------------------------------------------------------

LOOK = (LoraRef(path="look", weight=2.0),)


@pytest.mark.parametrize("other", ["tiny", "other"])
@pytest.mark.parametrize(
    "spec",
    [
        AnimateSpec(base=base(steps=8, loras=LOOK), frames=32, strength_from=0.6, strength_to=0.9),
        MorphSpec(base=base(steps=8, loras=LOOK), frames=17, attention=True),
        SpritesSpec(base=base(steps=24, loras=LOOK)),
    ],
    ids=lambda spec: spec.kind,
)
def test_another_owner_is_drawn_in_between_as_if_alone(
    studio: Studio, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec, other: str
) -> None:
    """The second owner's picture comes first, bit for bit its own; a model that makes room is gone from the memory."""
    leftovers: list[bool] = []
    free = Engine.free

    def watched(self: Engine) -> None:
        held = weakref.ref(self._components) if self._components is not None else None
        free(self)
        leftovers.append(held is not None and held() is not None)

    monkeypatch.setattr(Engine, "free", watched)
    seed = 500 + 10 * ["animate", "morph", "sprites"].index(spec.kind) + (other == "other")
    spec = spec.model_copy(update={"base": spec.base.model_copy(update={"seed": seed})})
    long = studio.submit(spec, "me")
    while studio.job(long.id, "me").state == "queued":
        threading.Event().wait(0.002)
    short = done(studio, base(model=other, seed=seed), "you")
    whole = studio.wait(long.id, "me", 240)
    assert whole.state == "done", whole.error
    assert short.finished < whole.finished
    assert not any(leftovers)

    alone = Engine(Settings(home=home, device="cpu", preview_every=0))
    asked = recipe(studio, short.pictures[0], "you")
    ((_, image),) = alone.draw([asked])
    assert np.array_equal(np.asarray(image), pixels(studio, short.pictures[0], "you"))
    ((_, changed),) = alone.draw([asked.model_copy(update={"loras": recipe(studio, whole.result["frames"][0]).loras})])
    assert not np.array_equal(np.asarray(changed), np.asarray(image)), "the LoRA does something"

    if other == "tiny":
        return
    (tmp_path / "models").symlink_to(home / "models")
    undisturbed = Studio(Settings(home=tmp_path, device="cpu", offline=True))
    try:
        again = done(undisturbed, spec)
        for a, b in zip(whole.result["frames"], again.result["frames"], strict=True):
            assert np.abs(pixels(studio, a, "me") - pixels(undisturbed, b, "me")).max() <= 1
    finally:
        undisturbed.close()


# --- pictures of every origin -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["source", "control", "frame"])
def test_what_noise_and_words_do_not_lead_to_is_changed_in_place(studio: Studio, origin: str) -> None:
    if origin == "source":
        upload = studio.upload(picture(), "me").id
        id = done(studio, GenerateSpec(model="tiny", steps=4, seed=61, source=upload)).pictures[0]
    elif origin == "control":
        upload = studio.upload(picture(128), "me").id
        asked = SketchSpec(base=base(seed=62), control=ControlSpec(image=upload, kind="canny"))
        id = next(id for id in done(studio, asked).pictures if studio.picture(id, "me").recipe is not None)
    else:
        id = done(studio, MorphSpec(base=base(seed=63), frames=3)).result["frames"][1]
    for spec in (
        MorphSpec(base=base(), image=id, frames=3, emotions=("happy", "sad"), method="prompt"),
        MorphSpec(base=base(), image=id, frames=3, method="latent"),
        SpritesSpec(base=base(), image=id, emotions=("happy", "sad"), method="prompt"),
        MorphSpec(base=base(), image=id, frames=3),
        SpritesSpec(base=base(), image=id, emotions=("happy", "sad")),
    ):
        job = done(studio, spec)
        asked_otherwise = spec.method is not None
        assert any("can't be drawn again" in note for note in job.notes) == asked_otherwise
        assert plan(studio, job.result["frames"][-1])["morph"] == "picture"
        found = recipe(studio, job.result["frames"][-1])
        assert (found.source, found.control) == (id, None)


def test_a_plain_picture_is_drawn_again_or_kept_without_a_note(studio: Studio) -> None:
    id = done(studio, base(seed=64)).pictures[0]
    for method, wanted in (("prompt", "prompt"), (None, "picture")):
        job = done(studio, MorphSpec(base=base(), image=id, frames=3, method=method))
        assert plan(studio, job.result["frames"][0])["morph"] == wanted
        assert not any("in place" in note for note in job.notes)


@pytest.mark.parametrize("words", ["", "blue eyes"])
def test_an_upload_is_inverted_with_the_emotion_that_it_shows(
    studio: Studio, home: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    """Whether or not somebody says what else is to be seen: the person's words don't name the emotion."""
    described: list[str] = []
    original = morph.PictureMorph.__init__

    def init(self, components, recipes, *rest, **options) -> None:
        shown = options.get("shown")
        described.append((shown or recipes[0]).prompt)
        original(self, components, recipes, *rest, **options)

    monkeypatch.setattr(morph.PictureMorph, "__init__", init)
    monkeypatch.setattr(judging, "describe", lambda folder, image: SEEN)
    monkeypatch.setattr(characters, "resolve", lambda *rest, **options: replace(resolve(*rest, **options), judge=home))
    upload = studio.upload(picture(), "me").id
    asked = base(text=words, seed=70 + len(words))
    job = done(studio, MorphSpec(base=asked, image=upload, emotions=("happy", "sad"), frames=3))
    frames = [recipe(studio, id) for id in job.result["frames"]]
    assert "angry" in described[0]
    assert "angry" in plan(studio, job.result["frames"][0])["shown"]
    assert [frame.labels["emotion"] for frame in frames] == ["happy", "sad", "sad"]
    assert not any("angry" in frame.prompt for frame in frames)
    done(studio, SpritesSpec(base=asked, image=upload, emotions=("happy", "sad")))
    assert "angry" in described[1]
    same = done(studio, MorphSpec(base=asked, image=upload, emotions=("angry", "sad"), frames=3))
    assert "shown" not in plan(studio, same.result["frames"][0])


def test_a_picture_that_nobody_can_read_asks_for_words_once(studio: Studio) -> None:
    upload = studio.upload(picture(), "me").id
    for spec in (
        MorphSpec(base=base(text=""), image=upload, frames=3),
        AnimateSpec(base=base(text=""), image=upload, frames=2),
        SpritesSpec(base=base(text=""), image=upload, emotions=("sad",)),
    ):
        assert sum("say in the text field" in note for note in done(studio, spec).notes) == 1
    told = done(studio, MorphSpec(base=base(text="red hair"), image=upload, frames=3))
    assert not any("say in the text field" in note for note in told.notes)


@pytest.mark.parametrize("given", [True, False])
def test_a_direction_is_a_method_with_a_slider(studio: Studio, given: bool) -> None:
    id = done(studio, base(seed=65)).pictures[0]
    asked = MorphSpec(base=base(seed=65), image=id if given else None, frames=3, method="direction")
    jobs = [done(studio, asked.model_copy(update={"amount": amount})) for amount in (0.5, 2.0)]
    ends = [pixels(studio, job.result["frames"][2], "me") for job in jobs]
    assert not np.array_equal(*ends)
    found = recipe(studio, jobs[1].result["frames"][2])
    assert (found.source, json.loads(found.frame)["amount"]) == (asked.image, 2.0)
    first = pixels(studio, jobs[0].result["frames"][0], "me")
    if not given:  # the character as `generate` draws it, up to the order of words
        assert np.array_equal(first, pixels(studio, jobs[1].result["frames"][0], "me"))


@pytest.fixture
def adapters_seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """(LoRAs, whether the few-step adapter too) of everything that is attached."""
    seen: list[tuple[int, bool]] = []
    original = adapters.attached

    def attached(components, loras, fast=None, **options):
        seen.append((len(loras), fast is not None))
        return original(components, loras, fast, **options)

    monkeypatch.setattr(adapters, "attached", attached)
    return seen


@pytest.mark.parametrize("kind", ["morph", "sprites"])
def test_a_picture_is_changed_in_place_without_few_step_adapters(
    studio: Studio, adapters_seen: list[tuple[int, bool]], kind: str
) -> None:
    upload = studio.upload(picture(), "me").id
    loras = (LoraRef(path="few"), LoraRef(path="look"))
    asked = GenerateSpec(model="quick", seed=90 + len(kind), text="red hair", loras=loras)
    job = done(studio, MorphSpec(base=asked.model_copy(update={"loras": ()}), frames=3))
    assert recipe(studio, job.result["frames"][0]).fast
    assert set(adapters_seen) == {(0, True)}, "words and noise: the fast path"
    adapters_seen.clear()
    spec: MorphSpec | SpritesSpec = MorphSpec(base=asked, image=upload, frames=3)
    if kind == "sprites":
        spec = SpritesSpec(base=asked, image=upload, emotions=("happy", "sad"))
    job = done(studio, spec)
    assert set(adapters_seen) == {(1, False)}
    assert any("few-step LoRA" in note for note in job.notes)
    frame = recipe(studio, job.result["frames"][1])
    assert [Path(ref.path).stem for ref in frame.loras] == ["look"]
    assert not frame.fast
    assert (frame.steps, frame.sampler, frame.guidance) == (INVERSION_STEPS, "ddim", 3.0)
    assert frame.strength == morph.INVERTED


def test_a_picture_that_is_drawn_for_it_takes_the_fast_path(studio: Studio) -> None:
    asked = GenerateSpec(model="quick", seed=89, text="red hair")
    job = done(studio, MorphSpec(base=asked, frames=3, method="picture"))
    source, frame = (recipe(studio, id) for id in (job.result["source"], job.result["frames"][1]))
    assert (source.fast, source.steps) == (True, 4)
    assert (frame.fast, frame.steps) == (False, INVERSION_STEPS)
    assert json.loads(frame.frame)["source"] == job.result["source"]


# --- what is asked for beside a picture that was drawn here -----------------------------------------------------------


@pytest.fixture(scope="module")
def hers(studio: Studio) -> str:
    """A picture that was drawn here."""
    asked = GenerateSpec(model="tiny", steps=4, seed=77, prompt="1girl, happy, casual style, blue hair", quality="high")
    return done(studio, asked).pictures[0]


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, {"seed": 77, "steps": 4, "model": "tiny", "loras": ()}),
        ({"seed": 5}, {"seed": 5, "steps": 4}),
        ({"steps": 6}, {"seed": 77, "steps": 6}),
        ({"model": "other"}, {"seed": 77, "model": "other"}),
        ({"negative": "hat"}, {"negative": "hat", "seed": 77}),
        ({"width": 96, "height": 64}, {"width": 96, "height": 64}),
    ],
    ids=str,
)
def test_what_is_asked_for_beside_a_picture_is_done_and_said(
    studio: Studio, hers: str, asked: dict, wanted: dict
) -> None:
    job = done(studio, MorphSpec(base=GenerateSpec(**asked), image=hers, frames=3, method="prompt"))
    for id in job.result["frames"]:
        found = recipe(studio, id)
        assert {name: getattr(found, name) for name in wanted} == wanted
        assert "blue hair" in found.prompt
    assert any("drawn anew" in note for note in job.notes) == bool(asked)
    again = studio.wait(studio.again(job.id, "me").id, "me", 120)
    assert again.result["frames"] == job.result["frames"], "settled once: a repeated job is the same one"


def test_a_picture_that_is_kept_is_not_said_to_be_drawn_anew(studio: Studio, hers: str) -> None:
    asked = GenerateSpec(negative="hat", seed=5, width=96, height=64)
    job = done(studio, MorphSpec(base=asked, image=hers, frames=3))
    for id in job.result["frames"]:
        found = recipe(studio, id)
        assert (found.negative, found.seed, found.width, found.height, found.source) == ("hat", 5, 96, 64, hers)
        assert "blue hair" in found.prompt
    assert not any("drawn anew" in note for note in job.notes)
    again = studio.wait(studio.again(job.id, "me").id, "me", 120)
    assert again.result["frames"] == job.result["frames"]


def test_words_style_and_loras_are_applied_and_defaults_are_said(studio: Studio, hers: str) -> None:
    asked = GenerateSpec(text="red hat", style="formal", loras=LOOK, quality="draft", model="embedded")
    job = done(studio, AnimateSpec(base=asked, image=hers, frames=2))
    for id in job.result["frames"]:
        found = recipe(studio, id)
        assert {"blue hair", "red hat", "formal style"} <= set(found.prompt.split(", "))
        assert "casual style" not in found.prompt
        assert [Path(ref.path).stem for ref in found.loras] == ["look"]
        assert found.model == "tiny"
    assert any("own model (tiny)" in note for note in job.notes)
    assert any("quality" in note for note in job.notes)
    dressed = done(studio, GenerateSpec(model="tiny", steps=4, seed=78, style="formal")).pictures[0]
    job = done(studio, AnimateSpec(base=GenerateSpec(style="casual"), image=dressed, frames=2))
    assert any("own style (formal)" in note for note in job.notes)
    assert "formal style" in recipe(studio, job.result["frames"][0]).prompt


def test_few_steps_and_their_settings_belong_together(studio: Studio) -> None:
    quick = done(studio, GenerateSpec(model="quick", seed=79)).pictures[0]
    assert recipe(studio, quick).fast
    asked = MorphSpec(base=GenerateSpec(steps=12), image=quick, frames=3, method="prompt")
    found = recipe(studio, done(studio, asked).result["frames"][1])
    assert (found.steps, found.fast, found.sampler, found.guidance) == (12, False, "dpmpp_2m", 3.0)


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancel", "failure"])
def test_a_retimed_morph_keeps_every_picture_that_it_drew(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, drawn: list[float], how: str
) -> None:
    even_out = partial(morph.even_out, tolerance=0.0)  # never good enough: places move in every round
    reached, go = threading.Event(), threading.Event()
    turns: list[int] = []

    def stop(places, known, *rest, **options):
        turns.append(len(places))
        if len(turns) == 2:  # after a round in which places moved
            reached.set()
            go.wait(60)
            if how == "failure":
                raise RuntimeError("broken")
        return even_out(places, known, *rest, **options)

    monkeypatch.setattr(morph, "even_out", stop)
    spec = MorphSpec(base=base(seed=80 + len(how)), frames=7, retime=True, pingpong=False)
    job = studio.submit(spec, "me")
    assert reached.wait(60)
    if how == "cancel":
        studio.cancel(job.id, "me")
    go.set()
    view = studio.wait(job.id, "me", 60)
    assert view.state == {"cancel": "cancelled", "failure": "failed"}[how]
    assert len(view.pictures) == 7
    assert all(plan(studio, id)["place"] == studio.picture(id, "me").details["place"] for id in view.pictures)
    before = set(drawn)
    assert len(before) > 7
    drawn.clear()

    monkeypatch.setattr(morph, "even_out", even_out)
    again = studio.wait(studio.again(job.id, "me").id, "me", 120)
    assert again.state == "done", again.error
    assert not before & set(drawn)
    places = [studio.picture(id, "me").details["place"] for id in again.result["frames"]]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0, 1)
    assert again.cached
    drawn.clear()
    repeated = done(studio, spec)
    assert (repeated.result["frames"], drawn) == (again.result["frames"], [])
    assert set(repeated.cached) == set(again.result["frames"])


@pytest.mark.parametrize("kind", ["morph", "animate"])
def test_a_cancel_keeps_every_portion_that_is_done(studio: Studio, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """On a CPU a portion is a few frames: far fewer than a job has. An animation's first is the picture itself."""
    calls: list[int] = []
    drawer = morph.PromptMorph if kind == "morph" else animation.Animation
    original = drawer.draw
    running: list[str] = []
    started = threading.Event()

    def draw(self, wanted):
        started.wait(60)
        calls.append(len(wanted))
        if len(calls) == 2:
            studio.cancel(running[0], "me")
        yield from original(self, wanted)

    monkeypatch.setattr(drawer, "draw", draw)
    asked = base(seed=95)
    spec = MorphSpec(base=asked, frames=9) if kind == "morph" else AnimateSpec(base=asked, frames=9)
    running.append(studio.submit(spec, "me").id)
    started.set()
    view = studio.wait(running[0], "me", 60)
    assert view.state == "cancelled"
    assert calls == [4, 4]
    frames = [id for id in view.pictures if studio.picture(id, "me").kind == "frame"]
    assert len(frames) == (4 if kind == "morph" else 1 + 4)


@pytest.mark.parametrize("kind", ["morph", "animate", "sprites"])
def test_a_long_prompt_with_many_emotions_can_be_read_again(studio: Studio, kind: str) -> None:
    prompt = ("1girl, happy, " + '"a cat", ' * 600)[:3900]
    asked = base(prompt=prompt, text="", emotion="happy", steps=1)
    spec: MorphSpec | AnimateSpec | SpritesSpec
    if kind == "morph":
        chain = ("happy", "sad", "calm", "angry", "happy", "sad", "calm", "angry")
        spec = MorphSpec(base=asked, emotions=chain, frames=8)
    elif kind == "animate":
        spec = AnimateSpec(base=asked, emotions=("happy", "sad", "calm", "angry", "surprised"), frames=5)
    else:
        spec = SpritesSpec(base=asked)
    job = done(studio, spec)
    frames = [recipe(studio, id) for id in job.result["frames"]]
    assert len({frame.key for frame in frames}) == len(frames)
    assert all(len(frame.frame) <= MAX_FRAME for frame in frames)
    again = done(studio, spec)
    assert again.result["frames"] == job.result["frames"]


def test_an_angry_upload_begins_happy_where_happy_was_asked(tmp_path: Path) -> None:
    """The model that ships and its judge, which reads the upload and what became of it."""
    drawing = CharacterSpec(gender="girl", emotion="angry", style="casual", hair_color="red", eye_color="blue")
    stream = io.BytesIO()
    paint(drawing, 256, 1).save(stream, "PNG")
    made = Studio(Settings(home=tmp_path, device="cpu", offline=True))
    try:
        upload = made.upload(stream.getvalue(), "me").id
        asked = GenerateSpec(model="embedded", seed=1, steps=16)
        job = done(made, MorphSpec(base=asked, image=upload, emotions=("happy", "sad"), frames=3, method="picture"))
        frames = [Image.open(io.BytesIO(made.picture_bytes(id, "me"))) for id in (upload, *job.result["frames"])]
        seen = Judge.load(EMBEDDED_MODEL / "judge")(frames).labels["emotion"]
        assert (seen[0], seen[1], seen[3]) == ("angry", "happy", "sad")
    finally:
        made.close()
