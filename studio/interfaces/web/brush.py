"""A mask painted over a picture: strokes that add and take away, invert, clear. Knows strokes, not what a mask is for.

Strokes are the component's and last as long as the page is shown; when it is left, or the mask is inverted, they become
part of `base`, a mask of the picture's size that later strokes go on from.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import streamlit as st
from PIL import Image

from studio.core.i18n import texts
from studio.core.views import Picture
from studio.interfaces.web import steps
from studio.interfaces.web.canvas import size_of
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio
from studio.interfaces.web.steps import Steps

ADD, REMOVE = "rgba(255, 60, 130, 0.55)", "rgba(60, 130, 255, 0.55)"  # told apart by which of red and blue is stronger
TINT = (255, 60, 130)
SEEN = 40  # of 255: fainter is the anti-aliasing of a stroke's edge
TEXT = {
    "tool": "Brush",
    "add": "Add",
    "remove": "Take away",
    "width": "Width",
    "invert": "Invert",
    "invert_help": "What is masked stays, and the rest is drawn anew.",
    "clear": "Clear",
    "hint": "Paint over what is to be drawn anew.",
}
TEXT = texts(TEXT)
_STATE = "_mask"


def _state(picture: Picture) -> dict[str, Any]:
    """What is masked of this picture so far; another picture begins without a mask, one of the same size keeps it."""
    state: dict[str, Any] = st.session_state.setdefault(_STATE, {"number": 0})
    if state.get("picture") != picture.id:
        same = state.get("size") == (picture.width, picture.height)
        settle()
        if not same:
            state["base"] = None
        state["past"] = Steps([_packed(state.get("base"))])
        state |= {"picture": picture.id, "size": (picture.width, picture.height)}
    return state


def settle() -> None:
    """Make the strokes part of the mask, on an empty canvas."""
    state = st.session_state.get(_STATE)
    if state is not None and state.get("strokes"):
        state["base"] = _painted(state)
        state["strokes"] = None
        state["number"] += 1  # another key is another component: the only way to take strokes away from outside


def put(mask: Image.Image | None) -> None:
    """Begin with this mask (L, of the picture's size), or with none."""
    state = st.session_state.setdefault(_STATE, {"number": 0})
    state |= {"base": mask, "strokes": None, "number": state["number"] + 1}


def _invert() -> None:
    settle()
    state = st.session_state[_STATE]
    mask = state.get("base") or Image.new("L", state["size"])
    put(mask.point(lambda level: 255 - level))


def _painted(state: dict[str, Any]) -> Image.Image | None:
    """The mask that base and strokes make, L, of the picture's size; None where nothing is masked."""
    base: Image.Image | None = state.get("base")
    mask = np.array(base) if base is not None else np.zeros(state["size"][::-1], np.uint8)
    if state.get("strokes"):
        with Image.open(io.BytesIO(base64.b64decode(state["strokes"]))) as opened:
            strokes = np.asarray(opened.convert("RGBA").resize(state["size"], Image.Resampling.BILINEAR)).astype(int)
        seen, red = strokes[..., 3] > SEEN, strokes[..., 0] > strokes[..., 2]
        mask[seen & red], mask[seen & ~red] = 255, 0
    return Image.fromarray(mask) if mask.any() else None


def brush(picture: Picture) -> Image.Image | None:
    """Draw the canvas with its tools; the mask as it is now (L, of the picture's size), or None. Runs on every run."""
    from streamlit_drawable_canvas import st_canvas  # registers itself with the running app, so not sooner

    if st.session_state.get("_arrived"):
        settle()
    state = _state(picture)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        tool = st.segmented_control(
            TEXT["tool"], ["add", "remove"], default="add" if "rt_tool" not in st.session_state else None,
            required=True, format_func=TEXT.__getitem__, key="rt_tool", persist_state="session",
        )  # fmt: skip
        width = st.slider(TEXT["width"], 4, 96, 32, key="rt_width", width=110, persist_state="session")
        row = st.container(horizontal=True, gap="xsmall", width="content")
        st.button(
            TEXT["invert"], key="rt_invert", icon=":material/invert_colors:", help=TEXT["invert_help"], on_click=_invert
        )
        st.button(TEXT["clear"], key="rt_clear", icon=":material/delete:", on_click=put, args=(None,))
    with Image.open(io.BytesIO(studio().picture_bytes(picture.id, owner()))) as opened:
        shown = opened.convert("RGB")
    size = size_of(shown)
    base = state.get("base")
    if base is not None:
        tint = Image.blend(shown, Image.new("RGB", shown.size, TINT), 0.5)
        shown = Image.composite(tint, shown, base)
    with st.container(key="canvas_frame"):
        result = st_canvas(
            fill_color="rgba(255, 255, 255, 0)",
            stroke_width=width,
            stroke_color=REMOVE if tool == "remove" else ADD,
            background_image=shown.resize(size, Image.Resampling.LANCZOS),
            drawing_mode="freedraw",
            width=size[0],
            height=size[1],
            return_image_data=True,
            key=f"mask_{state['number']}",
        )
    st.html(steps.KEYS, unsafe_allow_javascript=True)
    st.caption(TEXT["hint"])
    drawn = result.json_data
    if drawn is not None and result.image_bytes:
        state["strokes"] = base64.b64encode(result.image_bytes).decode() if drawn.get("objects") else None
    painted = _painted(state)
    state["past"].note(_packed(painted))
    with row:  # when it is known what was painted
        steps.buttons(state["past"], "mask", lambda kept: put(_unpacked(kept)))
    return painted


def _packed(mask: Image.Image | None) -> bytes | None:
    """A mask as PNG, small enough to remember many of them."""
    if mask is None:
        return None
    stream = io.BytesIO()
    mask.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _unpacked(kept: bytes | None) -> Image.Image | None:
    if kept is None:
        return None
    with Image.open(io.BytesIO(kept)) as opened:
        return opened.convert("L")
