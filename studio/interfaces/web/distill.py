"""The panels of the Distill page: the request, and what a finished distillation is worth at 1, 2, 4 and 8 steps.

Figures come from the run as the service shows it; nothing is measured here and no model is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st
from pydantic import ValidationError

from studio.core.errors import StudioError
from studio.core.i18n import _, texts
from studio.core.specs import LcmSpec, LoraRef
from studio.core.views import RunView
from studio.interfaces.web import download, inputs, text, widgets
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio

TEXT = {
    "request": "What to make fast",
    "grid": "The same prompts, the same noise",
    "data": "Learn from",
    "data_help": "Without pictures of your own the model draws what it learns from first: slower to start, as good.",
    "folder": "A folder or ZIP of pictures on this computer",
    "more": "More settings",
    "measure_memory": "How long, how much memory?",
    "measuring": "Loading the model to measure",
    "time": "About {all} on this machine, measuring left out.",
    "time_first": "About {all} on this machine, measuring left out: {first} for the pictures that the teacher draws, "
    "{rest} to learn.",
    "memory": "About {needed} of memory in full precision; {free} are free.",
    "memory_most": "At most {needed} of memory in full precision, less where it is saved; {free} are free.",
    "too_much": "That is more than is free: choose a smaller batch, turn on gradient checkpointing, or make a LoRA.",
    "start": "Start distilling",
    "about": "{steps} steps in all. Quality is measured every {every}, and at the end.",
    "about_unmeasured": "{steps} steps in all, saved every {every} and at the end. With no pictures to measure, "
    "nothing is measured.",
    "curve": "Quality against speed",
    "curve_empty": "The teacher is measured before the first step, the student at each checkpoint.",
    "no_judge": "This model has no judge: there are pictures to compare, but no accuracy.",
    "seconds": "Seconds per picture",
    "measure": "Measure",
    "steps_word": "{count} at guidance {guidance:g}",
    "pick": "Pick your trade-off: steps",
    "picked": "{time} per picture, {faster:.1f} times faster than the teacher at its best.",
    "sees": "The judge sees the emotion in {emotion:.0%} of pictures (teacher {teacher:.0%}, DPM++ 2M at as many steps "
    "{solver:.0%}).",
    "loses": "DPM++ 2M is as good at this many steps: distil longer, or use it.",
    "guidance_lora": "Drawn at guidance 1, where negative prompts don't count. Up to 2 is safe; above, colours burn.",
    "guidance_full": "This model is told the guidance: {low:g} to {high:g} is what it learnt.",
    "unmeasured": "Nothing was measured, so there is no curve to choose from: it draws in 4 steps.",
    "use": "Use in Generate",
    "character": "Part of its teacher, and used beside it: {names}.",
    "download": "Download for A1111 and ComfyUI",
    "all": "All formats",
    "folder_is": "The whole model is a folder, for the studio and for `DiffusionPipeline.from_pretrained`:",
    "who": "who",
    "axis": "step",
    "axis_steps": "steps",
    "quality_alt": "Quality of the student at four steps by checkpoint",
    "strip_alt": "{who}, {steps}: the first prompts side by side",
    "quality": "Quality by checkpoint",
    "best": "Kept: {name}",
}
TEXT = texts(TEXT)
POLL = 10.0  # seconds between two looks at a curve
SOURCES = {"teacher": "The model's own pictures", "folder": "My pictures"}
SOURCES = texts(SOURCES)
NAMES = {"student": "Student", "teacher": "Teacher at its best", "dpmpp_2m": "DPM++ 2M"}
NAMES = texts(NAMES)
COLOURS = {"student": "#7c4dff", "teacher": "#2a9d8f", "dpmpp_2m": "#e07a5f"}
MEASURES = {
    "emotion": ("Emotion as asked", True),
    "style": ("Style as asked", True),
    "frechet": ("Frechet distance (less is better)", False),
    "clip": ("CLIP score", True),
    "drift": ("Distance to the teacher's picture (less is better)", False),
}
MEASURES = texts(MEASURES)


# --- the request ----------------------------------------------------------------------------------------------------


def _number(field: str, **options: Any) -> Any:
    return inputs.number(LcmSpec, field, f"lcm_{field}", **options)


_FITTED = (
    "objective", "epochs", "steps_per_epoch", "batch_size", "learning_rate", "latents", "gradient_checkpointing"
)  # fmt: skip


def _preset(model: str, form: str) -> dict[str, Any]:
    """Fill the form with what suits model and result, once chosen; the settings that have no field are given back."""
    fits = studio().runs.defaults("lcm", model, {"form": form})
    if st.session_state.get("lcm_for") != [model, form]:
        st.session_state["lcm_for"] = [model, form]
        plain = {name: field.default for name, field in LcmSpec.model_fields.items()}
        for name in _FITTED:
            st.session_state[f"lcm_{name}"] = fits.get(name, plain[name])
    return {name: value for name, value in fits.items() if name not in _FITTED}


def request() -> str | None:
    """The form and its button; the id of the run that was started. Raises StudioError for what can't run."""
    st.markdown(f"#### {TEXT['request']}")
    values: dict[str, Any] = {"model": widgets.model_picker("lcm_model"), "loras": widgets.lora_picker("lcm_loras")}
    values |= _preset(values["model"], st.session_state.get("lcm_form") or "lora")
    values["name"] = inputs.line(LcmSpec, "name", "lcm_name")
    with st.container(horizontal=True):
        for field in ("form", "objective"):
            values[field] = inputs.buttons(LcmSpec, field, f"lcm_{field}")
    source = st.radio(
        TEXT["data"], list(SOURCES), format_func=SOURCES.__getitem__, key="lcm_source", horizontal=True,
        help=TEXT["data_help"], persist_state="session",
    )  # fmt: skip
    if source == "folder":
        values["data"] = st.text_input(TEXT["folder"], key="lcm_data", persist_state="session").strip() or None
    with st.container(horizontal=True):
        if source == "teacher":
            values["latents"] = _number("latents", width=170)
        values["epochs"] = _number("epochs", width=120)
        values["steps_per_epoch"] = _number("steps_per_epoch", width=150)
        values["batch_size"] = _number("batch_size", width=150)
    with st.expander(TEXT["more"], icon=":material/tune:", key="lcm_more"):
        values |= _more()
    fields = {name: value for name, value in values.items() if value is not None}
    try:
        spec = LcmSpec(**fields)
    except ValidationError as error:
        st.error(text.mistake(error), icon=":material/error:")
        st.button(TEXT["start"], type="primary", disabled=True, icon=":material/bolt:", key="lcm_start")
        return None
    total = f"{spec.epochs * spec.steps_per_epoch:,}"
    about = TEXT["about_unmeasured" if spec.curve_pictures == 0 else "about"]
    st.caption(about.format(steps=total, every=text.plural(spec.checkpoint_epochs, "epoch")))
    missing = source == "folder" and "data" not in fields
    with st.container(horizontal=True, vertical_alignment="center"):
        pressed = st.button(TEXT["start"], type="primary", icon=":material/bolt:", key="lcm_start", disabled=missing)
        asked = st.button(TEXT["measure_memory"], icon=":material/memory:", key="lcm_memory")
    _memory(spec, asked)
    return studio().runs.start(spec, owner()).id if pressed else None


