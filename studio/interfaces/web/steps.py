"""Undo and redo of what stands on a canvas: a line of states, two buttons, and the keys that people try first.

Knows no canvas: what a state is, and how it is put back, the caller says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import streamlit as st

from studio.core.i18n import texts

TEXT = {"undo": "Undo", "redo": "Redo", "undo_help": "Ctrl+Z", "redo_help": "Ctrl+Shift+Z"}
TEXT = texts(TEXT)
MOST = 30  # states that are remembered
# A stroke takes the keyboard away from a line of text that had it, as a click beside it does: then Ctrl+Z is the
# canvas's, and in a line of text it stays the text's own.
KEYS = """<script>
if (!window.studioCanvasKeys) {
  window.studioCanvasKeys = true;
  document.addEventListener("pointerdown", event => {
    if (event.target.closest?.(".st-key-canvas_frame")) document.activeElement?.blur?.();
  }, true);
  document.addEventListener("keydown", event => {
    const key = event.key.toLowerCase();
    if (!(event.ctrlKey || event.metaKey) || event.altKey || (key !== "z" && key !== "y")) return;
    if (event.target.closest?.("input:not([type=radio]):not([type=checkbox]), textarea, [contenteditable]")) return;
    const name = key === "y" || event.shiftKey ? "redo" : "undo";
    const button = document.querySelector(`[class*="st-key-strokes_${name}"] button`);
    if (button && !button.disabled) { event.preventDefault(); button.click(); }
  }, true);
}
</script>"""


@dataclass
class Steps:
    """`states[at]` is what stands there now. A new one takes the place of all that were undone."""

    states: list[Any]
    at: int = 0

    def note(self, state: Any) -> None:
        """What stands there now, if it is something else."""
        if state == self.states[self.at]:
            return
        del self.states[self.at + 1 :]
        self.states.append(state)
        del self.states[:-MOST]
        self.at = len(self.states) - 1

    def step(self, by: int) -> Any:
        """The state that is `by` further on, or the last there is."""
        self.at = min(max(self.at + by, 0), len(self.states) - 1)
        return self.states[self.at]


def buttons(steps: Steps, prefix: str, put: Callable[[Any], None]) -> None:
    """Undo and redo; `put` makes a state stand there again. `KEYS` stands under the canvas."""
    for name, by, possible in (("undo", -1, steps.at > 0), ("redo", 1, steps.at < len(steps.states) - 1)):
        st.button(
            TEXT[name], key=f"strokes_{name}_{prefix}", icon=f":material/{name}:", help=TEXT[f"{name}_help"],
            on_click=_go, args=(steps, by, put), disabled=not possible,
        )  # fmt: skip


def _go(steps: Steps, by: int, put: Callable[[Any], None]) -> None:
    put(steps.step(by))
