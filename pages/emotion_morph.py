"""Emotion morph: one character from one emotion to another, as a strip of frames and a loop to keep."""

from __future__ import annotations

from typing import get_args

import streamlit as st

from studio.core.specs import GenerateSpec, MorphMethod
from studio.features.morph.spec import MorphSpec
from studio.interfaces.web import motion, widgets

PAGE = "emotion_morph"
TEXT = {
    "title": "Emotion morph",
    "lead": "One character, from one emotion to another.",
    "emotions": "Emotions, in order",
    "emotions_help": "Two or more, as often as you like: happy, sad, happy. Press one here to take it out.",
    "too_few": "Add at least two emotions.",
    "method": "Method",
    "attention": "Mix attention too",
    "attention_help": "Frames in between look at both ends while they are drawn: smoother, and twice the time.",
    "retime": "Equal steps to the eye",
    "retime_help": "Draws more frames than it shows and keeps those that look equally far apart.",
    "easing": "Speed",
    "amount": "How far",
    "amount_help": "1 is the last emotion as asked for; above 1 goes beyond it.",
    "held": "Shared start",
    "held_help": "How much of the drawing all frames share: more keeps the character, less lets the face move.",
    "held_blank": "automatic",
    "spherical": "Along an arc",
    "spherical_help": "Spherical instead of straight interpolation: keeps the contrast of the middle.",
    "draw": "Morph",
    "empty": "Choose emotions and press Morph.",
}
METHODS = {  # those of them that the spec has
    "prompt": ("Redraw", "Every frame is drawn from the same noise, with words in between: sharp, same character."),
    "direction": (
        "Direction",
        "Adds the difference between the two emotions' average pictures; the slider says how much.",
    ),
    "picture": ("Keep my picture", "Your picture is taken back to noise and only its expression is drawn anew."),
    "latent": ("Cross-fade", "Two finished pictures are mixed: quick, but both faces show through in the middle."),
}
EASINGS = {"linear": "Even", "ease": "Slow at both ends", "ease_in": "Slow start", "ease_out": "Slow end"}

stage, side = motion.heading(TEXT)
with side:
    image = motion.source(PAGE, "morph")
    chain = motion.emotions(MorphSpec, TEXT, "morph_chain")
    why, uploaded = motion.why_in_place(image)
    # What would be changed in place all the same isn't offered as something else.
    instead = () if why is None else ("prompt",) if uploaded else ("prompt", "latent")
    left_out = instead if image else ("picture",)
    names = [name for name in METHODS if name in get_args(MorphMethod) and name not in left_out]
    if st.session_state.get("morph_method") not in names:
        st.session_state.pop("morph_method", None)
    method = st.segmented_control(
        TEXT["method"], names, default="picture" if why else "prompt", required=True,
        format_func=lambda name: METHODS[name][0], key="morph_method", persist_state="session",
    )  # fmt: skip
    st.caption(METHODS[method][1])
    if why:
        st.caption(why)
    beside = st.container()  # where the amount stands when it is what the method is about
    words = motion.words("morph", image)
    frames = motion.frames(MorphSpec, "morph")
    retime = st.toggle(TEXT["retime"], help=TEXT["retime_help"], key="morph_retime", persist_state="session")
    with motion.more():
        easing = st.selectbox(
            TEXT["easing"], list(EASINGS), format_func=EASINGS.__getitem__, disabled=retime, key="morph_easing",
            persist_state="session",
        )  # fmt: skip
        with beside if method == "direction" else st.container():
            amount = widgets.number_from(
                MorphSpec, "amount", TEXT["amount"], slider=True, help=TEXT["amount_help"], key="morph_amount",
                persist_state="session",
            )  # fmt: skip
        attention, shared_steps = False, None
        if method == "prompt":
            attention = st.toggle(
                TEXT["attention"], help=TEXT["attention_help"], key="morph_attention", persist_state="session"
            )
            shared_steps = widgets.number_from(
                MorphSpec, "shared_steps", TEXT["held"], help=TEXT["held_help"], key="morph_held", step=0.05,
                placeholder=TEXT["held_blank"], persist_state="session",
            )  # fmt: skip
        spherical = method == "latent" and st.toggle(
            TEXT["spherical"], help=TEXT["spherical_help"], key="morph_spherical", persist_state="session"
        )
        loop = motion.loop_fields(MorphSpec, "morph")
        rest = motion.model("morph", image)
    pressed = motion.pressed(MorphSpec, TEXT, chain, "morph", ":material/theater_comedy:")

if pressed:
    motion.start(
        MorphSpec, PAGE, words | rest, chain, frames=frames, method=method, image=image, attention=attention,
        amount=amount, shared_steps=shared_steps, retime=retime, easing=easing, spherical=spherical, **loop,
    )  # fmt: skip

with stage:
    motion.stage(PAGE, TEXT["empty"])
    motion.sprites("morph", image, lambda: GenerateSpec.model_validate(words | rest), PAGE)
