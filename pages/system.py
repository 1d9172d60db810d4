"""System: the machine, what was chosen for it and why, models, LoRAs, tag lists, runs, what Claude cost, versions."""

from __future__ import annotations

import streamlit as st

from studio.core.i18n import texts
from studio.interfaces.web import system
from studio.interfaces.web.resources import studio

TEXT = {
    "title": "System",
    "refresh": "Refresh",
    "choices": "Chosen for this machine",
    "models_lead": "Any of them can be chosen in Generate; folders and .safetensors files go into {folder}.",
    "claude": "Claude",
    "versions": "Versions",
    "home": "The studio writes to {home}. Models from the Hugging Face Hub are in the Hub's own cache (HF_HOME).",
}
TEXT = texts(TEXT)

with st.container(horizontal=True, vertical_alignment="center"):
    st.title(TEXT["title"], anchor=False)
    st.button(TEXT["refresh"], key="system_refresh", icon=":material/refresh:", type="tertiary")

status = studio().system()
system.tiles(status)
system.troubles(status)

st.subheader(TEXT["choices"], anchor=False)
system.choices(status)

st.subheader(system.TEXT["models"], anchor=False)
st.caption(TEXT["models_lead"].format(folder=f"`{studio().settings.models_dir}`"))
system.models()

st.subheader(system.TEXT["loras"], anchor=False)
system.loras()

st.subheader(system.TEXT["tags"], anchor=False)
system.tag_lists()

st.subheader(system.TEXT["runs"], anchor=False)
system.runs()

if studio().prompts.claude_writes:
    st.subheader(TEXT["claude"], anchor=False)
    system.claude()

st.subheader(TEXT["versions"], anchor=False)
st.caption(" · ".join(f"{name} {number}" for name, number in status.versions.items()))
st.caption(TEXT["home"].format(home=f"`{status.home}`"))
