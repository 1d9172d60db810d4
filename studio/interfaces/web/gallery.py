"""Pieces of the Gallery page: its filters, one picture large with the next and the one before, several side by side.

Asks the service which pictures there are; knows no recipe's meaning.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from studio.core.errors import NotFound, StudioError
from studio.core.i18n import texts
from studio.core.specs import EMOTIONS, STYLES
from studio.core.views import GALLERY_KINDS, GalleryFilter, Picture, PictureKind
from studio.interfaces.web import results, text, trash
from studio.interfaces.web.identity import owner
from studio.interfaces.web.language import dialog
from studio.interfaces.web.resources import studio

TEXT = {
    "search": "Search",
    "search_hint": "red hair, sad, seed 42…",
    "search_help": "Tags and other words of the prompt, the title, the model or the LoRAs, with commas between. All of "
    "them have to be there.",
    "kind": "Kind",
    "all": "Everything",
    "any": "Any",
    "favourites": "Favourites",
    "select": "Select",
    "filters": "Filter",
    "filters_on": "Filter ({count})",
    "emotion": "Emotion",
    "style": "Style",
    "model": "Model",
    "lora": "LoRA",
    "since": "From",
    "until": "To",
    "clear": "Clear",
    "details": "Picture",
    "made": "{date}, {number} of {count}",
    "before": "Newer",
    "next": "Older",
    "delete": "Delete",
    "compare": "Compare",
    "compare_help": "Two to four of them, side by side, with what differs.",
    "same": "Their recipes are the same.",
    "differs": "What differs",
}
TEXT = texts(TEXT)
KEYS = tuple(f"gallery_{name}" for name in ("emotion", "style", "model", "lora", "since", "until"))
COMPARED = ("prompt", "negative", "seed", "steps", "guidance", "sampler", "width", "height", "model", "strength")
MOST = 4  # side by side


@dataclass(frozen=True)
class Asked:
    """What the page shows of the gallery."""

    query: str
    favourites: bool
    kind: PictureKind | None
    only: GalleryFilter

    @property
    def narrowed(self) -> bool:
        """Whether anything is left out."""
        return bool(self.query or self.favourites or self.kind) or self.only != GalleryFilter()

    def count(self) -> int:
        """How many pictures that is."""
        return studio().gallery_count(owner(), self.query, self.favourites, self.kind, self.only)

    def pictures(self, offset: int, limit: int) -> list[Picture]:
        """Some of them, newest first."""
        return studio().gallery(owner(), self.query, self.favourites, self.kind, offset, limit, self.only)


def asked() -> Asked:
    """The search, the kind, the heart and the filters."""
    query = st.text_input(
        TEXT["search"], key="gallery_query", placeholder=TEXT["search_hint"], help=TEXT["search_help"], type="search",
        live=True, icon=":material/search:", on_change=trash.forget, persist_state="session",
    )  # fmt: skip
    kind = st.selectbox(
        TEXT["kind"], (None, *GALLERY_KINDS), key="gallery_kind", on_change=trash.forget, persist_state="session",
        format_func=lambda kind: text.KIND_NAMES[kind] if kind else TEXT["all"], width=180,
    )  # fmt: skip
    only = _filters()
    favourites = st.toggle(
        TEXT["favourites"], key="gallery_favourites", on_change=trash.forget, persist_state="session"
    )
    return Asked(query or "", favourites, kind, only)


def _filters() -> GalleryFilter:
    count = sum(st.session_state.get(key) is not None for key in KEYS)
    label = TEXT["filters_on"].format(count=count) if count else TEXT["filters"]
    models, loras = studio().drawn_with(owner())
    with st.popover(label, icon=":material/filter_list:", key="gallery_filter"):
        emotion = _one_of("emotion", EMOTIONS, text.EMOTION_NAMES)
        style = _one_of("style", STYLES, text.STYLE_NAMES)
        titles = {str(model.reference): model.title for model in studio().models.list()}
        model = _one_of("model", models, titles)
        lora = _one_of("lora", loras, {path: path.replace("\\", "/").rsplit("/", 1)[-1] for path in loras})
        with st.container(horizontal=True):
            since, until = (
                st.date_input(
                    TEXT[name], None, key=f"gallery_{name}", on_change=trash.forget, persist_state="session", width=150
                )
                for name in ("since", "until")
            )
        st.button(TEXT["clear"], key="gallery_clear", icon=":material/filter_list_off:", on_click=_clear)
    return GalleryFilter(
        emotion=emotion, style=style, model=model, lora=lora, since=_midnight(since), until=_midnight(until, 1)
    )


def _one_of(name: str, options: Any, names: Mapping[str, str]) -> str | None:
    key = f"gallery_{name}"
    if st.session_state.get(key) not in (None, *options):  # its last picture was deleted
        st.session_state[key] = None
    chosen: str | None = st.selectbox(
        TEXT[name], (None, *options), key=key, on_change=trash.forget, persist_state="session",
        format_func=lambda value: names.get(value, value) if value else TEXT["any"],
    )  # fmt: skip
    return chosen


def _midnight(day: datetime.date | None, later: int = 0) -> float | None:
    """Seconds since 1970 at which a day of this machine's begins, or a day `later`."""
    if day is None:
        return None
    return datetime.datetime.combine(day + datetime.timedelta(days=later), datetime.time()).timestamp()


