"""The sketch page in a real browser: a face drawn with the mouse, and what each tool leaves."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import FloatRect, Page, expect
from support.browser import PATIENCE, Server, open_page, settle

expect.set_options(timeout=PATIENCE)
Point = tuple[float, float]


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float, count: int = 10) -> list[Point]:
    angles = [math.radians(start + (end - start) * k / count) for k in range(count + 1)]
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


FACE: list[list[Point]] = [
    arc(256, 250, 120, 140, 0, 360, 20), arc(256, 200, 160, 160, 180, 360, 16),  # the head and its hair
    arc(205, 250, 28, 22, 0, 360), arc(307, 250, 28, 22, 0, 360), arc(256, 325, 35, 18, 20, 160),  # eyes and mouth
    [(215, 385), (200, 430), (120, 480)],  # a shoulder
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


def stroke(page: Page, box: FloatRect, points: Sequence[Point]) -> None:
    """One stroke with the mouse; points are relative to the canvas, which lies at `box`."""
    page.mouse.move(box["x"] + points[0][0], box["y"] + points[0][1])
    page.mouse.down()
    for x, y in points[1:]:
        page.mouse.move(box["x"] + x, box["y"] + y)
    page.mouse.up()


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
        stroke(page, box, points)
        wait_for_strokes(page, server, number)

    lines = control_image(page)  # 64 x 64: the small model's size
    assert lines[48, 32] > 60 or lines[49, 32] > 60  # the chin: y = 390 of 512
    assert not (lines[:4] > 60).any()

    page.locator("[class*=st-key-strokes_undo] button").locator("visible=true").click()
    wait_for_strokes(page, server, len(FACE) - 1)
    shorter = control_image(page)
    assert (shorter[52:62, 14:26] > 60).sum() < (lines[52:62, 14:26] > 60).sum()  # the shoulder is gone
    page.locator("[class*=st-key-strokes_redo] button").locator("visible=true").click()
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
    seed = page.get_by_label("Seed", exact=True)
    if not seed.is_visible():
        page.get_by_text("Model and seed").click()
    expect(seed).not_to_have_value("")


@pytest.mark.browser
def test_line_circle_and_eraser(server: Server, visitor: Callable[..., Page]) -> None:
    page = visitor()
    open_page(page, server.url + "/sketch_to_character")
    surface = page.locator(".st-key-canvas_frame canvas").last
    surface.wait_for()

    def drag(tool: str, count: int, *points: Point) -> np.ndarray:
        page.locator(".st-key-canvas_tool").get_by_text(tool, exact=True).click()
        page.wait_for_timeout(2000)  # until the page has begun to answer
        settle(page)
        box = surface.bounding_box()
        assert box is not None
        stroke(page, box, points)
        wait_for_strokes(page, server, count)
        return control_image(page) > 60

    line = drag("Line", 1, (60, 60), (200, 60), (450, 60))
    assert line[5:10, 10:54].any(0).all()  # 64 x 64: an eighth of the canvas
    circle = drag("Circle", 2, (200, 200), (300, 300), (400, 400))
    assert circle.sum() > 2 * line.sum()
    erased = drag("Eraser", 3, (250, 60), (480, 60))
    assert not erased[5:10, 36:].any()
    assert (erased[12:] == circle[12:]).mean() > 0.99
