"""Animation: one picture, a sequence of emotions, and a strength that rises from frame to frame."""

from __future__ import annotations

import streamlit as st

from studio.specs import EMOTIONS, AnimateSpec, GenerateSpec
from studio.ui import motion, text, widgets

PAGE = "img2img_animation"
TEXT = {
    "title": "Animation",
    "lead": "One picture, drawn again frame by frame: the same character, moving through emotions.",
    "sequence": "Emotions, in order",
    "sequence_help": "The order of clicking is the order of the animation.",
    "frames": "Frames",
    "strength": "Strength, from and to",
    "strength_help": "How much of the picture a frame may change: it rises from the first frame to the last.",
    "consistent": "Same character in all frames",
    "consistent_help": "All frames share their noise and look at the picture. Off: each is drawn alone, and flickers.",
    "inbetweens": "Pictures in between",
    "inbetweens_help": "Put between two frames by following what moves; costs no drawing.",
    "keyframes": "Set keyframes by hand",
    "keyframes_help": "Replaces the sequence: an emotion and, if you like, a strength and a pause at chosen frames.",
    "pingpong": "There and back",
    "more": "More settings",
    "draw": "Animate",
    "empty": "Choose a picture, or let one be drawn, and press Animate.",
    "none": "Choose at least one emotion.",
}

st.title(TEXT["title"], anchor=False)
st.caption(TEXT["lead"])
stage, side = st.columns([3, 2], gap="medium")
with side:
    image = motion.source(PAGE, "anim")
    sequence = st.pills(
        TEXT["sequence"], EMOTIONS, selection_mode="multi", default=["happy", "sad"], format_func=text.emotion_label,
        help=TEXT["sequence_help"], key="anim_sequence", persist_state="session",
    )  # fmt: skip
    words = motion.words("anim", image)
    frames = widgets.number_from(
        AnimateSpec, "frames", TEXT["frames"], slider=True, key="anim_frames", persist_state="session"
    )
    low, high = st.slider(
        TEXT["strength"], 0.05, 1.0, (0.3, 0.7), 0.05, help=TEXT["strength_help"], key="anim_strength",
        persist_state="session",
    )  # fmt: skip
    with st.expander(TEXT["more"], icon=":material/tune:"):
        marks = ()
        if st.toggle(TEXT["keyframes"], help=TEXT["keyframes_help"], key="anim_by_hand", persist_state="session"):
            marks = motion.keyframes("anim", frames)
        consistent = st.toggle(
            TEXT["consistent"], value=True, help=TEXT["consistent_help"], key="anim_consistent", persist_state="session"
        )
        between = widgets.number_from(
            AnimateSpec, "inbetweens", TEXT["inbetweens"], help=TEXT["inbetweens_help"], key="anim_between",
            persist_state="session",
        )  # fmt: skip
        pingpong = st.toggle(TEXT["pingpong"], key="anim_pingpong", persist_state="session")
        fps, form = motion.pace(AnimateSpec, "anim")
        rest = motion.model("anim")
    pressed = st.button(
        TEXT["draw"], type="primary", icon=":material/animation:", shortcut="Ctrl+Enter", key="anim_draw",
        disabled=not sequence, help=None if sequence else TEXT["none"],
    )  # fmt: skip

if pressed:
    base = GenerateSpec.model_validate({"emotion": sequence[0]} | words | rest)
    widgets.start(
        AnimateSpec(
            base=base, image=image, emotions=tuple(sequence), frames=frames, strength_from=low, strength_to=high,
            consistent=consistent, keyframes=marks, inbetweens=between, pingpong=pingpong, fps=fps, format=form,
        ),
        PAGE,
    )  # fmt: skip
    st.rerun()

with stage:
    motion.stage(PAGE, TEXT["empty"])
