"""Emotion morph: one character from one emotion to another, as a strip of frames and a loop to keep."""

from __future__ import annotations

from typing import get_args

import streamlit as st

from studio.core.i18n import texts
from studio.core.samplers import INVERSION_STEPS
from studio.core.specs import MorphMethod
from studio.features.morph.spec import MorphSpec
from studio.interfaces.web import character, chips, inputs, motion, motion_stage, widgets

PAGE = "emotion_morph"
TEXT = {
    "title": "Emotion morph",
    "lead": "One drawing changes its expression smoothly, and nothing else moves. To have every frame drawn anew, a "
    "little further from your picture each time, use Animation.",
    "emotions": "Emotions, in order",
    "emotions_help": "Two or more, as often as you like: happy, sad, happy. Press one here to take it out.",
    "too_few": "Add at least two emotions.",
    "draw": "Morph",
    "empty": "Choose emotions and press Morph.",
}
TEXT = texts(TEXT)
METHODS = {  # what each of them does
    "prompt": "Every frame is drawn from the same noise, with words in between: sharp, same character.",
    "direction": "Adds the difference between the two emotions' average pictures; the slider says how much.",
    "picture": "Your picture is taken back to noise and only its expression is drawn anew: with DDIM, "
    "in {steps} steps or more.",
    "latent": "Two finished pictures are mixed: quick, but both faces show through in the middle.",
}
METHODS = texts(METHODS)
HIDDEN = (
    "easing",
    "amount",
    "attention",
    "shared_steps",
    "spherical",
    "pingpong",
    "fps",
    "format",
)  # in "More settings"

bar = motion.bar(PAGE)
stage, side = motion.heading(TEXT)
with side:
    image = motion.source(PAGE, "morph")
    chain = motion.emotions(MorphSpec, TEXT, "morph_chain")
    why, uploaded = motion.why_in_place(image)
    # What would be changed in place all the same isn't offered as something else.
    instead = () if why is None else ("prompt",) if uploaded else ("prompt", "latent")
    left_out = instead if image else ("picture",)
    names = [name for name in METHODS if name in get_args(MorphMethod) and name not in left_out]
    # Another picture, or none: the choice begins anew. Who gives a picture wants to see it.
    if st.session_state.get("morph_method") not in names or st.session_state.get("morph_method_of", image) != image:
        st.session_state.pop("morph_method", None)
    st.session_state["morph_method_of"] = image
    method = inputs.buttons(
        MorphSpec, "method", "morph_method", choices=names, default="picture" if image else "prompt", help=None
    )
    st.caption(METHODS[method].format(steps=INVERSION_STEPS))
    if why:
        st.caption(why)
    beside = st.container()  # where the amount stands when it is what the method is about
    words = motion.words("morph", image, bar.words)
    frames = motion.frames(MorphSpec, "morph")
    retime = inputs.toggle(MorphSpec, "retime", "morph_retime")
    with motion.more():
        easing = inputs.choice(MorphSpec, "easing", "morph_easing", disabled=retime)
        with beside if method == "direction" else st.container():
            amount = inputs.number(MorphSpec, "amount", "morph_amount", slider=True)
        attention, shared_steps = False, None
        if method == "prompt":
            attention = inputs.toggle(MorphSpec, "attention", "morph_attention")
            shared_steps = inputs.number(MorphSpec, "shared_steps", "morph_shared_steps")
        spherical = method == "latent" and inputs.toggle(MorphSpec, "spherical", "morph_spherical")
        loop = motion.loop_fields(MorphSpec, "morph")
        rest = motion.model("morph", image, method)
with bar.shaping:
    kept = [] if image else character.chips()
    chips.show("morph", [*kept, *chips.of(MorphSpec, HIDDEN, "morph")], without=motion.LEFT_OUT)
with bar.button:
    pressed = motion.start_button(MorphSpec, TEXT, chain, "morph", ":material/theater_comedy:")

if pressed:
    motion.start(
        MorphSpec, PAGE, words | rest, chain, frames=frames, method=method, image=image, attention=attention,
        amount=amount, shared_steps=shared_steps, retime=retime, easing=easing, spherical=spherical, **loop,
    )  # fmt: skip

with stage:
    motion_stage.stage(PAGE, TEXT["empty"])
    motion_stage.sprites("morph", image, words | rest, PAGE, method)
widgets.refusal(PAGE, bar.problem)
