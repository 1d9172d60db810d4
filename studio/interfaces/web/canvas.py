"""A canvas to draw on whose drawing stays: through reruns, page changes, reloads and restarts.

Around `streamlit-drawable-canvas`, which forgets its strokes when its page is left: they are kept in the session and,
through the service, on disk by owner. Knows strokes and what lies under them, not what a drawing is for.
"""

from __future__ import annotations

import base64
import io
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import streamlit as st
from PIL import Image, ImageChops

from studio.core.errors import StudioError
from studio.core.i18n import texts
from studio.interfaces.web import steps, text
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio
from studio.interfaces.web.steps import Steps

SIDE = 512  # pixels of the canvas's longer side
FAINT, VISIBLE = 24, 160  # of 255 below white: paler than the first is no stroke; the others count like the second
TOOLS = {
    "pencil": ("Pencil", "freedraw"),
    "line": ("Line", "line"),
    "circle": ("Circle", "circle"),
    "eraser": ("Eraser", "freedraw"),
}
TOOLS = texts(TOOLS)
TEXT = {
    "tool": "Tool",
    "width": "Width",
    "color": "Colour",
    "clear": "Clear",
    "clear_help": "Start again on an empty canvas.",
    "back": "Bring back",
    "back_help": "The last drawing that was taken off the canvas.",
    "hint": "Single strokes can be moved: above the canvas, when the mouse is on it.",
}
TEXT = texts(TEXT)
_STATE = "_canvas"
_KEPT = ("strokes", "png", "paper")


@dataclass(frozen=True)
class Underlay:
    """What lies under the strokes: a stored picture, and whether it is part of the drawing or only traced.

    `lines` is a stored picture that is the drawing as long as `picture` is only traced; `shown` says whether it is seen
    over that one (a photo would hide it). `size` is that of a canvas that was drawn on before `picture` came under it.
    """

    picture: str
    drawn: bool
    opacity: float = 0.4
    lines: str | None = None
    shown: bool = True
    size: tuple[int, int] | None = None

    @property
    def drawing(self) -> str | None:
        """The stored picture that is part of the drawing, and stays so when another one is laid under it."""
        return self.picture if self.drawn else self.lines

    def without(self) -> Underlay | None:
        """What is left when the picture is taken away: the lines that it was laid under."""
        return Underlay(self.lines, drawn=True) if self.lines else None


def kept() -> dict[str, Any]:
    """What is kept of this browser's canvas: strokes, their PNG, paper. From disk once per session."""
    if _STATE not in st.session_state:
        saved = studio().canvas(owner())
        st.session_state[_STATE] = {"number": 0} | {name: saved.get(name) for name in _KEPT}
    state: dict[str, Any] = st.session_state[_STATE]
    return state


def _keep() -> None:
    try:
        studio().save_canvas(_current(), owner())
    except StudioError as error:
        st.warning(text.say(error), icon=":material/save:")


def _current() -> dict[str, Any]:
    return {name: kept()[name] for name in _KEPT}


def underlay() -> Underlay | None:
    """What lies under the strokes, if anything and as far as it is still in the store."""
    state = kept()
    if not state["paper"]:
        return None
    under: Underlay | None = Underlay(**state["paper"])
    if under and under.lines and not _stored(under.lines):
        under = replace(under, lines=None)
    if under and not _stored(under.picture):
        under = under.without()
    state["paper"] = asdict(under) if under else None
    return under


def _stored(id: str) -> bool:
    try:
        studio().picture(id, owner())
    except StudioError:
        return False
    return True


def strokes() -> bool:
    """Whether anything was drawn by hand."""
    state = kept()
    return bool(state["strokes"] and state["strokes"].get("objects") and state["png"])


def set_underlay(under: Underlay | None, keep_strokes: bool = False) -> None:
    """Lay a picture under the canvas (None: nothing). Strokes go unless they are to be kept; `back` has them still."""
    state = kept()
    if not keep_strokes and strokes():
        state["before"] = _current()
    state["paper"] = asdict(under) if under is not None else None
    if not keep_strokes:
        state["strokes"], state["png"] = None, None
        _renew(state)
    _keep()


def clear() -> None:
    """No strokes and nothing under them."""
    set_underlay(None)


def back() -> None:
    """The last drawing of which the strokes went; what is drawn by hand instead of it can be brought back in turn."""
    state = kept()
    before = state.pop("before")
    if strokes():
        state["before"] = _current()
    state.update(before)
    _renew(state)
    _keep()


def _renew(state: dict[str, Any]) -> None:
    # another key is another component: the only way to take strokes away from outside
    state["number"] += 1
    state.pop("base", None)


def _past() -> Steps:
    past: Steps = kept().setdefault("past", Steps([(kept()["strokes"], kept()["png"])]))
    return past


def _put(drawn: tuple[Any, Any]) -> None:
    state = kept()
    state["strokes"], state["png"] = drawn
    _renew(state)
    _keep()


