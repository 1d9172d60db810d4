"""Input fields made from what a spec knows of its own: label, help, bounds, step, choices, what an empty one means.

`field` draws the widget that suits the type, so that a form needs no line for a field of a spec that is added. Every
widget survives a change of page. Knows no page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from studio.core.fields import SpecField, describe
from studio.core.i18n import _, texts
from studio.core.specs import Spec
from studio.interfaces.web import text

TEXT = {
    "bounded": "{label} can't be {given}, so it is {value} now: {rule}.",
    "between": "from {low} to {high}",
    "at_least": "{low} or more",
    "multiple": "in steps of {step}",
}
TEXT = texts(TEXT)
STEP = 0.05  # of a number with decimals whose spec names no other


def field(spec: type[Spec], name: str, key: str, **options: Any) -> Any:
    """The value of a spec's field, asked for by a widget that suits it; `options` go to the widget.

    Whole and other numbers are number fields, choices a select box, a truth value a toggle, anything else a line of
    text, "" being None where the spec allows that. Raises KeyError when the spec has no such field.
    """
    known = describe(spec, name)
    if known.choices:
        return choice(spec, name, key, **options)
    if known.type is bool:
        return toggle(spec, name, key, **options)
    if known.type in (int, float):
        return number(spec, name, key, **options)
    return line(spec, name, key, **options)


def label(known: SpecField) -> str:
    """What stands above a field: its name and, behind it, its unit."""
    return f"{known.label} ({_(known.about.unit)})" if known.about.unit else known.label


def _common(known: SpecField, options: dict[str, Any]) -> dict[str, Any]:
    # `persist_state` does more than keep a value across pages: what is drawn later than its script ran, as in a popover
    # that somebody opens, would start from the widget's lowest value and send that.
    return {"help": known.help or None, "persist_state": "session"} | options


def choice(spec: type[Spec], name: str, key: str, **options: Any) -> Any:
    """One of a field's choices. `choices`: those of them that are offered, all by default."""
    known = describe(spec, name)
    offered = list(options.pop("choices", known.choices))
    return st.selectbox(
        options.pop("label", label(known)),
        offered,
        index=offered.index(known.default) if known.default in offered else 0,
        format_func=lambda value: known.about.names.get(value, str(value)),
        key=key,
        **_common(known, options),
    )


def buttons(spec: type[Spec], name: str, key: str, **options: Any) -> Any:
    """One of a field's choices, all of them in sight. `options` may replace `format_func`."""
    known = describe(spec, name)
    offered = list(options.pop("choices", known.choices))
    first = known.default if known.default in offered else offered[0]
    default = options.pop("default", first)
    chosen = st.segmented_control(
        options.pop("label", label(known)),
        offered,
        default=default if key not in st.session_state else None,
        required=True,
        format_func=options.pop("format_func", lambda value: known.about.names.get(value, str(value))),
        key=key,
        **_common(known, options),
    )
    return default if chosen is None else chosen


def toggle(spec: type[Spec], name: str, key: str, **options: Any) -> bool:
    """Yes or no."""
    known = describe(spec, name)
    default = bool(options.pop("value", known.default))
    return st.toggle(options.pop("label", label(known)), value=default, key=key, **_common(known, options))


def line(spec: type[Spec], name: str, key: str, **options: Any) -> str | None:
    """A line of text, without spaces around it."""
    known = describe(spec, name)
    settings = {"placeholder": _(known.about.blank) or None, "max_chars": known.bounds.get("max_length")}
    typed = st.text_input(
        options.pop("label", label(known)),
        options.pop("value", known.default or ""),
        key=key,
        **_common(known, settings | options),
    )
    return (typed or "").strip() or (None if known.optional else "")


def number(spec: type[Spec], name: str, key: str | None, *, slider: bool = False, **options: Any) -> Any:
    """A number with the bounds and the default that the spec has for it. `options` go to the widget.

    `label`, `value`, `step`, `min_value` and `max_value` among them replace what the spec says; `because` is a sentence
    on why there are other bounds.

    A field whose default is None stays empty until somebody types (and says so in its placeholder). What is out of
    bounds, or between two steps that the spec allows, becomes the nearest value that isn't, and a toast says so: left
    to the browser, such a number stays in the field, in red, and the old one is used.
    """
    known = describe(spec, name)
    bounds = known.bounds
    said, because = options.pop("label", known.label), options.pop("because", "")
    default = options.pop("value", known.default)
    step = options.pop("step", known.about.step or bounds.get("multiple_of", 1 if known.whole else STEP))
    convert: Callable[[Any], Any] = int if known.whole else float
    step = convert(step)
    low, high = bounds.get("ge"), bounds.get("le", bounds.get("lt"))
    if low is None and "gt" in bounds:
        low = bounds["gt"] + step
    low, high = options.pop("min_value", low), options.pop("max_value", high)
    limits: dict[str, Any] = {
        "min_value": None if low is None else convert(low),
        "max_value": None if high is None else convert(high),
    }
    given = st.session_state.get(key) if key is not None else None
    if key is not None and given is not None and (value := _allowed(given, bounds, limits, step, slider)) != given:
        st.session_state[key] = convert(value)
        _say(said, given, value, limits, bounds, because)
    if key is None or key not in st.session_state:
        options["value"] = None if default is None else convert(default)
    elif default is None and not slider:
        options["value"] = None  # an empty field stays one that may be empty
    shown = f"{said} ({_(known.about.unit)})" if known.about.unit else said
    if key is not None:
        options = _common(known, options)
    if slider:
        return st.slider(shown, **limits, step=step, key=key, **options)
    options = {"placeholder": _(known.about.blank) or None} | options
    if key is None:
        options |= limits
    return st.number_input(shown, step=step, key=key, **options)


def _say(label: str, given: Any, value: Any, limits: dict[str, Any], bounds: Mapping[str, Any], because: str) -> None:
    rule = TEXT["between" if limits["max_value"] is not None else "at_least"].format(
        low=_shown(limits["min_value"]), high=_shown(limits["max_value"])
    )
    if "multiple_of" in bounds:
        rule += ", " + TEXT["multiple"].format(step=bounds["multiple_of"])
    said = TEXT["bounded"].format(label=label, given=_shown(given), value=_shown(value), rule=rule)
    st.toast(text.escape(f"{said} {because}".strip()), icon=":material/straighten:")


def _allowed(value: Any, bounds: Mapping[str, Any], limits: dict[str, Any], step: Any, slider: bool) -> Any:
    """The nearest number that the spec allows. Its limits are multiples themselves where it wants multiples."""
    low, high = limits["min_value"], limits["max_value"]
    if "multiple_of" in bounds:
        value = round(value / bounds["multiple_of"]) * bounds["multiple_of"]
    if not slider and "gt" in bounds and value > bounds["gt"]:
        low = None  # a slider begins one step above the bound; typed numbers may lie between
    if not slider and "lt" in bounds and value >= bounds["lt"]:
        high = bounds["lt"] - step
    value = value if high is None else min(value, high)
    return value if low is None else max(value, low)


def _shown(value: Any) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.10g}"
