"""What the morph and the animation page show of a job: frames as they come, the loop, its files, the set of sprites.

`motion` has the form.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any, get_args

import streamlit as st

from studio.core.errors import StudioError
from studio.core.fields import describe
from studio.core.i18n import texts
from studio.core.specs import AnimationFormat, GenerateSpec, MorphMethod
from studio.core.views import JobView, Picture
from studio.features.animate.spec import SpritesSpec
from studio.features.morph.spec import MorphSpec
from studio.interfaces.web import frame, motion, text, widgets
from studio.interfaces.web.identity import owner
from studio.interfaces.web.motion import picture_of
from studio.interfaces.web.resources import studio

TEXT = {
    "filmstrip_alt": "Filmstrip of {frames}: {names}",
    "loop_alt": "The animation, looping",
    "frame_alt": "Frame {number}, {emotion}",
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
}
TEXT = texts(TEXT)
FORMAT_NAMES = describe(MorphSpec, "format").about.names
MEDIA = {"gif": "image/gif", "apng": "image/apng", "webp": "image/webp", "mp4": "video/mp4", "zip": "application/zip"}
FORMATS: tuple[AnimationFormat, ...] = get_args(AnimationFormat)


def stage(page: str, empty: str) -> None:
    """The page's job while it works, and its loop, strip and files afterwards."""
    job_id = widgets.current_job(page)
    job = widgets.job_panel(job_id, page, working=_at_work) if job_id else None
    if job is not None and not job.active:
        for note in job.notes:
            st.caption(text.say(note))
    if job is None and not job_id:
        with st.container(key=f"stage_{page}_empty", horizontal_alignment="center"):
            st.image(str(frame.STATIC / "mark.svg"), width=96, alt="")
            st.markdown(f"#### {empty}", text_alignment="center")
            st.caption(TEXT["empty_more"], text_alignment="center")
    elif job is not None and job.active:
        return
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


def _at_work(job: JobView) -> None:
    """A job that is still at work; how far it is stands in the bar."""
    widgets.preview(job)
    strip(job)


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
    names = ", ".join(dict.fromkeys(text.EMOTION_NAMES.get(_emotion_in(picture), "?") for picture in shown))
    st.image(data, alt=TEXT["filmstrip_alt"].format(frames=text.plural(len(shown), "frame"), names=names))
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
    pictures = map(picture_of, job.result.get("frames") or job.pictures)
    return [picture for picture in pictures if picture is not None and picture.path.suffix == ".png"]


def _emotion_in(picture: Picture) -> str:
    return picture.recipe.labels.get("emotion", "") if picture.recipe else ""


def _side_by_side(job: JobView, shown: list[Picture]) -> None:
    with st.container(horizontal=True, gap="xsmall", key=f"strip_{job.id}"):
        for number, picture in enumerate(shown, 1):
            name = text.EMOTION_NAMES.get(_emotion_in(picture), "?")
            st.image(
                widgets.thumbnail(picture, 224), width=112, alt=TEXT["frame_alt"].format(number=number, emotion=name)
            )


def loop(job: JobView) -> None:
    """The finished animation, playing, and a button for each format."""
    preview = picture_of(job.result.get("preview"))
    if preview is None:
        return
    with st.container(key=f"stage_single_{job.id}"):
        st.image(studio().picture_bytes(preview.id, owner()), width="stretch", alt=TEXT["loop_alt"])
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


def sprites(prefix: str, image: str | None, base: dict[str, Any], page: str, method: MorphMethod) -> None:
    """The emotion sprite set of the character on the page: as shown, else (the form says another one) as in the form.

    `method` is the one chosen for the morph; one that single pictures don't have is the default.
    """
    with st.expander(TEXT["sprites"], icon=":material/grid_view:"):
        st.caption(TEXT["sprites_more"])
        if st.button(TEXT["sprites_draw"], key=f"{prefix}_sprites", icon=":material/grid_view:"):
            job_id = widgets.current_job(page)
            shown = _request_of(job_id)
            how = method if method in ("prompt", "picture") else None
            with widgets.refusals(page):
                if shown is None or not motion.still_asked_for(page, job_id, image, base):
                    wanted = SpritesSpec(base=GenerateSpec.model_validate(base), image=image, method=how)
                else:  # its seed and its words stand in its request
                    wanted = SpritesSpec(base=shown.base, image=shown.image, method=how)
                job = widgets.start(wanted, page)
                motion.asked_for(page, job.id, image, base)
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
