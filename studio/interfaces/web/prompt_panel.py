"""The prompt on the Generate page: what was written, layer by layer, editable; how sure it is; what is wrong with it.

Also the spelling help and the suggestions beside the text box. Asks the service for every judgement and knows no words
itself. Claude is asked when somebody says so, never because somebody typed: each call takes seconds and costs money.
"""

from __future__ import annotations

import hashlib
import html
from dataclasses import dataclass

import streamlit as st

from studio.core.i18n import texts
from studio.interfaces.web import history, parameters, tags, text, words
from studio.interfaces.web.request import Fields, as_written, write_again
from studio.interfaces.web.resources import studio
from studio.service import PromptResult, UnknownWord, Validation

LAYERS = ("core", "emotion", "style", "text", "quality")
TEXT = {
    "title": "Prompt",
    "own": "Your own prompt",
    "own_label": "Prompt",
    "negative": "Negative prompt",
    "negative_hint": "What should not be in the picture",
    "back": "Write it for me",
    "waiting": "This prompt is drawn as it stands: the words, emotion and style that you changed wait until it is "
    "written anew.",
    "anew": "Write it anew",
    "edit": "Edit",
    "whole": "Edit as one text",
    "reset": "As it was written",
    "core": "Who",
    "emotion": "Emotion",
    "style": "Style",
    "text": "Your words",
    "quality": "Quality",
    "edited": "Edited",
    "sure": "prompt: {percent} sure",
    "cached": "remembered",
    "ask": "Let Claude write it",
    "ask_help": "Takes a few seconds. Claude also writes it when you press Draw.",
    "asking": "Claude is writing…",
    "cost": "{tokens_in:,} + {tokens_out:,} tokens, ${cost:.4f}",
    "spent": "All prompts so far: {tokens_in:,} + {tokens_out:,} tokens in {calls}, ${cost:.4f}",
    "check": "Check",
    "check_lead": "0 is best, 10 is worst. Words at fault stand beside it.",
    "check_good": "Nothing to improve.",
    "repair": "Use the repaired prompt",
    "review": "Ask Claude too",
    "reviewing": "Claude is reading…",
    "doubt": "The prompt is only {percent} sure to give what you asked for.",
    "again": "Write it again",
    "repaired": "Use the repaired text",
    "fixed": "Use the fixed template",
    "anyway": "Draw anyway",
    "spelling": "Did you mean",
    "accept": "Use this",
    "keep": "Keep mine",
}
TEXT = texts(TEXT)
REVIEWERS = {"offline": "Word lists", "claude": "Claude"}
REVIEWERS = texts(REVIEWERS)
WRITERS = {"claude": "Claude", "offline": "Written here", "fixed": "Fixed template"}
WRITERS = texts(WRITERS)
CHECKS = {
    "ambiguity": "Ambiguous",
    "conflicts": "Contradictory",
    "rare_words": "Rare words",
    "attackability": "Sensitive to typos",
}
CHECKS = texts(CHECKS)


@dataclass(frozen=True)
class Prompt:
    """What will be drawn: the texts, and whether a person changed them."""

    positive: str
    negative: str
    edited: bool
    confidence: float
    doubtful: bool  # too unsure to be drawn without asking
    notes: tuple[str, ...]
    written: bool = False  # as the service writes it by itself: it need not be told
    repaired: str | None = None  # what can be drawn instead of a doubtful prompt; None when nothing is proposed
    again: bool = False  # writing it again may give another confidence


KEPT = 20  # prompts by Claude that a session remembers


def prompt_panel(fields: Fields, drawing: bool = False) -> Prompt:
    """Show the prompt for these fields and return what it says now. `drawing`: Draw was pressed: Claude may write."""
    with st.container(border=True, key="prompt_panel"):
        chosen = (fields.emotion, fields.style, fields.text)
        if st.session_state.get("gen_own_until", chosen) != chosen:  # a repair, of a prompt for other words
            write_again()
        if st.session_state.get("gen_own"):
            return _own(fields, chosen)
        return _written(fields, drawing)


def _own(fields: Fields, chosen: tuple[str, str, str]) -> Prompt:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{TEXT['own']}**", width="content")
        history.buttons()
        if st.button(TEXT["back"], key="gen_own_back", icon=":material/undo:", type="tertiary"):
            write_again()
            st.rerun()
    if st.session_state.setdefault("gen_own_for", chosen) != chosen:
        st.warning(TEXT["waiting"], icon=":material/hourglass_empty:")
        st.button(TEXT["anew"], key="gen_own_anew", icon=":material/edit_note:", on_click=write_again)
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
        _check(fields, positive or "", (negative or "").strip())
    words.unknown_words(_unknown(fields, positive or ""), "gen_own_prompt", "kept")
    words.known_words(_model(fields))
    return Prompt((positive or "").strip(), (negative or "").strip(), True, 1.0, False, ())


