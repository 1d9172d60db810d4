"""Train a LoRA or a ControlNet: pictures and captions in, a run that survives everything, and its result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from studio.core.errors import StudioError
from studio.core.i18n import texts
from studio.core.specs import RUN_KINDS, GenerateSpec, LoraRef
from studio.core.views import RunView
from studio.features.sheets.spec import Axis, GridSpec
from studio.interfaces.web import captions, control_form, download, inputs, results, runs, text, train_form, widgets
from studio.interfaces.web.resources import studio

PAGE = "train_lora"
FORMS: dict[str, Any] = {"lora": train_form, "control": control_form}
WEIGHTS = ("0", "0.4", "0.7", "1", "1.2")
TEXT = {
    "title": "Train a LoRA",
    "lead": "Teach the model your style, your character or your way to draw. The run goes on when this page, or the "
    "studio, is closed.",
    "what": "What it learns",
    "after": "Your LoRA",
    "use": "Use in Generate",
    "download": "Download for A1111 and ComfyUI",
    "all": "All formats",
    "grid": "Epoch by weight",
    "grid_help": "One picture for each saved epoch and each weight, all from one seed: choose where it is best.",
    "hub": "Upload to Hugging Face",
    "hub_repo": "Repository",
    "hub_hint": "you/name",
    "hub_public": "Anybody may see it",
    "hub_go": "Upload",
    "hub_done": "Uploaded: {url}",
    "import": "Import a LoRA from elsewhere",
    "import_file": "A .safetensors file",
    "import_words": "Trigger words",
    "import_weight": "Weight",
    "import_go": "Import",
    "imported": "{title} is in the LoRA list now.",
}
TEXT = texts(TEXT)


def after(run: RunView) -> None:
    """What can be done with a result."""
    assert run.adapter is not None
    adapter = run.adapter
    known = {str(lora.path): lora for lora in studio().models.loras()}.get(str(adapter))
    words = ", ".join(known.trigger_words) if known else ""
    st.markdown(f"#### {TEXT['after']}")
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button(TEXT["use"], type="primary", icon=":material/auto_awesome:", key="lora_use"):
            _use(run, adapter, words)
        st.download_button(TEXT["download"], adapter.read_bytes, adapter.name, key="lora_download",
                           icon=":material/download:", on_click="ignore")  # fmt: skip
        st.download_button(TEXT["all"], lambda: download.archive(adapter.parent), f"{run.name}.zip", key="lora_all",
                           icon=":material/folder_zip:", on_click="ignore")  # fmt: skip
        epochs = sorted((adapter.parent / "epochs").glob("*.safetensors"))
        if epochs and st.button(TEXT["grid"], icon=":material/grid_on:", key="lora_grid", help=TEXT["grid_help"]):
            prompt = (run.extra.get("sample_prompts") or [words])[0]
            base = GenerateSpec(prompt=prompt, model=run.model, seed=0, loras=(LoraRef(path=str(adapter)),))
            rows = Axis(name="lora", values=tuple(str(path) for path in epochs[-16:]))
            widgets.start(GridSpec(base=base, x=Axis(name="lora_weight", values=WEIGHTS), y=rows), PAGE)
            st.rerun()
        with st.popover(TEXT["hub"], icon=":material/cloud_upload:", key="lora_hub"):
            repository = st.text_input(TEXT["hub_repo"], placeholder=TEXT["hub_hint"], key="lora_hub_repo")
            public = st.toggle(TEXT["hub_public"], key="lora_hub_public")
            if st.button(TEXT["hub_go"], key="lora_hub_go", disabled=not repository):
                try:
                    url = studio().runs.publish(run.id, repository, private=not public)
                    st.success(TEXT["hub_done"].format(url=text.escape(url)))
                except StudioError as problem:
                    st.error(text.say(problem))
    job_id = widgets.current_job(PAGE) if captions.followed() is None else None
    if job_id and (job := widgets.job_panel(job_id, PAGE)) and not job.active:
        results.show(job)


def _use(run: RunView, adapter: Path, words: str) -> None:
    """Choose the LoRA in Generate, with its weight of its own, and add its trigger words to what is typed there."""
    try:
        widgets.put_loras("gen_loras", [LoraRef(path=str(adapter), weight=studio().models.lora(str(adapter)).weight)])
    except StudioError as problem:  # deleted since
        st.error(text.say(problem), icon=":material/link_off:")
        return
    st.session_state["gen_model"] = run.model
    said = str(st.session_state.get("gen_text") or "").strip(" ,")
    there = {part.strip().casefold() for part in said.split(",")}
    missing = [word.strip() for word in words.split(",") if word.strip() and word.strip().casefold() not in there]
    if missing:
        st.session_state["gen_text"] = ", ".join(filter(None, (said, *missing)))
    widgets.go("generate")


def import_lora() -> None:
    """Take a LoRA file from elsewhere into the list."""
    with st.expander(TEXT["import"], icon=":material/input:", key="lora_import"):
        file = st.file_uploader(TEXT["import_file"], ["safetensors"], key="lora_import_file", max_upload_size=1000)
        words = st.text_input(TEXT["import_words"], key="lora_import_words")
        weight = inputs.number(LoraRef, "weight", "lora_import_weight", slider=True, label=TEXT["import_weight"])
        if st.button(TEXT["import_go"], key="lora_import_go", disabled=file is None) and file is not None:
            triggers = [word.strip() for word in words.split(",") if word.strip()]
            info = studio().models.import_lora(file.getvalue(), file.name, triggers, weight)
            st.success(TEXT["imported"].format(title=text.escape(info.title)))


st.title(TEXT["title"], anchor=False)
st.caption(TEXT["lead"])
if run_id := runs.choose(tuple(FORMS), PAGE):
    shown = runs.panel(run_id, PAGE)
    if shown.adapter is not None and not shown.active:
        (control_form.after if shown.kind == "control" else after)(shown)
else:
    what = st.segmented_control(
        TEXT["what"], list(FORMS), default="lora", required=True, format_func=lambda kind: RUN_KINDS[kind].learns,
        key="lora_what", persist_state="session",
    )  # fmt: skip
    form_of = FORMS[what]
    pictures, form = st.columns([1, 1], gap="large")
    with form:
        fields = form_of.settings()
    with pictures:
        lead = control_form.TEXT["lead"] if what == "control" else ""
        report = train_form.data(fields["model"], fields.get("resolution"), lead)
    with form:
        started = form_of.start(report, fields)
    if started:
        runs.follow(started, PAGE)
        st.rerun()
    import_lora()
