"""Pieces of the retouch page: how the mask is used, the versions side by side, and the way back.

Knows widgets and the service; the mask itself is `brush`.
"""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

import streamlit as st
from PIL import Image

from studio.core.errors import StudioError
from studio.core.i18n import texts
from studio.core.specs import GenerateSpec, MaskSpec
from studio.core.views import JobView, Picture
from studio.features.inpaint.spec import InpaintSpec
from studio.interfaces.web import brush, inputs, parameters, results, text, widgets
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio

PAGE = "retouch"
LEFT_OUT = ("width", "height", "upscale", "upscaler", *parameters.HIRES)  # the picture has a size
MOST_STATES = 8  # that are offered to go back to
TEXT = {
    "mask": "The mask",
    "model": "Model and seed",
    "use": "Go on with this",
    "use_help": "Its changes stay; the mask is painted on it next.",
    "seam": "seam {figure}",
    "seam_help": "How visible the edge of what is new is: the step from pixel to pixel across it, as a multiple of the "
    "picture's before. 1 is as before.",
    "states": "Earlier states",
    "undo": "Undo",
    "undo_help": "Back to the picture before the last change. Nothing is lost: every version is in the Gallery.",
    "back": "Back to this",
}
TEXT = texts(TEXT)


# --- the way back -----------------------------------------------------------------------------------------------------


def earlier(picture: Picture) -> list[Picture]:
    """The pictures that this one was retouched from, the last one first."""
    found: list[Picture] = []
    while (made := picture.recipe) is not None and made.mask is not None and made.source and len(found) < MOST_STATES:
        try:
            picture = studio().picture(made.source, owner())
        except StudioError:
            break  # deleted since
        found.append(picture)
    return found


def go_on(picture_id: str) -> None:
    """Make a picture the one that is retouched; its job's other versions go from the page."""
    st.session_state["rt_picture"] = picture_id
    widgets.forget_job(PAGE)


def history(picture: Picture) -> None:
    """Undo, and the earlier states of a picture to go back to."""
    states = earlier(picture)
    if not states:
        return
    st.button(
        TEXT["undo"], key="rt_undo", icon=":material/undo:", help=TEXT["undo_help"], on_click=go_on,
        args=(states[0].id,),
    )  # fmt: skip
    if len(states) > 1:
        with st.expander(TEXT["states"], icon=":material/history:"):
            grid = st.grid("auto", min_column_width=96, gap="small")
            for number, state in enumerate(states):
                with grid.cell():
                    st.image(widgets.thumbnail(state, 192), alt=text.name(state))
                    st.button(TEXT["back"], key=f"rt_back_{number}", on_click=go_on, args=(state.id,))


# --- the form ---------------------------------------------------------------------------------------------------------


def mask_fields() -> dict[str, Any]:
    """How the mask is used: what the model sees, its edge, how much may change."""
    with st.container(horizontal=True):
        strength = inputs.number(InpaintSpec, "strength", "rt_strength", slider=True)
        count = inputs.number(GenerateSpec, "count", "rt_count", value=2, max_value=8, width=110, help=None)
    with st.expander(TEXT["mask"], icon=":material/tune:"):
        area = inputs.choice(MaskSpec, "area", "rt_area")
        with st.container(horizontal=True):
            edge = {name: inputs.number(MaskSpec, name, f"rt_{name}") for name in ("padding", "grow", "feather")}
    return {"strength": strength, "count": int(count or 1), "mask": {"area": area} | edge}


def rest() -> dict[str, Any]:
    """Model, seed, steps, guidance, LoRAs and so on."""
    with st.expander(TEXT["model"], icon=":material/memory:"):
        return parameters.form("rt", without=LEFT_OUT)


def ask() -> None:
    """Let the page submit what it shows, once it has read all its fields (as a callback: no stroke swallows it)."""
    st.session_state["rt_asked"] = True


def start(picture: Picture, mask: Image.Image | None, fields: dict[str, Any], base: dict[str, Any]) -> None:
    """Submit the picture with its mask and the words as they are now, if that was asked for."""
    if not st.session_state.pop("rt_asked", False) or mask is None:
        return
    stream = io.BytesIO()
    mask.save(stream, "PNG")
    try:
        mask_id = studio().upload(stream.getvalue(), owner(), "mask.png").id
        words = (st.session_state.get("rt_text") or "").strip()
        spec = GenerateSpec(text=words, count=fields["count"], **base)
        masked = MaskSpec(image=mask_id, **fields["mask"])
        widgets.start(InpaintSpec(base=spec, image=picture.id, mask=masked, strength=fields["strength"]), PAGE)
    except StudioError as problem:
        st.session_state["rt_problem"] = str(problem)


# --- the versions -----------------------------------------------------------------------------------------------------


def show(job: JobView) -> None:
    """The versions side by side, each with its seam and "go on with this"; one of them large."""
    pictures: list[Picture] = []
    for id in job.pictures:
        with suppress(StudioError):  # deleted since
            pictures.append(studio().picture(id, owner()))
    grid = st.grid("auto", min_column_width=150, gap="small")
    for index, picture in enumerate(pictures):
        with grid.cell():
            key = f"rt_{job.id}_{index}"
            seam = (picture.recipe.labels if picture.recipe else {}).get("seam")
            if widgets.picture_card(picture, key, TEXT["seam"].format(figure=seam) if seam else None):
                st.session_state["rt_shown"] = picture.id
            st.button(
                TEXT["use"], key=f"use_{key}", icon=":material/check:", help=TEXT["use_help"], on_click=go_on,
                args=(picture.id,), width="stretch",
            )  # fmt: skip
    st.caption(TEXT["seam_help"])
    results.summary_line(job)
    for picture in pictures:
        if picture.id == st.session_state.get("rt_shown") or len(pictures) == 1:
            results.large(picture)


def receive() -> None:
    """A picture that another page sent here begins without a mask."""
    if (st.session_state.get("send") or {}).get("page") == PAGE:
        brush.put(None)