def tools() -> tuple[str, int, str]:
    """Tool, width in pixels and colour, as chosen above the canvas."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        tool = st.segmented_control(
            TEXT["tool"], list(TOOLS), default="pencil" if "canvas_tool" not in st.session_state else None,
            required=True, format_func=lambda name: TOOLS[name][0], key="canvas_tool",
            persist_state="session",
        )  # fmt: skip
        width = st.slider(TEXT["width"], 1, 30, 4, key="canvas_width", width=100, persist_state="session")
        color = st.color_picker(TEXT["color"], "#2A2135", key="canvas_color", persist_state="session")
    return tool or "pencil", width, color


def size() -> tuple[int, int]:
    """The size of the canvas as it was drawn last."""
    sides: tuple[int, int] = kept().get("size", (SIDE, SIDE))
    return sides


def size_of(picture: Image.Image | None) -> tuple[int, int]:
    """The canvas's size: square, or the shape of what lies under it (at most 2:1)."""
    if picture is None:
        return SIDE, SIDE
    shape = min(2.0, max(0.5, picture.width / picture.height))
    return (SIDE, round(SIDE / shape)) if shape >= 1 else (round(SIDE * shape), SIDE)


def on_white(picture: Image.Image | None, size: tuple[int, int], opacity: float = 1.0) -> Image.Image:
    """White paper of this size with the whole picture on it, as faint as asked."""
    white = Image.new("RGB", size, "white")
    if picture is None:
        return white
    scale = min(size[0] / picture.width, size[1] / picture.height)
    fitted = picture.convert("RGB").resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS
    )
    offset = ((size[0] - fitted.width) // 2, (size[1] - fitted.height) // 2)
    laid = white.copy()
    laid.paste(fitted, offset)
    return Image.blend(white, laid, opacity)


def canvas() -> bytes | None:
    """Draw the canvas with its tools; the drawing as PNG (strokes, and the paper where it is part of it), or None.

    None: there is nothing on it. Must run on every run of its page.
    """
    from streamlit_drawable_canvas import st_canvas  # registers itself with the running app, so not sooner

    state, under = kept(), underlay()
    tool, width, color = tools()
    row = st.container(horizontal=True, gap="small")
    picture, drawing = _picture(under.picture if under else None), _picture(under.drawing if under else None)
    # strokes stay where they are on the lines that they were added to
    size = state["size"] = (under and under.size) or size_of(drawing or picture)
    # What the component begins with is fixed while it stays on the page: it would take any change as an order.
    if st.session_state.get("_arrived") or "base" not in state:
        state["base"] = state["strokes"]
    laid = on_white(picture, size, under.opacity if under is not None and not under.drawn else 1.0)
    if under is not None and under.shown:
        laid = ImageChops.darker(laid, on_white(drawing, size))
    with st.container(key="canvas_frame"):
        result = st_canvas(
            fill_color="rgba(255, 255, 255, 0)",
            stroke_width=width * (4 if tool == "eraser" else 1),
            stroke_color="#ffffff" if tool == "eraser" else color,
            background_image=laid,
            initial_drawing=state["base"],
            drawing_mode=TOOLS[tool][1],
            width=size[0],
            height=size[1],
            return_image_data=True,
            key=f"canvas_{state['number']}",
        )
    st.html(steps.KEYS, unsafe_allow_javascript=True)
    st.caption(TEXT["hint"])
    drawn = result.json_data
    if drawn is not None and drawn.get("objects") != (state["strokes"] or {}).get("objects", []):
        state["strokes"] = drawn
        # back on the page the strokes are there before their picture is: then the last one stands for them
        state["png"] = base64.b64encode(result.image_bytes).decode() if result.image_bytes else state["png"]
        _keep()
    _past().note((state["strokes"], state["png"]))
    with row:  # when it is known what was drawn
        steps.buttons(_past(), "canvas", _put)
        st.button(TEXT["clear"], icon=":material/delete:", key="canvas_clear", help=TEXT["clear_help"], on_click=clear)
        if "before" in kept():
            st.button(TEXT["back"], icon=":material/undo:", key="canvas_back", help=TEXT["back_help"], on_click=back)
    return composed(state["png"] if strokes() else None, drawing, size)


def _picture(id: str | None) -> Image.Image | None:
    if id is None:
        return None
    with Image.open(io.BytesIO(studio().picture_bytes(id, owner()))) as opened:
        return opened.convert("RGB")


def composed(png: str | None, drawing: Image.Image | None, size: tuple[int, int]) -> bytes | None:
    """The picture that is part of the drawing and the strokes (`png`, base64) as one PNG on white; None for neither.

    Strokes stand where they were drawn, from the upper left corner, as the canvas itself has them in every shape.
    """
    if png is None and drawing is None:
        return None
    whole = on_white(drawing, size).convert("RGBA")
    if png is not None:
        with Image.open(io.BytesIO(base64.b64decode(png))) as drawn:
            field = Image.new("RGBA", size)
            field.paste(_visible(drawn.convert("RGBA")))
        whole.alpha_composite(field)
    stream = io.BytesIO()
    whole.convert("RGB").save(stream, "PNG")
    return stream.getvalue()


def _visible(strokes: Image.Image) -> Image.Image:
    """Strokes (RGBA) of which pale ones are darker: whoever draws in pink means a line as well.

    Beside black a pale line of an upload is taken for shading. White, the eraser's colour, stays white.
    """
    array = np.asarray(strokes).copy()
    depth = 255 - array[..., :3].astype(np.float32)  # of each channel, below white
    deepest = depth.max(axis=2, keepdims=True)
    times = np.where(deepest > FAINT, np.maximum(1, VISIBLE / np.maximum(deepest, 1)), 1)
    array[..., :3] = 255 - depth * times
    return Image.fromarray(array)
