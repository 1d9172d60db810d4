"""What all browsers share: the one Studio of this server process. Knows nothing of how it works inside."""

from __future__ import annotations

import streamlit as st

from studio.core.settings import settings
from studio.service import Studio


@st.cache_resource(show_spinner=False)
def studio() -> Studio:
    """The service behind every page, made on first use."""
    made = Studio(settings())
    made.take_over()
    made.warm_up()
    return made
