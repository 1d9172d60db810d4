"""Sketch -> Character: draw or upload, see what the model sees, and get the character in those lines."""

from __future__ import annotations

import streamlit as st

from studio.core.i18n import texts
from studio.interfaces.web import canvas, character, chips, sketch, text, widgets
from studio.interfaces.web.resources import studio

PAGE = "sketch_to_character"
TEXT = {
    "title": "Sketch to character",
    "lead": "Draw a few lines, say who it is, and get the character in those lines.",
    "text": "Describe your character",
    "text_hint": "red hair, blue eyes, serafuku…",
    "draw": "Draw",
    "nothing": "Draw something first, upload a drawing, or take an example.",
}
TEXT = texts(TEXT)

sketch.receive(PAGE)
with st.bottom:
    problem, shaping = st.empty(), st.container()
    with st.container(horizontal=True, vertical_alignment="center", key="sk_bar"):
        st.text_input(
            TEXT["text"], key="sk_text", placeholder=TEXT["text_hint"], max_chars=4000, live="300ms",
            icon=":material/edit:", label_visibility="collapsed", persist_state="session",
        )  # fmt: skip
        draw = st.container(width="content")

st.title(TEXT["title"], anchor=False)
st.caption(TEXT["lead"])
left, right = st.columns([3, 2], gap="medium")
with left:
    drawing = canvas.canvas()
    sketch.underlay_form()
with right:
    result = st.container()
    st.subheader(sketch.TEXT["sees"], anchor=False)
    lines = st.container()
    words = sketch.words()
    strict = sketch.strictness()
    rest = sketch.rest()
    with lines:
        fields, view = sketch.control_preview(drawing, rest["model"], studio())
with shaping:
    chips.show("sk", [*character.chips(), *sketch.chips()], without=sketch.LEFT_OUT)
draw.button(
    TEXT["draw"], type="primary", icon=":material/auto_awesome:", shortcut="Ctrl+Enter", key="sk_draw",
    disabled=view is None, help=TEXT["nothing"] if view is None else None, on_click=sketch.ask,
)  # fmt: skip
sketch.start(PAGE, drawing, words | rest, fields | strict)
with result:
    if job_id := widgets.current_job(PAGE):
        job = widgets.job_panel(job_id, PAGE)
        if job and not job.active:
            sketch.show(job)
if said := st.session_state.pop("sk_problem", None):
    problem.error(text.say(said), icon=":material/error:")
