"""The words of a character that is kept: in the session, and in the address, so that a reload of any page finds them.

`character` shows and changes them. Knows no picture and no widget.
"""

from __future__ import annotations

import streamlit as st

from studio.core.specs import MAX_PROMPT

KEY = "character"  # of the session
ADDRESS = "keep"  # of the address
_READ = "character_read"


def words() -> tuple[str, ...]:
    """The words of the character that is kept; none where none is."""
    return tuple(st.session_state.get(KEY, ()))


def drop() -> None:
    """Let go of it."""
    st.session_state.pop(KEY, None)
    st.query_params.pop(ADDRESS, None)


def remember() -> None:
    """At the beginning of a run: address and session say the same. A new session takes what the address says."""
    if _READ not in st.session_state:
        st.session_state[_READ] = True
        said = str(st.query_params.get(ADDRESS, ""))[:MAX_PROMPT].split(",")
        if found := tuple(word.strip() for word in said if word.strip()):
            st.session_state.setdefault(KEY, found)
    said_now = ", ".join(words())
    if said_now and st.query_params.get(ADDRESS) != said_now:
        st.query_params[ADDRESS] = said_now
    elif not said_now:
        st.query_params.pop(ADDRESS, None)
