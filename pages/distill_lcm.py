"""Distill: make a model draw in four steps, see what that costs in quality, and choose."""

from __future__ import annotations

import streamlit as st

from studio.core.i18n import texts
from studio.interfaces.web import distill, runs

PAGE = "distill_lcm"
TEXT = {
    "title": "Distill LCM",
    "lead": "A student learns to draw in four steps what its teacher needs twenty for. The run goes on when this page, "
    "or the studio, is closed.",
}
TEXT = texts(TEXT)

st.title(TEXT["title"], anchor=False)
st.caption(TEXT["lead"])
if run_id := runs.choose(("lcm",), PAGE):
    shown = runs.panel(run_id, PAGE)
    left, right = st.columns([3, 2], gap="large")
    with left:
        distill.live(shown)
    with right:
        if shown.adapter is not None and not shown.active:
            distill.after(shown)
elif started := distill.request():
    runs.follow(started, PAGE)
    st.rerun()
