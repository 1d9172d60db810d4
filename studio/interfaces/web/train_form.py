"""The form of the Train page: data with its check and captions, settings with presets, an estimate, the start."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import streamlit as st
from pydantic import ValidationError

from studio.core.errors import StudioError
from studio.core.i18n import texts
from studio.core.presets import EMBEDDED, LORA
from studio.core.settings import ASSETS
from studio.core.specs import LoraSpec
from studio.interfaces.web import captions, inputs, text, widgets
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio

EXAMPLE = ASSETS / "examples" / "style_1"
SHOWN = 3  # sentences about what is left out that stand in the open
TEXT = {
    "settings": "2 · Settings",
    "data": "1 · Pictures",
    "data_lead": "20 to 100 pictures of one style or character. Folders in a ZIP become trigger words; `.txt` files "
    "beside the pictures are their captions.",
    "upload": "A ZIP, or pictures with their captions",
    "folder": "Or a folder on this computer",
    "example": "Use the example set",
    "looking": "Looking at every picture",
    "found": "{pictures}, {epoch} in an epoch (each shown {repeats}). Trigger words: {words}.",
    "found_once": "{pictures}, {drawn} for them.",
    "no_words": "none, so captions alone call it",
    "problems": "{count} to look at",
    "left_out": "{count} of these files won't be trained on: {first}",
    "fine": "Nothing is wrong with these files.",
    "captions": "Captions",
    "preset": "Preset",
    "more": "More settings",
    "samples": "Sample prompts, one a line",
    "samples_hint": "From the first captions",
    "estimate": "{steps} steps in all, {each} an epoch.",
    "measure": "Measure three steps",
    "measuring": "Loading the model for three steps",
    "measured": "About {time} for the whole run ({step} a step), and {memory} of memory.",
    "start": "Start training",
    "need_data": "Choose pictures first.",
}
TEXT = texts(TEXT)


# --- data -----------------------------------------------------------------------------------------------------------


def data(model: str, resolution: int | None, lead: str = "") -> Any | None:
    """Choose, check and caption the pictures; the report, or None while there are none.

    `lead` says what is wanted where it isn't a LoRA: then neither trigger words nor repeats count.
    """
    st.markdown(f"#### {TEXT['data']}")
    st.caption(lead or TEXT["data_lead"])
    files = st.file_uploader(
        TEXT["upload"],
        ["zip", *studio().datasets.suffixes],
        accept_multiple_files=True,
        key=f"lora_files_{st.session_state.get('lora_uploads', 0)}",
        max_upload_size=200,
    )
    job = captions.followed()
    if job is not None and "lora_folder" not in st.session_state:  # after a reload: the set that is being captioned
        st.session_state["lora_folder"] = job.result["folder"]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.text_input(TEXT["folder"], key="lora_folder", persist_state="session")
        if EXAMPLE.is_dir():
            st.button(TEXT["example"], key="lora_example", on_click=_example, icon=":material/palette:")
    try:
        if files:
            folder = _uploaded(files)
        elif typed := st.session_state.get("lora_folder"):
            folder = typed
        else:
            return None
        with st.spinner(TEXT["looking"]):
            report = studio().datasets.check(folder, model, resolution)
    except StudioError as problem:
        st.error(text.say(problem), icon=":material/error:")
        return None
    words = ", ".join(f"{word} ({count})" for word, count in report.triggers.items()) or TEXT["no_words"]
    repeats = st.session_state.get("lora_repeats") or report.repeats
    st.success(
        TEXT["found_once" if lead else "found"].format(
            pictures=text.plural(len(report.entries), "picture"),
            epoch=per_epoch(report, repeats),
            repeats=text.plural(repeats, "time"),
            drawn=text.plural(report.drawings, "drawing"),
            words=text.escape(words),
        ),
        icon=":material/check:",
    )
    if report.left_out:
        first = " ".join(report.left_out[:SHOWN]) + (" …" if len(report.left_out) > SHOWN else "")
        st.warning(
            TEXT["left_out"].format(count=len(report.left_out), first=text.escape(first)),
            icon=":material/visibility_off:",
        )
    if report.problems:
        with st.expander(TEXT["problems"].format(count=text.plural(len(report.problems), "file")),
                         icon=":material/report:", key="lora_problems"):  # fmt: skip
            st.markdown("\n".join(f"- {text.escape(problem.message)}" for problem in report.problems))
    else:
        st.caption(TEXT["fine"])
    with st.expander(TEXT["captions"], job is not None, icon=":material/edit_note:", key="lora_captions"):
        captions.table(report)
    return report


def _example() -> None:
    """A copy of one's own, because captions are edited in place."""
    files = [(file.name, file.read_bytes()) for file in sorted(EXAMPLE.iterdir()) if file.is_file()]
    st.session_state["lora_folder"] = str(studio().datasets.upload(files))
    # What was uploaded before would count first: a fresh field is an empty one
    st.session_state["lora_uploads"] = st.session_state.get("lora_uploads", 0) + 1


def _uploaded(files: list[Any]) -> str:
    """The folder of uploaded files, written once and not at every click."""
    ids = [file.file_id for file in files]
    before, folder = st.session_state.get("lora_uploaded", (None, ""))
    if ids != before or not Path(folder).is_dir():
        folder = str(studio().datasets.upload([(file.name, file.getvalue()) for file in files]))
        st.session_state["lora_uploaded"] = (ids, folder)
    return str(folder)


def per_epoch(report: Any, repeats: int) -> int:
    """Pictures in an epoch."""
    return sum(entry.repeats or repeats for entry in report.entries)


