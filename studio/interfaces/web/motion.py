"""What the morph and the animation page share: most of the form, the strip of frames, the loop, its files.

Knows widgets and the service; what a morph or an animation is stands in the pages. `prefix` is what the keys of a
page's widgets begin with; `said` are the page's own texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import streamlit as st

from studio.core.errors import StudioError
from studio.core.i18n import texts
from studio.core.samplers import INVERSION_STEPS
from studio.core.settings import settings
from studio.core.specs import EMOTIONS, Emotion, GenerateSpec, Keyframe, bounds
from studio.core.views import Picture
from studio.features.animate.spec import AnimateSpec
from studio.features.morph.spec import MorphSpec
from studio.interfaces.web import character, inputs, parameters, text, widgets
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio
from studio.service import parse_spec

TEXT = {
    "source": "The character",
    "upload": "A picture of the character",
    "drawn": "Without a picture, the character is drawn first.",
    "recent": "Or one of your last pictures",
    "without": "Without this picture",
    "words": "Who it is",
    "words_hint": "Who it is: red hair, blue eyes, hoodie…",
    "words_upload_hint": "What the picture shows: red hair, blue eyes, hoodie…",
    "words_upload_more": "What the picture shows can be said below. Left empty, it is read from the picture if the "
    "model has a judge, as the embedded one does; with any other model only the emotion is known.",
    "words_upload": "What the picture shows",
    "as_drawn": "as in the picture",
    "at_least": "{low} or more",
    "inverted": "To keep a picture, it is taken back to noise in small steps.",
    "add": "Add an emotion",
    "clear": "Clear",
    "no_chain": "No emotion yet: add the first one below.",
    "twice": "The same emotion stands twice in a row: put another one between, or take one out.",
    "more": "More settings",
    "emotion": "Emotion",
    "frame": "Frame",
    "strength": "Strength",
    "hold": "Stays for",
    "marks": "Several keyframes on one frame: only the last of them counts.",
    "note": "Frame 1 is the first. An empty strength follows the slider above.",
}
TEXT = texts(TEXT)
MotionSpec = MorphSpec | AnimateSpec
LEFT_OUT = ("guidance", "width", "height", "sampler", *parameters.HIRES)  # as the model, or the picture, has them


# --- the form -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """Places in the bar at the foot, which is always in sight."""

    problem: Any  # what was refused
    shaping: Any  # the chips
    words: Any
    button: Any


def bar(page: str) -> Bar:
    """The bar, with the progress of the page's job while it works."""
    st.session_state.pop(f"refused:{page}", None)  # of another page
    with st.bottom:
        job_id = widgets.current_job(page)
        with suppress(StudioError):
            if job_id and studio().job(job_id, owner()).active:
                widgets.line(job_id)
        problem, shaping = st.empty(), st.container()
        with st.container(horizontal=True, vertical_alignment="center", key=f"{page}_bar"):
            return Bar(problem, shaping, st.container(), st.container(width="content"))


def heading(said: dict[str, str]) -> tuple[Any, Any]:
    """Title and lead, then the places for what is made and for the form."""
    st.title(said["title"], anchor=False)
    st.caption(said["lead"])
    made, form = st.columns([3, 2], gap="medium")
    return made, form


