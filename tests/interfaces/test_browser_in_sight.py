"""What a page's button needs stays in sight, nothing is cut off, and nothing is said without a cause."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from support.browser import PATIENCE, Server, open_page, settle

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE)


@pytest.mark.parametrize("width", [1300, 390])
@pytest.mark.parametrize(("address", "button"), [("emotion_morph", "Morph"), ("img2img_animation", "Animate")])
def test_the_button_that_draws_is_in_sight(
    server: Server, visitor: Callable[..., Page], address: str, button: str, width: int
) -> None:
    page = visitor(width=width, height=900)
    open_page(page, f"{server.url}/{address}")
    expect(page.get_by_test_id("stBottom").get_by_role("button", name=button)).to_be_in_viewport(ratio=1)
    uploaded = page.get_by_text("200MB per file")
    expect(uploaded).to_be_visible()
    assert uploaded.evaluate(
        "part => part.scrollWidth <= part.clientWidth + 1 || getComputedStyle(part).overflow === 'visible'"
    )


def test_opening_what_is_closed_changes_no_number(server: Server, visitor: Callable[..., Page]) -> None:
    page = visitor(width=1300)
    open_page(page, server.url)
    page.get_by_text("More settings", exact=True).click()
    page.get_by_role("button", name="Test", exact=True).click()
    expect(page.get_by_label("Seeds", exact=True)).to_have_value("20")
    page.keyboard.press("Escape")
    page.get_by_text("Angry", exact=True).first.click()
    settle(page)
    expect(page.get_by_test_id("stToast")).to_have_count(0)
