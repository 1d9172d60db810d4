"""The sketch page: in `AppTest` what it sends to the service, in a real browser a face drawn with the mouse."""

from __future__ import annotations

import base64
import io
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from browser import PATIENCE, REPOSITORY, Server, open_page, settle
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect
from streamlit.testing.v1 import AppTest

from studio.specs import GenerateSpec, SketchSpec
from studio.ui import canvas
from studio.ui.resources import studio

MAIN = str(REPOSITORY / "studio" / "ui" / "main.py")
PAGE = str(REPOSITORY / "pages" / "sketch_to_character.py")
expect.set_options(timeout=PATIENCE)
Point = tuple[float, float]


def sketch(tone: str = "black") -> bytes:
    image = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(image).ellipse((60, 60, 200, 210), outline=tone, width=4)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def app() -> AppTest:
    at = AppTest.from_file(MAIN, default_timeout=90)
    at.session_state["owner"] = "me"
    at.run()
    at.switch_page(PAGE).run()
    assert not at.exception
    return at


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


def test_nothing_drawn_nothing_to_send(page_home: Path, no_canvas: None) -> None:
    at = app()
    assert at.button(key="sk_draw").disabled
    assert any("Draw something" in caption.value for caption in at.caption)


def test_an_example_fills_the_page_and_is_drawn(page_home: Path, no_canvas: None) -> None:
    at = app()
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


def test_an_uploaded_picture_is_followed_by_its_edges(page_home: Path, no_canvas: None) -> None:
    at = app()
    with Image.open(REPOSITORY / "assets" / "examples" / "style_1" / "01.jpg") as picture:
        stream = io.BytesIO()
        picture.save(stream, "PNG")
    at.file_uploader(key="sk_upload").set_value(("face.png", stream.getvalue(), "image/png")).run()
    assert not at.exception
    assert at.session_state["sk_kind"] == "canny"
    high = at.number_input(key="sk_high")
    assert high.value is None
    assert high.placeholder.startswith("Automatic: ")
    at.number_input(key="sk_low").set_value(254).run()
    assert not at.exception
    at.number_input(key="sk_low").set_value(255).run()
    at.number_input(key="sk_high").set_value(255).run()
    assert not at.exception
    assert at.session_state["sk_ready"][2]["low"] < at.session_state["sk_ready"][2]["high"]


def test_an_uploaded_picture_stays_the_drawing_under_which_a_result_is_laid(page_home: Path, no_canvas: None) -> None:
    at = app()
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
    at = app()
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
    at = AppTest.from_file(MAIN, default_timeout=90)
    at.session_state["owner"] = "me"
    at.session_state["send"] = {"page": "sketch_to_character", "picture": job.pictures[0]}
    at.run()
    at.switch_page(PAGE).run()
    assert not at.exception
    base = at.session_state["sk_ready"][1]
    for name in ("model", "style", "emotion", "seed", "steps", "guidance"):
        assert base[name] == getattr(spec, name), name
    assert at.session_state["sk_text"] == "red hair"
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


def test_what_can_not_be_followed_is_said(page_home: Path, no_canvas: None) -> None:
    at = app()
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
    at = app()
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
    assert any("/nowhere/net.pth" in error.value for error in at.error)


def test_a_sketched_picture_sent_here_brings_its_drawing(page_home: Path, no_canvas: None) -> None:
    at = app()
    at.button(key="sk_example_boy_spiky_hair").click().run()
    at.slider(key="sk_weight").set_value(0.6).run()
    spec = drawn(at)
    job = studio().jobs("me")[0]
    picture = next(id for id in job.pictures if studio().picture(id, "me").kind == "picture")
    at = AppTest.from_file(MAIN, default_timeout=90)
    at.session_state["owner"] = "me"
    at.session_state["send"] = {"page": "sketch_to_character", "picture": picture}
    at.run()
    at.switch_page(PAGE).run()
    assert not at.exception
    assert studio().canvas("me")["paper"]["drawn"] is True
    assert not at.button(key="sk_draw").disabled
    again = drawn(at)
    assert (again.control.weight, again.base.seed) == (0.6, spec.base.seed)
    assert (again.base.emotion, again.base.text) == (spec.base.emotion, spec.base.text)


# --- in a browser -----------------------------------------------------------------------------------------------------


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float, count: int = 10) -> list[Point]:
    angles = [math.radians(start + (end - start) * k / count) for k in range(count + 1)]
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


