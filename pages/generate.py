"""Generate: say who, choose an emotion and a style, and draw. The picture comes first, the settings beside it."""

from __future__ import annotations

import streamlit as st

from studio.core.i18n import N_, _, texts
from studio.interfaces.web import chips, frame, history, lab, many, prompt_panel, request, results, widgets
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio

PAGE = "generate"
TEXT = {
    "title": "Generate",
    "draw": "Draw",
    "empty": "Say who it is, choose an emotion, and press Draw.",
    "empty_more": "The first picture takes a few seconds longer: the model is loaded for it.",
    "ideas": "Ideas",
    "last": "Your last picture",
}
TEXT = texts(TEXT)
IDEAS = {
    N_("School friend"): "brown hair, short hair, green eyes, serafuku, blue sailor collar",
    N_("Ice princess"): "silver hair, long hair, blue eyes, white kimono",
    N_("Detective"): "1boy, black hair, brown eyes, dress shirt, black coat",
    N_("Idol"): "pink hair, twintails, purple eyes, pink sailor collar",
}

st.session_state.pop(f"refused:{PAGE}", None)  # of another page
with widgets.refusals(PAGE):
    request.receive()
history.note()
with st.bottom:
    notice = st.container()
    problem = st.empty()  # one at a time, beside the button that it is about
    shaping = st.container()
    with st.container(horizontal=True, vertical_alignment="center", key="gen_bar"):
        typed = request.typed_text()
        pressed = st.button(
            TEXT["draw"], type="primary", icon=":material/auto_awesome:", shortcut="Ctrl+Enter", key="gen_draw"
        )
    prompt_panel.suggestions(typed)

st.title(TEXT["title"], anchor=False)
stage, side = st.columns([3, 2], gap="medium")
with side:
    emotion, style, quality, count = request.choices()
    start_from = request.source()
    panel = st.container()
    tools = st.container()
    with st.expander(request.TEXT["more"], icon=":material/tune:", key="gen_more"):
        rest, loras = request.more(quality)
    rest |= start_from
    fields = request.Fields(emotion, style, quality, typed, count, rest, loras)

with stage:
    asked = st.container()
    if said := st.session_state.pop("gen_said", None):
        st.info(said, icon=":material/receipt_long:")
    job = None
    if job_id := widgets.current_job(PAGE):
        with widgets.refusals(PAGE):
            job = widgets.job_panel(job_id, PAGE, container=problem)
        if job and not job.active:
            results.show(job)
    if job and (job.active or job.pictures or job.state == "done"):
        shown = None
    else:
        shown = studio().gallery(owner(), kind="picture", limit=1)
    if shown:
        st.caption(TEXT["last"])
        results.large(shown[0])
    elif shown is not None:
        with st.container(key="stage_empty", horizontal_alignment="center", vertical_alignment="center"):
            st.image(str(frame.STATIC / "mark.svg"), width=96, alt="")
            st.markdown(f"#### {TEXT['empty']}", text_alignment="center")
            st.caption(TEXT["empty_more"], text_alignment="center")
            with st.container(horizontal=True, horizontal_alignment="center"):
                for name, idea in IDEAS.items():
                    st.button(
                        _(name), key=f"gen_idea_{name}", on_click=st.session_state.update, args=({"gen_text": idea},)
                    )

with stage:
    history.strip()
history.dialogs()

with panel:
    prompt = prompt_panel.prompt_panel(fields, drawing=pressed)
with notice:
    prompt_panel.spelling(typed, fields.triggers)
own = (prompt.positive, prompt.negative) if prompt.edited else (None, None)
with shaping:
    chips.show("gen", request.hidden(prompt.edited))
with tools, st.container(horizontal=True), widgets.refusals(PAGE):
    many.menu(fields.spec(*own))
    lab.tests(fields.spec(*own), prompt.positive, fields.triggers)

decision = None
if pressed and prompt.doubtful:
    st.session_state["gen_doubt"] = prompt.positive
if st.session_state.get("gen_doubt") == prompt.positive:
    with asked:
        decision = prompt_panel.doubt(fields, prompt)
if decision == "again":
    st.session_state["gen_writer_seed"] = st.session_state.get("gen_writer_seed", 0) + 1
    st.session_state["gen_asked"] = True
    st.rerun()
if decision == "fixed":
    st.session_state["gen_fixed"] = True
    st.rerun()
if decision == "anyway" or (pressed and st.session_state.get("gen_doubt") != prompt.positive):
    st.session_state.pop("gen_doubt", None)
    with widgets.refusals(PAGE):
        written = (None, None) if prompt.written else (prompt.positive, prompt.negative)
        widgets.start(fields.spec(*written), PAGE)
        st.rerun()
widgets.refusal(PAGE, problem)
