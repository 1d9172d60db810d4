"""Pieces of the sketch page: what lies under the canvas, how strictly the drawing is followed, the results.

Knows widgets and the service; the canvas itself is `canvas`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import streamlit as st

from studio.core.errors import StudioError
from studio.core.i18n import texts
from studio.core.settings import ASSETS
from studio.core.specs import EMOTIONS, ControlSpec, GenerateSpec
from studio.core.views import ControlView, JobView, Picture
from studio.features.sketch.spec import SketchSpec
from studio.interfaces.web import canvas, character, inputs, parameters, request, results, text, widgets
from studio.interfaces.web.canvas import Underlay
from studio.interfaces.web.chips import Chip, of
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio
from studio.service import Studio

EXAMPLES = ASSETS / "examples" / "sketches"
TEXT = {
    "under": "Under the canvas",
    "upload": "A drawing, a photo of one, or a picture",
    "upload_help": "PNG, JPEG, WebP, GIF or BMP, up to 20 MB. A photo of paper may be unevenly lit.",
    "examples": "Example sketches",
    "part": "It is part of the drawing",
    "part_help": "Off: it only lies under the canvas, to be traced.",
    "opacity": "How visible",
    "without": "Without it",
    "sees": "What the model sees",
    "sees_nothing": "Draw something: its lines appear here as the model will see them.",
    "thresholds": "Thresholds used: {low} and {high}",
    "span": "From and to",
    "span_help": "The share of the steps in which the drawing steers. Ending early leaves details to the model.",
    "strict": "Following the drawing",
    "span_chip": "Follows: {} of the steps",
    "net_chip": "ControlNet: {}",
    "model": "Model and seed",
    "trace": "Trace over this",
    "trace_help": "Lays this picture under your lines and keeps its seed: draw a change and press Draw again.",
    "seen": "It followed these lines",
}
TEXT = texts(TEXT)
KINDS = {
    "lines": "Every stroke is one line, whatever its width: right for drawings.",
    "canny": "The edges of a picture (Canny): right for photos and finished pictures.",
}
KINDS = texts(KINDS)
LEFT_OUT = ("width", "height")  # the canvas has a shape, and the model its number of pixels


# --- under the canvas ---------------------------------------------------------------------------------------------


def underlay_form() -> None:
    """Upload, examples, and what to do with the picture that lies under the canvas."""
    underlay = canvas.underlay()
    with st.expander(TEXT["under"], icon=":material/layers:", expanded=underlay is not None):
        if underlay is not None:
            for name in ("drawn", "opacity"):  # the widgets show what the canvas has, whoever put it there
                if st.session_state.get(f"sk_{name}") != getattr(underlay, name):
                    st.session_state[f"sk_{name}"] = getattr(underlay, name)
            st.toggle(TEXT["part"], key="sk_drawn", help=TEXT["part_help"], on_change=_change)
            if not underlay.drawn:
                st.slider(TEXT["opacity"], 0.1, 1.0, step=0.1, key="sk_opacity", on_change=_change)
            st.button(
                TEXT["without"], key="sk_without", icon=":material/close:", on_click=canvas.set_underlay,
                args=(underlay.without(), True),
            )  # fmt: skip
        file = widgets.upload(TEXT["upload"], "sk_upload", help=TEXT["upload_help"], max_upload_size=20)
        if file is not None:
            try:
                picture = studio().upload(file.getvalue(), owner(), file.name)
                _lay_under(picture)
            except StudioError as error:
                st.error(text.say(error), icon=":material/broken_image:")
            else:
                for note in picture.details.get("notes", ()):
                    st.toast(note)
                st.rerun()
    st.caption(TEXT["examples"])
    with st.container(horizontal=True, gap="small", key="sk_examples"):
        for path in sorted(EXAMPLES.glob("*.png")):
            name = path.stem.replace("_", " ").capitalize()
            st.button(name, key=f"sk_example_{path.stem}", on_click=_example, args=(path.stem,), type="tertiary",
                      icon=":material/draw:")  # fmt: skip


def _change() -> None:
    if underlay := canvas.underlay():
        drawn, opacity = st.session_state["sk_drawn"], st.session_state.get("sk_opacity", underlay.opacity)
        canvas.set_underlay(replace(underlay, drawn=drawn, opacity=opacity), keep_strokes=True)


def _lay_under(picture: Picture) -> None:
    """An uploaded picture: a drawing becomes part of the drawing, with its lines as they are; else its edges count.

    Where something was drawn by hand, that stays the drawing, and the picture lies under it to be traced.
    """
    if canvas.strokes():
        canvas.set_underlay(replace(_beneath(picture.id), size=canvas.size()), keep_strokes=True)
        return
    paper, st.session_state["sk_kind"] = studio().drawable(picture.id, owner())
    canvas.set_underlay(Underlay(paper.id, drawn=True))


def _example(stem: str) -> None:
    try:
        picture = studio().upload((EXAMPLES / f"{stem}.png").read_bytes(), owner(), f"{stem}.png")
    except StudioError as problem:
        st.session_state["sk_problem"] = str(problem)
        return
    canvas.set_underlay(Underlay(picture.id, drawn=True))
    words = (EXAMPLES / f"{stem}.txt").read_text(encoding="utf-8").strip()
    tags = [tag.strip() for tag in words.split(",")]
    emotion = next((tag for tag in tags if tag in EMOTIONS), EMOTIONS[0])
    plain = [tag for tag in tags if tag not in (emotion, "solo", "looking at viewer")]
    st.session_state.update({"sk_text": ", ".join(plain), "sk_emotion": emotion, "sk_kind": "lines"})


def receive(page: str) -> None:
    """A picture that another page sent here: its drawing, where it followed one; else to be traced."""
    if (got := widgets.sent(page)) and not draw_again(got["picture"]):
        trace(got["picture"], keep_strokes=False)


def draw_again(picture_id: str) -> bool:
    """Lay the drawing that a picture followed on the canvas, with all that the form has of its recipe.

    False, and nothing happens, when it followed none, or its drawing isn't here any more.
    """
    recipe = studio().picture(picture_id, owner()).recipe
    if recipe is None or recipe.control is None:
        return False
    control, state = recipe.control, st.session_state
    drawing = _followed(control)
    if drawing is None:
        return False
    canvas.set_underlay(Underlay(drawing, drawn=True))
    for name in ("kind", "low", "high", "weight", "control_mode"):
        state[f"sk_{name}"] = getattr(control, name)
    state["sk_span"], state["sk_net"] = (control.start, control.end), control.model or ""
    _fill(picture_id)
    return True


def _followed(control: ControlSpec) -> str | None:
    """The stored drawing that a picture followed, as one that can be drawn on; None where it isn't here any more."""
    try:
        if control.kind == "lines":
            return studio().drawable(control.image, owner())[0].id
        return studio().picture(control.image, owner()).id
    except StudioError:
        return None


