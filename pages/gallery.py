"""Gallery: everything that one person ever made here, searchable, each picture with its recipe and ways to go on."""

from __future__ import annotations

import streamlit as st

from studio.core.errors import NotFound, StudioError
from studio.core.views import GALLERY_KINDS, Picture
from studio.interfaces.web import belongings, frame, results, text, trash, widgets
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio

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
    "select": "Select",
    "delete_selected": "Delete {pictures}",
    "gone": "The picture that the address names isn't here: it was deleted, or it is in another browser's gallery.",
}


@st.dialog(TEXT["details"], width="large", icon=":material/image:")
def details(picture: Picture) -> None:
    """One picture, large, with its recipe and what can be done with it."""
    try:
        results.large(studio().picture(picture.id, owner()))
    except NotFound as error:  # its file is gone: it can still be deleted
        st.error(str(error))
    if st.button(TEXT["delete"], key=f"gallery_delete_{picture.id}", icon=":material/delete:", type="tertiary"):
        trash.remove([picture.id])
        st.rerun()


st.title(TEXT["title"], anchor=False)
trash.offer()
belongings.offer()
if named := st.query_params.pop("picture", None):  # a link, followed once
    try:
        details(studio().picture(named, owner()))
    except StudioError:
        st.info(TEXT["gone"], icon=":material/search_off:")

with st.container(horizontal=True, vertical_alignment="bottom", key="gallery_filters"):
    query = st.text_input(
        TEXT["search"],
        key="gallery_query",
        placeholder=TEXT["search_hint"],
        type="search",
        live=True,
        icon=":material/search:",
        on_change=trash.forget,
        persist_state="session",
    )
    kind = st.selectbox(
        TEXT["kind"],
        (None, *GALLERY_KINDS),
        format_func=lambda kind: text.KIND_NAMES[kind] if kind else TEXT["all"],
        key="gallery_kind",
        on_change=trash.forget,
        persist_state="session",
        width=180,
    )
    favourites = st.toggle(
        TEXT["favourites"], key="gallery_favourites", on_change=trash.forget, persist_state="session"
    )
    selecting = st.toggle(TEXT["select"], key="gallery_select", on_change=trash.forget)

total = studio().gallery_count(owner(), query or "", favourites, kind)
if not total:
    searched = bool(query or favourites or kind)
    with st.container(key="stage_empty", horizontal_alignment="center"):
        st.markdown(f"#### {TEXT['none' if searched else 'empty']}", text_alignment="center")
        st.caption(TEXT["none_more" if searched else "empty_more"], text_alignment="center")
        if not searched:
            st.page_link(frame.page_path("generate"), label=TEXT["first"], icon=":material/auto_awesome:")
    st.stop()

pages = -(-total // PAGE_SIZE)
if st.session_state.get("gallery_page", 1) > pages:
    st.session_state["gallery_page"] = pages
container = st.container()
number = 1
if pages > 1:
    with st.container(horizontal_alignment="center"):
        number = st.pagination(pages, key="gallery_page", on_change=trash.forget)
pictures = studio().gallery(owner(), query or "", favourites, kind, offset=(number - 1) * PAGE_SIZE, limit=PAGE_SIZE)
selected: list[str] = []
with container:
    grid = st.grid("auto", min_column_width=150, gap="small")
    for picture in pictures:
        name = text.name(picture)
        with grid.cell():
            if widgets.picture_card(picture, picture.id, f"{'♥ ' if picture.favourite else ''}{text.escape(name)}"):
                details(picture)
            if selecting and st.checkbox(TEXT["select"], key=f"gallery_pick_{picture.id}"):
                selected.append(picture.id)
if selected:
    label = TEXT["delete_selected"].format(pictures=text.plural(len(selected), "picture"))
    st.button(label, key="gallery_delete_selected", icon=":material/delete:", on_click=trash.remove, args=(selected,))
