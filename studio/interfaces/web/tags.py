"""Tags with their Japanese word beside them, where pages are in Japanese; elsewhere as they are. Knows no page."""

from __future__ import annotations

import streamlit as st

from studio.core.i18n import _, language
from studio.interfaces.web import text
from studio.interfaces.web.resources import studio

JAPANESE = "ja"


def named(tag: str) -> str:
    """ "red hair" or "red hair · 赤髪"."""
    word = studio().prompts.japanese(tag) if language() == JAPANESE else ""
    return f"{tag} · {word}" if word else tag


def gloss(prompt: str) -> None:
    """Under a prompt: its tags in Japanese, as far as the lexicon has them."""
    if language() != JAPANESE:
        return
    words = [studio().prompts.japanese(tag) for tag in prompt.split(",")]
    if known := "、".join(dict.fromkeys(word for word in words if word)):
        st.caption(_("In Japanese: {words}").format(words=text.escape(known)))
