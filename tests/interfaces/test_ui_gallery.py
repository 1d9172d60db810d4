"""The gallery: tags are searched for as phrases, filters, several pictures at once, neighbours by keys."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest
from playwright.sync_api import Page, expect
from support.browser import PATIENCE, Server, open_page, settle
from support.pages import app, draw, sentences

from studio.core.views import GalleryFilter
from studio.interfaces.web.resources import studio

expect.set_options(timeout=PATIENCE)


def test_tags_are_searched_for_as_phrases(page_home: Path) -> None:
    silver = draw("me", seed=1, prompt="1girl, silver hair, red eyes, happy", negative="")
    red = draw("me", seed=2, prompt="1girl, red hair, blue eyes, sad", negative="")

    def found(query: str) -> list[str]:
        return [picture.id for picture in studio().gallery("me", query)]

    assert found("red hair") == [red]
    assert found("red eyes") == [silver]
    assert found("hair, red eyes, happy") == [silver]
    assert found("red hair sad seed 2") == [red]  # without commas too
    assert found("blue eye") == [red]
    assert set(found("red")) == {silver, red}
    assert found('"red" OR (') == []


def test_filters(page_home: Path) -> None:
    happy = draw("me", seed=1, emotion="happy", style="formal")
    sad = draw("me", seed=2, emotion="sad", style="casual")
    now = datetime.datetime.now().timestamp()
    for only, wanted in (
        (GalleryFilter(emotion="sad"), [sad]),
        (GalleryFilter(style="formal"), [happy]),
        (GalleryFilter(model=studio().settings.model), [sad, happy]),
        (GalleryFilter(model="another"), []),
        (GalleryFilter(lora="none.safetensors"), []),
        (GalleryFilter(since=now - 600, until=now + 600), [sad, happy]),
        (GalleryFilter(until=now - 600), []),
    ):
        assert [picture.id for picture in studio().gallery("me", only=only)] == wanted
        assert studio().gallery_count("me", only=only) == len(wanted)
    assert studio().drawn_with("me") == ([studio().settings.model], [])
    at = app("gallery")
    at.selectbox(key="gallery_emotion").set_value("sad").run()
    assert not at.exception
    assert [button.key for button in at.button if str(button.key).startswith("open_")] == [f"open_{sad}"]
    at.button(key="gallery_clear").click().run()
    assert f"open_{happy}" in [button.key for button in at.button]


def test_selected_pictures_go_into_a_zip_and_side_by_side(page_home: Path) -> None:
    one, two = draw("me", seed=1), draw("me", seed=2)
    at = app("gallery", gallery_select=True)
    for picture in (one, two):
        at.checkbox(key=f"gallery_pick_{picture}").check()
    at.run()
    assert [button.label for button in at.get("download_button")] == ["Download 2 pictures as ZIP"]
    with ZipFile(BytesIO(studio().archive((one, two), "me"))) as bundle:
        assert bundle.namelist() == ["1.png", "2.png"]
    at.button(key="gallery_compare").click().run()
    assert not at.exception
    assert "What differs" in sentences(at)


def test_the_neighbours_of_a_picture(page_home: Path) -> None:
    old, new = draw("me", seed=1), draw("me", seed=2)
    at = app("gallery")
    at.button(key=f"open_{new}").click().run()
    assert "1 of 2" in sentences(at)
    assert f"gallery_delete_{new}" in [button.key for button in at.button]
    assert at.button(key="gallery_before").disabled
    assert not at.button(key="gallery_next").disabled
    assert str(datetime.date.today().year) in sentences(at)
    assert old != new


@pytest.mark.browser
@pytest.mark.parametrize("width", [1300, 390])
def test_arrow_keys_go_through_the_gallery(server: Server, visitor: Callable[..., Page], width: int) -> None:
    page = visitor(width=width)
    open_page(page, server.url)
    page.get_by_text("More settings", exact=True).click()
    page.get_by_label("Steps", exact=True).fill("2")
    page.get_by_label("Pictures", exact=True).fill("2")
    page.get_by_label("Pictures", exact=True).press("Enter")
    settle(page)
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_role("button", name="Download all as ZIP")).to_be_visible()
    open_page(page, f"{server.url}/gallery")
    page.get_by_role("button", name=re.compile("^Open ")).first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("1 of 2")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_text("2 of 2")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(dialog.get_by_text("1 of 2")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
