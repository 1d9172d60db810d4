"""Things that were made here by somebody else than who is in front of the page now, and the offer to take them over.

Once every browser was somebody of its own. Where all of them are one person now, what this browser made comes along by
itself and what others made is offered; where somebody has chosen a name, what this browser made without one is.
"""

from __future__ import annotations

from html import escape

import streamlit as st

from studio.core.i18n import texts
from studio.core.owners import LOCAL
from studio.core.settings import settings
from studio.interfaces.web import text
from studio.interfaces.web.gate import NAME
from studio.interfaces.web.identity import before, name_of, owner
from studio.interfaces.web.resources import studio

TEXT = {
    "others": "{pictures} made here in other browsers.",
    "nameless": "{pictures} made in this browser before you chose a name.",
    "take": "Show here too",
    "taken": "{pictures} added to your gallery.",
    "choose": "Choose a name to find your pictures in every browser",
    "name": "Your name here: {name}",
}
TEXT = texts(TEXT)


def come_along() -> None:
    """Once a session: what this browser made while it was somebody of its own."""
    if st.session_state.get("_came_along"):
        return
    st.session_state["_came_along"] = True
    if owner() == LOCAL and (earlier := before()) in studio().others(LOCAL):
        studio().hand_over([earlier], LOCAL)


def offer() -> None:
    """A bar in the gallery while there is something to take over, and a button that does."""
    me = owner()
    others = studio().others(me)
    if me != LOCAL:
        earlier = before()
        others = {earlier: others[earlier]} if name_of(me) and earlier in others else {}
    if not others:
        return
    count = sum(others.values())
    with st.container(horizontal=True, vertical_alignment="center", border=True, key="belongings"):
        said = TEXT["others" if me == LOCAL else "nameless"]
        st.markdown(said.format(pictures=text.plural(count, "picture")), width="stretch")
        if st.button(TEXT["take"], key="take_over", icon=":material/library_add:"):
            taken = studio().hand_over(list(others), me)
            st.toast(TEXT["taken"].format(pictures=text.plural(taken, "picture")), icon=":material/check:")
            st.rerun()


def whose() -> None:
    """Behind a password: whose gallery this is, with a link to choose a name."""
    if settings().password is None:
        return
    name = name_of(owner())
    label = TEXT["name"].format(name=name) if name else TEXT["choose"]
    st.html(f'<a class="studio-leave" href="{NAME}" target="_self">{escape(label)}</a>')
