"""What `streamlit run` starts: the app behind its gate, and nothing else (docs/architecture.md says why)."""

import streamlit as st

from studio.ui.frame import on_script_error
from studio.ui.gate import front_door

app = st.App("studio/ui/main.py", middleware=[front_door()], on_script_error=on_script_error)
