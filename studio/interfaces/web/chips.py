"""What will shape the next picture beside the fields in sight, as chips near the button that draws: a click undoes one.

Nothing that was set elsewhere (behind "More settings", by another page, by a recipe) acts without standing here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from studio.core.errors import StudioError
from studio.core.fields import SpecField, describe
from studio.core.i18n import _, texts
from studio.core.settings import settings
from studio.core.specs import Spec
from studio.interfaces.web import parameters, text
from studio.interfaces.web.resources import studio

TEXT = {"reset": "Reset", "reset_help": "Undo all of these.", "undo": "Click to undo.", "on": "on", "off": "off"}
TEXT = texts(TEXT)
CLOSE = ":material/close_small:"


@dataclass(frozen=True)
class Chip:
    """Something that shapes the next picture, and how it is undone (a callback: it runs before the widgets)."""

    name: str  # of its key
    label: str
    undo: Callable[[], None]
    help: str = ""  # "Click to undo."


def show(prefix: str, others: Sequence[Chip] = (), *, without: Sequence[str] = ()) -> None:
    """A chip for each of `others` and for each setting of the form `prefix` that was changed, and one for all."""
    chips = [*others, *changed(prefix, without)]
    if not chips:
        return
    with st.container(horizontal=True, gap="xsmall", key=f"{prefix}_chips"):
        for chip in chips:
            st.button(
                f"{text.escape(chip.label)} {CLOSE}", key=f"{prefix}_chip_{chip.name}", on_click=chip.undo,
                help=chip.help or TEXT["undo"],
            )  # fmt: skip
        if len(chips) > 1:
            st.button(
                TEXT["reset"], key=f"{prefix}_chip_reset", icon=":material/restart_alt:", type="tertiary",
                on_click=_all, args=(chips,), help=TEXT["reset_help"],
            )  # fmt: skip


def changed(prefix: str, without: Sequence[str] = ()) -> list[Chip]:
    """The settings behind "More settings" that aren't as they are at first."""
    chips = []
    for name, field in parameters.KNOWN.items():
        key = parameters.key(prefix, name)
        if name in without or key not in st.session_state:
            continue
        value = st.session_state[key]
        if name == "loras":
            chips += [Chip(f"lora_{number}", _title(path), _drop(key, path)) for number, path in enumerate(value or ())]
            continue
        first = settings().model if name == "model" else field.default
        if value not in (first, None):
            chips.append(Chip(name, f"{field.label}: {_shown(field, value)}", _put(key, first)))
    return chips


def of(spec: type[Spec], names: Sequence[str], prefix: str) -> list[Chip]:
    """Fields of `spec` among `names` that aren't as they are at first; their widgets' keys begin with `prefix`."""
    found = []
    for name in names:
        field, key = describe(spec, name), parameters.key(prefix, name)
        value = st.session_state.get(key)
        if value is not None and value != field.default:
            found.append(Chip(name, f"{field.label}: {_shown(field, value)}", _put(key, field.default)))
    return found


def _shown(field: SpecField, value: Any) -> str:
    if field.type is bool:
        return TEXT["on" if value else "off"]
    if field.choices:
        return field.about.names.get(value, str(value))
    if field.type is float:
        value = f"{value:g}"
    words = str(value).rstrip("/").rsplit("/", 1)[-1] if field.type is str else str(value)
    return f"{words} {_(field.about.unit)}".strip()


def _title(path: str) -> str:
    try:
        return f"LoRA: {studio().models.lora(path).title}"
    except StudioError:
        return f"LoRA: {path.rsplit('/', 1)[-1]}"


def _put(key: str, value: Any) -> Callable[[], None]:
    return lambda: st.session_state.update({key: value})


def _drop(key: str, path: str) -> Callable[[], None]:
    return lambda: st.session_state.update({key: [other for other in st.session_state[key] if other != path]})


def _all(chips: Sequence[Chip]) -> None:
    for chip in chips:
        chip.undo()
