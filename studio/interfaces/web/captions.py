"""The captions of a training set: a table to edit them in, and first ones by the judge or a tagger.

First captions are a job: they are written beside the pictures as they are made, and the table shows them when it is
over. Knows nothing of training.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import pandas as pd
import streamlit as st
from PIL import Image

from studio.core.errors import StudioError
from studio.core.i18n import texts
from studio.core.views import JobView
from studio.features.caption.spec import CaptionSpec
from studio.interfaces.web import inputs, text, widgets
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio
from studio.service import Report, add_tags, parse_spec, remove_tags, replace_tag

PAGE = "train_lora"
JUDGE = "judge"
THUMBNAIL = 96  # pixels
PENDING = "lora_pending_captions"  # (folder, file -> caption) as the table shows them now
TEXT = {
    "lead": "Name everything that is not the style itself: what is named stays changeable.",
    "bulk": "All captions",
    "bulk_tags": "Tags",
    "bulk_new": "By",
    "bulk_go": "Apply",
    "save": "Save captions",
    "saved": "Saved.",
    "captioner": "First captions by",
    "captioner_help": "The embedded model's judge knows the studio's own drawings and is sure of little elsewhere. "
    "For other pictures: the Hugging Face id or the folder of an image classifier or captioner with safetensors "
    "weights, for instance Salesforce/blip-image-captioning-large.",
    "go": "Caption {pictures}",
    "pictures": "pictures",
    "none": "Every picture has a caption.",
    "cancel": "Stop",
    "file": "File",
    "caption": "Caption",
    "done": "{written} written, {kept} kept. Read them before you train.",
}
TEXT = texts(TEXT)
BULK = {"add": "Add at the end", "first": "Add in front", "remove": "Remove", "replace": "Replace"}
BULK = texts(BULK)


def followed() -> JobView | None:
    """The page's job, if it is one that writes captions."""
    job_id = widgets.current_job(PAGE)
    if job_id is None:
        return None
    try:
        job = studio().job(job_id, owner())
    except StudioError:
        return None
    return job if job.kind == "caption" else None


def table(report: Report) -> None:
    """The captions of a checked set, to edit and to have made; while they are made, those that are there."""
    st.session_state.pop(PENDING, None)
    job = followed()
    if job is not None and job.result.get("folder") != str(report.folder):
        job = None
    if job is not None and job.active:
        st.fragment(_working, run_every=widgets.POLL)(job.id)
        return
    st.caption(TEXT["lead"])
    first = st.container()  # stands above the table and needs what was typed in it
    with st.container(horizontal=True, vertical_alignment="bottom"):
        what = st.selectbox(TEXT["bulk"], list(BULK), format_func=BULK.__getitem__, key="lora_bulk")
        tags = st.text_input(TEXT["bulk_tags"], key="lora_bulk_tags")
        new = st.text_input(TEXT["bulk_new"], key="lora_bulk_new") if what == "replace" else ""
        apply = st.button(TEXT["bulk_go"], key="lora_bulk_go", disabled=not tags.strip())
    captions = _edited(report)
    st.session_state[PENDING] = (str(report.folder), captions)
    with first:
        if job is not None:
            _outcome(job)
        _first(report, captions)
    if apply:
        changes: dict[str, Callable[[str], str]] = {
            "add": lambda c: add_tags(c, tags),
            "first": lambda c: add_tags(c, tags, first=True),
            "remove": lambda c: remove_tags(c, tags),
            "replace": lambda c: replace_tag(c, tags, new),
        }
        captions = {file: changes[what](caption) for file, caption in captions.items()}
    if apply or st.button(TEXT["save"], key="lora_save", icon=":material/save:"):
        _save(report, captions)
        st.toast(TEXT["saved"], icon=":material/check:")
        st.rerun()


