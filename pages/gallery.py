"""Gallery: everything ever made in this browser, searchable, each picture with its recipe and ways to go on."""

from __future__ import annotations

import streamlit as st

from studio.ui import frame, results, text, widgets
from studio.ui.identity import owner
from studio.ui.resources import studio
from studio.views import GALLERY_KINDS, Picture

PAGE_SIZE = 24
TEXT = {
    "title": "Gallery",
    "search": "Search",
    "search_hint": "red hair, sad, seed 42…",
    "kind": "Kind",
    "all": "Everything",
    "favourites": "Favourites",
    "empty": "Nothing here yet",
    "empty_more": "Whatever you make in the studio is kept here, with the recipe to make it again.",
    "none": "Nothing found",
    "none_more": "Try fewer words, or another kind.",
    "first": "Draw the first picture",
    "details": "Picture",
    "delete": "Delete",
    "deleted": "{pictures} deleted.",
    "undo": "Undo",
    "back": "{pictures} brought back.",
    "select": "Select",
    "delete_selected": "Delete {pictures}",
    "pages": "Page",
}


@st.dialog(TEXT["details"], width="large", icon=":material/image:")
def details(picture: Picture) -> None:
    """One picture, large, with its recipe and what can be done with it."""
    results.large(studio().picture(picture.id, owner()))
    if st.button(TEXT["delete"], key=f"gallery_delete_{picture.id}", icon=":material/delete:", type="tertiary"):
        remove([picture.id])
        st.rerun()


def remove(ids: list[str]) -> None:
    """Delete, and offer to undo it."""
    st.session_state["gallery_deleted"] = studio().delete(ids, owner())


def bring_back() -> None:
    """Undo the last delete."""
    count = studio().undo_delete(owner())
    st.session_state["gallery_deleted"] = 0
    st.toast(TEXT["back"].format(pictures=text.plural(count, "picture")))


st.title(TEXT["title"], anchor=False)
if deleted := st.session_state.get("gallery_deleted"):
    with st.container(horizontal=True, vertical_alignment="center", border=True, key="gallery_undo_bar"):
        st.markdown(TEXT["deleted"].format(pictures=text.plural(deleted, "picture")))
        st.button(TEXT["undo"], key="gallery_undo", icon=":material/undo:", on_click=bring_back)

with st.container(horizontal=True, vertical_alignment="bottom", key="gallery_filters"):
    query = st.text_input(
        TEXT["search"],
        key="gallery_query",
        placeholder=TEXT["search_hint"],
        type="search",
        live=True,
        icon=":material/search:",
        persist_state="session",
    )
    kind = st.selectbox(
        TEXT["kind"],
        (None, *GALLERY_KINDS),
        format_func=lambda kind: text.KIND_NAMES[kind] if kind else TEXT["all"],
        key="gallery_kind",
        persist_state="session",
        width=180,
    )
    favourites = st.toggle(TEXT["favourites"], key="gallery_favourites", persist_state="session")
    selecting = st.toggle(TEXT["select"], key="gallery_select")

search = {"query": query or "", "favourites": favourites, "kind": kind}
total = studio().gallery_count(owner(), **search)
if not total:
    searched = any(search.values())
    with st.container(key="stage_empty", horizontal_alignment="center"):
        st.markdown(f"#### {TEXT['none' if searched else 'empty']}", text_alignment="center")
        st.caption(TEXT["none_more" if searched else "empty_more"], text_alignment="center")
        if not searched:
            st.page_link(frame.page_path("generate"), label=TEXT["first"], icon=":material/auto_awesome:")
    st.stop()

pages = -(-total // PAGE_SIZE)
if st.session_state.get("gallery_page", 1) > pages:
    st.session_state["gallery_page"] = pages
place = st.container()
number = 1
if pages > 1:
    with st.container(horizontal_alignment="center"):
        number = st.pagination(pages, key="gallery_page")
pictures = studio().gallery(owner(), **search, offset=(number - 1) * PAGE_SIZE, limit=PAGE_SIZE)
selected: list[str] = []
with place:
    grid = st.grid("auto", min_column_width=150, gap="small")
    for picture in pictures:
        name = picture.title or text.description(picture.recipe)
        with grid.cell():
            if widgets.picture_card(picture, picture.id, f"{'♥ ' if picture.favourite else ''}{text.escape(name)}"):
                details(picture)
            if selecting and st.checkbox(TEXT["select"], key=f"gallery_pick_{picture.id}"):
                selected.append(picture.id)
if selected:
    label = TEXT["delete_selected"].format(pictures=text.plural(len(selected), "picture"))
    st.button(label, key="gallery_delete_selected", icon=":material/delete:", on_click=remove, args=(selected,))