def _clear() -> None:
    st.session_state.update(dict.fromkeys(KEYS))
    trash.forget()


@dialog(TEXT, "details", width="large", icon=":material/image:")
def details(what: Asked, number: int) -> None:
    """The picture in this place of the gallery, large, with its recipe; the arrow keys go to its neighbours."""
    number = st.session_state.setdefault("gallery_at", number)
    count = what.count()
    found = what.pictures(min(number, count - 1), 1)
    if not found:
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center"):
        for label, step, icon, key in (("before", -1, "back", "Left"), ("next", 1, "forward", "Right")):
            st.button(
                TEXT[label], key=f"gallery_{label}", icon=f":material/arrow_{icon}:", shortcut=key, on_click=_step,
                args=(step,), disabled=not 0 <= number + step < count,
            )  # fmt: skip
        when = datetime.datetime.fromtimestamp(found[0].created).strftime("%d %B %Y, %H:%M")
        st.caption(TEXT["made"].format(date=when, number=number + 1, count=f"{count:,}"), width="content")
    whole(found[0])


def _step(by: int) -> None:
    st.session_state["gallery_at"] += by


@dialog(TEXT, "details", width="large", icon=":material/image:")
def linked(picture: Picture) -> None:
    """A picture that the address names."""
    whole(picture)


def whole(picture: Picture) -> None:
    """One picture, large, with its recipe and what can be done with it."""
    try:
        results.large(studio().picture(picture.id, owner()))
    except NotFound as error:  # its file is gone: it can still be deleted
        st.error(text.say(error))
    if st.button(TEXT["delete"], key=f"gallery_delete_{picture.id}", icon=":material/delete:", type="tertiary"):
        trash.remove([picture.id])
        st.rerun()


@dialog(TEXT, "compare", width="large", icon=":material/compare:")
def compare(ids: list[str]) -> None:
    """A few pictures side by side, and where their recipes differ."""
    pictures = []
    for id in ids[:MOST]:
        try:
            pictures.append(studio().picture(id, owner()))
        except StudioError:
            continue  # deleted since
    for column, picture in zip(st.columns(len(pictures) or 1), pictures, strict=False):
        name = text.name(picture)
        column.image(str(picture.path), width="stretch", alt=name)
        column.caption(text.escape(name))
    rows = {}
    for field in COMPARED:
        values = [getattr(picture.recipe, field, None) for picture in pictures]
        if len(set(values)) > 1:
            rows[field.capitalize()] = ["" if value is None else str(value) for value in values]
    loras = [", ".join(f"{ref.path.rsplit('/', 1)[-1]} {ref.weight:g}" for ref in picture.recipe.loras)
             if picture.recipe else "" for picture in pictures]  # fmt: skip
    if len(set(loras)) > 1:
        rows["LoRAs"] = loras
    if not rows:
        st.caption(TEXT["same"])
        return
    st.markdown(f"##### {TEXT['differs']}")
    st.table({"": list(rows), **{str(n + 1): [values[n] for values in rows.values()] for n in range(len(pictures))}})
