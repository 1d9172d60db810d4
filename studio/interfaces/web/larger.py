"""The button under a picture that makes it larger, and the larger picture.

It takes a second where nobody else draws, so the page waits for it, a dialog of the Gallery like any other place.
"""

from __future__ import annotations

import streamlit as st

from studio.core.errors import StudioError
from studio.core.i18n import texts
from studio.core.views import Picture
from studio.features.upscale.spec import UpscaleSpec
from studio.interfaces.web import text, widgets
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio

PATIENCE = 30  # seconds: what takes longer, or waits for others, is found in the Gallery
TEXT = {
    "larger": "Enlarge",
    "help": "Twice as large on each side, by the studio's upscaler. Nothing is drawn anew.",
    "working": "Enlarging…",
    "later": "It is being made, and will be in the Gallery.",
    "made": "{width} × {height} pixels, kept in the Gallery.",
}
TEXT = texts(TEXT)


def button(picture: Picture, key: str) -> None:
    """Enlarge it: among the buttons under a picture."""
    if st.button(TEXT["larger"], key=f"larger_{key}", icon=":material/zoom_out_map:", help=TEXT["help"]):
        st.session_state[f"larger_of_{key}"] = picture.id


def result(picture: Picture, key: str) -> None:
    """The larger picture, below the buttons, once it was asked for."""
    if st.session_state.get(f"larger_of_{key}") != picture.id:
        return
    place = st.empty()
    try:
        with place, st.spinner(TEXT["working"]):
            job = studio().submit(UpscaleSpec(image=picture.id), owner())
            job = studio().wait(job.id, owner(), PATIENCE)
        if job.active:
            place.info(TEXT["later"], icon=":material/hourglass_top:")
            return
        if job.state != "done":
            raise StudioError(job.error or job.state)
        made = studio().picture(job.pictures[0], owner())
    except StudioError as problem:
        place.error(text.say(problem), icon=":material/error:")
        return
    place.empty()
    with st.container(key=f"larger_box_{key}", border=True):
        st.image(studio().picture_bytes(made.id, owner()), width="stretch", alt=text.name(made))
        with st.container(horizontal=True, gap="xsmall", vertical_alignment="center"):
            st.caption(TEXT["made"].format(width=made.width, height=made.height), width="content")
            widgets.download(made, f"larger_{key}")
