"""A picture that was given is kept: by the morph, by the sprites, as the first frame of an animation."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from streamlit.testing.v1 import AppTest
from support.pages import STEPS, app, draw

from studio.core.specs import GenerateSpec, Keyframe
from studio.core.views import JobView
from studio.features.animate.spec import AnimateSpec, SpritesSpec
from studio.features.morph.spec import MorphSpec
from studio.interfaces.web.resources import studio


def base(**fields: object) -> GenerateSpec:
    return GenerateSpec(model=studio().settings.model, steps=STEPS, seed=8, **fields)


def made(spec: AnimateSpec | MorphSpec | SpritesSpec) -> JobView:
    done = studio().wait(studio().submit(spec, "me").id, "me", 120)
    assert done.state == "done", done.error
    return done


def pixels(picture: str) -> np.ndarray:
    with Image.open(studio().picture_path(picture, "me")) as image:
        return np.asarray(image.convert("RGB"))


def method_of(picture: str) -> str:
    recipe = studio().picture(picture, "me").recipe
    assert recipe is not None
    return recipe.frame.split('"morph": "')[1].split('"')[0]


def test_a_picture_that_is_given_is_kept_unless_something_else_is_chosen(page_home: Path) -> None:
    her = draw("me", seed=3, text="red hair")
    plain = GenerateSpec(model=studio().settings.model)
    assert (
        method_of(made(SpritesSpec(base=plain, image=her, emotions=("happy", "sad"))).result["frames"][0]) == "picture"
    )
    redrawn = SpritesSpec(base=plain, image=her, emotions=("happy", "sad"), method="prompt")
    assert method_of(made(redrawn).result["frames"][0]) == "prompt"
    assert method_of(made(MorphSpec(base=plain, image=her, frames=3)).result["frames"][1]) == "picture"
    assert method_of(made(MorphSpec(base=base(), frames=3)).result["frames"][1]) == "prompt"


def test_the_first_frame_of_an_animation_is_the_picture(page_home: Path) -> None:
    her = draw("me", seed=3, emotion="sad")
    job = made(AnimateSpec(base=base(), image=her, emotions=("happy", "angry"), frames=3))
    first, second, _ = job.result["frames"]
    assert np.array_equal(pixels(first), pixels(her))
    assert not np.array_equal(pixels(second), pixels(her))
    recipe = studio().picture(first, "me").recipe
    assert recipe is not None
    assert recipe.labels["emotion"] == "sad"  # what it shows, not what was asked for
    drawn = made(AnimateSpec(base=base(), frames=2))
    assert np.array_equal(pixels(drawn.result["frames"][0]), pixels(drawn.result["source"]))


def test_an_uploaded_picture_is_the_first_frame_in_the_frames_shape(page_home: Path) -> None:
    buffer = BytesIO()
    Image.new("RGB", (100, 60), "pink").save(buffer, "PNG")
    upload = studio().upload(buffer.getvalue(), "me", "her.png").id
    job = made(AnimateSpec(base=base(text="pink hair"), image=upload, frames=2))
    first, second = (pixels(frame) for frame in job.result["frames"])
    assert first.shape == second.shape
    assert (first == np.array((255, 192, 203))).all()


def test_a_keyframe_may_change_the_first_frame(page_home: Path) -> None:
    her = draw("me", seed=3)
    marks = (Keyframe(emotion="angry", frame=0, strength=0.9), Keyframe(emotion="sad", frame=1))
    job = made(AnimateSpec(base=base(), image=her, frames=2, keyframes=marks))
    assert not np.array_equal(pixels(job.result["frames"][0]), pixels(her))


def sprites_of(at: AppTest) -> SpritesSpec:
    at.button(key="morph_sprites").click().run()
    assert not at.exception
    spec = studio().job_spec(at.session_state["job:emotion_morph"], "me")
    studio().cancel(at.session_state["job:emotion_morph"], "me")
    assert isinstance(spec, SpritesSpec)
    return spec


def test_the_page_keeps_a_picture_and_the_set_follows_what_was_chosen(page_home: Path) -> None:
    her = draw("me", seed=3, text="red hair")
    at = app("emotion_morph")
    assert at.segmented_control(key="morph_method").value == "prompt"
    at.session_state["morph_picture"] = her
    at.run()
    assert at.segmented_control(key="morph_method").value == "picture"
    assert sprites_of(at).method == "picture"
    at.segmented_control(key="morph_method").set_value("prompt").run()
    assert sprites_of(at).method == "prompt"
    at.button(key="morph_without").click().run()
    assert not at.exception
    assert at.segmented_control(key="morph_method").value == "prompt"


def test_a_picture_that_was_taken_away_is_not_drawn_any_more(page_home: Path) -> None:
    her = draw("me", seed=3, text="red hair")
    at = app("emotion_morph", morph_picture=her, morph_frames=3)
    at.segmented_control(key="morph_method").set_value("prompt").run()
    at.button(key="morph_draw").click().run()
    studio().wait(at.session_state["job:emotion_morph"], "me", 120)
    at.run()
    at.button(key="morph_without").click().run()
    at.text_input(key="morph_words").set_value("blue hair, glasses").run()
    spec = sprites_of(at)
    assert spec.image is None
    assert spec.base.text.startswith("blue hair, glasses")
    assert "red hair" not in spec.base.text + (spec.base.prompt or "")


def test_a_set_at_work_shows_its_last_picture_and_not_its_zip(page_home: Path) -> None:
    job = made(SpritesSpec(base=base(), emotions=("happy", "sad")))
    assert job.pictures[2] == job.result["sprites"]

    def page(job: object) -> None:
        import streamlit as st

        from studio.interfaces.web import widgets

        st.session_state["owner"] = "me"
        widgets.preview(job)

    at = AppTest.from_function(page, kwargs={"job": job.model_copy(update={"pictures": job.pictures[:3]})}).run(
        timeout=60
    )
    assert not at.exception
    assert [image.alt for group in at.get("image") for image in group.proto.imgs] == [
        "Preview of the picture being made"
    ]
