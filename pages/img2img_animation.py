"""Animation: one picture, a sequence of emotions, and a strength that rises from frame to frame."""

from __future__ import annotations

import streamlit as st

from studio.core.specs import Keyframe
from studio.features.animate.spec import AnimateSpec
from studio.interfaces.web import inputs, motion

PAGE = "img2img_animation"
TEXT = {
    "title": "Animation",
    "lead": "One picture, drawn again frame by frame: the same character, moving through emotions.",
    "emotions": "Emotions, in order",
    "emotions_help": "One or more, as often as you like: happy, sad, happy. Press one here to take it out.",
    "strength": "Strength, from and to",
    "strength_help": "How much of the picture a frame may change: it rises from the first frame to the last.",
    "keyframes": "Set keyframes by hand",
    "keyframes_help": "Replaces the sequence: an emotion and, if you like, a strength and a pause at chosen frames.",
    "draw": "Animate",
    "empty": "Choose a picture, or let one be drawn, and press Animate.",
    "too_few": "Add at least one emotion.",
}

stage, side = motion.heading(TEXT)
with side:
    image = motion.source(PAGE, "anim")
    sequence = motion.emotions(AnimateSpec, TEXT, "anim_sequence")
    words = motion.words("anim", image)
    frames = motion.frames(AnimateSpec, "anim")
    low, high = st.slider(
        TEXT["strength"], 0.05, 1.0, (0.3, 0.7), 0.05, help=TEXT["strength_help"], key="anim_strength",
        persist_state="session",
    )  # fmt: skip
    with motion.more():
        marks: tuple[Keyframe, ...] = ()
        if st.toggle(TEXT["keyframes"], help=TEXT["keyframes_help"], key="anim_by_hand", persist_state="session"):
            marks = motion.keyframes("anim", frames)
        consistent = inputs.toggle(AnimateSpec, "consistent", "anim_consistent")
        between = inputs.number(AnimateSpec, "inbetweens", "anim_between")
        loop = motion.loop_fields(AnimateSpec, "anim")
        rest = motion.model("anim", image)
    if marks:  # they replace the sequence
        sequence = tuple(dict.fromkeys(mark.emotion for mark in marks))
    pressed = motion.pressed(AnimateSpec, TEXT, sequence, "anim", ":material/animation:")

if pressed:
    motion.start(
        AnimateSpec, PAGE, words | rest, sequence, image=image, frames=frames, strength_from=low, strength_to=high,
        consistent=consistent, keyframes=marks, inbetweens=between, **loop,
    )  # fmt: skip

with stage:
    motion.stage(PAGE, TEXT["empty"])
