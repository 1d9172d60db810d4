"""System: the machine, what was chosen for it and why, models, LoRAs, runs, versions."""

from __future__ import annotations

from typing import Any

import streamlit as st

from studio.ui import text
from studio.ui.resources import studio

TEXT = {
    "title": "System",
    "refresh": "Refresh",
    "device": "Device",
    "memory": "Memory of the studio",
    "memory_of": "of {total}",
    "device_memory": "Memory of the device",
    "disk": "Free disk",
    "disk_used": "{pictures} take {size}",
    "queue": "Jobs",
    "queue_idle": "idle",
    "queue_busy": "{running} running, {waiting} waiting",
    "not_loaded": "The model is loaded for the first picture. What was chosen for this machine, and why, is here then.",
    "choices": "Chosen for this machine",
    "model": "Loaded: {model}, {dtype}",
    "models": "Models",
    "models_lead": "Any of them can be chosen in Generate; folders and .safetensors files go into {folder}.",
    "loras": "LoRAs",
    "loras_none": "None yet.",
    "runs": "Runs",
    "runs_none": "No training or distillation has been started yet.",
    "versions": "Versions",
    "home": "Everything is kept in {home}.",
    "on": "On",
    "off": "Off",
}
RUN_KINDS = {"lora": "LoRA", "lcm": "Distillation", "control": "ControlNet"}
STATES = {"ready": "Ready", "download": "Downloads when used", "missing": "Not usable"}

with st.container(horizontal=True, vertical_alignment="center"):
    st.title(TEXT["title"], anchor=False)
    st.button(TEXT["refresh"], key="system_refresh", icon=":material/refresh:", type="tertiary")

status = studio().system()
tiles = st.grid("auto", min_column_width=200, gap="small")


def tile(label: str, value: str, note: str | None = None, **options: Any) -> None:
    """One figure with a quiet line under it."""
    tiles.metric(label, value, note, delta_color="off", delta_arrow="off", border=True, **options)


of_all = TEXT["memory_of"].format
busy = status.queue_running + status.queue_waiting
waiting = TEXT["queue_busy"].format(running=status.queue_running, waiting=status.queue_waiting)
kept = TEXT["disk_used"].format(pictures=text.plural(status.pictures, "picture"), size=text.size(status.disk_used))
tile(TEXT["device"], status.device.upper(), icon=":material/memory:", help=status.device_name or None)
tile(TEXT["memory"], text.size(status.memory_used), of_all(total=text.size(status.memory_total)))
if status.device_memory_total:
    used = text.size(status.device_memory_used or 0)
    tile(TEXT["device_memory"], used, of_all(total=text.size(status.device_memory_total)))
tile(TEXT["disk"], text.size(status.disk_free), kept)
tile(TEXT["queue"], str(busy), waiting if busy else TEXT["queue_idle"])

st.subheader(TEXT["choices"], anchor=False)
if not status.loaded:
    st.caption(TEXT["not_loaded"])
else:
    st.caption(TEXT["model"].format(model=text.escape(status.model or ""), dtype=status.dtype))
    for choice in status.choices:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.badge(
                TEXT["on" if choice.on else "off"],
                icon=":material/check:" if choice.on else ":material/remove:",
                color="green" if choice.on else "gray",
            )
            st.markdown(f"**{text.escape(choice.name)}** · {text.escape(choice.reason)}")

st.subheader(TEXT["models"], anchor=False)
st.caption(TEXT["models_lead"].format(folder=f"`{studio().settings.models_dir}`"))
st.dataframe(
    [
        {
            "Model": model.title,
            "State": STATES.get(model.state, model.state),
            "Size": text.size(model.size_bytes) if model.size_bytes else "",
            "Reference": model.reference,
            "Note": model.note,
        }
        for model in studio().models()
    ],
    hide_index=True,
    alt=TEXT["models"],
)

st.subheader(TEXT["loras"], anchor=False)
if loras := studio().loras():
    st.dataframe(
        [
            {"LoRA": lora.title, "Trigger words": ", ".join(lora.trigger_words), "Trained on": lora.base}
            for lora in loras
        ],
        hide_index=True,
        alt=TEXT["loras"],
    )
else:
    st.caption(TEXT["loras_none"])

st.subheader(TEXT["runs"], anchor=False)
if runs := studio().runs():
    st.dataframe(
        [
            {
                "Run": run.name,
                "Kind": RUN_KINDS[run.kind],
                "State": run.state,
                "Done": run.step / run.steps if run.steps else 0.0,
                "Model": run.model,
            }
            for run in runs
        ],
        column_config={"Done": st.column_config.ProgressColumn(format="percent")},
        hide_index=True,
        alt=TEXT["runs"],
    )
else:
    st.caption(TEXT["runs_none"])

st.subheader(TEXT["versions"], anchor=False)
st.caption(" · ".join(f"{name} {number}" for name, number in status.versions.items()))
st.caption(TEXT["home"].format(home=f"`{status.home}`"))
