"""The form of the Generate page: its fields, what they add up to, and how a recipe is put back into them.

Every field lives in the session under a `gen_` key and survives a change of page. The prompt itself is `prompt_panel`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import streamlit as st

from studio.errors import StudioError
from studio.service import PromptRequest
from studio.specs import EMOTIONS, QUALITIES, SAMPLERS, STYLES, GenerateSpec, LoraRef
from studio.ui import text, widgets
from studio.ui.identity import owner
from studio.ui.resources import studio
from studio.views import FoundRecipe

TEXT = {
    "text": "Describe your character",
    "text_hint": "red hair, blue eyes, school uniform…",
    "emotion": "Emotion",
    "style": "Style",
    "quality": "Quality",
    "count": "Pictures",
    "more": "More settings",
    "steps": "Steps",
    "steps_help": "More steps, finer picture, longer wait.",
    "guidance": "Guidance",
    "guidance_help": "How closely the picture follows the prompt. 1 turns the negative prompt off.",
    "sampler": "Sampler",
    "seed": "Seed",
    "seed_hint": "random",
    "seed_help": "The same seed and settings give the same picture. Picture 2 of a set has this seed + 1, and so on.",
    "width": "Width",
    "height": "Height",
    "auto": "auto: {value}",
    "source": "Starting from",
    "strength": "How much may change",
    "strength_help": "Low keeps the picture, high keeps little more than its colours.",
    "drop_source": "Draw from the prompt alone",
    "upload": "Drop a picture",
    "upload_help": "A picture made here or in A1111 brings its recipe. Any picture can be the start of a new one.",
    "load": "Load its recipe",
    "use": "Start from it",
    "loaded": "Recipe loaded. {notes}",
    "drawing": "The drawing that it followed isn't part of this form, so Draw makes another picture, from the words "
    "alone. To draw in those lines again, send the picture to Sketch.",
    "source_gone": "The picture that it started from isn't here, so Draw makes another picture.",
}


@dataclass(frozen=True)
class Fields:
    """What the form says, before the prompt is written."""

    emotion: str
    style: str
    quality: str
    text: str
    count: int
    rest: dict[str, Any]  # the optional fields of GenerateSpec
    loras: tuple[LoraRef, ...]

    @cached_property
    def triggers(self) -> tuple[str, ...]:
        """Trigger words of the chosen LoRAs: never touched by the spelling help."""
        known = {str(lora.path): lora.trigger_words for lora in studio().loras()}
        return tuple(word for ref in self.loras for word in known.get(ref.path, ()))

    def request(self, seed: int = 0, offline: bool = False) -> PromptRequest:
        """What the prompt's writer is asked; another `seed` chooses other words. `offline`: instant and free."""
        return PromptRequest(
            emotion=self.emotion,
            style=self.style,
            quality=self.quality,
            text=self.text,
            seed=seed,
            offline=offline,
            trigger_words=self.triggers,
        )

    def spec(self, prompt: str | None, negative: str | None) -> GenerateSpec:
        """The request. Raises ValidationError when a field is out of bounds (the widgets don't allow it)."""
        return GenerateSpec(
            emotion=self.emotion,
            style=self.style,
            quality=self.quality,
            text=self.text,
            count=self.count,
            prompt=prompt,
            negative=negative,
            loras=self.loras,
            **self.rest,
        )


# The optional fields and the keys of their widgets.
KEYS = {
    "model": "gen_model",
    "steps": "gen_steps",
    "guidance": "gen_guidance",
    "sampler": "gen_sampler",
    "width": "gen_width",
    "height": "gen_height",
    "seed": "gen_seed",
}


def receive() -> None:
    """Take over what another page, or a dropped file, wants in the form. Runs before any widget is drawn."""
    got = widgets.sent("generate")
    if got and got["as"] == "source":
        st.session_state["gen_source"] = got["picture"]
    elif got:
        load(studio().recipe_of(got["picture"], owner()))
    waiting = st.session_state.pop("gen_load", None)
    if waiting is not None:
        load(waiting)


def load(found: FoundRecipe) -> None:
    """Put a recipe into the form. Its prompt becomes a prompt of one's own, to be edited as a whole.

    What the form has no place for, or isn't here, is said: it would draw another picture.
    """
    state, spec, notes = st.session_state, found.spec, list(found.notes)
    state["gen_emotion"], state["gen_style"], state["gen_quality"] = spec.emotion, spec.style, spec.quality
    state["gen_text"], state["gen_count"] = spec.text, spec.count
    for name, key in KEYS.items():
        state[key] = getattr(spec, name)
    widgets.put_loras("gen_loras", spec.loras)
    state["gen_source"], state["gen_strength"] = spec.source, spec.strength
    if spec.source is not None:
        try:
            studio().picture(spec.source, owner())
        except StudioError:
            state["gen_source"] = None
            notes.append(TEXT["source_gone"])
    if spec.control is not None:
        notes.append(TEXT["drawing"])
    state["gen_said"] = TEXT["loaded"].format(notes=" ".join(text.escape(note) for note in notes)).strip()
    state["gen_own"] = spec.prompt is not None
    if spec.prompt is not None:
        state["gen_own_prompt"], state["gen_own_negative"] = spec.prompt, spec.negative or ""