def _fill(picture_id: str) -> None:
    """Put the recipe of a picture into the fields that aren't about the drawing; what isn't here is said."""
    imported, state = studio().recipe_of(picture_id, owner()), st.session_state
    for name in ("text", "emotion", "style"):
        state[f"sk_{name}"] = getattr(imported.spec, name)
    parameters.fill("sk", imported.spec, without=LEFT_OUT)
    if imported.notes:
        state["sk_problem"] = " ".join(imported.notes)


def _beneath(picture_id: str) -> Underlay:
    """Paper with a picture that is only traced: what lies there as the drawing stays the drawing."""
    underlay = canvas.underlay()
    if underlay is None or underlay.drawing is None:
        return Underlay(picture_id, drawn=False)
    if underlay.picture == picture_id:
        return replace(underlay, drawn=False)
    if underlay.drawing == picture_id:  # under another one; nothing is traced from itself
        return Underlay(picture_id, drawn=True)
    shown = st.session_state.get("sk_kind", "lines") == "lines" if underlay.drawn else underlay.shown
    return Underlay(picture_id, drawn=False, lines=underlay.drawing, shown=shown)


def trace(picture_id: str, keep_strokes: bool = True) -> None:
    """Lay a picture under what was drawn, which stays the drawing, and keep its seed.

    On an empty canvas the lines that the picture followed are the drawing again. Without `keep_strokes` it is a new
    page: nothing of the old one stays, and all that the form has of the picture's recipe is put into it.
    """
    recipe = studio().picture(picture_id, owner()).recipe
    laid = _beneath(picture_id) if keep_strokes else Underlay(picture_id, drawn=False)
    if keep_strokes and not (laid.drawing or canvas.strokes()) and recipe is not None and recipe.control is not None:
        laid = replace(laid, lines=_followed(recipe.control), shown=recipe.control.kind == "lines")
    canvas.set_underlay(laid, keep_strokes)
    if recipe is None:
        return
    if keep_strokes:
        st.session_state["sk_seed"] = recipe.seed
    else:
        _fill(picture_id)


# --- how the drawing is followed ------------------------------------------------------------------------------------


def control_preview(drawing: bytes | None, model: str, service: Studio) -> tuple[dict[str, Any], ControlView | None]:
    """The control image, live, and the fields that shape it; (fields of ControlSpec, None where there is none)."""
    kind = inputs.buttons(ControlSpec, "kind", "sk_kind", help=None)
    st.caption(KINDS[kind])
    container = st.container(key="stage_control", width="content")
    fields: dict[str, Any] = {"kind": kind}
    chosen: ControlView | None = None
    if kind == "canny":
        with st.container(horizontal=True):
            for name in ("low", "high"):
                fields[name] = inputs.number(ControlSpec, name, f"sk_{name}")
        if None not in fields.values() and fields["low"] >= fields["high"]:
            fields["high"] = None  # they exclude each other: the upper one is chosen for the lower one
    if drawing is None:
        container.caption(TEXT["sees_nothing"])
    else:
        try:
            chosen = service.control_image(drawing, ControlSpec(image="canvas", **fields), model)
            container.image(chosen.png, width=256, alt=TEXT["sees"])
            if chosen.low is not None:
                container.caption(TEXT["thresholds"].format(low=chosen.low, high=chosen.high))
        except StudioError as problem:
            container.info(str(problem), icon=":material/draw:")
    return fields, chosen


