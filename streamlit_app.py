"""What `streamlit run` starts: the app behind its gate, and nothing else (docs/architecture.md says why)."""

import streamlit as st

from studio.interfaces.web.frame import on_script_error
from studio.interfaces.web.gate import front_door

app = st.App("studio/interfaces/web/main.py", middleware=[front_door()], on_script_error=on_script_error)
