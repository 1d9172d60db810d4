"""What was drawn before, on Generate: a strip of pictures that can be searched, restored and compared; and the prompt's
undo and redo.

Every prompt that was drawn is in the store with its picture; what was typed and not drawn lasts as long as the session.
"""

from __future__ import annotations

import time
from typing import Any

import streamlit as st

from studio.core.errors import StudioError
from studio.core.i18n import texts
from studio.interfaces.web import gallery, text, widgets
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio

TEXT = {
    "title": "History",
    "search": "Search your prompts",
    "search_hint": "red hair, sad, seed 42…",
    "nothing": "No picture of yours says that.",
    "restore": "Restore",
    "restore_help": "Put this picture's prompt and settings into the form.",
    "compare": "Compare",
    "pick": "Compare {name}",
    "undo": "Undo",
    "undo_help": "The prompt as it was before",
    "redo": "Redo",
    "redo_help": "The prompt as it was before Undo",
}
TEXT = texts(TEXT)
SHOWN = 12  # pictures of the strip
SHORT = 34  # characters of a caption


@st.fragment
def strip() -> None:
    """The last pictures, or those whose prompt says what is searched for. Nothing where nothing was drawn."""
    query = str(st.session_state.get("gen_past_query") or "")
    pictures = studio().gallery(owner(), query, kind="picture", limit=SHOWN)
    if not pictures and not query:
        return
    with st.container(key="history"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{TEXT['title']}**", width="content")
            st.text_input(
                TEXT["search"], key="gen_past_query", placeholder=TEXT["search_hint"], type="search",
                icon=":material/search:", label_visibility="collapsed", live=True, persist_state="session",
            )  # fmt: skip
            picked = [one.id for one in pictures if st.session_state.get(f"past_pick_{one.id}")]
            if st.button(
                TEXT["compare"], key="past_compare", icon=":material/compare:", disabled=len(picked) < 2,
                help=gallery.TEXT["compare_help"],
            ):  # fmt: skip
                st.session_state["past_compared"] = picked
                st.rerun()
        if not pictures:
            st.caption(TEXT["nothing"])
        with st.container(horizontal=True, gap="small", key="history_strip"):
            for picture in pictures:
                with st.container(width=104):
                    said = picture.recipe.labels.get("text") or picture.recipe.prompt if picture.recipe else ""
                    short = said if len(said) <= SHORT else said[:SHORT].rstrip(" ,") + "…"
                    if widgets.picture_card(picture, f"past_{picture.id}", text.escape(short)):
                        st.session_state["past_opened"] = picture.id
                        st.rerun()
                    with st.container(horizontal=True, gap="xsmall", vertical_alignment="center"):
                        if st.button(
                            TEXT["restore"], key=f"past_restore_{picture.id}", icon=":material/restore_page:",
                            type="tertiary", help=TEXT["restore_help"],
                        ):  # fmt: skip
                            st.session_state["send"] = {"page": "generate", "picture": picture.id, "as": "recipe"}
                            st.rerun()
                        st.checkbox(
                            TEXT["pick"].format(name=text.name(picture)), key=f"past_pick_{picture.id}",
                            label_visibility="collapsed", help=None,
                        )  # fmt: skip


def dialogs() -> None:
    """What was asked for in the strip and stands over the page."""
    if picked := st.session_state.pop("past_compared", None):
        gallery.compare(picked)
    elif opened := st.session_state.pop("past_opened", None):
        try:
            gallery.linked(studio().picture(opened, owner()))
        except StudioError as problem:  # deleted since
            st.toast(text.escape(str(problem)), icon=":material/error:")


# --- the prompt, step by step -----------------------------------------------------------------------------------------

FIELDS = ("gen_text", "gen_own", "gen_own_prompt", "gen_own_negative")
LAYER = "gen_layer_"  # how the keys of edited layers begin
PAUSE = 2.0  # seconds between two keys that part two steps
MOST = 60  # steps that are remembered
_PAST = "gen_prompt_past"


def _now() -> dict[str, Any]:
    state = st.session_state
    kept = {key: state[key] for key in FIELDS if state.get(key)}
    return kept | {str(key): state[key] for key in state if str(key).startswith(LAYER)}


def note() -> None:
    """At the beginning of a run: remember the prompt if it changed. What is typed without a pause is one step."""
    past = st.session_state.setdefault(_PAST, {"steps": [_now()], "at": 0, "typed": 0.0})
    steps, now, moment = past["steps"], _now(), time.monotonic()
    before = steps[past["at"]]
    if now.get("gen_text") == before.get("gen_text") and _said(now) == _said(before):
        steps[past["at"]] = now  # fields of layers come and go with what is written
        return
    del steps[past["at"] + 1 :]
    typing = _said(now) == _said(before)
    if typing and moment - past["typed"] < PAUSE and past["at"] > 0:
        steps[past["at"]] = now
    else:
        steps.append(now)
        del steps[:-MOST]
    past.update(at=len(steps) - 1, typed=moment if typing else 0.0)


def _said(step: dict[str, Any]) -> dict[str, Any]:
    """A step but for the description; layers as they were written count as nothing."""
    return {key: value for key, value in step.items() if key in FIELDS[1:]}


def _step(by: int) -> None:
    past = st.session_state[_PAST]
    past["at"] = min(max(past["at"] + by, 0), len(past["steps"]) - 1)
    step = past["steps"][past["at"]]
    for key in [key for key in st.session_state if str(key).startswith(LAYER) and key not in step]:
        del st.session_state[key]
    st.session_state.update({key: "" if key != "gen_own" else False for key in FIELDS} | step)
    past["typed"] = 0.0


def buttons() -> None:
    """Undo and redo of the prompt, by button and by keyboard."""
    past = st.session_state.get(_PAST, {"steps": [], "at": 0})
    last = len(past["steps"]) - 1
    for name, by, keys, possible in (
        ("undo", -1, "Ctrl+Z", past["at"] > 0), ("redo", 1, "Ctrl+Shift+Z", past["at"] < last),
    ):  # fmt: skip
        st.button(
            TEXT[name], key=f"gen_prompt_{name}", icon=f":material/{name}:", type="tertiary", help=TEXT[f"{name}_help"],
            shortcut=keys, on_click=_step, args=(by,), disabled=not possible,
        )  # fmt: skip