def strictness() -> dict[str, Any]:
    """Weight, span of steps, what matters more, and the ControlNet."""
    with st.expander(TEXT["strict"], icon=":material/tune:"):
        weight = inputs.number(ControlSpec, "weight", "sk_weight", slider=True)
        start, end = st.slider(
            TEXT["span"], 0.0, 1.0, (0.0, 1.0), 0.05, key="sk_span", help=TEXT["span_help"], persist_state="session"
        )
        mode = inputs.choice(ControlSpec, "control_mode", "sk_control_mode")
        net = inputs.line(ControlSpec, "model", "sk_net")
    if start >= end:
        start, end = (start, start + 0.05) if start < 1 else (0.95, 1.0)
    return {"weight": weight, "start": start, "end": end, "control_mode": mode, "model": net}


def chips() -> list[Chip]:
    """What was changed of how the drawing is followed."""
    found = of(ControlSpec, ("weight", "control_mode"), "sk")
    for key, first, label in (("sk_span", (0.0, 1.0), TEXT["span_chip"]), ("sk_net", "", TEXT["net_chip"])):
        if (value := st.session_state.get(key)) and value != first:
            said = "–".join(f"{part:.0%}" for part in value) if key == "sk_span" else str(value).rsplit("/", 1)[-1]
            found.append(Chip(key, label.format(said), partial(st.session_state.update, {key: first})))
    return found


def rest() -> dict[str, Any]:
    """Model, seed, steps, guidance, LoRAs and so on."""
    with st.expander(TEXT["model"], icon=":material/memory:"):
        return parameters.form("sk", without=LEFT_OUT)


# --- results ----------------------------------------------------------------------------------------------------------


def show(job: JobView) -> None:
    """The pictures of a job, each with "trace over this", beside the lines that they followed."""
    pictures: list[Picture] = []
    for id in job.pictures:
        try:
            pictures.append(studio().picture(id, owner()))
        except StudioError:
            continue  # deleted since
    drawn = [picture for picture in pictures if picture.kind != "control"]
    grid = st.grid("auto", min_column_width=150, gap="small")
    for index, picture in enumerate(drawn):
        with grid.cell():
            seed = f"seed {picture.recipe.seed}" if picture.recipe else ""
            key = f"sk_{job.id}_{index}"
            if widgets.picture_card(picture, key, seed):
                st.session_state["sk_shown"] = picture.id
            st.button(
                TEXT["trace"], key=f"trace_{key}", icon=":material/layers:", help=TEXT["trace_help"], on_click=trace,
                args=(picture.id,), width="stretch",
            )  # fmt: skip
    results.summary_line(job)
    large = next((one for one in drawn if one.id == st.session_state.get("sk_shown")), drawn[0] if drawn else None)
    if large is not None:
        results.large(large)
    for picture in pictures:
        if picture.kind == "control":
            with st.expander(TEXT["seen"], icon=":material/timeline:"):
                st.image(studio().picture_bytes(picture.id, owner()), width=256, alt=TEXT["seen"])


def ask() -> None:
    """Let the page submit what it shows, once it has read all its fields: see `start`.

    As a callback: a stroke that is sent while the page still answers to the button can't swallow the click then.
    """
    st.session_state["sk_asked"] = True


def start(page: str, drawing: bytes | None, base: dict[str, Any], control: dict[str, Any]) -> None:
    """Submit a drawing, with the words as they are now, if that was asked for."""
    if not st.session_state.pop("sk_asked", False) or drawing is None:
        return
    try:
        image = studio().upload(drawing, owner(), "sketch.png").id
        spec = GenerateSpec(text=character.into((st.session_state.get("sk_text") or "").strip()), **base)
        widgets.start(SketchSpec(base=spec, control=ControlSpec(image=image, **control)), page)
    except StudioError as problem:
        st.session_state["sk_problem"] = str(problem)


def words() -> dict[str, Any]:
    """Emotion, style and number of pictures."""
    emotion = request.emotion_pills("sk_emotion")
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        style = inputs.choice(GenerateSpec, "style", "sk_style")
        count = inputs.number(GenerateSpec, "count", "sk_count", value=2, max_value=8, width=110, help=None)
    return {"emotion": emotion, "style": style, "count": int(count or 1)}