def _edited(report: Report) -> dict[str, str]:
    rows = pd.DataFrame(
        {
            "picture": [_small(str(report.folder / e.file), (report.folder / e.file).stat().st_mtime)
                        for e in report.entries],
            "file": [e.file for e in report.entries],
            "caption": [e.caption for e in report.entries],
        }
    )  # fmt: skip
    edited = st.data_editor(
        rows,
        hide_index=True,
        disabled=["picture", "file"],
        row_height=64,
        height=420,
        column_config={
            "picture": st.column_config.ImageColumn(" ", width="small"),
            "file": st.column_config.TextColumn(TEXT["file"], width="small"),
            "caption": st.column_config.TextColumn(TEXT["caption"], width="large"),
        },
        key=f"lora_table_{report.digest[:12]}",
    )
    return dict(zip(edited["file"], edited["caption"].fillna(""), strict=True))


def save_pending(report: Report) -> None:
    """Write what was typed into the table and not saved: whoever starts a training means what is seen there."""
    folder, captions = st.session_state.get(PENDING, ("", {}))
    if folder == str(report.folder):
        _save(report, captions)


def _save(report: Report, captions: dict[str, str]) -> None:
    before = {entry.file: entry.caption for entry in report.entries}
    studio().datasets.write_captions(str(report.folder), {f: c for f, c in captions.items() if c != before[f]})


@st.cache_data(max_entries=2000, show_spinner=False)
def _small(path: str, changed: float) -> str:
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


# --- first captions -------------------------------------------------------------------------------------------------


def _first(report: Report, captions: dict[str, str]) -> None:
    """Who writes first captions, for which pictures, and the button."""
    known = {info.reference: info for info in studio().models.captioners()}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        captioner = st.selectbox(
            TEXT["captioner"],
            _with_chosen(list(known)),
            format_func=lambda name: known[name].title if name in known else name,
            accept_new_options=True,
            help=TEXT["captioner_help"],
            key="lora_captioner",
            persist_state="session",
        )
        threshold = inputs.number(CaptionSpec, "threshold", "lora_caption_threshold", width=160)
    with st.container(horizontal=True, vertical_alignment="center"):
        every = inputs.toggle(CaptionSpec, "every", "lora_caption_every")
        judged = captioner == JUDGE
        style = judged and inputs.toggle(CaptionSpec, "style", "lora_caption_style")
        count = sum(every or not caption.strip() for caption in captions.values())
        pressed = st.button(
            TEXT["go"].format(pictures=text.plural(count, "picture") if count else TEXT["pictures"]),
            key="lora_caption_go",
            icon=":material/auto_awesome:",
            disabled=not count or not captioner,
            help=None if count else TEXT["none"],
        )
    if not pressed:
        return
    fields = {"data": str(report.folder), "captioner": captioner, "every": every, "style": style}
    try:
        _save(report, captions)  # the table is gone while the job works
        widgets.start(parse_spec({"kind": "caption", "threshold": threshold} | fields), PAGE)
    except StudioError as problem:
        st.error(text.say(problem), icon=":material/error:")
    else:
        st.rerun()


def _with_chosen(known: list[str]) -> list[str]:
    chosen = st.session_state.get("lora_captioner")
    return [*known, chosen] if chosen and chosen not in known else known


def _working(job_id: str) -> None:
    job = studio().job(job_id, owner())
    if not job.active:
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(job.fraction, text=widgets.progress_text(job))
        st.button(TEXT["cancel"], key=f"cancel_{job_id}", icon=":material/stop_circle:", on_click=_stop,
                  args=(job_id,))  # fmt: skip
    made = list(job.result.get("captions", {}).items())[::-1]
    if made:
        st.dataframe(pd.DataFrame(made, columns=[TEXT["file"], TEXT["caption"]]), hide_index=True, height=420)


def _stop(job_id: str) -> None:
    studio().cancel(job_id, owner())


def _outcome(job: JobView) -> None:
    """How the last such job ended."""
    widgets.job_panel(job.id, PAGE)
    if job.state == "done":
        written = text.plural(len(job.result["captions"]), "caption")
        st.success(TEXT["done"].format(written=written, kept=job.result["kept"]), icon=":material/check:")
    for note in job.notes:
        st.info(text.say(note), icon=":material/info:")
