"""The settings behind a picture that are rarely needed: model, steps, size, seed, LoRAs and what else a spec has.

One form of `GenerateSpec`'s `advanced` fields for every page that draws. A field that is added to the spec stands in it
by itself, is filled from a recipe and counts as changed when it isn't the spec's default. The widgets' keys are the
page's prefix, `_`, and the field's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from studio.core.fields import SpecField, fields
from studio.core.specs import GenerateSpec
from studio.core.specs.picture import Parameters
from studio.interfaces.web import inputs, widgets
from studio.service import ModelInfo

KNOWN: Mapping[str, SpecField] = {
    name: field
    for name, field in sorted(fields(GenerateSpec).items(), key=lambda item: item[0] in Parameters.model_fields)
    if field.about.advanced
}
PICKED = ("model", "loras", "upscaler")  # by pickers of their own
HIRES = ("hires", "hires_steps", "hires_strength")  # the second pass: for single pictures from words


def key(prefix: str, name: str) -> str:
    """The session's key of a field's widget."""
    return f"{prefix}_{name}"


def form(
    prefix: str,
    *,
    without: Sequence[str] = (),
    blank: str = "",
    hints: Mapping[str, Mapping[str, Any]] | None = None,
    models: Sequence[ModelInfo] | None = None,
) -> dict[str, Any]:
    """Draw the fields, two in a row between the two pickers, and return what they hold, by name.

    `without`: fields that this page doesn't offer. `blank`: what an empty number means here, if not what the spec says.
    `hints`: options of single widgets. `models`: the list of them, where the page has read it already.
    """
    values: dict[str, Any] = {"model": widgets.model_picker(key(prefix, "model"), models=models)}
    names = [name for name in KNOWN if name not in (*PICKED, *without)]
    for first in range(0, len(names), 2):
        with st.container(horizontal=True):
            for name in names[first : first + 2]:
                number = KNOWN[name].optional and KNOWN[name].type in (int, float)
                options = {"placeholder": blank} if blank and number else {}
                options |= (hints or {}).get(name, {})
                values[name] = inputs.field(GenerateSpec, name, key(prefix, name), **options)
    if "upscaler" not in without:
        values["upscaler"] = widgets.upscaler_picker(key(prefix, "upscaler"))
    values["loras"] = widgets.lora_picker(key(prefix, "loras"))
    return values


def fill(prefix: str, spec: GenerateSpec, *, without: Sequence[str] = ()) -> None:
    """Put a request's values into the fields. Raises StudioError when a LoRA of it isn't here."""
    for name in KNOWN:
        if name not in ("loras", *without):
            st.session_state[key(prefix, name)] = getattr(spec, name)
    widgets.put_loras(key(prefix, "loras"), spec.loras)