FACE: list[list[Point]] = [
    arc(256, 250, 120, 140, 0, 360, 20), arc(256, 200, 160, 160, 180, 360, 16),
    arc(205, 250, 28, 18, 180, 360), arc(205, 250, 28, 22, 0, 180),
    arc(307, 250, 28, 18, 180, 360), arc(307, 250, 28, 22, 0, 180),
    arc(205, 252, 9, 12, 0, 360), arc(307, 252, 9, 12, 0, 360),
    [(175, 215), (235, 208)], [(277, 208), (337, 215)], [(254, 285), (250, 300), (258, 302)],
    arc(256, 325, 35, 18, 20, 160), [(160, 170), (190, 230), (210, 150)], [(300, 150), (330, 225), (350, 170)],
    [(215, 385), (200, 430), (120, 480)],
]  # fmt: skip


def canvas_file(server: Server) -> dict:
    files = list((server.home / "canvases").glob("*.json"))
    newest = max(files, key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text())


def strokes(server: Server) -> int:
    return len((canvas_file(server)["strokes"] or {"objects": []})["objects"])


def wait_for_strokes(page: Page, server: Server, count: int) -> None:
    for _ in range(150):
        settle(page)
        if list((server.home / "canvases").glob("*.json")) and strokes(server) == count:
            return
        page.wait_for_timeout(200)
    pytest.fail(f"There are {strokes(server)} strokes instead of {count}.")


def control_image(page: Page) -> np.ndarray:
    picture = page.locator(".st-key-stage_control img")
    expect(picture).to_be_visible()
    settle(page)
    data = page.request.get(picture.evaluate("image => image.src")).body()
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("L"))


def visit(page: Page, name: str, heading: str) -> None:
    page.get_by_role("link", name=name).first.click()
    page.locator("h1", has_text=heading).wait_for()
    settle(page)


@pytest.mark.browser
def test_a_face_drawn_with_the_mouse(server: Server, visitor: Callable[..., Page]) -> None:
    page = visitor()
    open_page(page, server.url + "/sketch_to_character")
    surface = page.locator(".st-key-canvas_frame canvas").last
    surface.wait_for()
    box = surface.bounding_box()
    assert box is not None
    assert (box["width"], box["height"]) == (512, 512)
    for number, points in enumerate(FACE, 1):
        page.mouse.move(box["x"] + points[0][0], box["y"] + points[0][1])
        page.mouse.down()
        for x, y in points[1:]:
            page.mouse.move(box["x"] + x, box["y"] + y)
        page.mouse.up()
        wait_for_strokes(page, server, number)

    lines = control_image(page)  # 64 x 64: the small model's size
    assert lines[48, 32] > 60 or lines[49, 32] > 60  # the chin: y = 390 of 512
    assert not (lines[:4] > 60).any()

    surface.hover()
    page.get_by_role("button", name="Undo").click()
    wait_for_strokes(page, server, len(FACE) - 1)
    shorter = control_image(page)
    assert (shorter[52:62, 14:26] > 60).sum() < (lines[52:62, 14:26] > 60).sum()  # the shoulder is gone
    surface.hover()
    page.get_by_role("button", name="Redo").click()
    wait_for_strokes(page, server, len(FACE))

    visit(page, "Gallery", "Gallery")
    visit(page, "Sketch to character", "Sketch")
    assert np.array_equal(control_image(page), lines)
    wait_for_strokes(page, server, len(FACE))
    page.goto(server.url + "/sketch_to_character")
    page.locator("h1").first.wait_for()
    assert np.array_equal(control_image(page), lines)
    wait_for_strokes(page, server, len(FACE))

    page.locator(".st-key-sk_draw button").click()
    trace = page.get_by_role("button", name="Trace over this").first
    trace.wait_for(timeout=2 * PATIENCE)
    trace.click()
    wait_for_strokes(page, server, len(FACE))  # the lines stay, the picture lies under them
    deadline = time.monotonic() + PATIENCE / 1000  # the strokes didn't change, so they are no sign that it was kept
    while canvas_file(server)["paper"] is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert canvas_file(server)["paper"]["drawn"] is False
    seed = page.get_by_label("Seed")
    if not seed.is_visible():
        page.get_by_text("Model and seed").click()
    expect(seed).not_to_have_value("")