def emotions(spec: type[MotionSpec], said: dict[str, str], key: str) -> tuple[Emotion, ...]:
    """The sequence, in order and with repeats: the upper row shows it and takes one out, the lower one adds to it.

    A widget holds each option once, so the session keeps a list of its own: `happy`, `sad`, `happy 2`.
    """
    order: list[str] = st.session_state.setdefault(f"{key}_order", ["happy", "sad"])

    def numbered(link: str) -> str:
        number = order.index(link) + 1 if link in order else 0  # 0: taken out in this very run
        return f"{number}\u2002{text.emotion_label(_emotion_of(link))} :material/close_small:"

    if order:
        st.session_state[key] = list(order)
        st.pills(
            said["emotions"], list(order), selection_mode="multi", format_func=numbered, help=said["emotions_help"],
            key=key, on_change=_take_out, args=(key,), wrap=True,
        )  # fmt: skip
    else:
        st.caption(TEXT["no_chain"])
    st.caption(TEXT["add"])
    full = len(order) >= bounds(spec, "emotions")["max_length"]
    # Buttons, not pills: of two quick clicks on one widget, a studio that is busy drawing sees the last one only.
    with st.container(horizontal=True, gap="xsmall"):
        for emotion in EMOTIONS:
            st.button(
                text.EMOTION_NAMES[emotion], icon=text.EMOTION_ICONS[emotion], key=f"{key}_add_{emotion}",
                on_click=_add, args=(key, emotion), disabled=full,
            )  # fmt: skip
        if len(order) > 1:
            st.button(
                TEXT["clear"], key=f"{key}_clear", type="tertiary", icon=":material/backspace:", on_click=_clear,
                args=(key,),
            )  # fmt: skip
    return tuple(_emotion_of(link) for link in order)


def _emotion_of(link: str) -> Any:
    return link.split()[0]


def _add(key: str, emotion: Emotion) -> None:
    order: list[str] = st.session_state[f"{key}_order"]
    names = [emotion, *(f"{emotion} {number}" for number in range(2, len(order) + 2))]
    order.append(next(name for name in names if name not in order))


def _take_out(key: str) -> None:
    order: list[str] = st.session_state[f"{key}_order"]
    order[:] = [link for link in order if link in st.session_state[key]]


def _clear(key: str) -> None:
    st.session_state[f"{key}_order"].clear()


def frames(spec: type[MotionSpec], prefix: str) -> int:
    """How many frames."""
    count: int = inputs.number(spec, "frames", f"{prefix}_frames", slider=True)
    return count


def more() -> Any:
    """The place for the settings that are rarely needed; `loop_fields` and `model` end it."""
    return st.expander(TEXT["more"], icon=":material/tune:")


def loop_fields(spec: type[MotionSpec], prefix: str) -> dict[str, Any]:
    """Whether it runs back, how fast, and the format that is written first: fields of the spec."""
    return {name: inputs.field(spec, name, f"{prefix}_{name}") for name in ("pingpong", "fps", "format")}


def start_button(
    spec: type[MotionSpec], said: dict[str, str], chosen: Sequence[Emotion], prefix: str, icon: str
) -> bool:
    """The button that starts it; it can't be pressed, and says why, while the emotions make no sequence."""
    why = None
    if len(chosen) < bounds(spec, "emotions")["min_length"]:
        why = said["too_few"]
    elif spec is MorphSpec and any(one == other for one, other in pairwise(chosen)):
        why = TEXT["twice"]
    if why:
        st.caption(why, width="content")
    return st.button(
        said["draw"], type="primary", icon=icon, shortcut="Ctrl+Enter", key=f"{prefix}_draw", disabled=bool(why),
        help=why,
    )  # fmt: skip


def start(spec: type[MotionSpec], page: str, base: dict[str, Any], chosen: tuple[Emotion, ...], **given: Any) -> None:
    """Submit the form, `base` being the fields of its `GenerateSpec`, and draw the page anew.

    What is refused is said; see `widgets.refusals`.
    """
    kind = spec.model_fields["kind"].default
    fields = {"kind": kind, "base": {"emotion": chosen[0]} | base, "emotions": chosen}
    with widgets.refusals(page):
        job = widgets.start(parse_spec(fields | given), page)
        asked_for(page, job.id, given["image"], base)
        st.rerun()


def asked_for(page: str, job_id: str, image: str | None, base: dict[str, Any]) -> None:
    """Remember which character the form had when this job was started: see `still_asked_for`."""
    st.session_state[f"who:{page}"] = (job_id, image, base.get("text", ""), base.get("style", ""))