def _memory(spec: LcmSpec, asked: bool) -> None:
    """What the run will take, once asked for and until the form describes another run."""
    of_now = spec.model_copy(update={"name": "", "seed": 0})
    if asked:
        with st.spinner(TEXT["measuring"]):
            st.session_state["lcm_measured"] = (of_now, studio().runs.measure(spec))
    of, measured = st.session_state.get("lcm_measured", (None, None))
    if measured is None or of != of_now:
        return
    needed, free = int(measured["memory"]), int(measured["free"])
    words = TEXT["memory_most" if spec.gradient_checkpointing else "memory"]
    st.caption(words.format(needed=text.size(needed), free=text.size(free)))
    first, rest = measured["latents"], measured["steps"]
    said = TEXT["time_first" if first else "time"]
    st.caption(said.format(all=text.duration(first + rest), first=text.duration(first), rest=text.duration(rest)))
    if needed > free and not spec.gradient_checkpointing:
        st.warning(TEXT["too_much"], icon=":material/warning:")


def _more() -> dict[str, Any]:
    values: dict[str, Any] = {}
    with st.container(horizontal=True):
        for field in ("w_min", "w_max"):
            values[field] = _number(field, width=200)
        values["learning_rate"] = _number("learning_rate", width=200, format="%.6f", step=0.00001, min_value=1e-7,
        )  # fmt: skip
        values["rank"] = _number("rank", width=120)
        values["seed"] = _number("seed", width=160)
    with st.container(horizontal=True):
        values["checkpoint_epochs"] = _number("checkpoint_epochs", width=210)
        values["patience"] = _number("patience", width=210)
        values["curve_pictures"] = _number("curve_pictures", width=180, placeholder=_("automatic"))
        values["time_limit_minutes"] = _number("time_limit_minutes", width=180)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        values["precision"] = inputs.choice(LcmSpec, "precision", "lcm_precision", width=180)
        values["gradient_checkpointing"] = inputs.toggle(
            LcmSpec, "gradient_checkpointing", "lcm_gradient_checkpointing"
        )
    return values


