"""Words on the Generate page that the model can't draw, and those that it can: greyed, exchanged, listed with pictures.

Asks the service for every judgement and knows no words itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

import streamlit as st

from studio.core.errors import NotFound
from studio.core.i18n import texts
from studio.interfaces.web import tags, text, widgets
from studio.interfaces.web.identity import owner
from studio.interfaces.web.request import PAGE
from studio.interfaces.web.resources import studio
from studio.service import UnknownWord, standing

COLORS = {"core": "gray", "emotion": "primary", "style": "violet", "text": "green", "quality": "gray"}
GROUPS = {
    "accessory": "Accessories",
    "background": "Background",
    "clothes": "Clothes",
    "composition": "Composition",
    "expression": "Expression",
    "eyes": "Eyes",
    "hair": "Hair",
    "light": "Light",
    "medium": "Medium",
    "pose": "Pose",
    "quality": "Quality",
    "skin": "Skin",
    "style": "Style",
    "subject": "Who",
    "other": "Other",
}
GROUPS = texts(GROUPS)
TEXT = {
    "little": "This model can't draw, or seldom draws",
    "left": "Left out, because this model can't draw them",
    "left_help": "In the prompt they would spoil the rest of the picture.",
    "kept": "This model can't draw these, and they may spoil the rest",
    "every": "Draw them all the same",
    "instead": "{word} → {instead}",
    "knows": "What this model knows",
    "knows_lead": "It was taught {count} words; others do little. A click adds one to yours.",
    "knows_open": "Nobody wrote down what this model was taught. Tags of Danbooru are a good guess.",
    "knows_about": "About",
    "knows_draw": "Draw a picture of each",
}
TEXT = texts(TEXT)


def colored(layers: dict[str, str], unknown: Sequence[UnknownWord] = (), left_out: Sequence[str] = ()) -> str:
    """The layers in their colours; words of the person's that do little, or that are left out, are struck through."""
    parts = []
    for name, part in layers.items():
        if name == "text":
            parts += [f":gray[~~{text.escape(word)}~~]" for word in left_out]
        if not part:
            continue
        if name == "text" and unknown:
            words = sorted((one.word for one in unknown), key=len, reverse=True)
            either = "|".join(map(standing, words))
            pieces = re.split(f"({either})", part, flags=re.IGNORECASE)  # those at odd places are the words
            parts.append(
                "".join(
                    f":gray[~~{text.escape(piece)}~~]" if index % 2 else _plain(COLORS[name], piece)
                    for index, piece in enumerate(pieces)
                    if piece
                )
            )
        else:
            parts.append(f":{COLORS[name]}[{text.escape(part)}]")
    return ", ".join(parts)


def _plain(color: str, piece: str) -> str:
    """The piece in this colour; spaces at its ends stay outside, where Markdown keeps them."""
    inner = piece.strip()
    before, after = piece[: len(piece) - len(piece.lstrip())], piece[len(piece.rstrip()) :] if inner else ""
    return before + (f":{color}[{text.escape(inner)}]" if inner else "") + after


def unknown_words(
    unknown: Sequence[UnknownWord], key: str, said: str = "little", *, first: int = 0, every_word: str = ""
) -> None:
    """The words that do little, each with its reason, and the nearest one that works as a button that puts it there.

    `key` is that of the text that holds them, `said` what is said of them (in `TEXT`), `first` how many others of the
    same text stand above. `every_word` is the key of the switch that draws them all the same, where there is one.
    """
    if not unknown:
        return
    with st.container(horizontal=True, gap="xsmall", vertical_alignment="center", key=f"{key}_{said}"):
        st.markdown(f":orange[:material/visibility_off:] :small[{TEXT[said]}]", width="content")
        said = str(st.session_state.get(key, ""))
        for index, one in enumerate(unknown[:8], first):
            if not one.instead or not re.search(standing(one.word), said, re.IGNORECASE):  # in a wildcard, perhaps
                st.badge(text.escape(tags.named(one.word)), color="gray", help=text.say(one.reason))
                continue
            st.button(
                text.escape(TEXT["instead"].format(word=one.word, instead=tags.named(one.instead[0]))),
                key=f"{key}_instead_{index}",
                help=f"{text.say(one.reason)} {text.escape(' · '.join(one.instead[1:]))}".strip(),
                on_click=_exchange,
                args=(key, one.word, one.instead[0]),
            )
        if every_word:
            st.button(
                TEXT["every"], key=f"{key}_every", type="tertiary", help=TEXT["left_help"],
                on_click=st.session_state.update, args=({every_word: True},),
            )  # fmt: skip


def _exchange(key: str, word: str, instead: str) -> None:
    """Put the nearest known words in the place of one that does little."""
    said = str(st.session_state.get(key, ""))
    st.session_state[key] = re.sub(standing(word), instead.replace("\\", r"\\"), said, flags=re.IGNORECASE)


def known_words(model: str) -> None:
    """Every word that the chosen model was taught, by what it is about: a click adds it to the words typed.

    A picture of each is drawn when somebody asks, with one seed, so that only the word differs.
    """
    with st.popover(TEXT["knows"], icon=":material/menu_book:", key="gen_knows"):
        groups = studio().prompts.known_words(model)
        if not groups:
            st.caption(TEXT["knows_open"])
            return
        st.caption(TEXT["knows_lead"].format(count=sum(map(len, groups.values()))))
        about = st.selectbox(
            TEXT["knows_about"],
            list(groups),
            format_func=lambda group: GROUPS.get(group, group.capitalize()),
            key="gen_knows_about",
        )
        words = groups[about]
        pictures = studio().words.drawn(words, owner(), model)
        if len(pictures) < len(words) and st.button(
            TEXT["knows_draw"], key="gen_knows_draw", icon=":material/draw:", disabled=_drawing()
        ):
            with widgets.refusals(PAGE):
                asked = studio().words.request(words, model)
                st.session_state["gen_knows_job"] = widgets.start(asked, PAGE, of_form=False).id
                st.rerun()
        with st.container(horizontal=True, gap="xsmall", height=320):
            for word in words:
                with st.container(width="content"):
                    if word in pictures:
                        st.image(str(studio().picture_path(pictures[word], owner())), width=96)
                    st.button(
                        text.escape(tags.named(word)),
                        key=f"gen_knows_{word}",
                        type="tertiary",
                        on_click=_add,
                        args=(word,),
                    )


def _drawing() -> bool:
    """The pictures of the words are being drawn already."""
    with suppress(NotFound):
        return studio().job(st.session_state.get("gen_knows_job", ""), owner()).active
    return False


def _add(word: str) -> None:
    said = str(st.session_state.get("gen_text", "")).strip(" ,")
    st.session_state["gen_text"] = f"{said}, {word}" if said else word
