"""Gallery: everything that one person ever made here, searchable, each picture with its recipe and ways to go on."""

from __future__ import annotations

import datetime

import streamlit as st

from studio.core.errors import StudioError
from studio.core.i18n import texts
from studio.interfaces.web import belongings, frame, gallery, text, trash, widgets
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio

PAGE_SIZE = 24
TEXT = {
    "title": "Gallery",
    "empty": "Nothing here yet",
    "empty_more": "Whatever you make in the studio is kept here, with the recipe to make it again.",
    "none": "Nothing found",
    "none_more": "Try fewer words, or another kind.",
    "first": "Draw the first picture",
    "delete_selected": "Delete {pictures}",
    "zip": "Download {pictures} as ZIP",
    "gone": "The picture that the address names isn't here: it was deleted, or it is in another browser's gallery.",
}
TEXT = texts(TEXT)

st.title(TEXT["title"], anchor=False)
trash.offer()
belongings.offer()
if named := st.query_params.pop("picture", None):  # a link, followed once
    try:
        gallery.linked(studio().picture(named, owner()))
    except StudioError:
        st.info(TEXT["gone"], icon=":material/search_off:")

with st.container(horizontal=True, vertical_alignment="bottom", key="gallery_filters"):
    asked = gallery.asked()
    selecting = st.toggle(gallery.TEXT["select"], key="gallery_select", on_change=trash.forget)

total = asked.count()
if not total:
    searched = asked.narrowed
    with st.container(key="stage_empty", horizontal_alignment="center"):
        st.markdown(f"#### {TEXT['none' if searched else 'empty']}", text_alignment="center")
        st.caption(TEXT["none_more" if searched else "empty_more"], text_alignment="center")
        if not searched:
            st.page_link(frame.page_path("generate"), label=TEXT["first"], icon=":material/auto_awesome:")
    st.stop()

pages = -(-total // PAGE_SIZE)
if st.session_state.get("gallery_page", 1) > pages:
    st.session_state["gallery_page"] = pages
actions, grid_place = st.container(), st.container()
number = 1
if pages > 1:
    with st.container(horizontal_alignment="center"):
        number = st.pagination(pages, key="gallery_page", on_change=trash.forget)
first = (number - 1) * PAGE_SIZE
selected: list[str] = []
with grid_place:
    grid = st.grid("auto", min_column_width=150, gap="small")
    for place, picture in enumerate(asked.pictures(first, PAGE_SIZE), first):
        name = text.name(picture)
        with grid.cell():
            when = datetime.datetime.fromtimestamp(picture.created).strftime("%d %b %Y")
            caption = f"{'♥ ' if picture.favourite else ''}{text.escape(name)} · {when}"
            if widgets.picture_card(picture, picture.id, caption):
                st.session_state.pop("gallery_at", None)
                gallery.details(asked, place)
            if selecting and st.checkbox(gallery.TEXT["select"], key=f"gallery_pick_{picture.id}"):
                selected.append(picture.id)
if selected:
    count = text.plural(len(selected), "picture")
    service, mine, ids = studio(), owner(), tuple(selected)  # the file is asked for later, by another thread
    with actions, st.container(horizontal=True, key="gallery_actions"):
        st.download_button(
            TEXT["zip"].format(pictures=count), data=lambda: service.archive(ids, mine), file_name="gallery.zip",
            mime="application/zip", key="gallery_zip", icon=":material/folder_zip:", on_click="ignore",
        )  # fmt: skip
        if st.button(
            gallery.TEXT["compare"], key="gallery_compare", icon=":material/compare:",
            help=gallery.TEXT["compare_help"], disabled=not 2 <= len(ids) <= gallery.MOST,
        ):  # fmt: skip
            gallery.compare(selected)
        st.button(
            TEXT["delete_selected"].format(pictures=count), key="gallery_delete_selected", icon=":material/delete:",
            on_click=trash.remove, args=(selected,),
        )  # fmt: skip