# --- the curve ------------------------------------------------------------------------------------------------------


def live(run: RunView) -> None:
    """`curve`, drawn again while the run measures."""
    if run.active:
        st.fragment(lambda: curve(studio().runs.get(run.id)), run_every=POLL)()
    else:
        curve(run)


def curve(run: RunView) -> None:
    """Chart, pictures and quality by checkpoint, as far as they are there."""
    st.markdown(f"#### {TEXT['curve']}")
    said = run.extra.get("curve") or {}
    rows = said.get("rows") or []
    if not rows:
        st.caption(TEXT["curve_empty"])
        return
    table = pd.DataFrame(rows)
    table["total"] = table["seconds"] + table["decoding"]
    table["name"] = [NAMES[who] for who in table["who"]]
    there = [name for name in MEASURES if table[name].notna().all()]
    if "emotion" not in there and "clip" not in there:
        st.caption(TEXT["no_judge"])
    measure = there[0]
    if len(there) > 1:
        measure = st.segmented_control(
            TEXT["measure"], there, default=there[0], format_func=lambda name: MEASURES[name][0], required=True,
            key="lcm_measure",
        )  # fmt: skip
    st.altair_chart(chart(table, measure or there[0]))
    points = said.get("checkpoints") or []
    if len(points) > 1:
        st.markdown(f"##### {TEXT['quality']}")
        st.line_chart(
            pd.DataFrame({TEXT["quality"]: [p["quality"] for p in points]}, index=[p["step"] for p in points]),
            height=140, x_label=TEXT["axis"], alt=TEXT["quality_alt"],
        )  # fmt: skip
        st.caption(TEXT["best"].format(name=said.get("best")))
    pictures(run, rows, said.get("best") or "")


def chart(table: pd.DataFrame, measure: str) -> alt.LayerChart:
    """One line per contestant, a point and its number of steps for every row; time on a logarithmic axis."""
    title, _ = MEASURES[measure]
    form = ".0%" if measure in ("emotion", "style") else ".2f"
    base = alt.Chart(table).encode(
        x=alt.X("total:Q", title=TEXT["seconds"], scale=alt.Scale(type="log", nice=False, padding=20)),
        y=alt.Y(f"{measure}:Q", title=title, scale=alt.Scale(zero=False, padding=16), axis=alt.Axis(format=form)),
        color=alt.Color(
            "name:N", title=None, scale=alt.Scale(domain=[NAMES[who] for who in COLOURS], range=list(COLOURS.values())),
            legend=alt.Legend(orient="top"),
        ),
        tooltip=[
            alt.Tooltip("name:N", title=TEXT["who"]), alt.Tooltip("steps:Q", title=TEXT["axis_steps"]),
            alt.Tooltip("total:Q", title=TEXT["seconds"], format=".3f"),
            alt.Tooltip(f"{measure}:Q", title=title, format=form),
        ],
    )  # fmt: skip
    lines = base.mark_line(order=False).encode(order="steps:Q")
    labels = base.mark_text(dy=-12, fontWeight="bold").encode(text="steps:Q")
    drawn: alt.LayerChart = lines + base.mark_point(size=90, filled=True) + labels
    return drawn.properties(height=320)


def strips(run: RunView) -> dict[str, Path]:
    """The kept strips of pictures by name: `teacher`, `dpmpp_2m-4`, `epoch-0005-4`."""
    return {path.stem: path for path in run.samples if not path.stem.startswith("step-")}


def strip_of(row: dict[str, Any], best: str) -> str:
    """The name of a row's strip."""
    return "teacher" if row["who"] == "teacher" else f"{best if row['who'] == 'student' else row['who']}-{row['steps']}"