def _written(fields: Fields, drawing: bool) -> Prompt:
    result, asked = _result(fields, drawing)
    claude = studio().prompts.claude_writes
    heading = st.container(horizontal=True, vertical_alignment="center", gap="xsmall")
    shown = st.empty()
    with st.container(horizontal=True):
        with st.popover(TEXT["edit"], icon=":material/edit:", key="gen_edit"):
            layers, negative = _layer_fields(result)
        check = st.popover(TEXT["check"], icon=":material/fact_check:", key="gen_check")
        asking = st.container()
    written = {name: _layer_text(result, name) for name in LAYERS}
    edited = layers != written or negative != result.negative_prompt
    positive = ", ".join(part for part in layers.values() if part) if edited else result.positive_prompt
    if claude and not edited and result.writer == "offline":
        # The callback's wish is read at the top of the next run: this one has drawn the prompt already.
        asking.button(
            TEXT["ask"], key="gen_ask", icon=":material/edit_note:", help=TEXT["ask_help"],
            on_click=st.session_state.update, args=({"gen_asked": True},),
        )  # fmt: skip
    with heading:
        _badges(result, edited)
        history.buttons()
    if layers["text"] != written["text"]:  # by hand: drawn as it stands
        unknown = _unknown(fields, layers["text"])
        shown.markdown(words.colored(layers, unknown))
        words.unknown_words(unknown, _key("text", written["text"]), "kept")
    else:
        shown.markdown(words.colored(layers, result.unknown_words, result.left_out))
        left = [one for one in result.unknown_words if one.word in result.left_out]
        words.unknown_words(left, "gen_text", "left", every_word=parameters.key("gen", "every_word"))
        little = [one for one in result.unknown_words if one not in left]
        said = "kept" if fields.rest.get("every_word") else "little"
        words.unknown_words(little, "gen_text", said, first=len(left))
    tags.gloss(positive)
    if asked and result.writer == "offline" and result.notes:
        st.caption(f":orange[:material/warning:] {text.say(result.notes[0])}")
    with check:
        _check(fields, positive, negative)
    words.known_words(_model(fields))
    doubtful = result.doubtful and not edited
    repaired = studio().prompts.validate(positive, fields.triggers, _model(fields)).repaired if doubtful else positive
    return Prompt(
        positive,
        negative,
        edited,
        result.confidence,
        doubtful,
        result.notes,
        written=not edited and result.writer == "offline",
        repaired=repaired if repaired != positive else None,
        again=result.writer == "claude",
    )


def _result(fields: Fields, drawing: bool) -> tuple[PromptResult, bool]:
    """The prompt for these fields, and whether Claude was asked for it; where it wasn't, it is written here.

    What Claude said to a request stays with it in this session, with its tokens and its cost; a failure stays too, but
    may be asked for again (the writer knows how soon).
    """
    state = st.session_state
    plain = fields.request().model_dump_json()
    if state.get("gen_chosen_for") != plain:  # "Write it again" and the template were chosen for another text
        state["gen_chosen_for"], state["gen_writer_seed"], state["gen_fixed"] = plain, 0, False
    seed, fixed = state["gen_writer_seed"], state["gen_fixed"]
    here = studio().prompts.write_prompt(
        fields.request(seed, offline=True), "fixed" if fixed else "run", fields.known_loras
    )
    request = fields.request(seed)
    key = request.model_dump_json()
    kept: dict[str, PromptResult] = state.setdefault("gen_by_claude", {})
    wanted = state.pop("gen_asked", False) or (drawing and not fixed and not _edited(kept.get(key, here)))
    if wanted and studio().prompts.claude_writes and (key not in kept or kept[key].writer != "claude"):
        with st.spinner(TEXT["asking"]):
            kept[key] = studio().prompts.write_prompt(request, loras=fields.known_loras)
        for old in list(kept)[:-KEPT]:
            del kept[old]
    if key not in kept:
        return here, False
    return (studio().prompts.write_prompt(request, "fixed", fields.known_loras) if fixed else kept[key]), True


