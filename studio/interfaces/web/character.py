"""A character that is kept: shown under a drawn picture, locked by a click, in the words of every page's next pictures.

A request has its words in its text.
"""

from __future__ import annotations

import streamlit as st

from studio.core.i18n import texts
from studio.core.views import Picture
from studio.interfaces.web import tags, text
from studio.interfaces.web.chips import Chip
from studio.interfaces.web.kept import KEY, drop, words
from studio.interfaces.web.resources import studio

SHOWN = 40  # characters of the chip's label
TEXT = {
    "decided": "You left open, so it was decided:",
    "keep": "Keep this character",
    "keep_help": "The next pictures on every page show: {words}. What you type goes before it.",
    "kept": "This character is kept",
    "drop_help": "Kept in the next pictures on every page: {words}. Click to let go of it.",
    "chip": "Same character: {words}",
}
TEXT = texts(TEXT)


def into(typed: str) -> str:
    """What a page's next request says: what was typed, and what it leaves open of the character that is kept."""
    return studio().prompts.with_character(typed, words()) if words() else typed


def out_of(text: str) -> str:
    """What was typed of a request that was made by `into`: without the words of the character at its end."""
    parts = text.split(", ")
    while parts and parts[-1] in words():
        parts.pop()
    return ", ".join(parts)


def chips() -> list[Chip]:
    """The chip beside a button that draws."""
    if not words():
        return []
    said = ", ".join(words())
    label = TEXT["chip"].format(words=said if len(said) <= SHOWN else said[: SHOWN - 1].rstrip(" ,") + "…")
    return [Chip("character", label, drop, help=TEXT["drop_help"].format(words=text.escape(said)))]


def offer(picture: Picture, key: str) -> None:
    """Under a picture: what was decided about its character, and the button that keeps it."""
    made = picture.recipe
    if made is None:
        return
    who = studio().prompts.character(made.prompt, made.labels.get("text", ""))
    if not who:
        return
    with st.container(horizontal=True, gap="xsmall", vertical_alignment="center", key=f"character_{key}"):
        if decided := made.labels.get("decided"):
            st.caption(TEXT["decided"], width="content")
            for word in decided.split(", "):
                st.badge(text.escape(tags.named(word)), color="gray")
        kept, said = who == words(), text.escape(", ".join(who))
        st.button(
            TEXT["kept" if kept else "keep"], key=f"keep_{key}",
            icon=":material/lock:" if kept else ":material/lock_open:",
            type="primary" if kept else "secondary", on_click=drop if kept else st.session_state.update,
            args=() if kept else ({KEY: who},), help=TEXT["drop_help" if kept else "keep_help"].format(words=said),
        )  # fmt: skip
