"""In which language a browser is spoken to: the one that was chosen in the page, else the first it asks for.

A choice is kept in a cookie, which a page sets and the front door reads as well. Knows no page and no password.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from studio.core import i18n
from studio.core.settings import settings

COOKIE = "studio_language"
STATE = "language"


def of_browser(cookies: Mapping[str, str], accepted: str | None) -> str | None:
    """The language that a browser has chosen here, else the first of `accepted` (Accept-Language) that there is."""
    return i18n.negotiate(cookies.get(COOKIE)) or i18n.negotiate(accepted)


def spoken() -> str | None:
    """The language of the browser whose script runs; None outside of any."""
    if get_script_run_ctx(suppress_warning=True) is None:
        return None
    if STATE not in st.session_state:
        accepted = st.context.headers.get("Accept-Language") or st.context.locale
        st.session_state[STATE] = (
            of_browser(st.context.cookies, accepted) or i18n.negotiate(settings().lang) or i18n.ENGLISH
        )
    return str(st.session_state[STATE])


def begin() -> None:
    """From now on every message of a page is in its browser's language."""
    i18n.ask(spoken)


def choose() -> None:
    """In the sidebar: the languages that there are, each by its own name."""
    known = i18n.languages()
    chosen = st.menu_button(
        known[i18n.language()], list(known), key="language_menu", icon=":material/translate:", type="tertiary",
        format_func=lambda name: known[name], help="Language · 言語",
    )  # fmt: skip
    if chosen and chosen != i18n.language():
        st.session_state[STATE] = chosen
        st.session_state["_language_chosen"] = chosen
        st.rerun()
    if kept := st.session_state.get("_language_chosen"):  # a name of `known`, nothing that somebody typed
        st.html(
            f'<script>document.cookie = "{COOKIE}={kept}; path=/; max-age=31536000; samesite=lax"</script>',
            unsafe_allow_javascript=True,
        )


def dialog(table: Mapping[str, str], name: str, **options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`st.dialog` whose title is the message `table[name]`, in the language of whoever opens it."""

    def opened(function: Callable[..., None]) -> Callable[..., None]:
        def show(*args: Any) -> None:
            st.dialog(table[name], **options)(function)(*args)

        return show

    return opened
