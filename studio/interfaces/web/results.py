"""Finished pictures on the Generate page: one large, or a few side by side, each with what can be done with it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress

import streamlit as st

from studio.core.errors import StudioError
from studio.core.i18n import texts
from studio.core.specs import MAX_SEED, GenerateSpec
from studio.core.views import JobView, Picture
from studio.interfaces.web import character, lab, larger, tags, text, widgets
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio

VARIATION = 0.45  # how much of the picture a variation may change
PAGE_SIZE = 24  # pictures side by side
TEXT = {
    "vary": "Variation",
    "vary_help": "Same character, small changes.",
    "new_seed": "Another one",
    "new_seed_help": "The same request with a new seed.",
    "tiles": "The single pictures",
    "recipe": "Recipe",
    "prompt": "Prompt",
    "negative": "Negative prompt",
    "took": "Drawn in {seconds:.1f} s",
    "all": "Download all as ZIP",
    "all_help": "{pictures} as numbered files, each with its recipe inside.",
}
TEXT = texts(TEXT)


def show(job: JobView) -> None:
    """The pictures of a finished (or half finished) job."""
    if job.kind == "experiment":
        lab.report(job)
        return
    last = _loaded(job.pictures[-1:])
    whole = last[0] if last and last[0].kind in ("sheet", "grid") else None
    tiles = job.pictures[:-1] if whole else job.pictures
    if whole:
        large(whole)
    elif len(tiles) == 1:
        for picture in last:
            large(picture)
    elif tiles:
        several(tiles, job.id, lab.captions(job))
    if not job.pictures:
        return
    summary_line(job)
    if whole and tiles:
        with st.expander(TEXT["tiles"], icon=":material/grid_view:"):
            several(tiles, f"{job.id}_tiles")


def _loaded(ids: Sequence[str]) -> list[Picture]:
    """These pictures, without those that were deleted since."""
    pictures = []
    for picture_id in ids:
        with suppress(StudioError):
            pictures.append(studio().picture(picture_id, owner()))
    return pictures


def summary_line(job: JobView) -> None:
    """What is worth saying about how a job went: the time it took, what was there already, notes."""
    parts = []
    if job.started and job.finished and len(job.cached) < len(job.pictures):
        parts.append(TEXT["took"].format(seconds=job.finished - job.started))
    parts += [text.say(note) for note in job.notes]
    if parts:
        st.caption(" · ".join(parts))


def large(picture: Picture) -> None:
    """One picture, as large as the place allows, and everything that can be done with it."""
    name = text.name(picture)
    wide = picture.kind in ("sheet", "grid", "report")
    if picture.kind == "report" and lab.saved(picture):
        actions(picture, f"large_{picture.id}")
        return
    with st.container(key="stage_wide" if wide else "stage_single"):
        st.image(studio().picture_bytes(picture.id, owner()), width="stretch", alt=name)
    actions(picture, f"large_{picture.id}")


def actions(picture: Picture, key: str) -> None:
    """A row of buttons under a picture, and its recipe."""
    with st.container(horizontal=True, gap="xsmall"):
        widgets.favourite_button(picture, key)
        if picture.recipe is not None and picture.kind == "picture":
            if st.button(TEXT["new_seed"], key=f"new_{key}", icon=":material/casino:", help=TEXT["new_seed_help"]):
                _draw(picture, seed=random.randint(0, MAX_SEED))
            if st.button(TEXT["vary"], key=f"vary_{key}", icon=":material/shuffle:", help=TEXT["vary_help"]):
                _draw(
                    picture, seed=random.randint(0, MAX_SEED), source=picture.id, mask=None, strength=VARIATION, hires=1
                )
        widgets.download(picture, key)
        if picture.drawable and "frames" not in picture.details:
            larger.button(picture, key)
        widgets.send_menu(picture, key)
    larger.result(picture, key)
    character.offer(picture, key)
    if picture.recipe is not None:
        recipe(picture)


def recipe(picture: Picture) -> None:
    """How a picture was made: one line, and all of it behind a click."""
    made = picture.recipe
    if made is None:
        return
    with st.expander(text.summary(made), icon=":material/receipt_long:"):
        st.caption(TEXT["prompt"])
        st.code(made.prompt, language=None, wrap_lines=True)
        tags.gloss(made.prompt)
        if made.negative:
            st.caption(TEXT["negative"])
            st.code(made.negative, language=None, wrap_lines=True)
        for lora in made.loras:
            st.caption(f"LoRA {text.escape(lora.path.rsplit('/', 1)[-1])} · {lora.weight:g}")
        st.caption(f"{text.escape(made.model)} · {made.model_hash[:10]} · {picture.id}")


def several(ids: Sequence[str], key: str, captions: list[str] | None = None) -> None:
    """Pictures side by side, a page at a time; a click shows one of them large. All of them can be had as a ZIP."""
    pages = -(-len(ids) // PAGE_SIZE)
    first = (min(st.session_state.get(f"page_{key}", 1), pages) - 1) * PAGE_SIZE
    shown = _loaded(ids[first : first + PAGE_SIZE])
    said = dict(zip(ids, captions, strict=False)) if captions else {}
    chosen = st.session_state.get(f"shown_{key}")
    for picture in shown:
        if picture.id == chosen:
            large(picture)
    grid = st.grid("auto", min_column_width=150 if len(ids) > 4 else 210, gap="small")
    for index, picture in enumerate(shown, first):
        with grid.cell():
            caption = said.get(picture.id) or text.escape(text.name(picture))
            if widgets.picture_card(picture, f"{key}_{index}", caption):
                st.session_state[f"shown_{key}"] = picture.id
                st.rerun()
    with st.container(horizontal=True, vertical_alignment="center"):
        if pages > 1:
            st.pagination(pages, key=f"page_{key}")
        service, mine = studio(), owner()  # the file is asked for later, by a thread that knows no session
        st.download_button(
            TEXT["all"],
            data=lambda: service.archive(ids, mine),
            file_name=f"{key}.zip",
            mime="application/zip",
            key=f"all_{key}",
            icon=":material/folder_zip:",
            help=TEXT["all_help"].format(pictures=text.plural(len(ids), "picture")),
            on_click="ignore",
        )


def _draw(picture: Picture, **changes: object) -> None:
    with widgets.refusals("generate"):
        spec = studio().spec_of(picture.id, owner()).model_copy(update={"count": 1})
        widgets.start(GenerateSpec.model_validate(spec.model_dump() | changes), "generate", of_form=False)
        st.rerun()
