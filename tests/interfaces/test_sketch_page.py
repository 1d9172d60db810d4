"""The sketch page in `AppTest`: what it keeps on its canvas, what it shows, and what it sends to the service."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from streamlit.testing.v1 import AppTest
from support.browser import REPOSITORY
from support.pages import app

from studio.core.specs import ControlSpec, GenerateSpec
from studio.engine.media import control_images as control
from studio.features.sketch.spec import SketchSpec
from studio.interfaces.web import canvas
from studio.interfaces.web.resources import studio
from studio.service import Studio

PAGE = "sketch_to_character"


def sketch(tone: str = "black") -> bytes:
    image = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(image).ellipse((60, 60, 200, 210), outline=tone, width=4)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def no_canvas(monkeypatch: pytest.MonkeyPatch) -> None:
    """`AppTest` has no browser to run a component in."""
    import sys
    import types

    class Nothing:
        json_data = None
        image_bytes = None

    module = types.ModuleType("streamlit_drawable_canvas")
    module.st_canvas = lambda **kw: Nothing()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "streamlit_drawable_canvas", module)


class Hand:
    """Stands for the component of the canvas, and for the hand that draws on it."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {"key": None}
        self.json_data: dict[str, Any] | None = None
        self.image_bytes: bytes | None = None

    def __call__(self, **given: Any) -> Hand:
        if given["key"] != self.given["key"]:
            self.json_data = given["initial_drawing"]  # another component
        self.given = given
        return self

    def draws(self) -> None:
        strokes = Image.new("RGBA", (512, 512))
        ImageDraw.Draw(strokes).ellipse((100, 100, 400, 500), outline="black", width=5)
        stream = io.BytesIO()
        strokes.save(stream, "PNG")
        self.json_data, self.image_bytes = {"objects": [{"type": "path"}]}, stream.getvalue()


@pytest.fixture
def hand(no_canvas: None, monkeypatch: pytest.MonkeyPatch) -> Hand:
    import streamlit_drawable_canvas

    hand = Hand()
    monkeypatch.setattr(streamlit_drawable_canvas, "st_canvas", hand)
    return hand


def test_nothing_drawn_nothing_to_send(page_home: Path, no_canvas: None) -> None:
    at = app(PAGE)
    assert at.button(key="sk_draw").disabled
    assert any("Draw something" in caption.value for caption in at.caption)


def test_an_example_fills_the_page_and_is_drawn(page_home: Path, no_canvas: None) -> None:
    at = app(PAGE)
    at.button(key="sk_example_boy_spiky_hair").click().run()
    assert at.session_state["sk_emotion"] == "angry"
    assert "spiky hair" in at.session_state["sk_text"]
    assert not at.button(key="sk_draw").disabled
    at.number_input(key="sk_count").set_value(1).run()
    at.number_input(key="sk_steps").set_value(2).run()
    at.button(key="sk_draw").click().run()
    assert not at.exception
    job = studio().wait(at.session_state["job:sketch_to_character"], "me", 120)
    assert job.state == "done", job.error
    spec = studio().job_spec(job.id, "me")
    assert (spec.base.emotion, spec.control.kind, spec.control.weight) == ("angry", "lines", 1.0)
    at.run()
    trace = next(button for button in at.button if button.label == "Trace over this")
    trace.click().run()
    assert at.session_state["sk_seed"] == spec.base.seed  # the same seed for the next try
    assert not at.exception
    paper = studio().canvas("me")["paper"]
    assert paper["drawn"] is False
    assert paper["lines"] is not None
    again = drawn(at)  # the example's lines are the drawing still: the same request, the same picture
    assert again.base.seed == spec.base.seed
    assert again.control.image == spec.control.image
    assert set(studio().jobs("me")[0].cached) == {paper["picture"]}
    at.button(key="sk_without").click().run()
    assert (studio().canvas("me")["paper"]["picture"], at.button(key="sk_draw").disabled) == (paper["lines"], False)
    at.button(key="sk_without").click().run()
    assert at.button(key="sk_draw").disabled
    next(button for button in at.button if button.label == "Trace over this").click().run()
    assert studio().canvas("me")["paper"]["lines"] == spec.control.image  # an empty canvas gets what it followed
    assert not at.button(key="sk_draw").disabled


