"""Whose the gallery is: one for one computer, and behind a password by name, in whatever browser."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from support.browser import PATIENCE, Server, open_page, settle, studio_server

from studio.core.owners import LOCAL
from studio.core.settings import Settings
from studio.interfaces.web import identity
from studio.service import Studio

SHOTS = os.environ.get("STUDIO_TEST_SHOTS")  # a folder for pictures of the pages, to look at
ANN = "0" * 32  # a browser from when each had a gallery of its own


def made(home: Path, owner: str, count: int, red: int = 0) -> None:
    """Put pictures of somebody into a home."""
    studio = Studio(Settings(home=home, _env_file=None))
    for number in range(count):
        studio._pictures.save(Image.new("RGB", (64, 64), (red, 40 * number, 90)), None, owner)
    studio.close()


def shot(page: Page, name: str) -> None:
    if SHOTS:
        page.wait_for_timeout(500)
        page.screenshot(path=f"{SHOTS}/{name}.png")


# --- who an owner is --------------------------------------------------------------------------------------------------


def test_a_name_is_the_same_however_it_is_written() -> None:
    assert identity.named("Ann") == identity.named("  aNN ") == identity.named("Ａｎｎ")
    assert identity.name_of(identity.named("桜 ねこ")) == "桜 ねこ"
    assert identity.named(" \t") == ""
    assert identity.named("x" * 4000) == identity.named("x" * identity.LONGEST_NAME)
    for name in ("../../etc", "a;b=c", "\n", "api-123"):
        assert identity.named(name) == "" or identity.named(name).startswith("name-")
    assert identity.with_name("abc", "Ann") == "name-ann~abc"
    assert identity.with_name("name-ann~abc", "Bob") == "name-bob~abc"
    assert identity.with_name(None, "Bob") == "name-bob"


def test_what_is_handed_over_is_there_once(tmp_path: Path) -> None:
    made(tmp_path, ANN, 3)
    made(tmp_path, LOCAL, 2)  # the first two of the same pictures
    made(tmp_path, "api-x", 1, red=200)
    studio = Studio(Settings(home=tmp_path, _env_file=None))
    [first, *_] = studio.gallery(ANN)
    studio.favourite(studio.gallery(ANN)[-1].id, ANN)
    assert studio.others(LOCAL) == {ANN: 3}
    assert studio.hand_over([ANN], LOCAL) == 3
    assert studio.others(LOCAL) == {}
    assert studio.gallery(ANN) == []
    shown = studio.gallery(LOCAL)
    assert len(shown) == 3
    assert first.id in {picture.id for picture in shown}
    assert [picture.favourite for picture in shown].count(True) == 1
    assert len(studio.gallery("api-x")) == 1
    studio.close()


# --- in browsers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Server]:
    """A studio as people start it, on a home from before there was one gallery."""
    home = tmp_path_factory.mktemp("local")
    made(home, LOCAL, 2)
    made(home, ANN, 3, red=120)
    with studio_server(home, tiny_model) as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Server]:
    """A studio behind a password."""
    home = tmp_path_factory.mktemp("shared")
    made(home, "name-ann", 4)
    with studio_server(home, tiny_model, PASSWORD="a long sentence") as running:
        yield running


def shows(page: Page, count: int) -> None:
    """The gallery, and in it so many pictures."""
    page.get_by_role("heading", name="Gallery").wait_for(timeout=PATIENCE)
    expect(page.locator('[data-testid="stMain"] img')).to_have_count(count, timeout=PATIENCE)


def fits(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")


@pytest.mark.browser
@pytest.mark.parametrize("width", [1300, 390])
def test_every_browser_of_one_computer_has_the_same_gallery(
    local: Server, visitor: Callable[..., Page], width: int
) -> None:
    first, second = visitor(width=width), visitor(width=width)
    for page in (first, second):
        open_page(page, f"{local.url}/gallery")
        settle(page)
    offered = first.get_by_text("3 pictures made here in other browsers.")
    if offered.count():  # the narrow one comes second, when they have been taken over
        shows(first, 2)
        shows(second, 2)
        shot(first, f"offer-{width}")
        fits(first)
        first.get_by_role("button", name="Show here too").click()
        expect(first.get_by_text("3 pictures added to your gallery.")).to_be_visible(timeout=PATIENCE)
        open_page(second, f"{local.url}/gallery")
    shows(first, 5)
    shows(second, 5)
    expect(second.get_by_text("in other browsers")).to_have_count(0)
    fits(second)
    shot(second, f"one-gallery-{width}")


@pytest.mark.browser
@pytest.mark.parametrize("width", [1300, 390])
def test_behind_a_password_a_name_finds_its_things_in_any_browser(
    shared: Server, visitor: Callable[..., Page], width: int
) -> None:
    nameless, named = visitor(width=width), visitor(width=width)
    for page in (nameless, named):
        page.goto(f"{shared.url}/gallery", timeout=PATIENCE)
        page.get_by_label("Password").fill("a long sentence")
    shot(named, f"login-{width}")
    fits(named)
    named.get_by_label("Your name (optional)").fill(" ANN")
    for page in (nameless, named):
        page.get_by_role("button", name="Come in").click()
    shows(named, 4)
    shows(nameless, 0)
    expect(nameless.get_by_text("Nothing here yet")).to_be_visible(timeout=PATIENCE)
    nameless.goto(f"{shared.url}/studio-name", timeout=PATIENCE)
    shot(nameless, f"name-{width}")
    nameless.get_by_label("Your name").fill("Ann")
    nameless.get_by_role("button", name="Use this name").click()
    shows(nameless, 4)
    shot(nameless, f"named-gallery-{width}")
    fits(nameless)
