"""The parts of the System page, each of which draws one piece of what the service says about the machine."""

from __future__ import annotations

from typing import Any

import streamlit as st

from studio.core.i18n import _, texts, translated
from studio.core.specs import RUN_KINDS
from studio.core.views import SystemStatus
from studio.interfaces.web import text
from studio.interfaces.web.resources import studio
from studio.interfaces.web.runs import state_name

TEXT = {
    "device": "Device",
    "memory": "Memory of the studio",
    "memory_of": "of {total}",
    "device_memory": "Memory of the device",
    "disk": "Free disk",
    "disk_used": "{size} for {pictures}",
    "cache": "Pictures found, not drawn",
    "cache_of": "{found:,} of {asked:,} in 30 days",
    "cache_none": "no picture asked for yet",
    "disk_bound": "{size} of {bound} for {pictures}",
    "queue": "Jobs",
    "queue_idle": "idle",
    "queue_busy": "{running} running, {waiting} waiting",
    "not_loaded": "The model is loaded when a page is opened, at the latest for the first picture; what was chosen, "
    "and why, is said here. {expected}",
    "expected": "The studio expects to draw on {device}.",
    "cuda": "the CUDA card: in the precision that suits it, with CPU offload if the model doesn't fit on it",
    "mps": "the Apple GPU: in half precision, which torch 2.6 and newer draw without faults",
    "cpu": "the CPU: in full precision, because half precision is slower there",
    "backend": "Another server",
    "elsewhere": "Pictures are drawn by {url} (STUDIO_BACKEND) and kept here. Morphs, animations, sprites, captions, "
    "comparisons and Enlarge are not to be had with it; training runs on this computer.",
    "model": "Loaded: {model}, {dtype}",
    "models": "Models",
    "loras": "LoRAs",
    "loras_none": "None yet.",
    "loras_refused": "Not usable: {name}. {reason}",
    "tags": "Your own tags",
    "tags_lead": "A tag list as A1111's autocomplete reads it: a CSV with the columns name, type, count and aliases. "
    "Generate suggests its tags, and the spelling help leaves their words alone.",
    "tags_file": "Tag list",
    "tags_add": "Use it",
    "tags_added": "{tags} from {name}.",
    "tags_bad": "{lines} left out:",
    "tags_line": "Line {line}: {reason}.",
    "tags_more": "And {lines} more.",
    "tags_size": "{tags}, {size}",
    "tags_drop": "Remove",
    "runs": "Runs",
    "runs_none": "No training or distillation has been started yet.",
    "claude_spent": "All prompts so far: {tokens_in:,} + {tokens_out:,} tokens in {calls}, ${cost:.4f}. "
    "It is asked only by Draw and by the buttons that name it.",
    "on": "On",
    "off": "Off",
}
TEXT = texts(TEXT)
STATES = {"ready": "Ready", "download": "Downloads when used", "missing": "Not usable"}
STATES = texts(STATES)
COLUMNS = {
    "model": "Model",
    "state": "State",
    "size": "Size",
    "reference": "Reference",
    "note": "Note",
    "triggers": "Trigger words",
    "base": "Trained on",
    "run": "Run",
    "kind": "Kind",
    "done": "Done",
}
COLUMNS = texts(COLUMNS)
BAD_LINES = 20  # that are named


def tiles(status: SystemStatus) -> None:
    """The figures at the top: device, memory, disk, jobs."""
    grid = st.grid("auto", min_column_width=200, gap="small")

    def tile(label: str, value: str, note: str | None = None, **options: Any) -> None:
        grid.metric(label, value, note, delta_color="off", delta_arrow="off", border=True, **options)

    of_all = TEXT["memory_of"].format
    busy = status.queue_running + status.queue_waiting
    waiting = TEXT["queue_busy"].format(running=status.queue_running, waiting=status.queue_waiting)
    size, bound = text.size(status.disk_used), text.size(status.disk_bound or 0)
    kept = TEXT["disk_bound" if status.disk_bound else "disk_used"].format(
        pictures=text.plural(status.pictures, "picture"), size=size, bound=bound
    )
    found = TEXT["cache_of"].format(found=status.cache_found, asked=status.cache_asked)
    rate = f"{status.cache_found / status.cache_asked:.0%}" if status.cache_asked else "0%"
    device = TEXT["backend"] if status.device == "backend" else status.device.upper()
    tile(TEXT["device"], device, status.device_name or None, icon=":material/memory:")
    tile(TEXT["memory"], text.size(status.memory_used), of_all(total=text.size(status.memory_total)))
    if status.device_memory_total:
        used = text.size(status.device_memory_used or 0)
        tile(TEXT["device_memory"], used, of_all(total=text.size(status.device_memory_total)))
    tile(TEXT["disk"], text.size(status.disk_free), kept)
    tile(TEXT["cache"], rate, found if status.cache_asked else TEXT["cache_none"])
    tile(TEXT["queue"], str(busy), waiting if busy else TEXT["queue_idle"])


