"""The prompt on the Generate page: what was written, layer by layer, editable; how sure it is; what is wrong with it.

Also the spelling help under the text box. Asks the service for every judgement and knows no words itself.
"""

from __future__ import annotations

import hashlib
import html
from dataclasses import dataclass

import streamlit as st

from studio.service import PromptResult
from studio.ui import text
from studio.ui.request import Fields
from studio.ui.resources import studio

LAYERS = ("core", "emotion", "style", "text", "quality")
COLORS = {"core": "gray", "emotion": "primary", "style": "violet", "text": "green", "quality": "gray"}
TEXT = {
    "title": "Prompt",
    "own": "Your own prompt",
    "own_label": "Prompt",
    "negative": "Negative prompt",
    "negative_hint": "What should not be in the picture",
    "back": "Write it for me",
    "edit": "Edit",
    "whole": "Edit as one text",
    "reset": "As it was written",
    "core": "Who",
    "emotion": "Emotion",
    "style": "Style",
    "text": "Your words",
    "quality": "Quality",
    "edited": "Edited",
    "sure": "{percent} sure",
    "cached": "remembered",
    "cost": "{tokens_in} + {tokens_out} tokens, ${cost:.4f}",
    "spent": "This session: ${cost:.4f}",
    "check": "Check",
    "check_lead": "0 is best, 10 is worst. Words at fault stand beside it.",
    "check_good": "Nothing to improve.",
    "repair": "Use the repaired prompt",
    "doubt": "The prompt is only {percent} sure to give what you asked for.",
    "again": "Write it again",
    "fixed": "Use the fixed template",
    "anyway": "Draw anyway",
    "spelling": "Did you mean",
    "accept": "Use this",
    "keep": "Keep mine",
}
WRITERS = {"claude": "Claude", "offline": "Written here", "fixed": "Fixed template"}
CHECKS = {
    "ambiguity": "Ambiguous",
    "conflicts": "Contradictory",
    "rare_words": "Rare words",
    "attackability": "Easily thrown off",
}


@dataclass(frozen=True)
class Prompt:
    """What will be drawn: the texts, and whether a person changed them."""

    positive: str
    negative: str
    edited: bool
    confidence: float
    doubtful: bool  # too unsure to be drawn without asking
    notes: tuple[str, ...]


def prompt_panel(fields: Fields) -> Prompt:
    """Show the prompt for these fields and return what it says now."""
    with st.container(border=True, key="prompt_panel"):
        if st.session_state.get("gen_own"):
            return _own(fields)
        return _written(fields)


def _own(fields: Fields) -> Prompt:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{TEXT['own']}**")
        if st.button(TEXT["back"], key="gen_own_back", icon=":material/undo:", type="tertiary"):
            st.session_state["gen_own"] = False
            st.rerun()
    positive = st.text_area(
        TEXT["own_label"], key="gen_own_prompt", height=130, max_chars=4000, persist_state="session"
    )
    negative = st.text_area(
        TEXT["negative"],
        key="gen_own_negative",
        height=80,
        max_chars=4000,
        placeholder=TEXT["negative_hint"],
        persist_state="session",
    )
    with st.popover(TEXT["check"], icon=":material/fact_check:"):
        _check(positive or "", fields.triggers)
    return Prompt((positive or "").strip(), (negative or "").strip(), True, 1.0, False, ())


def _written(fields: Fields) -> Prompt:
    state = st.session_state
    request = fields.request(seed=state.get("gen_writer_seed", 0))
    result = studio().write_prompt(request, "fixed" if state.get("gen_fixed") else "run")
    heading = st.container(horizontal=True, vertical_alignment="center", gap="xsmall")
    shown = st.empty()
    with st.container(horizontal=True):
        with st.popover(TEXT["edit"], icon=":material/edit:", key="gen_edit"):
            layers, negative = _layer_fields(result)
        check = st.popover(TEXT["check"], icon=":material/fact_check:", key="gen_check")
    written = {name: _layer_text(result, name) for name in LAYERS}
    edited = layers != written or negative != result.negative_prompt
    positive = ", ".join(part for part in layers.values() if part) if edited else result.positive_prompt
    with heading:
        _badges(result, edited)
    shown.markdown(_colored(layers))
    with check:
        _check(positive, fields.triggers)
    return Prompt(positive, negative, edited, result.confidence, result.doubtful and not edited, result.notes)


def _layer_text(result: PromptResult, name: str) -> str:
    value = getattr(result.layers, name)
    return value if isinstance(value, str) else ", ".join(value)


def _layer_fields(result: PromptResult) -> tuple[dict[str, str], str]:
    # The key of a field holds what was written: an edit lasts until the choice behind that layer changes, no longer.
    def field(name: str, written: str) -> str:
        digest = hashlib.sha256(written.encode()).hexdigest()[:12]
        value = st.text_input(
            TEXT[name], written, key=f"gen_layer_{name}_{digest}", max_chars=4000, persist_state="session"
        )
        return (value or "").strip()

    layers = {name: field(name, _layer_text(result, name)) for name in LAYERS}
    negative = field("negative", result.negative_prompt)
    with st.container(horizontal=True):
        if st.button(TEXT["whole"], key="gen_whole", icon=":material/notes:"):
            st.session_state["gen_own"] = True
            st.session_state["gen_own_prompt"] = ", ".join(part for part in layers.values() if part)
            st.session_state["gen_own_negative"] = negative
            st.rerun()
        if st.button(TEXT["reset"], key="gen_reset", icon=":material/undo:"):
            for key in [key for key in st.session_state if str(key).startswith("gen_layer_")]:
                del st.session_state[key]
            st.session_state["gen_fixed"] = False
            st.session_state["gen_writer_seed"] = 0
            st.rerun()
    return layers, negative