def _edited(result: PromptResult) -> bool:
    """Somebody changed a layer of this prompt by hand."""
    written = {name: _layer_text(result, name) for name in LAYERS} | {"negative": result.negative_prompt}
    return any(str(st.session_state.get(_key(name, text), text)).strip() != text for name, text in written.items())


def _key(name: str, written: str) -> str:
    """The key of a layer's field holds what was written: an edit lasts until the choice behind that layer changes."""
    return f"gen_layer_{name}_{hashlib.sha256(written.encode()).hexdigest()[:12]}"


def _layer_text(result: PromptResult, name: str) -> str:
    value = getattr(result.layers, name)
    return value if isinstance(value, str) else ", ".join(value)


def _layer_fields(result: PromptResult) -> tuple[dict[str, str], str]:
    def field(name: str, written: str) -> str:
        value = st.text_input(TEXT[name], written, key=_key(name, written), max_chars=4000, persist_state="session")
        return (value or "").strip()

    layers = {name: field(name, _layer_text(result, name)) for name in LAYERS}
    negative = field("negative", result.negative_prompt)
    with st.container(horizontal=True):
        if st.button(TEXT["whole"], key="gen_whole", icon=":material/notes:"):
            _own_from(", ".join(part for part in layers.values() if part), negative)
            st.rerun()
        if st.button(TEXT["reset"], key="gen_reset", icon=":material/undo:"):
            as_written()
            st.rerun()
    return layers, negative


def _badges(result: PromptResult, edited: bool) -> None:
    st.markdown(f"**{TEXT['title']}**", width="content")
    st.badge(
        TEXT["sure"].format(percent=f"{result.confidence:.0%}"),
        icon=":material/help:" if result.doubtful else ":material/check:",
        color="orange" if result.doubtful else "green",
        help=" ".join(text.say(note) for note in result.notes) or None,
    )
    writer = WRITERS[result.writer]
    st.badge(f"{writer} · {TEXT['cached']}" if result.cached and result.writer == "claude" else writer, color="gray")
    if edited:
        st.badge(TEXT["edited"], icon=":material/edit:", color="violet")
    if result.tokens_in + result.tokens_out:
        spent = studio().prompts.spent()
        st.caption(
            _money(TEXT["cost"].format(tokens_in=result.tokens_in, tokens_out=result.tokens_out, cost=result.cost_usd)),
            help=_money(
                TEXT["spent"].format(
                    tokens_in=spent.tokens_in, tokens_out=spent.tokens_out, cost=spent.cost_usd,
                    calls=text.plural(spent.calls, "call"),
                )
            ),
        )  # fmt: skip


def _money(sentence: str) -> str:
    """Two dollar signs in one text would be a formula."""
    return sentence.replace("$", r"\$")


def _model(fields: Fields) -> str:
    return str(fields.rest.get("model") or "")


def _unknown(fields: Fields, prompt: str) -> tuple[UnknownWord, ...]:
    seed = int(fields.rest.get("seed") or 0)
    return studio().prompts.unknown_words(prompt, _model(fields), fields.triggers, fields.known_loras, seed)


def _check(fields: Fields, positive: str, negative: str) -> None:
    """Bars for what `validate` finds, the words at fault, and the repaired prompt; beside it Claude's, when asked."""
    if not positive.strip():
        return
    protected, model = fields.triggers, _model(fields)
    verdicts = [studio().prompts.validate(positive, protected, model)]
    st.caption(TEXT["check_lead"])
    if studio().prompts.claude_writes:
        reviews: dict[str, Validation] = st.session_state.setdefault("gen_reviews", {})
        if positive not in reviews and st.button(TEXT["review"], key="gen_review", icon=":material/forum:"):
            with st.spinner(TEXT["reviewing"]):
                review = studio().prompts.review(positive, protected, model)
            if review.writer == "claude":
                for old in list(reviews)[: 1 - KEPT]:
                    del reviews[old]
                reviews[positive] = review
                st.rerun()  # the button has done its work
            st.caption(f":orange[:material/warning:] {text.say(review.note)}")
        verdicts += [reviews[positive]] if positive in reviews else []
    for column, verdict in zip(st.columns(len(verdicts)), verdicts, strict=True):
        with column:
            if len(verdicts) > 1:
                st.markdown(f"**{REVIEWERS[verdict.writer]}**")
            _verdict(fields, verdict, positive, negative)


def _verdict(fields: Fields, verdict: Validation, positive: str, negative: str) -> None:
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
        key = "gen_repair" if verdict.writer == "offline" else "gen_repair_claude"
        use = (fields, positive, verdict.repaired, negative)
        st.button(TEXT["repair"], key=key, icon=":material/healing:", on_click=_repair, args=use)
    else:
        st.caption(TEXT["check_good"])


