"""Strokes in a browser: Ctrl+Z takes back a stroke and never the description; files, results, the keyboard."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Locator, Page, expect
from support.browser import PATIENCE, Server, open_page, settle

expect.set_options(timeout=PATIENCE)


def seen(page: Page, key: str) -> Locator:
    """The button of this key: one with a tooltip is there twice, and one of them is seen."""
    return page.locator(f"[class*=st-key-{key}] button").locator("visible=true")


def kept(server: Server) -> int:
    """How many strokes the newest canvas has on disk."""
    files = sorted((server.home / "canvases").glob("*.json"), key=lambda path: path.stat().st_mtime)
    return len((json.loads(files[-1].read_text())["strokes"] or {"objects": []})["objects"]) if files else 0


def line(page: Page, server: Server, y: int, count: int) -> None:
    """A stroke from left to right, and wait until the studio has `count` of them."""
    box = page.locator(".st-key-canvas_frame canvas").last.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 60, box["y"] + y)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + y + 20)
    page.mouse.up()
    for _ in range(100):
        page.wait_for_timeout(200)
        if kept(server) == count:
            break
    settle(page)


@pytest.mark.browser
def test_a_stroke_is_undone_by_key_and_by_button(server: Server, visitor: Callable[..., Page]) -> None:
    page = visitor(width=1300)
    open_page(page, server.url + "/sketch_to_character")
    page.locator(".st-key-canvas_frame canvas").last.wait_for()
    words = page.get_by_label("Describe your character")
    words.fill("red hair")
    page.wait_for_timeout(800)
    settle(page)
    undo, redo = seen(page, "strokes_undo"), seen(page, "strokes_redo")
    expect(undo).to_be_disabled()
    page.locator("h1").scroll_into_view_if_needed()
    for count, y in ((1, 60), (2, 120)):
        line(page, server, y, count)
        expect(undo).to_be_enabled()
    page.keyboard.press("Control+z")  # though the description had the keyboard before the stroke
    expect(redo).to_be_enabled()
    expect(words).to_have_value("red hair")
    expect(undo).to_be_enabled()  # the first stroke is there still
    page.set_viewport_size({"width": 390, "height": 844})  # a phone, where nothing can be hovered over
    undo.click()
    expect(undo).to_be_disabled()
    page.locator("h1").click()
    page.keyboard.press("Control+Shift+Z")
    expect(undo).to_be_enabled()
    words.focus()
    page.keyboard.press("Control+z")  # in a line of text the keys are the text's
    page.wait_for_timeout(1000)
    settle(page)
    expect(undo).to_be_enabled()


@pytest.mark.browser
def test_the_same_file_is_taken_again_and_results_can_be_kept(server: Server, visitor: Callable[..., Page]) -> None:
    page = visitor(width=1300)
    open_page(page, server.url + "/sketch_to_character")
    seen(page, "sk_example_girl_twintails").wait_for()
    picture = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(picture).ellipse((20, 20, 100, 110), outline="black", width=3)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    file = {"name": "face.png", "mimeType": "image/png", "buffer": stream.getvalue()}
    page.locator("summary", has_text="Under the canvas").focus()  # what is under the canvas is reached by keyboard
    page.keyboard.press("Enter")
    without = seen(page, "sk_without")
    for _ in range(2):
        page.locator("[class*=st-key-sk_upload] input[type=file]").set_input_files(file)
        without.wait_for()
        without.click()
        expect(without).to_have_count(0)
        settle(page)
    page.locator("[class*=st-key-sk_upload] input[type=file]").set_input_files(file)
    without.wait_for()
    steps = page.get_by_label("Steps", exact=True)
    if not steps.is_visible():
        page.get_by_text("Model and seed").click()
    steps.fill("1")
    steps.press("Enter")
    settle(page)
    page.locator(".st-key-sk_draw button").locator("visible=true").click()
    heart = seen(page, "favourite_large")
    heart.wait_for(timeout=2 * PATIENCE)  # without another click
    expect(seen(page, "download_large")).to_be_visible()
    expect(seen(page, "send_large")).to_be_visible()