def troubles(status: SystemStatus) -> None:
    """What will not work on this machine, each with the command that mends it."""
    for trouble in status.troubles:
        with st.container(border=True):
            st.warning(text.say(trouble.what), icon=":material/build:")
            if trouble.command:
                st.code(trouble.command, language="bash", wrap_lines=True)


def choices(status: SystemStatus) -> None:
    """What was chosen for this machine and why; before a model is loaded, what will be."""
    if status.device == "backend":
        st.caption(TEXT["elsewhere"].format(url=text.escape(status.device_name)))
        return
    if not status.loaded:
        device = TEXT.get(status.device.partition(":")[0], status.device)
        st.caption(TEXT["not_loaded"].format(expected=TEXT["expected"].format(device=device)))
        return
    st.caption(TEXT["model"].format(model=text.escape(status.model or ""), dtype=status.dtype))
    for choice in status.choices:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.badge(
                TEXT["on" if choice.on else "off"],
                icon=":material/check:" if choice.on else ":material/remove:",
                color="green" if choice.on else "gray",
            )
            st.markdown(f"**{text.say(choice.name)}** · {text.say(choice.reason)}")


def models() -> None:
    """Every model, usable or not."""
    rows = [
        {
            COLUMNS["model"]: text.MODEL_NAMES.get(model.reference, model.title),
            COLUMNS["state"]: STATES.get(model.state, model.state),
            COLUMNS["size"]: text.size(model.size_bytes) if model.size_bytes else "",
            COLUMNS["reference"]: model.reference,
            COLUMNS["note"]: translated(model.note),
        }
        for model in studio().models.list()
    ]
    st.dataframe(rows, hide_index=True, alt=TEXT["models"])


def loras() -> None:
    """Every LoRA, and why a file beside them is none."""
    rows = [
        {"LoRA": lora.title, COLUMNS["triggers"]: ", ".join(lora.trigger_words), COLUMNS["base"]: lora.base}
        for lora in studio().models.loras()
    ]
    if rows:
        st.dataframe(rows, hide_index=True, alt=TEXT["loras"])
    else:
        st.caption(TEXT["loras_none"])
    for name, reason in studio().models.refused_loras():
        st.caption(TEXT["loras_refused"].format(name=text.escape(name), reason=text.say(reason)))


def tag_lists() -> None:
    """The tag lists of this studio: add one, drop one."""
    st.caption(TEXT["tags_lead"])
    for tag_list in studio().prompts.tag_lists():
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            size = TEXT["tags_size"].format(tags=text.plural(tag_list.tags, "tag"), size=text.size(tag_list.size))
            st.markdown(f"**{text.escape(tag_list.name)}** · {size}", width="content")
            st.button(
                TEXT["tags_drop"],
                key=f"system_tags_drop_{tag_list.name}",
                icon=":material/close:",
                type="tertiary",
                on_click=studio().prompts.drop_tags,
                args=(tag_list.name,),
            )
    file = st.file_uploader(
        TEXT["tags_file"], ["csv", "txt"], key="system_tags", max_upload_size=studio().settings.max_upload_mb
    )
    if file is not None and st.button(TEXT["tags_add"], key="system_tags_add", icon=":material/add:"):
        read = studio().prompts.add_tags(file.getvalue(), file.name)
        st.session_state["system_tags_read"] = (file.name, len(read.rows), read.bad)
        st.rerun()  # the list above has it then
    if added := st.session_state.pop("system_tags_read", None):
        name, count, bad = added
        st.success(TEXT["tags_added"].format(tags=text.plural(count, "tag"), name=text.escape(name)))
        if bad:
            lines = [TEXT["tags_line"].format(line=one.line, reason=text.say(one.reason)) for one in bad[:BAD_LINES]]
            lines += [TEXT["tags_more"].format(lines=len(bad) - BAD_LINES)] if len(bad) > BAD_LINES else []
            heading = TEXT["tags_bad"].format(lines=text.plural(len(bad), "line"))
            st.warning("\n".join([heading, "", *(f"- {line}" for line in lines)]))


def runs() -> None:
    """Every training run and how far it is."""
    rows = [
        {
            COLUMNS["run"]: run.name,
            COLUMNS["kind"]: _(RUN_KINDS[run.kind].title),
            COLUMNS["state"]: state_name(run),
            COLUMNS["done"]: run.step / run.steps if run.steps else 0.0,
            COLUMNS["model"]: run.model,
        }
        for run in studio().runs.list()
    ]
    if not rows:
        st.caption(TEXT["runs_none"])
        return
    done = st.column_config.ProgressColumn(format="percent")
    st.dataframe(rows, column_config={COLUMNS["done"]: done}, hide_index=True, alt=TEXT["runs"])


def claude() -> None:
    """What Claude cost so far."""
    spent = studio().prompts.spent()
    said = TEXT["claude_spent"].format(
        tokens_in=spent.tokens_in,
        tokens_out=spent.tokens_out,
        calls=text.plural(spent.calls, "call"),
        cost=spent.cost_usd,
    )
    st.caption(said.replace("$", r"\$"))