def test_an_uploaded_picture_is_followed_by_its_edges(
    page_home: Path, no_canvas: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = app(PAGE)
    with Image.open(REPOSITORY / "assets" / "examples" / "style_1" / "01.jpg") as picture:
        stream = io.BytesIO()
        picture.save(stream, "PNG")
    at.file_uploader(key="sk_upload").set_value(("face.png", stream.getvalue(), "image/png")).run()
    assert not at.exception
    assert at.session_state["sk_kind"] == "canny"
    assert at.number_input(key="sk_high").value is None
    asked: list[ControlSpec] = []
    real = Studio.control_image
    monkeypatch.setattr(Studio, "control_image", lambda self, *given: asked.append(given[1]) or real(self, *given))
    at.number_input(key="sk_low").set_value(30).run()
    at.number_input(key="sk_high").set_value(30).run()
    assert not at.exception
    assert [(control.low, control.high) for control in asked] == [(30, None)] * 2  # once each time
    assert any(caption.value.startswith("Thresholds used: 30 and ") for caption in at.caption)
    sent = drawn(at).control
    assert (sent.kind, sent.low, sent.high) == ("canny", 30, None)


def test_an_uploaded_picture_stays_the_drawing_under_which_a_result_is_laid(page_home: Path, no_canvas: None) -> None:
    at = app(PAGE)
    with Image.open(REPOSITORY / "assets" / "examples" / "style_1" / "01.jpg") as picture:
        stream = io.BytesIO()
        picture.save(stream, "PNG")
    at.file_uploader(key="sk_upload").set_value(("face.png", stream.getvalue(), "image/png")).run()
    spec = drawn(at)
    at.run()
    next(button for button in at.button if button.label == "Trace over this").click().run()
    paper = studio().canvas("me")["paper"]
    assert (paper["drawn"], paper["shown"]) == (False, False)  # a photo would hide what lies under it
    again = drawn(at)
    assert (again.control, again.base.seed) == (spec.control, spec.base.seed)


def test_a_file_that_is_no_picture_leaves_the_page_whole(page_home: Path, no_canvas: None) -> None:
    at = app(PAGE)
    at.file_uploader(key="sk_upload").set_value(("face.png", b"nothing", "image/png")).run()
    assert not at.exception
    assert any("isn't a picture that can be read" in error.value for error in at.error)
    assert at.button(key="sk_draw").disabled
    at.button(key="sk_example_boy_spiky_hair").click().run()
    assert not at.button(key="sk_draw").disabled


def test_a_picture_from_another_page_brings_its_look(page_home: Path, no_canvas: None) -> None:
    spec = GenerateSpec(model=studio().settings.model, style="formal", emotion="sad", text="red hair", seed=8, steps=1,
                        guidance=4.5)  # fmt: skip
    job = studio().wait(studio().submit(spec, "me").id, "me", 120)
    at = app(PAGE, send={"page": "sketch_to_character", "picture": job.pictures[0]})
    for name in ("model", "style", "emotion", "seed", "steps", "guidance", "text"):
        assert at.session_state[f"sk_{name}"] == getattr(spec, name), name
    assert at.button(key="sk_draw").disabled  # a traced picture is no drawing yet


def test_strokes_stay_as_they_are_on_a_canvas_of_another_shape() -> None:
    strokes = Image.new("RGBA", (512, 512))
    ImageDraw.Draw(strokes).ellipse((100, 100, 200, 200), fill="black")
    stream = io.BytesIO()
    strokes.save(stream, "PNG")
    png = base64.b64encode(stream.getvalue()).decode()
    square = Image.open(io.BytesIO(canvas.composed(png, None, (512, 512)) or b""))
    for size in ((512, 300), (256, 512)):
        other = Image.open(io.BytesIO(canvas.composed(png, None, size) or b""))
        assert other.size == size
        assert np.array_equal(np.asarray(other), np.asarray(square.crop((0, 0, *size))))
    assert canvas.composed(None, None, (512, 512)) is None


@pytest.mark.parametrize("color", ["#ffc0cb", "#ffe0bd", "#c0c0c0", "#ffff00"])
def test_a_pale_pen_draws_beside_a_black_one_and_white_erases(color: str) -> None:
    strokes = Image.new("RGBA", (512, 512))
    pen = ImageDraw.Draw(strokes)
    pen.ellipse((100, 100, 400, 420), outline="black", width=5)
    pen.line((450, 50, 450, 460), fill=color, width=4)
    pen.rectangle((430, 200, 470, 300), fill="white")
    stream = io.BytesIO()
    strokes.save(stream, "PNG")
    drawing = canvas.composed(base64.b64encode(stream.getvalue()).decode(), None, (512, 512))
    assert drawing is not None
    with Image.open(io.BytesIO(drawing)) as whole:
        lines = np.asarray(control.control_image(whole, ControlSpec(image="canvas"), (256, 256)).convert("L")) > 60
    seen = lines[:, 222:229].any(1)
    assert seen[30:95].all()
    assert not seen[105:145].any()
    assert seen[155:225].all()


def test_chalk_becomes_a_drawing_that_pen_and_eraser_work_on(page_home: Path, hand: Hand) -> None:
    chalk = Image.new("RGBA", (256, 256), "white")
    chalk.putalpha(Image.open(io.BytesIO(sketch())).convert("L").point(lambda value: 255 - value))
    stream = io.BytesIO()
    chalk.save(stream, "PNG")
    at = app(PAGE)
    at.file_uploader(key="sk_upload").set_value(("chalk.png", stream.getvalue(), "image/png")).run()
    assert not at.exception
    assert at.session_state["sk_kind"] == "lines"
    assert not at.button(key="sk_draw").disabled
    shown = np.asarray(hand.given["background_image"].convert("L"))
    assert np.median(shown) == 255
    assert shown.min() < 40
    spec = drawn(at)
    at.run()
    at.button(key="canvas_clear").click().run()
    next(button for button in at.button if button.label == "Trace over this").click().run()
    assert studio().canvas("me")["paper"]["lines"] == studio().drawable(spec.control.image, "me")[0].id


def test_what_can_not_be_followed_is_said(page_home: Path, no_canvas: None) -> None:
    at = app(PAGE)
    at.file_uploader(key="sk_upload").set_value(("pale.png", sketch("#fbfbfb"), "image/png")).run()
    assert any("The drawing is empty" in info.value for info in at.info)
    assert at.button(key="sk_draw").disabled


def drawn(at: AppTest) -> SketchSpec:
    at.number_input(key="sk_count").set_value(1).run()
    at.number_input(key="sk_steps").set_value(2).run()
    at.button(key="sk_draw").click().run()
    assert not at.exception
    job = studio().wait(at.session_state["job:sketch_to_character"], "me", 120)
    assert job.state == "done", job.error
    spec = studio().job_spec(job.id, "me")
    assert isinstance(spec, SketchSpec)
    return spec


def test_a_controlnet_of_one_s_own_is_used(page_home: Path, no_canvas: None) -> None:
    at = app(PAGE)
    at.button(key="sk_example_boy_spiky_hair").click().run()
    field = at.text_input(key="sk_net")
    assert field.value == ""
    for name in ("control_v11p_sd15_canny", "control_v11p_sd15_scribble", "control_v11p_sd15s2_lineart_anime"):
        assert f"lllyasviel/{name}" in field.help
    assert drawn(at).control.model is None
    net = str(Path(studio().settings.model) / "controlnet")
    at.text_input(key="sk_net").set_value(f" {net} ").run()
    assert drawn(at).control.model == net
    at.text_input(key="sk_net").set_value("/nowhere/net.pth").run()
    at.button(key="sk_draw").click().run()
    assert not at.exception
    assert any("/nowhere/net.pth" in error.value.replace("\\", "") for error in at.error)


def test_a_sketched_picture_sent_here_brings_its_drawing(page_home: Path, no_canvas: None) -> None:
    at = app(PAGE)
    at.button(key="sk_example_boy_spiky_hair").click().run()
    at.slider(key="sk_weight").set_value(0.6).run()
    spec = drawn(at)
    job = studio().jobs("me")[0]
    picture = next(id for id in job.pictures if studio().picture(id, "me").kind == "picture")
    at = app(PAGE, send={"page": "sketch_to_character", "picture": picture})
    assert studio().canvas("me")["paper"]["drawn"] is True
    assert not at.button(key="sk_draw").disabled
    again = drawn(at)
    assert (again.control.weight, again.base.seed) == (0.6, spec.base.seed)
    assert (again.base.emotion, again.base.text) == (spec.base.emotion, spec.base.text)


def test_what_is_typed_just_before_the_click_counts(page_home: Path, no_canvas: None) -> None:
    at = app(PAGE)
    at.button(key="sk_example_boy_spiky_hair").click().run()
    at.number_input(key="sk_steps").set_value(2)
    at.number_input(key="sk_count").set_value(1)
    at.number_input(key="sk_seed").set_value(77)
    at.slider(key="sk_weight").set_value(0.6)
    at.button(key="sk_draw").click().run()
    assert not at.exception
    spec = studio().job_spec(at.session_state["job:sketch_to_character"], "me")
    assert isinstance(spec, SketchSpec)
    assert (spec.base.seed, spec.base.count, spec.base.steps, spec.control.weight) == (77, 1, 2, 0.6)
    at.run()
    assert len(studio().jobs("me")) == 1


def test_a_picture_does_not_take_the_place_of_a_drawing(page_home: Path, hand: Hand) -> None:
    at = app(PAGE)
    hand.draws()
    at.run()
    assert not at.button(key="sk_draw").disabled
    by_hand = studio().canvas("me")
    assert by_hand["strokes"]
    with Image.open(REPOSITORY / "assets" / "examples" / "style_1" / "01.jpg") as picture:
        stream = io.BytesIO()
        picture.resize((400, 200)).save(stream, "PNG")
    at.file_uploader(key="sk_upload").set_value(("face.png", stream.getvalue(), "image/png")).run()
    assert not at.exception
    found = studio().canvas("me")
    assert (found["strokes"], found["png"]) == (by_hand["strokes"], by_hand["png"])
    assert (found["paper"]["drawn"], at.session_state["sk_kind"]) == (False, "lines")  # it is to be traced
    assert (hand.given["width"], hand.given["height"]) == (512, 512)  # nothing of the drawing is cut off
    for key in ("sk_example_boy_spiky_hair", "canvas_clear"):
        at.button(key=key).click().run()
        assert studio().canvas("me")["strokes"] is None
        at.button(key="sk_example_girl_twintails").click().run()  # which takes nothing that was drawn by hand
        at.button(key="canvas_back").click().run()
        assert not at.exception
        assert studio().canvas("me") == found
        assert hand.given["initial_drawing"] == by_hand["strokes"]
        assert not [button for button in at.button if button.key == "canvas_back"]
    app(PAGE)  # the next visit finds it on the disk
    assert hand.given["initial_drawing"] == by_hand["strokes"]
    assert (hand.given["width"], hand.given["height"]) == (512, 512)


def test_the_widgets_show_what_the_canvas_has(page_home: Path, no_canvas: None) -> None:
    at = app(PAGE)
    at.button(key="sk_example_boy_spiky_hair").click().run()
    sketched = studio().canvas("me")["paper"]["picture"]
    for part in (False, True, False):
        at.toggle(key="sk_drawn").set_value(part).run()
    assert not at.exception
    assert studio().canvas("me")["paper"]["drawn"] is False
    assert at.button(key="sk_draw").disabled
    at.button(key="sk_example_boy_spiky_hair").click().run()
    assert at.toggle(key="sk_drawn").value is True
    assert studio().canvas("me")["paper"]["drawn"] is True
    drawn(at)
    at.run()
    trace = next(button.key for button in at.button if button.label == "Trace over this")
    at.button(key=trace).click().run()
    result = studio().canvas("me")["paper"]["picture"]
    at.toggle(key="sk_drawn").set_value(True).run()
    at.button(key=trace).click().run()
    assert not at.exception
    paper = studio().canvas("me")["paper"]
    assert (paper["picture"], paper["drawn"], paper["lines"]) == (result, False, sketched)
    assert at.toggle(key="sk_drawn").value is False


def test_what_is_only_traced_is_as_visible_as_asked(page_home: Path, hand: Hand) -> None:
    at = app(PAGE)
    at.button(key="sk_example_boy_spiky_hair").click().run()
    black = np.asarray(hand.given["background_image"]).min()
    assert black < 60
    at.toggle(key="sk_drawn").set_value(False).run()
    for share in (0.2, 0.8):
        at.slider(key="sk_opacity").set_value(share).run()
        darkest = int(np.asarray(hand.given["background_image"]).min())
        assert darkest == pytest.approx(255 - share * (255 - black), abs=2)
        assert studio().canvas("me")["paper"]["opacity"] == share
    assert at.button(key="sk_draw").disabled


@pytest.mark.parametrize(
    ("tool", "mode", "width", "color"),
    [("pencil", "freedraw", 4, "#2A2135"), ("line", "line", 4, "#2A2135"), ("circle", "circle", 4, "#2A2135"),
     ("eraser", "freedraw", 16, "#ffffff")],
)  # fmt: skip
def test_each_tool_draws_in_its_way(page_home: Path, hand: Hand, tool: str, mode: str, width: int, color: str) -> None:
    at = app(PAGE)
    at.segmented_control(key="canvas_tool").set_value(tool).run()
    given = hand.given
    assert (given["drawing_mode"], given["stroke_width"], given["stroke_color"]) == (mode, width, color)
