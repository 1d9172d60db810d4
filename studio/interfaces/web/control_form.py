"""The form of a ControlNet run on the Train page: its settings and its start. The data's form is `train_form.data`."""

from __future__ import annotations

from typing import Any

import streamlit as st
from pydantic import ValidationError

from studio.core.i18n import texts
from studio.core.specs import ControlRunSpec
from studio.core.views import RunView
from studio.interfaces.web import captions, inputs, text, widgets
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio

TEXT = {
    "settings": "2 · Settings",
    "lead": "Pictures, the more the better, with `.txt` captions beside them, and what you drew for `girl.png` as "
    "`girl.control.png`. Where there is no drawing, lines are found in the picture itself.",
    "after": "Your ControlNet",
    "estimate": "{steps} steps in all, {each} an epoch. {held} of the pictures are kept back, to measure by.",
    "start": "Start training",
    "need_data": "Choose pictures first.",
    "use": "Use in Sketch",
    "held": "Loss on pictures it never learnt from: {with_it} with their lines (before training {before}), without "
    "any {without}.",
}
TEXT = texts(TEXT)


def _number(field: str, **options: Any) -> Any:
    return inputs.number(ControlRunSpec, field, f"cn_{field}", **options)


def settings() -> dict[str, Any]:
    """The fields of `ControlRunSpec` that the form has, data left out."""
    st.markdown(f"#### {TEXT['settings']}")
    values: dict[str, Any] = {"model": widgets.model_picker("cn_model")}
    values["name"] = inputs.line(ControlRunSpec, "name", "cn_name")
    init = inputs.line(ControlRunSpec, "init", "cn_init")
    values["init"] = None if init == "none" else init
    with st.container(horizontal=True):
        values["epochs"] = _number("epochs", width=120)
        values["learning_rate"] = _number("learning_rate", width=190, format="%.5f", min_value=0.000001)
        values["batch_size"] = _number("batch_size", width=140)
        values["seed"] = _number("seed", width=160)
        values["time_limit_minutes"] = _number("time_limit_minutes", width=180)
    values["gradient_checkpointing"] = inputs.toggle(
        ControlRunSpec, "gradient_checkpointing", "cn_gradient_checkpointing"
    )
    values["samples"] = inputs.toggle(ControlRunSpec, "samples", "cn_draw")
    values["license"] = inputs.line(ControlRunSpec, "license", "cn_license")
    return {name: value for name, value in values.items() if value is not None or name == "init"}


def start(report: Any | None, fields: dict[str, Any]) -> str | None:
    """How many steps it takes, and the button; the id of the run that was started."""
    spec = None
    if report is not None:
        try:
            spec = ControlRunSpec(data=str(report.folder), **fields)
        except ValidationError as error:
            st.error(text.mistake(error), icon=":material/error:")
    if spec is not None and report is not None:
        count = len(report.entries)
        held = min(spec.held_out, count // 5)
        each = max(1, (count - held) // spec.batch_size)
        st.markdown(TEXT["estimate"].format(steps=f"{each * spec.epochs:,}", each=each, held=held))
    pressed = st.button(
        TEXT["start"], type="primary", icon=":material/school:", key="cn_start", disabled=spec is None,
        help=TEXT["need_data"] if report is None else None,
    )  # fmt: skip
    if report is None:
        st.caption(TEXT["need_data"])
    if not pressed or spec is None or report is None:
        return None
    captions.save_pending(report)
    return studio().runs.start(spec, owner()).id


def after(run: RunView) -> None:
    """What can be done with a result."""
    st.markdown(f"#### {TEXT['after']}")
    measured = [run.extra.get(name) for name in ("held_out", "held_out_before", "held_out_without")]
    if None not in measured:
        with_it, before, without = (f"{value:.3f}" for value in measured)
        st.caption(TEXT["held"].format(with_it=with_it, before=before, without=without))
    if st.button(TEXT["use"], type="primary", icon=":material/draw:", key="cn_use"):
        st.session_state.update({"sk_net": str(run.adapter), "sk_model": run.model})
        widgets.go("sketch_to_character")
    st.code(str(run.adapter), language=None)