def still_asked_for(page: str, job_id: str | None, image: str | None, base: dict[str, Any]) -> bool:
    """Whether the form describes the character of this job. After a reload an empty form does."""
    asked = st.session_state.get(f"who:{page}")
    who = (image, base.get("text", ""), base.get("style", ""))
    if asked is not None and asked[0] == job_id:
        return bool(asked[1:] == who)
    return image is None and not base.get("text")


def source(page: str, prefix: str, without: str = TEXT["drawn"], title: str = TEXT["source"]) -> str | None:
    """The picture to start from: sent here, uploaded, or one of the last; None to have one drawn.

    `without`: what is said while there is none. `title`: what the picture is here.
    """
    chosen = f"{prefix}_picture"
    if got := widgets.sent(page):
        st.session_state[chosen] = got["picture"]
    with st.expander(title, expanded=True, icon=":material/face:"):
        file = widgets.upload(TEXT["upload"], f"{prefix}_upload")
        if file is not None:
            try:
                st.session_state[chosen] = studio().upload(file.getvalue(), owner(), file.name).id
            except StudioError as error:
                st.error(text.say(error), icon=":material/broken_image:")
        picture = picture_of(st.session_state.get(chosen))
        if picture is None:
            st.session_state.pop(chosen, None)
            st.caption(without)
            _recent(prefix, chosen)
            return None
        with st.container(horizontal=True, vertical_alignment="center"):
            st.image(widgets.thumbnail(picture, 192), width=96, alt=picture.title or text.description(picture.recipe))
            for note in picture.details.get("notes", ()):
                st.caption(text.say(note))
            st.button(
                TEXT["without"], key=f"{prefix}_without", icon=":material/close:", on_click=_without, args=(prefix,)
            )
        return picture.id


def _without(prefix: str) -> None:
    """Let go of the picture, and of the model and the LoRAs that were chosen with it."""
    picture = picture_of(st.session_state.pop(f"{prefix}_picture", None))
    recipe = picture.recipe if picture is not None else None
    if recipe is not None and st.session_state.get(f"{prefix}_model") == recipe.model:
        st.session_state[f"{prefix}_model"] = settings().model
        st.session_state[f"{prefix}_loras"] = []


def why_in_place(image: str | None) -> tuple[str | None, bool]:
    """Why the picture can only be changed in place (None: it can be redrawn), and whether it came from outside."""
    picture = picture_of(image)
    return (studio().why_in_place(picture.id, owner()), picture.recipe is None) if picture else (None, False)


def words(prefix: str, image: str | None, place: Any) -> dict[str, Any]:
    """Fields of a `GenerateSpec` that say who it is. Nothing is asked for a picture that was drawn here.

    `place`: where the line of text stands, in the bar.
    """
    picture = picture_of(image)
    if picture is not None and picture.recipe is not None:
        return {}
    uploaded = picture is not None
    with place:
        said = st.text_input(
            TEXT["words_upload" if uploaded else "words"],
            placeholder=TEXT["words_upload_hint" if uploaded else "words_hint"],
            key=f"{prefix}_words",
            max_chars=1000,
            icon=":material/edit:",
            label_visibility="collapsed",
            persist_state="session",
        )
    if uploaded:
        st.caption(TEXT["words_upload_more"])
        return {"text": said, "style": inputs.buttons(GenerateSpec, "style", f"{prefix}_style")} if said else {}
    style = inputs.buttons(GenerateSpec, "style", f"{prefix}_style")
    return {"text": character.into(said or ""), "style": style}


def model(prefix: str, image: str | None, method: str = "") -> dict[str, Any]:
    """Model, LoRAs, seed and steps. Model and LoRAs of a picture that was drawn here are chosen with it."""
    picture = picture_of(image)
    recipe = picture.recipe if picture is not None else None
    if recipe is not None and st.session_state.get(f"{prefix}_model_of") != image:
        st.session_state[f"{prefix}_model"] = recipe.model
        try:
            widgets.put_loras(f"{prefix}_loras", recipe.loras)
        except StudioError:  # the picker names those that aren't here
            st.session_state[f"{prefix}_loras"] = [ref.path for ref in recipe.loras]
    st.session_state[f"{prefix}_model_of"] = image
    blank = "" if recipe is None else TEXT["as_drawn"]
    hints: dict[str, dict[str, Any]] = {}
    if method == "picture":
        hints["steps"] = {
            "min_value": INVERSION_STEPS,
            "because": TEXT["inverted"],
            "placeholder": TEXT["at_least"].format(low=INVERSION_STEPS),
        }
    return parameters.form(prefix, without=LEFT_OUT, blank=blank, hints=hints)