# --- settings -------------------------------------------------------------------------------------------------------


def _preset() -> None:
    chosen = st.session_state.get("lora_preset")
    for field, value in LORA.get(chosen or "", {}).items():
        st.session_state[f"lora_{field}"] = value


def _number(field: str, **options: Any) -> Any:
    return inputs.number(LoraSpec, field, f"lora_{field}", **options)


def settings() -> dict[str, Any]:
    """The fields of `LoraSpec` that the form has, data left out."""
    st.markdown(f"#### {TEXT['settings']}")
    if "lora_preset" not in st.session_state and studio().settings.model == "embedded":
        st.session_state["lora_preset"] = EMBEDDED
        _preset()
    st.segmented_control(TEXT["preset"], list(LORA), key="lora_preset", on_change=_preset, persist_state="session")
    values: dict[str, Any] = {"model": widgets.model_picker("lora_model")}
    values["name"] = inputs.line(LoraSpec, "name", "lora_name")
    with st.container(horizontal=True):
        values["epochs"] = _number("epochs", width=120)
        values["rank"] = _number("rank", width=120)
        values["learning_rate"] = _number("learning_rate", width=190, format="%.5f", min_value=0.000001)
        values["batch_size"] = _number("batch_size", width=140)
        values["repeats"] = _number("repeats", width=140, placeholder="automatic")
    values["flip"] = inputs.toggle(LoraSpec, "flip", "lora_flip")
    with st.expander(TEXT["more"], icon=":material/tune:", key="lora_more"):
        values |= _more()
    return {name: value for name, value in values.items() if value is not None}


def _more() -> dict[str, Any]:
    values: dict[str, Any] = {}
    with st.container(horizontal=True):
        values["resolution"] = _number("resolution", width=160)
        values["alpha"] = _number("alpha", width=140)
        values["accumulation"] = _number("accumulation", width=140)
        values["text_encoder_lr"] = _number("text_encoder_lr", width=200, format="%.5f")
        values["seed"] = _number("seed", width=160)
    with st.container(horizontal=True):
        values["min_snr_gamma"] = _number("min_snr_gamma", width=140)
        values["noise_offset"] = _number("noise_offset", width=140)
        values["caption_dropout"] = _number("caption_dropout", width=160)
        values["checkpoint_epochs"] = _number("checkpoint_epochs", width=160)
        values["checkpoint_minutes"] = _number("checkpoint_minutes", width=180)
        values["time_limit_minutes"] = _number("time_limit_minutes", width=180)
    with st.container(horizontal=True):
        for field in ("optimizer", "precision"):
            values[field] = inputs.choice(LoraSpec, field, f"lora_{field}", width=180)
        for field in ("gradient_checkpointing", "ema"):
            values[field] = inputs.toggle(LoraSpec, field, f"lora_{field}")
        values["samples"] = inputs.toggle(LoraSpec, "samples", "lora_draw")
    typed = st.text_area(
        TEXT["samples"], key="lora_samples", placeholder=TEXT["samples_hint"], height=90, persist_state="session",
        disabled=not values["samples"],
    )  # fmt: skip
    values["sample_prompts"] = tuple(line.strip() for line in (typed or "").splitlines() if line.strip())[:8]
    values["license"] = inputs.line(LoraSpec, "license", "lora_license")
    return values


# --- start ----------------------------------------------------------------------------------------------------------


def _measured_by(spec: LoraSpec) -> list[Any]:
    """Everything that a measurement depends on; data, epochs and rates aren't among it."""
    fields = ("model", "resolution", "rank", "batch_size", "accumulation", "optimizer", "precision",
              "gradient_checkpointing", "ema")  # fmt: skip
    return [*(getattr(spec, field) for field in fields), spec.text_encoder_lr > 0]


def start(report: Any | None, fields: dict[str, Any]) -> str | None:
    """What the run will take, and the button; the id of the run that was started."""
    if report is None:
        st.button(TEXT["start"], type="primary", disabled=True, key="lora_start", help=TEXT["need_data"])
        st.caption(TEXT["need_data"])
        return None
    try:
        spec = LoraSpec(data=str(report.folder), **fields)
    except ValidationError as error:
        st.error(text.mistake(error), icon=":material/error:")
        st.button(TEXT["start"], type="primary", disabled=True, icon=":material/school:", key="lora_start")
        return None
    pictures = per_epoch(report, spec.repeats or report.repeats)
    each = math.ceil(pictures / (spec.batch_size * spec.accumulation))
    st.markdown(TEXT["estimate"].format(steps=f"{each * spec.epochs:,}", each=each))
    with st.container(horizontal=True, vertical_alignment="center"):
        pressed = st.button(TEXT["start"], type="primary", icon=":material/school:", key="lora_start")
        if st.button(TEXT["measure"], icon=":material/timer:", key="lora_measure"):
            with st.spinner(TEXT["measuring"]):
                st.session_state["lora_measured"] = (_measured_by(spec), studio().runs.measure(spec))
    of, measured = st.session_state.get("lora_measured", (None, None))
    if measured and of != _measured_by(spec):  # of another run than the one that the form describes now
        del st.session_state["lora_measured"]
        measured = None
    if measured:
        seconds = measured["seconds_per_step"] * each * spec.epochs + measured["seconds_to_load"]
        memory = text.size(int(measured["memory"]))
        step = f"{measured['seconds_per_step']:.2f} s"
        st.caption(TEXT["measured"].format(time=text.duration(seconds), step=step, memory=memory))
    if not pressed:
        return None
    captions.save_pending(report)
    return studio().runs.start(spec, owner()).id