def _badges(result: PromptResult, edited: bool) -> None:
    st.markdown(f"**{TEXT['title']}**", width="content")
    st.badge(
        TEXT["sure"].format(percent=f"{result.confidence:.0%}"),
        icon=":material/help:" if result.doubtful else ":material/check:",
        color="orange" if result.doubtful else "green",
        help=" ".join(text.escape(note) for note in result.notes) or None,
    )
    writer = WRITERS[result.writer]
    st.badge(f"{writer} · {TEXT['cached']}" if result.cached and result.writer == "claude" else writer, color="gray")
    if edited:
        st.badge(TEXT["edited"], icon=":material/edit:", color="violet")
    if result.cost_usd:
        spent = st.session_state.get("gen_spent", 0.0) + result.cost_usd
        st.session_state["gen_spent"] = spent
        st.caption(
            TEXT["cost"].format(tokens_in=result.tokens_in, tokens_out=result.tokens_out, cost=result.cost_usd),
            help=TEXT["spent"].format(cost=spent),
        )


def _colored(layers: dict[str, str]) -> str:
    return ", ".join(f":{COLORS[name]}[{text.escape(part)}]" for name, part in layers.items() if part)


def _check(positive: str, protected: tuple[str, ...]) -> None:
    """Bars for what `validate` finds, the words at fault, and the repaired prompt."""
    if not positive.strip():
        return
    verdict = studio().validate(positive, protected)
    st.caption(TEXT["check_lead"])
    rows = []
    for name, label in CHECKS.items():
        aspect = getattr(verdict, name)
        level = "much" if aspect.score >= 7 else "some" if aspect.score >= 3.5 else "few"
        rows.append(
            f"<span>{label}</span>"
            f'<span class="bar"><i class="{level}" style="width:{aspect.score * 10:.0f}%"></i></span>'
            f'<span class="value">{aspect.score:g}</span>'
        )
        if aspect.words:
            words = html.escape(", ".join(aspect.words))
            rows.append(f'<span></span><span class="value">{words}</span><span></span>')
    st.html(f'<div class="studio-bars">{"".join(rows)}</div>')
    if verdict.repaired != positive:
        st.code(verdict.repaired, language=None, wrap_lines=True)
        st.button(
            TEXT["repair"], key="gen_repair", icon=":material/healing:", on_click=_own_from, args=(verdict.repaired,)
        )
    else:
        st.caption(TEXT["check_good"])


def doubt(prompt: Prompt) -> str | None:
    """Why a prompt was not drawn at once, and the ways on: "again", "fixed" or "anyway" when one was chosen."""
    with st.container(border=True, key="gen_doubt_box"):
        st.markdown(f":orange[:material/help:] {TEXT['doubt'].format(percent=f'{prompt.confidence:.0%}')}")
        for note in prompt.notes:
            st.caption(text.escape(note))
        with st.container(horizontal=True):
            for choice, icon in (("again", "refresh"), ("fixed", "lock"), ("anyway", "auto_awesome")):
                if st.button(TEXT[choice], key=f"gen_doubt_{choice}", icon=f":material/{icon}:"):
                    return choice
    return None


def spelling(typed: str, protected: tuple[str, ...]) -> None:
    """Under the text box: the text with the words that look misspelt or disguised put right, to take or to leave."""
    if not typed or st.session_state.get("gen_kept") == typed:
        return
    found = studio().harden(typed, protected)
    if not found.changes or found.text == typed:
        return
    parts, at = [], 0
    for change in found.changes:
        parts.append(html.escape(typed[at : change.start]))
        if change.source.strip():
            parts.append(f'<span class="studio-was">{html.escape(change.source)}</span> ')
        parts.append(f'<span class="studio-now">{html.escape(change.target)}</span>' if change.target else "")
        at = change.end
    parts.append(html.escape(typed[at:]))
    with st.container(horizontal=True, vertical_alignment="center", key="gen_spelling"):
        st.html(f"<span>{TEXT['spelling']}: {''.join(parts)}</span>", width="content")
        # Callbacks run before the text box is drawn anew, and so may change what it holds.
        st.button(TEXT["accept"], key="gen_accept", icon=":material/check:", on_click=_take, args=(found.text,))
        st.button(TEXT["keep"], key="gen_keep", type="tertiary", on_click=_keep, args=(typed,))


def _own_from(prompt: str) -> None:
    state = st.session_state
    state["gen_own_negative"] = state.get("gen_own_negative", "") if state.get("gen_own") else ""
    state["gen_own"], state["gen_own_prompt"] = True, prompt


def _take(corrected: str) -> None:
    st.session_state["gen_text"] = corrected


def _keep(typed: str) -> None:
    st.session_state["gen_kept"] = typed
