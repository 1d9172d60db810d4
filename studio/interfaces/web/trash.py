"""Deleting pictures, and the offer to undo it: it goes away by itself, and with whatever is done next."""

from __future__ import annotations

import time

import streamlit as st

from studio.core.i18n import texts
from studio.interfaces.web import text
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio

OFFER_SECONDS = 30
TEXT = {
    "deleted": "{pictures} deleted.",
    "undo": "Undo",
    "back": "{pictures} brought back.",
}
TEXT = texts(TEXT)


def remove(ids: list[str]) -> None:
    """Delete pictures of this owner, and offer to undo it."""
    st.session_state["deleted"] = (studio().delete(ids, owner()), time.time() + OFFER_SECONDS)


def forget() -> None:
    """Something else was done: the offer is over."""
    st.session_state.pop("deleted", None)


def offer() -> None:
    """What was deleted and a button that brings it back, for as long as it is offered."""
    if "deleted" in st.session_state:
        st.fragment(_bar, run_every=OFFER_SECONDS / 6)()


def _bar() -> None:
    count, until = st.session_state.get("deleted", (0, 0.0))
    if not count or time.time() > until:
        forget()
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center", border=True, key="undo_bar"):
        st.markdown(TEXT["deleted"].format(pictures=text.plural(count, "picture")))
        st.button(TEXT["undo"], key="undo", icon=":material/undo:", on_click=_bring_back)


def _bring_back() -> None:
    count = studio().undo_delete(owner())
    forget()
    st.toast(TEXT["back"].format(pictures=text.plural(count, "picture")))
