"""Animation: one picture, a sequence of emotions, and a strength that rises from frame to frame."""

from __future__ import annotations

import streamlit as st

from studio.core.i18n import texts
from studio.core.specs import Keyframe
from studio.features.animate.spec import AnimateSpec
from studio.interfaces.web import character, chips, inputs, motion, motion_stage, widgets

PAGE = "img2img_animation"
TEXT = {
    "title": "Animation",
    "lead": "The first frame is your picture; every next one is drawn anew from it, a little further away each time. "
    "For a smooth change of the expression alone, use Emotion morph.",
    "emotions": "Emotions, in order",
    "emotions_help": "One or more, as often as you like: happy, sad, happy. Press one here to take it out.",
    "strength": "Strength, from and to",
    "strength_help": "How much of the picture a frame may change: it rises to the last frame.",
    "keyframes": "Set keyframes by hand",
    "keyframes_help": "Replaces the sequence: an emotion and, if you like, a strength and a pause at chosen frames.",
    "by_hand": "Keyframes by hand",
    "draw": "Animate",
    "empty": "Choose a picture, or let one be drawn, and press Animate.",
    "too_few": "Add at least one emotion.",
}
TEXT = texts(TEXT)

HIDDEN = ("consistent", "inbetweens", "pingpong", "fps", "format")  # in "More settings"

bar = motion.bar(PAGE)
stage, side = motion.heading(TEXT)
with side:
    image = motion.source(PAGE, "anim")
    sequence = motion.emotions(AnimateSpec, TEXT, "anim_sequence")
    words = motion.words("anim", image, bar.words)
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
        between = inputs.number(AnimateSpec, "inbetweens", "anim_inbetweens")
        loop = motion.loop_fields(AnimateSpec, "anim")
        rest = motion.model("anim", image)
    if marks:  # they replace the sequence
        sequence = tuple(dict.fromkeys(mark.emotion for mark in marks))
with bar.shaping:
    others = [] if image else character.chips()
    if marks:
        others.append(chips.Chip("by_hand", TEXT["by_hand"], lambda: st.session_state.update(anim_by_hand=False)))
    chips.show("anim", [*others, *chips.of(AnimateSpec, HIDDEN, "anim")], without=motion.LEFT_OUT)
with bar.button:
    pressed = motion.start_button(AnimateSpec, TEXT, sequence, "anim", ":material/animation:")

if pressed:
    motion.start(
        AnimateSpec, PAGE, words | rest, sequence, image=image, frames=frames, strength_from=low, strength_to=high,
        consistent=consistent, keyframes=marks, inbetweens=between, **loop,
    )  # fmt: skip

with stage:
    motion_stage.stage(PAGE, TEXT["empty"])
widgets.refusal(PAGE, bar.problem)