def pictures(run: RunView, rows: list[dict[str, Any]], best: str) -> None:
    """All rows below each other: what the figures look like."""
    there = strips(run)
    st.markdown(f"##### {TEXT['grid']}")
    for row in sorted(rows, key=lambda row: (row["who"] != "teacher", row["steps"], row["who"] != "student")):
        path = there.get(strip_of(row, best))
        if path is None:
            continue
        words = TEXT["steps_word"].format(count=text.plural(row["steps"], "step"), guidance=row["guidance"])
        st.caption(f"{NAMES[row['who']]} · {words}")
        st.image(path.read_bytes(), alt=TEXT["strip_alt"].format(who=NAMES[row["who"]], steps=words))


# --- afterwards -----------------------------------------------------------------------------------------------------


def after(run: RunView) -> None:
    """What can be done with a result."""
    assert run.adapter is not None
    adapter, whole = run.adapter, run.spec.get("form") == "full"
    steps = trade_off(run)
    if steps is None:
        st.caption(TEXT["unmeasured"])
    low, high = (run.extra.get("curve") or {}).get("range") or (0.0, 0.0)
    if not whole:
        st.caption(TEXT["guidance_lora"])
    elif high:
        st.caption(TEXT["guidance_full"].format(low=low + 1, high=high + 1))
    # A whole model holds its teacher's LoRAs; a LoRA is made to be used beside them.
    beside = [] if whole else [LoraRef(**ref) for ref in run.spec.get("loras") or ()]
    if beside:
        names = ", ".join(f"{text.escape(Path(ref.path).stem)} ({ref.weight:g})" for ref in beside)
        st.caption(TEXT["character"].format(names=names))
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button(TEXT["use"], type="primary", icon=":material/auto_awesome:", key="lcm_use"):
            refs = [] if whole else [*beside, LoraRef(path=str(adapter))]
            try:
                widgets.put_loras("gen_loras", refs)
            except StudioError as problem:  # a character that was deleted since
                st.error(text.say(problem), icon=":material/link_off:")
                return
            st.session_state.update(
                {"gen_model": str(adapter) if whole else run.model, "gen_steps": steps, "gen_guidance": None,
                 "gen_sampler": "auto"}
            )  # fmt: skip
            widgets.go("generate")
        if not whole:
            st.download_button(TEXT["download"], adapter.read_bytes, adapter.name, key="lcm_download",
                               icon=":material/download:", on_click="ignore")  # fmt: skip
            st.download_button(TEXT["all"], lambda: download.archive(adapter.parent), f"{run.name}.zip", key="lcm_all",
                               icon=":material/folder_zip:", on_click="ignore")  # fmt: skip
    if whole:  # gigabytes, which a browser would first have to be handed from memory
        st.caption(TEXT["folder_is"])
        st.code(str(adapter), language=None)


def trade_off(run: RunView) -> int | None:
    """The slider that sets the steps in Generate, with what they cost and give; None where nothing was measured."""
    said = run.extra.get("curve") or {}
    rows = {(row["who"], row["steps"]): row for row in said.get("rows") or []}
    students = {steps: row for (who, steps), row in rows.items() if who == "student"}
    if not students:
        return None
    steps = int(st.select_slider(TEXT["pick"], sorted(students), value=4 if 4 in students else None, key="lcm_steps"))
    row, solver = students[steps], rows.get(("dpmpp_2m", steps))
    teacher = next(row for (who, _), row in rows.items() if who == "teacher")
    total = row["seconds"] + row["decoding"]
    faster = (teacher["seconds"] + teacher["decoding"]) / max(total, 1e-9)
    st.markdown(TEXT["picked"].format(time=_("{seconds} s").format(seconds=f"{total:.2f}"), faster=faster))
    if row["emotion"] is not None and solver is not None:
        st.markdown(TEXT["sees"].format(emotion=row["emotion"], teacher=teacher["emotion"], solver=solver["emotion"]))
        near = row["frechet"] is None or solver["frechet"] <= row["frechet"]  # None: of single pictures
        if solver["emotion"] >= row["emotion"] and near:
            st.warning(TEXT["loses"], icon=":material/info:")
    if path := strips(run).get(strip_of(row, said.get("best") or "")):
        st.image(path.read_bytes(), alt=f"{NAMES['student']}, {text.plural(steps, 'step')}")
    return steps
