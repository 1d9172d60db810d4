"""More than one picture from one request: sheets, X/Y grids, lists of prompts. Dialogs of the Generate page."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from studio.core.errors import StudioError
from studio.core.fields import SpecField
from studio.core.i18n import texts
from studio.core.specs import STYLES, GenerateSpec, bounds
from studio.features.sheets.spec import AXES, Axis, BatchSpec, GridSpec, SheetSpec
from studio.interfaces.web import text, widgets
from studio.interfaces.web.language import dialog
from studio.interfaces.web.resources import studio

PAGE = "generate"
TEXT = {
    "menu": "More than one",
    "emotions": "Sheet: every emotion",
    "full": "Sheet: every emotion in every style",
    "grid": "X/Y grid…",
    "batch": "A list of prompts…",
    "grid_title": "X/Y grid",
    "grid_lead": "The same character while two settings change. Everything else comes from the form.",
    "x": "Across",
    "y": "Down",
    "values": "Values",
    "one_row": "Nothing: one row",
    "values_help": "Separate values by commas.",
    "draw": "Draw {pictures}",
    "nothing": "Give at least one value.",
    "number": "{name} can't be {value}: it is a number from {low} to {high}.",
    "whole": "{name} can't be {value}: it is a whole number from {low} to {high}.",
    "choice": "{name} can't be {value}: it is one of {known}.",
    "too_many": "Only the first {most} values are drawn: {left} left out.",
    "batch_title": "A list of prompts",
    "batch_lead": "One prompt a line, or CSV with the columns prompt, seed, emotion. One job, which can be continued.",
    "paste": "Prompts",
    "paste_hint": "1girl, red hair, happy\n1boy, glasses, sad",
    "file": "or a file",
    "first": "The first one: {prompt}",
}
TEXT = texts(TEXT)


def menu(base: GenerateSpec) -> None:
    """The button beside Draw. Sheets start at once; a grid and a list ask first. Raises StudioError."""
    names = {name: TEXT[name] for name in ("emotions", "full", "grid", "batch")}
    chosen = st.menu_button(
        TEXT["menu"], list(names), key="gen_many", icon=":material/grid_view:", format_func=names.__getitem__
    )
    one = base.model_copy(update={"count": 1})
    if chosen == "emotions":
        widgets.start(SheetSpec(base=one), PAGE)
        st.rerun()
    elif chosen == "full":
        widgets.start(SheetSpec(base=one, styles=STYLES), PAGE)
        st.rerun()
    elif chosen == "grid":
        grid_dialog(one)
    elif chosen == "batch":
        batch_dialog(one)


@dialog(TEXT, "grid_title", width="medium", icon=":material/grid_on:")
def grid_dialog(base: GenerateSpec) -> None:
    """Two axes and their values."""
    st.caption(TEXT["grid_lead"])
    # LoRA files are a grid of the training page
    axes = [name for name, field in AXES.items() if field.about.axis and (name != "lora_weight" or base.loras)]
    x = axis(TEXT["x"], axes, "emotion", "gen_grid_x")
    y = axis(TEXT["y"], [None, *(name for name in axes if x is None or name != x.name)], "guidance", "gen_grid_y")
    count = len(x.values) * (len(y.values) if y else 1) if x else 0
    label = TEXT["draw"].format(pictures=text.plural(count, "picture"))
    if st.button(label, type="primary", icon=":material/grid_on:", disabled=not count, key="gen_grid_draw"):
        try:
            widgets.start(GridSpec(base=base, x=x, y=y), PAGE)
        except StudioError as problem:
            st.error(text.say(problem))
        else:
            st.rerun()


def axis(label: str, names: Sequence[str | None], default: str, key: str) -> Axis | None:
    """A parameter and its values, or None."""
    name = st.selectbox(
        label,
        names,
        index=names.index(default) if default in names else 0,
        format_func=lambda name: AXES[name].label if name else TEXT["one_row"],
        key=key,
    )
    if name is None:
        return None
    field = AXES[name]
    typed = st.text_input(
        f"{TEXT['values']}: {field.label}", field.about.axis, help=TEXT["values_help"], key=f"{key}_{name}"
    )
    wanted: dict[object, str] = {}  # what a value means: "1" and "1.0" are the same guidance
    for part in (typed or "").split(","):
        if value := part.strip():
            try:
                wanted.setdefault(Axis(name=name, values=(value,)).value(value), value)
            except ValueError:
                st.error(_refused(field, value))
                return None
    values = tuple(wanted.values())
    if not values:
        st.caption(TEXT["nothing"])
        return None
    most = bounds(Axis, "values")["max_length"]
    if len(values) > most:
        st.warning(TEXT["too_many"].format(most=most, left=text.plural(len(values) - most, "value")))
    return Axis(name=name, values=values[:most])


def _refused(field: SpecField, value: str) -> str:
    given = {"name": field.label, "value": text.escape(repr(value[:40]))}
    if field.choices:
        return TEXT["choice"].format(**given, known=text.escape(", ".join(field.choices)))
    return TEXT["whole" if field.whole else "number"].format(**given, low=field.bounds["ge"], high=field.bounds["le"])


@dialog(TEXT, "batch_title", width="medium", icon=":material/list:")
def batch_dialog(base: GenerateSpec) -> None:
    """Pasted prompts or a file of them."""
    st.caption(TEXT["batch_lead"])
    pasted = st.text_area(TEXT["paste"], key="gen_batch_text", height=180, placeholder=TEXT["paste_hint"])
    file = st.file_uploader(
        TEXT["file"], ["txt", "csv", "json", "jsonl", "toml"], key="gen_batch_file", max_upload_size=2
    )
    listed = file.getvalue() if file else pasted or ""
    try:
        table = file is not None and file.name.lower().endswith(".csv")
        rows = studio().parse_rows(listed, table) if listed.strip() else ()
    except StudioError as problem:
        st.error(text.say(problem))
        rows = ()
    if rows:  # an encoding that was taken for another is seen here, before anything is drawn
        st.caption(TEXT["first"].format(prompt=text.escape(rows[0].prompt[:200])))
    label = TEXT["draw"].format(pictures=text.plural(len(rows), "picture"))
    if st.button(label, type="primary", icon=":material/auto_awesome:", disabled=not rows, key="gen_batch_draw"):
        try:
            widgets.start(BatchSpec(base=base.model_copy(update={"prompt": None}), rows=rows), PAGE)
        except StudioError as problem:
            st.error(text.say(problem))
        else:
            st.rerun()