def keyframes(prefix: str, frames: int) -> tuple[Keyframe, ...]:
    """A small table of keyframes; frames count from 1 there.

    Its rows are kept in the session. A table holds what was typed only as long as it is drawn with the same rows and
    limits; after another number of frames, or a visit to another page, a new one starts with the rows of the old.
    """
    kept: dict[str, Any] = st.session_state.setdefault(
        f"{prefix}_marks",
        {
            "table": 0,
            "frames": frames,
            "rows": [
                {"emotion": "happy", "frame": 1, "strength": None, "hold": 1},
                {"emotion": "sad", "frame": frames, "strength": None, "hold": 2},
            ],
        },
    )
    if kept["frames"] != frames or f"{prefix}_marks_{kept['table']}" not in st.session_state:
        moved = _moved(kept["rows"], kept["frames"], frames)
        kept.update(table=kept["table"] + 1, frames=frames, rows=moved, first=moved)
    # Without rows the table would have no columns: one that was emptied starts with an empty row.
    rows: list[dict[str, Any]] = st.data_editor(
        kept["first"] or [{"emotion": None, "frame": None, "strength": None, "hold": 1}],
        num_rows="dynamic",
        hide_index=True,
        key=f"{prefix}_marks_{kept['table']}",
        column_config={
            "emotion": st.column_config.SelectboxColumn(TEXT["emotion"], options=list(EMOTIONS), required=True),
            "frame": st.column_config.NumberColumn(TEXT["frame"], min_value=1, max_value=frames, step=1, required=True),
            "strength": st.column_config.NumberColumn(TEXT["strength"], min_value=0.05, max_value=1.0, step=0.05),
            "hold": st.column_config.NumberColumn(TEXT["hold"], min_value=1, max_value=32, step=1, default=1),
        },
    )
    kept["rows"] = rows = [dict(row) for row in rows if row.get("emotion") and row.get("frame")]
    st.caption(TEXT["note"])
    by_frame: dict[int, Keyframe] = {}
    for row in rows:
        frame = int(row["frame"]) - 1
        by_frame[frame] = Keyframe(
            emotion=row["emotion"], frame=frame, strength=row.get("strength"), hold=int(row.get("hold") or 1)
        )
    if len(by_frame) < len(rows):
        st.caption(TEXT["marks"])
    return tuple(by_frame[frame] for frame in sorted(by_frame))


def _moved(rows: list[dict[str, Any]], before: int, now: int) -> list[dict[str, Any]]:
    """Keyframes for another number of frames: the last one stays at the end if it stood there, none stands past it."""
    rows = sorted(rows, key=lambda row: row["frame"])
    ends = bool(rows) and rows[-1]["frame"] == before
    moved = [row | {"frame": min(row["frame"], now)} for row in rows]
    return [*moved[:-1], moved[-1] | {"frame": now}] if ends else moved


def picture_of(id: str | None) -> Picture | None:
    """The picture of this name, if this browser has it."""
    with suppress(StudioError):
        return studio().picture(id, owner()) if id else None
    return None


def _recent(prefix: str, chosen: str) -> None:
    latest = studio().gallery(owner(), kind="picture", limit=4)
    if not latest:
        return
    st.caption(TEXT["recent"])
    with st.container(horizontal=True, gap="xsmall"):
        for picture in latest:
            with st.container(width=88):
                if widgets.picture_card(picture, f"{prefix}_{picture.id}"):
                    st.session_state[chosen] = picture.id
                    st.rerun()
