"""The morph and the animation: chains with repeats, keyframes that stay, the filmstrip, every option of their verbs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image
from streamlit.proto.WidgetStates_pb2 import WidgetState
from streamlit.testing.v1 import AppTest
from support.pages import app, to

from studio.core.errors import BadInput
from studio.core.specs import EMOTIONS, GenerateSpec, MorphMethod
from studio.engine.motion import animation
from studio.features.animate.spec import AnimateSpec
from studio.features.morph.spec import MorphSpec
from studio.interfaces.cli.main import main
from studio.interfaces.web import motion, motion_stage, widgets
from studio.interfaces.web.resources import studio
from studio.service import Studio


def add(at: AppTest, key: str, *emotions: str) -> None:
    for emotion in emotions:
        at.button(key=f"{key}_add_{emotion}").click().run()
        assert not at.exception


def chain(at: AppTest, key: str) -> list[str]:
    return [link.split()[0] for link in at.pills(key=key).value]


def expander(at: AppTest, label: str) -> Any:
    [found] = [one for one in at.expander if one.label == label]
    return found


def sentences(at: AppTest) -> list[str]:
    return [part.value for part in (*at.caption, *at.error)]


# --- chains -----------------------------------------------------------------------------------------------------------


def test_a_chain_may_name_an_emotion_again(page_home: Path) -> None:
    at = app("emotion_morph", morph_frames=3, morph_steps=2)
    add(at, "morph_chain", "happy")
    assert chain(at, "morph_chain") == ["happy", "sad", "happy"]
    at.button(key="morph_draw").click().run()
    assert not at.exception
    spec = studio().job_spec(at.session_state["job:emotion_morph"], "me")
    assert isinstance(spec, MorphSpec)
    assert spec.emotions == ("happy", "sad", "happy")
    assert spec.base.emotion == "happy"


def test_a_chain_can_be_shortened_anywhere_and_outlives_a_page(page_home: Path) -> None:
    at = app("img2img_animation")
    add(at, "anim_sequence", "happy", "happy", "sad")
    assert chain(at, "anim_sequence") == ["happy", "sad", "happy", "happy", "sad"]
    at.pills(key="anim_sequence").set_value([link for link in at.pills(key="anim_sequence").value if link != "happy"])
    at.run()
    assert chain(at, "anim_sequence") == ["sad", "happy", "happy", "sad"]
    add(at, "anim_sequence", "happy")
    to(to(at, "gallery"), "img2img_animation")
    assert chain(at, "anim_sequence") == ["sad", "happy", "happy", "sad", "happy"]
    at.button(key="anim_sequence_clear").click().run()
    assert motion.TEXT["no_chain"] in sentences(at)
    assert at.button(key="anim_draw").disabled


@pytest.mark.parametrize(("page", "key", "spec"), [
    ("emotion_morph", "morph_chain", MorphSpec), ("img2img_animation", "anim_sequence", AnimateSpec),
])  # fmt: skip
def test_a_chain_is_as_long_as_its_spec_allows(page_home: Path, page: str, key: str, spec: type) -> None:
    most = {MorphSpec: 8, AnimateSpec: 16}[spec]
    names = ["happy", "sad"] * (most // 2)
    tokens = [name if index < 2 else f"{name} {index // 2 + 1}" for index, name in enumerate(names)]
    at = app(page, **{f"{key}_order": tokens})
    assert all(at.button(key=f"{key}_add_{emotion}").disabled for emotion in EMOTIONS)
    at.pills(key=key).set_value(tokens[1:]).run()
    assert not at.button(key=f"{key}_add_sad").disabled


def test_what_makes_no_morph_is_said_before_and_after_the_button(page_home: Path) -> None:
    at = app("emotion_morph", morph_frames=3)
    add(at, "morph_chain", "sad")
    assert at.button(key="morph_draw").disabled
    assert motion.TEXT["twice"] in sentences(at)
    at.pills(key="morph_chain").set_value(["sad"]).run()
    assert at.button(key="morph_draw").disabled
    assert "Add at least two emotions." in sentences(at)
    add(at, "morph_chain", "calm", "sad", "angry")
    assert not at.button(key="morph_draw").disabled
    at.button(key="morph_draw").click().run()  # four emotions and three frames
    assert not at.exception
    assert any("at least as many frames" in said for said in sentences(at))
    assert not studio().jobs("me")


# --- keyframes --------------------------------------------------------------------------------------------------------


def table(at: AppTest) -> Any:
    [found] = at.dataframe
    return found.proto


def edit(at: AppTest, **changes: object) -> None:
    """Type into the table as the browser does it: `AppTest` has no words for that."""
    states = at._tree.get_widget_states()
    nothing = {"edited_rows": {}, "added_rows": [], "deleted_rows": []}
    states.widgets.append(WidgetState(id=table(at).id, string_value=json.dumps(nothing | changes)))
    at._run(states)
    assert not at.exception


def keyframes_of(at: AppTest) -> list[tuple[object, ...]]:
    """What the page would submit."""
    at.button(key="anim_draw").click().run()
    assert not at.exception
    job = at.session_state["job:img2img_animation"]
    spec = studio().job_spec(job, "me")
    assert isinstance(spec, AnimateSpec)
    studio().cancel(job, "me")
    studio().wait(job, "me", 60)  # as long as it draws, Draw does nothing
    return [(mark.emotion, mark.frame + 1, mark.strength, mark.hold) for mark in spec.keyframes]


def test_keyframes_outlive_the_number_of_frames_and_the_page(page_home: Path) -> None:
    at = app("img2img_animation", anim_by_hand=True, anim_frames=6, anim_steps=2)
    first = table(at).id
    edit(
        at,
        edited_rows={"1": {"hold": 5}},
        added_rows=[{"emotion": "calm", "frame": 3, "strength": 0.5}, {"emotion": "angry", "frame": 5}],
    )
    typed = [("happy", 1, None, 1), ("calm", 3, 0.5, 1), ("angry", 5, None, 1), ("sad", 6, None, 5)]
    assert keyframes_of(at) == typed
    assert table(at).id == first  # a table that changes while somebody types in it loses the focus

    at.slider(key="anim_frames").set_value(7).run()
    assert keyframes_of(at) == [*typed[:3], ("sad", 7, None, 5)]  # the last one stays the last one
    at.slider(key="anim_frames").set_value(4).run()
    assert keyframes_of(at) == [*typed[:2], ("sad", 4, None, 5)]  # anger is on frame 4 too
    assert motion.TEXT["marks"] in sentences(at)
    at.slider(key="anim_frames").set_value(8).run()
    before = keyframes_of(at)
    assert before == [*typed[:2], ("angry", 4, None, 1), ("sad", 8, None, 5)]
    to(to(at, "gallery"), "img2img_animation")
    assert keyframes_of(at) == before
    at.toggle(key="anim_by_hand").set_value(False).run()
    assert keyframes_of(at) == []
    at.toggle(key="anim_by_hand").set_value(True).run()
    assert keyframes_of(at) == before


def test_a_table_that_was_emptied_can_be_filled_again(page_home: Path) -> None:
    at = app("img2img_animation", anim_by_hand=True, anim_frames=6, anim_steps=2)
    edit(at, deleted_rows=[0, 1])
    at.slider(key="anim_frames").set_value(7).run()
    assert not at.exception
    edit(at, edited_rows={"0": {"emotion": "calm", "frame": 2}})
    assert keyframes_of(at) == [("calm", 2, None, 1)]


# --- the filmstrip ----------------------------------------------------------------------------------------------------


def test_a_finished_animation_is_one_picture_too(page_home: Path) -> None:
    at = app("emotion_morph", morph_frames=3, morph_steps=2)
    at.button(key="morph_draw").click().run()
    job = studio().wait(at.session_state["job:emotion_morph"], "me", 120)
    assert job.state == "done", job.error
    at.run()
    assert not at.exception
    assert motion_stage.TEXT["filmstrip_keep"] in [button.label for button in at.get("download_button")]
    with Image.open(BytesIO(motion_stage._filmstrip(tuple(job.result["frames"]), "me"))) as whole:
        assert (whole.format, whole.size) == ("PNG", (3 * 128 + 2 * 4, 128))
    alts = [image.alt for group in at.get("image") for image in group.proto.imgs]
    assert any(alt.startswith("Filmstrip of 3 frames: Happy") for alt in alts)


# --- words ------------------------------------------------------------------------------------------------------------


def test_every_method_of_the_spec_is_offered_with_a_line(page_home: Path) -> None:
    offered = app("emotion_morph").segmented_control(key="morph_method").options
    assert len(offered) == len(get_args(MorphMethod)) - 1  # "picture" needs one


def test_the_amount_stands_beside_the_method_that_is_about_it(page_home: Path) -> None:
    at = app("emotion_morph")
    at.segmented_control(key="morph_method").set_value("direction").run()
    assert any("the slider says how much" in said for said in sentences(at))
    assert "morph_amount" not in [slider.key for slider in expander(at, motion.TEXT["more"]).slider]
    at.slider(key="morph_amount").set_value(1.5).run()
    at.button(key="morph_draw").click().run()
    spec = studio().job_spec(at.session_state["job:emotion_morph"], "me")
    assert isinstance(spec, MorphSpec)
    assert (spec.method, spec.amount) == ("direction", 1.5)
    studio().cancel(at.session_state["job:emotion_morph"], "me")
    at.segmented_control(key="morph_method").set_value("prompt").run()
    assert "morph_amount" in [slider.key for slider in expander(at, motion.TEXT["more"]).slider]


def test_shared_start_can_be_any_share(page_home: Path) -> None:
    at = app("emotion_morph", morph_frames=3, morph_steps=2)
    field = at.number_input(key="morph_shared_steps")
    assert (field.step, field.value) == (0.05, None)
    field.set_value(5.0).run()
    assert at.number_input(key="morph_shared_steps").value == 0.9
    at.number_input(key="morph_shared_steps").set_value(0.35).run()
    at.button(key="morph_draw").click().run()
    assert not at.exception
    spec = studio().job_spec(at.session_state["job:emotion_morph"], "me")
    assert isinstance(spec, MorphSpec)
    assert spec.shared_steps == 0.35
    studio().cancel(at.session_state["job:emotion_morph"], "me")


def test_a_cross_fade_can_follow_an_arc(page_home: Path) -> None:
    at = app("emotion_morph", morph_frames=3, morph_steps=2)
    assert "morph_spherical" not in [toggle.key for toggle in at.toggle]
    at.segmented_control(key="morph_method").set_value("latent").run()
    at.toggle(key="morph_spherical").set_value(True).run()
    at.button(key="morph_draw").click().run()
    job = studio().wait(at.session_state["job:emotion_morph"], "me", 120)
    assert job.state == "done", job.error
    recipe = studio().picture(job.result["frames"][1], "me").recipe
    assert recipe is not None
    assert json.loads(recipe.frame)["spherical"] is True


# --- what is made -----------------------------------------------------------------------------------------------------


def test_frames_appear_while_the_job_is_at_work(page_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are asked for by a fragment of their own, again and again, as the progress is."""
    polled: list[str] = []
    monkeypatch.setattr(motion_stage, "_at_work", lambda job: polled.append(job.id))
    intervals: list[Any] = []
    original = motion.st.fragment

    def fragment(function: Any, run_every: Any = None) -> Any:
        intervals.append(run_every)
        return original(function, run_every=run_every)

    monkeypatch.setattr(motion.st, "fragment", fragment)
    go = threading.Event()
    draw = animation.Animation.draw

    def waiting(self: Any, wanted: Any) -> Any:
        go.wait(60)
        yield from draw(self, wanted)

    monkeypatch.setattr(animation.Animation, "draw", waiting)
    at = app("img2img_animation", anim_frames=3, anim_steps=2)
    at.button(key="anim_draw").click().run()
    assert not at.exception
    job = at.session_state["job:img2img_animation"]
    go.set()
    assert polled
    assert set(polled) == {job}
    assert widgets.POLL in intervals
    studio().wait(job, "me", 60)


