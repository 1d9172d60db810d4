"""What the morph and the animation page share: most of the form, the strip of frames, the loop, its files.

Knows widgets and the service; what a morph or an animation is stands in the pages. `prefix` is what the keys of a
page's widgets begin with; `said` are the page's own texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any, get_args

import streamlit as st

from studio.core.errors import StudioError
from studio.core.fields import describe
from studio.core.specs import EMOTIONS, AnimationFormat, Emotion, GenerateSpec, Keyframe, bounds
from studio.core.views import JobView, Picture
from studio.features.animate.spec import AnimateSpec, SpritesSpec
from studio.features.morph.spec import MorphSpec
from studio.interfaces.web import frame, inputs, parameters, text, widgets
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
    "words_help": "Hair, eyes, clothes. The emotion is added by itself.",
    "words_upload": "What the picture shows",
    "words_upload_help": "Left empty, it is read from the picture if the model has a judge, as the embedded one does; "
    "with any other model only the emotion is known.",
    "as_drawn": "as in the picture",
    "add": "Add an emotion",
    "clear": "Clear",
    "no_chain": "No emotion yet: add the first one below.",
    "twice": "The same emotion stands twice in a row: put another one between, or take one out.",
    "more": "More settings",
    "strip": "Frames",
    "filmstrip": "Filmstrip",
    "filmstrip_keep": "Download the filmstrip",
    "singles": "Single frames",
    "keep": "Download the animation",
    "empty_more": "Frames appear here one by one.",
    "sprites": "Emotion sprites",
    "sprites_more": "One picture of the character on this page for each of the five emotions, named as chat front ends "
    "look for them (joy.png, anger.png and so on), in one ZIP.",
    "sprites_draw": "Make the set",
    "sprites_keep": "Download the set",
    "emotion": "Emotion",
    "frame": "Frame",
    "strength": "Strength",
    "hold": "Stays for",
    "marks": "Several keyframes on one frame: only the last of them counts.",
    "note": "Frame 1 is the first. An empty strength follows the slider above.",
}
FORMAT_NAMES = describe(MorphSpec, "format").about.names
MEDIA = {"gif": "image/gif", "apng": "image/apng", "webp": "image/webp", "mp4": "video/mp4", "zip": "application/zip"}
FORMATS: tuple[AnimationFormat, ...] = get_args(AnimationFormat)
MotionSpec = MorphSpec | AnimateSpec
LEFT_OUT = ("guidance", "width", "height", "sampler")  # as the model, or the picture, has them


# --- the form -------------------------------------------------------------------------------------------------------


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


def pressed(spec: type[MotionSpec], said: dict[str, str], chosen: Sequence[Emotion], prefix: str, icon: str) -> bool:
    """The button that starts it; it can't be pressed, and says why, while the emotions make no sequence."""
    why = None
    if len(chosen) < bounds(spec, "emotions")["min_length"]:
        why = said["too_few"]
    elif spec is MorphSpec and any(one == other for one, other in pairwise(chosen)):
        why = TEXT["twice"]
    if why:
        st.caption(why)
    return st.button(
        said["draw"], type="primary", icon=icon, shortcut="Ctrl+Enter", key=f"{prefix}_draw", disabled=bool(why),
        help=why,
    )  # fmt: skip


def start(spec: type[MotionSpec], page: str, base: dict[str, Any], chosen: tuple[Emotion, ...], **given: Any) -> None:
    """Submit the form, `base` being the fields of its `GenerateSpec`, and draw the page anew. Raises StudioError."""
    kind = spec.model_fields["kind"].default
    fields = {"kind": kind, "base": {"emotion": chosen[0]} | base, "emotions": chosen}
    widgets.start(parse_spec(fields | given), page)
    st.rerun()