def doubt(fields: Fields, prompt: Prompt) -> str | None:
    """Why a prompt was not drawn at once, and the ways on: "again", "fixed" or "anyway" when one was chosen.

    Writing it again helps only where Claude does; what is written here is as sure of every wording. A repaired text can
    be taken where there is one (see `_repair`).
    """
    with st.container(border=True, key="gen_doubt_box"):
        st.markdown(f":orange[:material/help:] {TEXT['doubt'].format(percent=f'{prompt.confidence:.0%}')}")
        for note in prompt.notes:
            st.caption(text.say(note))
        with st.container(horizontal=True):
            if prompt.repaired is not None and not prompt.again:
                use = (fields, prompt.positive, prompt.repaired, prompt.negative)
                st.button(
                    TEXT["repaired"], key="gen_doubt_repaired", icon=":material/healing:", on_click=_repair, args=use
                )
            for choice, icon in (("again", "refresh"), ("fixed", "lock"), ("anyway", "auto_awesome")):
                if choice == "again" and not prompt.again:
                    continue
                if st.button(TEXT[choice], key=f"gen_doubt_{choice}", icon=f":material/{icon}:"):
                    return choice
    return None


def spelling(typed: str, protected: tuple[str, ...]) -> None:
    """Under the text box: the text with the words that look misspelt or disguised put right, to take or to leave."""
    if not typed or st.session_state.get("gen_kept") == typed:
        return
    hardened = studio().prompts.harden(typed, protected)
    if not hardened.changes or hardened.text == typed:
        return
    parts, at = [], 0
    for change in hardened.changes:
        parts.append(html.escape(typed[at : change.start]))
        if change.source.strip():
            parts.append(f'<span class="studio-was">{html.escape(change.source)}</span> ')
        parts.append(f'<span class="studio-now">{html.escape(change.target)}</span>' if change.target else "")
        at = change.end
    parts.append(html.escape(typed[at:]))
    with st.container(horizontal=True, vertical_alignment="center", key="gen_spelling"):
        st.html(f"<span>{TEXT['spelling']}: {''.join(parts)}</span>", width="content")
        # Callbacks run before the text box is drawn anew, and so may change what it holds.
        st.button(TEXT["accept"], key="gen_accept", icon=":material/check:", on_click=_take, args=(hardened.text,))
        st.button(TEXT["keep"], key="gen_keep", type="tertiary", on_click=_keep, args=(typed,))


def suggestions(typed: str) -> None:
    """Under the text box: ways to end the tag that is being typed, each a button that puts it there."""
    completions = studio().prompts.complete(typed)
    if not completions:
        return
    with st.container(horizontal=True, gap="xsmall", key="gen_suggestions"):
        for index, one in enumerate(completions):
            label = f"{one.tag} · {one.japanese}" if one.japanese and not typed.isascii() else tags.named(one.tag)
            st.button(text.escape(label), key=f"gen_suggest_{index}", type="tertiary", on_click=_take, args=(one.text,))


def _own_from(prompt: str, negative: str) -> None:
    state = st.session_state
    state["gen_own"], state["gen_own_prompt"], state["gen_own_negative"] = True, prompt, negative
    state.pop("gen_own_for", None)
    state.pop("gen_own_until", None)


def _repair(fields: Fields, positive: str, repaired: str, negative: str) -> None:
    """Take a repaired prompt: into the text box where the words at fault stand in there.

    Else, as where words for the emotion were added, it is the prompt for as long as the fields stay as they are.
    """
    state = st.session_state
    if state.get("gen_own"):
        state["gen_own_prompt"] = repaired
        return
    drawn, stay = _parts(positive), _parts(repaired)
    if set(_parts(fields.typed)) <= set(drawn):
        corrected = _parts(studio().prompts.harden(fields.typed, fields.triggers).text)
        words = ", ".join(part for part in corrected if part in stay)
        if words != ", ".join(_parts(fields.typed)):
            state["gen_text"] = words
            return
    _own_from(repaired, negative)
    state["gen_own_until"] = (fields.emotion, fields.style, fields.text)


def _parts(prompt: str) -> list[str]:
    return [part.strip() for part in prompt.split(",") if part.strip()]


def _take(corrected: str) -> None:
    st.session_state["gen_text"] = corrected


def _keep(typed: str) -> None:
    st.session_state["gen_kept"] = typed
