"""The retouch page: in `AppTest` what it asks for and the way back, in Chromium a mask brushed with the mouse."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect
from support.browser import PATIENCE, Server, open_page, settle
from support.pages import app, draw

from studio.features.inpaint.spec import InpaintSpec
from studio.interfaces.web import brush
from studio.interfaces.web.resources import studio

PAGE = "retouch"


class Hand:
    """Stands for the component of the canvas, and for the hand that paints on it."""

    def __init__(self) -> None:
        self.key, self.json_data, self.image_bytes = "", None, None

    def __call__(self, **given: Any) -> Hand:
        if given["key"] != self.key:  # another component
            self.key, self.json_data, self.image_bytes = given["key"], None, None
        self.size = (given["width"], given["height"])
        return self

    def paints(self, box: tuple[int, int, int, int], fill: tuple[int, int, int, int] = (255, 60, 130, 140)) -> None:
        strokes = Image.new("RGBA", self.size)
        ImageDraw.Draw(strokes).rectangle(box, fill=fill)
        stream = io.BytesIO()
        strokes.save(stream, "PNG")
        self.json_data, self.image_bytes = {"objects": [{"type": "path"}]}, stream.getvalue()


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Hand:
    import sys
    import types

    hand = Hand()
    module = types.ModuleType("streamlit_drawable_canvas")
    module.st_canvas = hand  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "streamlit_drawable_canvas", module)
    return hand


def pixels(id: str) -> np.ndarray:
    with Image.open(io.BytesIO(studio().picture_bytes(id, "me"))) as image:
        return np.asarray(image.convert("RGB"))


def test_a_mask_is_painted_two_versions_drawn_one_taken_and_undone(page_home: Path, hand: Hand) -> None:
    first = draw("me", prompt="1girl, red hair", seed=3)
    at = app(PAGE)
    assert at.button(key="rt_draw").disabled
    at.session_state["rt_picture"] = first
    at.run()
    assert at.button(key="rt_draw").disabled
    hand.paints((0, 0, 255, 255))  # the upper left quarter
    at.run()
    assert not at.button(key="rt_draw").disabled
    at.text_input(key="rt_text").set_value("blue hair").run()
    at.number_input(key="rt_steps").set_value(2).run()
    at.button(key="rt_draw").click().run()
    assert not at.exception
    job = studio().wait(at.session_state[f"job:{PAGE}"], "me", 120)
    assert job.state == "done", job.error
    spec = studio().job_spec(job.id, "me")
    assert isinstance(spec, InpaintSpec)
    assert (spec.image, spec.base.text, spec.base.count, spec.mask.area) == (first, "blue hair", 2, "auto")
    over = pixels(spec.mask.image)
    assert (over[:31, :31] == 255).all()
    assert not over[34:, 34:].any()
    for id in job.pictures:
        assert np.array_equal(pixels(id)[over.max(2) == 0], pixels(first)[over.max(2) == 0])
    at.run()
    assert any("seam" in caption.value for caption in at.caption)
    uses = [button for button in at.button if button.label == "Go on with this"]
    assert len(uses) == 2
    uses[1].click().run()
    assert at.session_state["rt_picture"] == job.pictures[1]
    assert not at.button(key="rt_draw").disabled  # the mask stays for the next try
    at.button(key="rt_undo").click().run()
    assert at.session_state["rt_picture"] == first
    assert not [button for button in at.button if button.key == "rt_undo"]


def test_strokes_add_take_away_invert_and_clear(page_home: Path, hand: Hand) -> None:
    first = draw("me", prompt="1girl", seed=3)
    at = app(PAGE, rt_picture=first)
    hand.paints((0, 0, 255, 511))
    at.run()
    masks = lambda: np.asarray(brush._painted(at.session_state["_mask"]))  # noqa: E731
    assert (masks()[:, :31] == 255).all()
    at.button(key="rt_invert").click().run()
    assert (masks()[:, 33:] == 255).all()
    assert not masks()[:, :31].any()
    hand.paints((256, 0, 511, 255), (60, 130, 255, 140))
    at.run()
    assert not masks()[:30, 34:].any()
    assert (masks()[34:, 34:] == 255).all()
    at.button(key="rt_clear").click().run()
    assert brush._painted(at.session_state["_mask"]) is None
    assert at.button(key="rt_draw").disabled


@pytest.mark.browser
@pytest.mark.parametrize("width", [1360, 390])
def test_a_brushed_mask(server: Server, visitor: Callable[..., Page], tmp_path: Path, width: int) -> None:
    picture = Image.new("RGB", (64, 64), (90, 150, 200))
    ImageDraw.Draw(picture).ellipse((12, 12, 52, 60), fill=(240, 200, 180))
    picture.save(tmp_path / "girl.png")
    page = visitor(width=width)
    open_page(page, server.url + "/retouch")
    page.locator(".st-key-rt_upload input[type=file]").set_input_files(tmp_path / "girl.png")
    surface = page.locator(".st-key-canvas_frame canvas").last
    surface.wait_for()
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    button = page.locator(".st-key-rt_draw button:visible").first  # what has a hint stands there twice
    expect(button).to_be_disabled()
    surface.scroll_into_view_if_needed()
    box = surface.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    for step in range(8):
        page.mouse.move(box["x"] + (0.3 + 0.05 * step) * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.up()
    expect(button).to_be_enabled(timeout=PATIENCE)
    page.locator(".st-key-rt_text input").fill("blue hair")
    page.wait_for_timeout(1000)
    settle(page)
    button.click()
    use = page.get_by_role("button", name="Go on with this").first
    use.wait_for(timeout=2 * PATIENCE)
    use.click()
    undo = page.locator(".st-key-rt_undo button:visible").first
    undo.wait_for(timeout=PATIENCE)
    settle(page)
    undo.click()
    expect(undo).to_have_count(0, timeout=PATIENCE)