def source(page: str, prefix: str) -> str | None:
    """The picture to start from: sent here, uploaded, or one of the last; None to have one drawn."""
    chosen = f"{prefix}_picture"
    if got := widgets.sent(page):
        st.session_state[chosen] = got["picture"]
    with st.expander(TEXT["source"], expanded=True, icon=":material/face:"):
        file = st.file_uploader(TEXT["upload"], ["png", "jpg", "jpeg", "webp", "gif", "bmp"], key=f"{prefix}_upload")
        if file is not None and st.session_state.get(f"{prefix}_taken") != file.file_id:
            st.session_state[f"{prefix}_taken"] = file.file_id
            try:
                st.session_state[chosen] = studio().upload(file.getvalue(), owner(), file.name).id
            except StudioError as error:
                st.error(str(error), icon=":material/broken_image:")
        picture = _picture(st.session_state.get(chosen))
        if picture is None:
            st.session_state.pop(chosen, None)
            st.caption(TEXT["drawn"])
            _recent(prefix, chosen)
            return None
        with st.container(horizontal=True, vertical_alignment="center"):
            st.image(widgets.thumbnail(picture, 192), width=96, alt=picture.title or text.description(picture.recipe))
            for note in picture.details.get("notes", ()):
                st.caption(text.escape(note))
            if st.button(TEXT["without"], key=f"{prefix}_without", icon=":material/close:"):
                del st.session_state[chosen]
                st.rerun()
        return picture.id


def why_in_place(image: str | None) -> tuple[str | None, bool]:
    """Why the picture can only be changed in place (None: it can be redrawn), and whether it came from outside."""
    picture = _picture(image)
    return (studio().why_in_place(picture.id, owner()), picture.recipe is None) if picture else (None, False)


def words(prefix: str, image: str | None) -> dict[str, Any]:
    """Fields of a `GenerateSpec` that say who it is. Nothing is asked for a picture that was drawn here."""
    picture = _picture(image)
    if picture is not None and picture.recipe is not None:
        return {}
    uploaded = picture is not None
    said = st.text_input(
        TEXT["words_upload" if uploaded else "words"],
        help=TEXT["words_upload_help" if uploaded else "words_help"],
        key=f"{prefix}_words",
        max_chars=1000,
        persist_state="session",
    )
    if uploaded and not said:
        return {}
    style = inputs.buttons(GenerateSpec, "style", f"{prefix}_style")
    return {"text": said, "style": style}


def model(prefix: str, image: str | None) -> dict[str, Any]:
    """Model, LoRAs, seed and steps. Model and LoRAs of a picture that was drawn here are chosen with it."""
    picture = _picture(image)
    recipe = picture.recipe if picture is not None else None
    if recipe is not None and st.session_state.get(f"{prefix}_model_of") != image:
        st.session_state[f"{prefix}_model"] = recipe.model
        try:
            widgets.put_loras(f"{prefix}_loras", recipe.loras)
        except StudioError:  # the picker names those that aren't here
            st.session_state[f"{prefix}_loras"] = [ref.path for ref in recipe.loras]
    st.session_state[f"{prefix}_model_of"] = image
    return parameters.form(prefix, without=LEFT_OUT, blank="" if recipe is None else TEXT["as_drawn"])


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


# --- what was made --------------------------------------------------------------------------------------------------


def stage(page: str, empty: str) -> None:
    """The page's job while it works, and its loop, strip and files afterwards."""
    job_id = widgets.current_job(page)
    job = widgets.job_panel(job_id, page) if job_id else None
    if job is not None and not job.active:
        for note in job.notes:
            st.caption(text.escape(note))
    if job is None and not job_id:
        with st.container(key=f"stage_{page}_empty", horizontal_alignment="center"):
            st.image(str(frame.STATIC / "mark.svg"), width=96, alt="")
            st.markdown(f"#### {empty}", text_alignment="center")
            st.caption(TEXT["empty_more"], text_alignment="center")
    elif job is not None and job.active:
        st.fragment(_frames_so_far, run_every=widgets.POLL)(job.id)
    elif job is not None and job.state != "done":
        strip(job)
    elif job is not None and "sprites" in job.result:
        strip(job)
        _sprites_of(job)
        with suppress(StudioError):  # there was no morph before it, or it is gone
            earlier = studio().job(st.session_state.get(f"before_sprites:{page}", ""), owner())
            loop(earlier)
            filmstrip(earlier)
    elif job is not None:
        loop(job)
        filmstrip(job)


def _frames_so_far(job_id: str) -> None:
    """The frames of a job that is still at work; asked for again and again, like its progress."""
    try:
        strip(studio().job(job_id, owner()))
    except StudioError:
        return


def strip(job: JobView) -> None:
    """The frames so far, side by side in their order."""
    if shown := _frames(job):
        st.caption(TEXT["strip"])
        _side_by_side(job, shown)