def typed_text() -> str:
    """The free text, in the bar at the foot of the page."""
    typed = st.text_input(
        TEXT["text"],
        key="gen_text",
        placeholder=TEXT["text_hint"],
        max_chars=4000,
        live="300ms",
        icon=":material/edit:",
        label_visibility="collapsed",
        persist_state="session",
    )
    return (typed or "").strip()


def choices() -> tuple[str, str, str, int]:
    """The few fields that are always there: emotion, style, quality, number of pictures."""
    emotion = st.pills(
        TEXT["emotion"],
        EMOTIONS,
        default=EMOTIONS[0] if "gen_emotion" not in st.session_state else None,
        required=True,
        format_func=text.emotion_label,
        key="gen_emotion",
        wrap=True,
        persist_state="session",
    )
    style = st.segmented_control(
        TEXT["style"],
        STYLES,
        default=STYLES[0] if "gen_style" not in st.session_state else None,
        required=True,
        format_func=text.STYLE_NAMES.__getitem__,
        key="gen_style",
        persist_state="session",
    )
    with st.container(horizontal=True, gap="small"):
        quality = st.segmented_control(
            TEXT["quality"],
            QUALITIES,
            default="standard" if "gen_quality" not in st.session_state else None,
            required=True,
            format_func=text.QUALITY_NAMES.__getitem__,
            key="gen_quality",
            persist_state="session",
        )
        count = widgets.number_from(
            GenerateSpec, "count", TEXT["count"], key="gen_count", width=110, persist_state="session"
        )
    return emotion or EMOTIONS[0], style or STYLES[0], quality or "standard", int(count or 1)


def more() -> tuple[dict[str, Any], tuple[LoraRef, ...]]:
    """The fields behind "More settings"."""
    models = studio().models()
    model = widgets.model_picker("gen_model", models=models)
    about = {info.reference: info for info in models}.get(model)
    fast = about.fast if about else None
    automatic = {
        "steps": fast.steps if fast else about.steps if about else 20,
        "guidance": fast.guidance if fast else about.guidance if about else 7.0,
        "side": about.native_size if about else 512,
    }
    rest: dict[str, Any] = {"model": model}

    def number(name: str, value: Any, **options: Any) -> None:
        rest[name] = widgets.number_from(
            GenerateSpec,
            name,
            TEXT[name],
            key=KEYS[name],
            placeholder=TEXT["auto"].format(value=value),
            persist_state="session",
            **options,
        )

    with st.container(horizontal=True):
        number("steps", automatic["steps"], help=TEXT["steps_help"])
        number("guidance", f"{automatic['guidance']:g}", help=TEXT["guidance_help"], step=0.5)
    with st.container(horizontal=True):
        number("width", automatic["side"], step=64)
        number("height", automatic["side"], step=64)
    with st.container(horizontal=True):
        rest["sampler"] = st.selectbox(
            TEXT["sampler"],
            SAMPLERS,
            format_func=text.SAMPLER_NAMES.__getitem__,
            key="gen_sampler",
            persist_state="session",
        )
        rest["seed"] = widgets.number_from(
            GenerateSpec,
            "seed",
            TEXT["seed"],
            key="gen_seed",
            placeholder=TEXT["seed_hint"],
            help=TEXT["seed_help"],
            persist_state="session",
        )
    loras = widgets.lora_picker("gen_loras")
    dropped()
    return rest, loras


def dropped() -> None:
    """A picture from outside: load the recipe in it, or start from it."""
    file = st.file_uploader(
        TEXT["upload"], ["png", "jpg", "jpeg", "webp"], key="gen_file", help=TEXT["upload_help"], max_upload_size=20
    )
    if file is None:
        return
    with st.container(horizontal=True):
        if st.button(TEXT["load"], key="gen_file_load", icon=":material/receipt_long:"):
            st.session_state["gen_load"] = studio().read_recipe(file.getvalue())
            st.rerun()
        if st.button(TEXT["use"], key="gen_file_use", icon=":material/image:"):
            st.session_state["gen_source"] = studio().upload(file.getvalue(), owner(), file.name).id
            st.rerun()


def source() -> dict[str, Any]:
    """The picture to start from, if there is one, and how far the new one may go from it."""
    picture_id = st.session_state.get("gen_source")
    if not picture_id:
        return {}
    try:
        picture = studio().picture(picture_id, owner())
    except StudioError:
        st.session_state["gen_source"] = None
        return {}
    with st.container(horizontal=True, vertical_alignment="center", border=True):
        st.image(widgets.thumbnail(picture), width=72, alt=TEXT["source"])
        strength = widgets.number_from(
            GenerateSpec,
            "strength",
            TEXT["strength"],
            slider=True,
            key="gen_strength",
            help=TEXT["strength_help"],
            persist_state="session",
        )
        if st.button(TEXT["drop_source"], key="gen_source_drop", icon=":material/close:", type="tertiary"):
            st.session_state["gen_source"] = None
            st.rerun()
    return {"source": picture_id, "strength": strength}
