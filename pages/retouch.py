"""Retouch: paint over a part of a picture and have it drawn anew; every other pixel stays as it is."""

from __future__ import annotations

import streamlit as st

from studio.core.errors import StudioError
from studio.core.i18n import texts
from studio.interfaces.web import brush, chips, motion, retouch, text, widgets
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio

PAGE = retouch.PAGE
TEXT = {
    "title": "Retouch",
    "lead": "Paint over part of a picture and say what should be there: only that part is redrawn.",
    "picture": "The picture",
    "none": "Choose a picture: upload one, or take one of your latest.",
    "text": "What is new there",
    "text_hint": "blue hair, glasses, closed eyes…",
    "draw": "Redraw",
    "unmasked": "Paint over something first.",
}
TEXT = texts(TEXT)

with st.bottom:
    problem, shaping = st.empty(), st.container()
    with st.container(horizontal=True, vertical_alignment="center", key="rt_bar"):
        st.text_input(
            TEXT["text"], key="rt_text", placeholder=TEXT["text_hint"], max_chars=4000, live="300ms",
            icon=":material/edit:", label_visibility="collapsed", persist_state="session",
        )  # fmt: skip
        draw = st.container()

st.title(TEXT["title"], anchor=False)
st.caption(TEXT["lead"])
left, right = st.columns([3, 2], gap="medium")
with right:
    result = st.container()
    retouch.receive()
    chosen = motion.source(PAGE, "rt", TEXT["none"], TEXT["picture"])
    picture, fields, rest = None, {}, {}
    if chosen is not None:
        picture = studio().picture(chosen, owner())
        retouch.history(picture)
        fields = retouch.mask_fields()
        rest = retouch.rest()
mask = None
with left:
    if picture is not None:
        mask = brush.brush(picture)
    else:
        st.info(TEXT["none"], icon=":material/image:")
with shaping:
    chips.show("rt", without=retouch.LEFT_OUT)
draw.button(
    TEXT["draw"], type="primary", icon=":material/ink_eraser:", shortcut="Ctrl+Enter", key="rt_draw",
    disabled=mask is None, help=TEXT["unmasked"] if mask is None else None, on_click=retouch.ask,
)  # fmt: skip
if picture is not None:
    retouch.start(picture, mask, fields, rest)
with result:
    if job_id := widgets.current_job(PAGE):
        try:
            job = widgets.job_panel(job_id, PAGE)
            if job and not job.active:
                retouch.show(job)
        except StudioError as error:
            st.error(text.say(error), icon=":material/error:")
if said := st.session_state.pop("rt_problem", None):
    problem.error(text.say(said), icon=":material/error:")