def filmstrip(job: JobView) -> None:
    """All frames of a finished animation as one picture, to keep; the single ones behind a click."""
    shown = _frames(job)
    if not shown:
        return
    st.caption(TEXT["filmstrip"])
    data = _filmstrip(tuple(picture.id for picture in shown), owner())
    names = ", ".join(dict.fromkeys(_emotion_in(picture) for picture in shown))
    st.image(data, alt=f"Filmstrip of {text.plural(len(shown), 'frame')}: {names}")
    st.caption(" \u00b7 ".join(text.EMOTION_NAMES.get(_emotion_in(picture), "?") for picture in shown))
    st.download_button(
        TEXT["filmstrip_keep"],
        data=data,
        file_name=f"filmstrip-{job.id[:8]}.png",
        mime="image/png",
        key=f"get_{job.id}_filmstrip",
        icon=":material/view_column:",
        on_click="ignore",
    )
    with st.expander(TEXT["singles"], icon=":material/grid_view:"):
        _side_by_side(job, shown)


@st.cache_data(max_entries=64, show_spinner=False)
def _filmstrip(ids: tuple[str, ...], _owner: str) -> bytes:
    return studio().filmstrip(ids, _owner)


def _frames(job: JobView) -> list[Picture]:
    pictures = map(_picture, job.result.get("frames") or job.pictures)
    return [picture for picture in pictures if picture is not None and picture.path.suffix == ".png"]


def _emotion_in(picture: Picture) -> str:
    return picture.recipe.labels.get("emotion", "") if picture.recipe else ""


def _side_by_side(job: JobView, shown: list[Picture]) -> None:
    with st.container(horizontal=True, gap="xsmall", key=f"strip_{job.id}"):
        for number, picture in enumerate(shown, 1):
            st.image(widgets.thumbnail(picture, 224), width=112, alt=f"Frame {number}, {_emotion_in(picture)}")


def loop(job: JobView) -> None:
    """The finished animation, playing, and a button for each format."""
    preview = _picture(job.result.get("preview"))
    if preview is None:
        return
    with st.container(key=f"stage_single_{job.id}"):
        st.image(studio().picture_bytes(preview.id, owner()), width="stretch", alt="The animation, looping")
    st.caption(TEXT["keep"])
    with st.container(horizontal=True, gap="xsmall"):
        for form in FORMATS:
            st.download_button(
                FORMAT_NAMES[form],
                data=partial(studio().animation, preview.id, owner(), form),
                file_name=f"{job.kind}-{job.id[:8]}{'.png' if form == 'apng' else '.' + form}",
                mime=MEDIA[form],
                key=f"get_{job.id}_{form}",
                icon=":material/download:",
                on_click="ignore",
            )
        widgets.favourite_button(preview, f"loop_{job.id}")


def sprites(prefix: str, image: str | None, base: Callable[[], GenerateSpec], page: str) -> None:
    """The emotion sprite set of the character on the page: as shown, else (or of another picture) as in the form."""
    with st.expander(TEXT["sprites"], icon=":material/grid_view:"):
        st.caption(TEXT["sprites_more"])
        if st.button(TEXT["sprites_draw"], key=f"{prefix}_sprites", icon=":material/grid_view:"):
            job_id = widgets.current_job(page)
            shown = _request_of(job_id)
            if shown is None or image not in (None, shown.image):
                wanted = SpritesSpec(base=base(), image=image)
            else:  # its seed and its words stand in its request
                wanted = SpritesSpec(base=shown.base, image=shown.image)
            widgets.start(wanted, page)
            if not isinstance(shown, SpritesSpec):
                st.session_state[f"before_sprites:{page}"] = job_id if shown else ""
            st.rerun()


def _request_of(job_id: str | None) -> MorphSpec | SpritesSpec | None:
    with suppress(StudioError):
        if job_id and studio().job(job_id, owner()).state == "done":
            spec = studio().job_spec(job_id, owner())
            return spec if isinstance(spec, MorphSpec | SpritesSpec) else None
    return None


def _sprites_of(job: JobView) -> None:
    service, mine = studio(), owner()  # the file is asked for later, by a thread that knows no session
    st.download_button(
        TEXT["sprites_keep"],
        data=lambda: service.picture_bytes(job.result["sprites"], mine),
        file_name=f"sprites-{job.id[:8]}.zip",
        mime="application/zip",
        key=f"get_{job.id}_sprites",
        icon=":material/download:",
        on_click="ignore",
    )


def _picture(id: str | None) -> Picture | None:
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