def test_the_frames_so_far_are_those_of_the_job(page_home: Path) -> None:
    made = studio().submit(MorphSpec(base=GenerateSpec(model=studio().settings.model, steps=2, seed=8), frames=3), "me")
    studio().wait(made.id, "me", 120)

    def page(job_id: str) -> None:
        from studio.interfaces.web import motion_stage

        motion_stage.st.session_state["owner"] = "me"
        motion_stage._at_work(motion_stage.studio().job(job_id, "me"))

    at = AppTest.from_function(page, kwargs={"job_id": made.id}, default_timeout=60).run()
    assert not at.exception
    assert "Frame 1, Happy" in [image.alt for group in at.get("image") for image in group.proto.imgs]


@pytest.mark.parametrize("how", ["sprites", "failed"])
def test_notes_are_shown_whatever_became_of_the_job(page_home: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    def work(engine: Any, job: Any, spec: Any) -> Any:
        job.note("A note of *this* job.")
        yield
        if how == "failed":
            raise BadInput("Broken.")
        job.result |= {"frames": [], "emotions": [], "sprites": "none"}

    kind = "sprites" if how == "sprites" else "morph"
    monkeypatch.setitem(studio()._jobs._kinds, kind, work)
    at = app("emotion_morph", morph_frames=3)
    at.button(key="morph_sprites" if how == "sprites" else "morph_draw").click().run()
    studio().wait(at.session_state["job:emotion_morph"], "me", 60)
    at.run()
    assert not at.exception
    assert sum("A note of" in said for said in sentences(at)) == 1


def test_keyframes_need_no_sequence(page_home: Path) -> None:
    at = app("img2img_animation", anim_by_hand=True, anim_frames=6, anim_steps=2, anim_sequence_order=[])
    assert not at.button(key="anim_draw").disabled
    assert keyframes_of(at) == [("happy", 1, None, 1), ("sad", 6, None, 2)]
    at.toggle(key="anim_by_hand").set_value(False).run()
    assert at.button(key="anim_draw").disabled


def test_a_picture_brings_its_model_and_another_choice_counts(page_home: Path) -> None:
    model = studio().settings.model
    made = studio().submit(GenerateSpec(model=model, steps=2, seed=5), "me")
    picture = studio().wait(made.id, "me", 60).pictures[0]
    at = app("emotion_morph", morph_picture=picture, morph_model="embedded", morph_frames=3)
    assert at.selectbox(key="morph_model").value == model
    assert at.number_input(key="morph_seed").placeholder == motion.TEXT["as_drawn"]
    at.number_input(key="morph_seed").set_value(6).run()
    at.number_input(key="morph_steps").set_value(33).run()
    at.button(key="morph_draw").click().run()
    assert not at.exception
    spec = studio().job_spec(at.session_state["job:emotion_morph"], "me")
    assert isinstance(spec, MorphSpec)
    assert (spec.base.model, spec.base.seed, spec.base.steps) == (model, 6, 33)
    studio().cancel(at.session_state["job:emotion_morph"], "me")


def test_the_help_promises_a_judge_only_where_there_is_one(page_home: Path) -> None:
    buffer = BytesIO()
    Image.new("RGB", (64, 64), "pink").save(buffer, "PNG")
    upload = studio().upload(buffer.getvalue(), "me", "her.png")
    at = app("emotion_morph", morph_picture=upload.id)
    said = " ".join(part.value for part in at.caption)
    assert "if the model has a judge" in said
    assert "the model's judge reads it" not in said


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def run(
    page_home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        found = capfd.readouterr()
        return code, found.out, found.err

    return call


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The requests that verbs submit; nothing is drawn."""
    found: list[Any] = []

    def submit(self: Studio, spec: Any, owner: str) -> None:
        found.append(spec)
        raise BadInput("Only asked.")

    monkeypatch.setattr(Studio, "submit", submit)
    return found


def test_a_morph_by_all_its_options(run: Callable[..., tuple[int, str, str]], asked: list[Any]) -> None:
    run(
        "morph", "--emotions", "happy, sad,happy", "--text", "red hair", "--easing", "ease_in", "--amount", 1.5,
        "--held", 0.3, "--retime", "--attention", "--spherical", "--pingpong", "--fps", 12, "--frames", 7,
        "--method", "prompt",
    )  # fmt: skip
    spec = asked.pop()
    assert isinstance(spec, MorphSpec)
    assert spec.emotions == ("happy", "sad", "happy")
    assert (spec.base.text, spec.base.emotion) == ("red hair", "happy")
    assert (spec.easing, spec.amount, spec.shared_steps, spec.retime, spec.attention) == (
        "ease_in",
        1.5,
        0.3,
        True,
        True,
    )
    assert spec.spherical
    assert (spec.pingpong, spec.fps, spec.frames) == (True, 12, 7)
    run("morph", "--to", "angry", "--once")
    assert (asked[-1].emotions, asked[-1].pingpong) == (("happy", "angry"), False)
    run("morph")
    assert asked[-1].pingpong == MorphSpec().pingpong


def test_an_animation_by_all_its_options(run: Callable[..., tuple[int, str, str]], asked: list[Any]) -> None:
    run(
        "animate", "--emotions", "sad,happy,sad", "--text", "red hair", "--easing", "ease", "--pingpong", "--alone",
        "--fps", 3, "--keyframe", "1:happy", "--keyframe", "6:sad:0.5:4", "--keyframe", "9:calm::2",
    )  # fmt: skip
    spec = asked.pop()
    assert isinstance(spec, AnimateSpec)
    assert spec.emotions == ("sad", "happy", "sad")
    assert (spec.base.text, spec.base.emotion) == ("red hair", "sad")
    assert (spec.easing, spec.pingpong, spec.consistent, spec.fps) == ("ease", True, False, 3)
    marks = [(mark.frame, mark.emotion, mark.strength, mark.hold) for mark in spec.keyframes]
    assert marks == [(0, "happy", None, 1), (5, "sad", 0.5, 4), (8, "calm", None, 2)]
    run("animate")
    assert (asked[-1].emotions, asked[-1].keyframes, asked[-1].pingpong) == (("happy", "sad"), (), False)


def test_a_sketch_by_all_its_options(
    run: Callable[..., tuple[int, str, str]], asked: list[Any], tmp_path: Path
) -> None:
    Image.linear_gradient("L").resize((64, 64)).save(tmp_path / "drawing.png")
    options = [
        "--start",
        0.1,
        "--end",
        0.7,
        "--favour",
        "sketch",
        "--controlnet",
        "somebody/scribble",
    ]
    run("sketch", "--image", tmp_path / "drawing.png", *options)
    control = asked[0].control
    assert (control.start, control.end, control.control_mode) == (0.1, 0.7, "sketch")
    assert control.model == "somebody/scribble"


WRONG = [
    (["morph", "--emotions", "happy,happy"], "another emotion to go to"),
    (["morph", "--emotions", "happy,sad,calm,happy,sad,calm"], "at least as many frames"),
    (["morph", "--emotions", "happy"], "emotions"),
    (["morph", "--emotions", "grumpy,sad"], "emotion should be"),
    (["morph", "--emotions", "happy,sad", "--to", "calm"], "not both"),
    (["morph", "--easing", "bouncy"], "easing should be"),
    (["morph", "--amount", "nan"], "amount"),
    (["morph", "--amount", "9"], "amount should be less than or equal to 2"),
    (["morph", "--held", "1"], "shared_steps should be less than or equal to 0.9"),
    (["morph", "--method", "magic"], "method should be"),
    (["morph", "--fps", "0"], "fps"),
    (["animate", "--easing", "bouncy"], "easing should be"),
    (["animate", "--keyframe", "sad"], "'sad' isn't FRAME:EMOTION"),
    (["animate", "--keyframe", "0:sad"], "frames count from 1"),
    (["animate", "--keyframe", "1:sad:0.5:2:9"], "isn't FRAME:EMOTION"),
    (["animate", "--keyframe", "1:grumpy"], "emotion should be"),
    (["animate", "--keyframe", "1:sad:2"], "strength should be less than or equal to 1"),
    (["animate", "--keyframe", "1:sad:x"], "strength should be a valid number"),
    (["animate", "--keyframe", "1:sad::99"], "hold should be less than or equal to 32"),
    (["animate", "--keyframe", "13:sad"], "keyframe at frame 13 is past the end, there are 12 frames"),
    (["animate", "--keyframe", "2:sad", "--keyframe", "2:calm"], "keyframes stand on frame 2"),
    (["sketch", "--image", "drawing.png", "--start", "0.8", "--end", "0.3"], "control must end after it starts"),
    (["sketch", "--image", "drawing.png", "--favour", "nobody"], "control_mode should be"),
    (["sketch", "--image", "drawing.png", "--controlnet", "/nowhere"], "no ControlNet '/nowhere'"),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_every_mistake_is_one_sentence(
    run: Callable[..., tuple[int, str, str]], arguments: list[str], sentence: str
) -> None:
    Image.linear_gradient("L").resize((64, 64)).save("drawing.png")  # the fixture stands in a folder of its own
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    [said] = [line for line in err.splitlines() if line.strip()]
    assert sentence in said


def test_a_folder_gets_the_filmstrip_beside_the_animation(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--frames", 3, "--steps", 2, "--seed", 3, "--json"]
    code, said, err = run("morph", *options, "--out", out)
    assert code == 0, err
    made = json.loads(said.splitlines()[-1])
    assert made["filmstrip"] == str(out / "filmstrip.png")
    assert Path(made["animation"]).parent == out
    with Image.open(out / "filmstrip.png") as whole:
        assert whole.size == (3 * 128 + 2 * 4, 128)
        assert json.loads(whole.info["studio"])["seed"] == 3
    first = (out / "filmstrip.png").read_bytes()
    assert json.loads(run("morph", *options, "--out", out)[1])["filmstrip"] == made["filmstrip"]
    other = json.loads(run("morph", *options[:-3], "--seed", 4, "--json", "--out", out)[1])["filmstrip"]
    assert Path(other).name.startswith("filmstrip-")  # nothing was overwritten
    assert (out / "filmstrip.png").read_bytes() == first
    assert json.loads(run("morph", *options)[1])["filmstrip"] is None
