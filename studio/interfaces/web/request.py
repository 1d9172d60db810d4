"""The form of the Generate page: its fields, what they add up to, and how a recipe is put back into them.

Every field lives in the session under a `gen_` key and survives a change of page. The prompt itself is `prompt_panel`.
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import streamlit as st
from PIL import Image
from pydantic import ValidationError

from studio.core.errors import BadInput, NotFound, StudioError, explain
from studio.core.fields import describe
from studio.core.i18n import texts
from studio.core.settings import settings
from studio.core.specs import EMOTIONS, GenerateSpec, LoraRef
from studio.core.views import ImportedRecipe
from studio.interfaces.web import character, inputs, kept, parameters, text, widgets
from studio.interfaces.web.chips import Chip
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio
from studio.service import LoraInfo, ModelInfo, PromptRequest
from studio.service.resolving import sampling
from studio.service.sizes import default_size

PAGE = "generate"
TEXT = {
    "more": "More settings",
    "native": "This model was made for {native} × {native} pixels: much larger pictures are drawn smaller and "
    "enlarged.",
    "auto_help": "The grey number is what is taken while the field is empty.",
    "fast": "{model} can draw in {steps} steps instead of {instead}, with {adapter}.",
    "fast_use": "Draw in {steps} steps",
    "fast_help": "It is a LoRA. The next picture downloads it, once; later the model takes it by itself.",
    "source": "Starting from",
    "starts": "Draw starts from this picture now. Say below what is to be different.",
    "own": "Your own prompt",
    "edited": "Edited words",
    "starts_chip": "Starts from a picture",
    "drop_source": "Draw from the prompt alone",
    "upload": "Drop a picture",
    "upload_help": "A picture made here or in A1111 brings its recipe. Any picture can be the start of a new one.",
    "load": "Load its recipe",
    "use": "Start from it",
    "loaded": "Recipe loaded. {notes}",
    "drawing": "The drawing that it followed isn't part of this form, so Draw makes another picture, from the words "
    "alone. To draw in those lines again, send the picture to Sketch.",
    "restored": "The form is as it was when this was asked for. {notes}",
    "source_gone": "The picture that it started from isn't here, so Draw makes another picture.",
}
TEXT = texts(TEXT)


@dataclass(frozen=True)
class Fields:
    """What the form says, before the prompt is written."""

    emotion: str
    style: str
    quality: str
    typed: str
    count: int
    rest: dict[str, Any]  # the optional fields of GenerateSpec
    loras: tuple[LoraRef, ...]

    @cached_property
    def text(self) -> str:
        """What was typed, and what it leaves open of the character that is kept."""
        return character.into(self.typed)

    @cached_property
    def triggers(self) -> tuple[str, ...]:
        """Trigger words of the chosen LoRAs: never touched by the spelling help."""
        with suppress(NotFound):  # deleted since it was chosen: the picker says so in the next run
            return studio().models.trigger_words(self.loras)
        return ()

    @cached_property
    def known_loras(self) -> tuple[LoraInfo, ...]:
        """The chosen LoRAs themselves: the words that they were taught are known words."""
        known = {str(lora.path): lora for lora in studio().models.loras()}
        return tuple(known[ref.path] for ref in self.loras if ref.path in known)

    def request(self, seed: int = 0, offline: bool = False) -> PromptRequest:
        """What the prompt's writer is asked; another `seed` chooses other words. `offline`: instant and free."""
        return PromptRequest(
            emotion=self.emotion,
            style=self.style,
            quality=self.quality,
            text=self.text,
            every_word=bool(self.rest.get("every_word")),
            seed=seed,
            offline=offline,
            model=self.rest.get("model") or "",
            trigger_words=self.triggers,
        )

    def spec(self, prompt: str | None, negative: str | None) -> GenerateSpec:
        """The request. Raises BadInput with a sentence where a field has what no request can have."""
        try:
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
        except ValidationError as error:
            raise BadInput(explain(error)) from error


def receive() -> None:
    """Take over what another page, or a dropped file, wants in the form. Runs before any widget is drawn."""
    got = widgets.sent("generate")
    if got and got["as"] == "source":
        st.session_state["gen_source"] = got["picture"]
        st.session_state["gen_said"] = TEXT["starts"]
    elif got:
        load(studio().recipe_of(got["picture"], owner()))
    waiting = st.session_state.pop("gen_load", None)
    if waiting is not None:
        load(waiting)
    if "gen_emotion" not in st.session_state and (job_id := widgets.form_job(PAGE)):
        restore(job_id)


def restore(job_id: str) -> None:
    """Put the request of a job back into a form that knows nothing: the page was loaded again.

    Its seed is left out, because a blank one was filled in since: the next picture is to be another.
    """
    with suppress(StudioError):  # not here any more, which the page says
        asked = studio().job_spec(job_id, owner())
        base = asked if isinstance(asked, GenerateSpec) else getattr(asked, "base", None)
        if base is not None:
            who = kept.words()
            load(ImportedRecipe(spec=base.model_copy(update={"seed": None}), origin="studio"), TEXT["restored"])
            if who and base.prompt is None:  # the same that was in that request
                st.session_state[kept.KEY] = who
                st.session_state["gen_text"] = character.out_of(base.text)


def load(imported: ImportedRecipe, said: str = "") -> None:
    """Put a recipe into the form, and say so. Raises StudioError when a LoRA of it is gone.

    Its prompt becomes a prompt of one's own, to be edited as a whole, unless it is what is written for its fields
    anyway: then the fields go on to decide. What the form has no place for, or isn't here, is said: it would draw
    another picture.
    """
    state, spec, notes = st.session_state, imported.spec, list(imported.notes)
    state["gen_emotion"], state["gen_style"], state["gen_quality"] = spec.emotion, spec.style, spec.quality
    state["gen_text"], state["gen_count"] = spec.text, spec.count
    kept.drop()  # another one is in the recipe
    parameters.fill("gen", spec)
    state["gen_source"], state["gen_strength"] = spec.source, spec.strength
    if spec.source is not None:
        try:
            studio().picture(spec.source, owner())
        except StudioError:
            state["gen_source"] = None
            notes.append(TEXT["source_gone"])
    if spec.control is not None:
        notes.append(TEXT["drawing"])
    state["gen_said"] = (said or TEXT["loaded"]).format(notes=" ".join(text.say(note) for note in notes)).strip()
    as_written()  # edits were of another prompt
    state["gen_own"] = spec.prompt is not None and not _written_here(spec)
    state.pop("gen_own_for", None)
    state.pop("gen_own_until", None)
    if state["gen_own"]:
        state["gen_own_prompt"], state["gen_own_negative"] = spec.prompt, spec.negative or ""


def _written_here(spec: GenerateSpec) -> bool:
    """Whether Draw would draw this prompt from the fields alone, without a question."""
    if studio().prompts.claude_writes:
        return False
    written = studio().as_drawn(spec)
    return (written.positive_prompt, written.negative_prompt, written.doubtful) == (spec.prompt, spec.negative, False)


def typed_text() -> str:
    """The free text, in the bar at the foot of the page."""
    typed = inputs.line(
        GenerateSpec, "text", "gen_text", live="300ms", icon=":material/edit:", label_visibility="collapsed", help=None
    )
    return typed or ""


def choices() -> tuple[str, str, str, int]:
    """The few fields that are always there: emotion, style, quality, number of pictures."""
    emotion = emotion_pills("gen_emotion")
    style = inputs.buttons(GenerateSpec, "style", "gen_style")
    with st.container(horizontal=True, gap="small"):
        quality = inputs.buttons(GenerateSpec, "quality", "gen_quality")
        count = inputs.number(GenerateSpec, "count", "gen_count", width=110, help=None)
    return emotion, style, quality, int(count or 1)


def emotion_pills(key: str) -> str:
    """The emotions with their faces."""
    chosen = st.pills(
        describe(GenerateSpec, "emotion").label,
        EMOTIONS,
        default=EMOTIONS[0] if key not in st.session_state else None,
        required=True,
        format_func=text.emotion_label,
        key=key,
        wrap=True,
        persist_state="session",
    )
    return chosen or EMOTIONS[0]


def automatic(quality: str, info: ModelInfo) -> tuple[int, float]:
    """Steps and guidance that will be taken where their fields are empty, given what the other fields hold now."""
    state = st.session_state
    known = {str(lora.path): lora for lora in studio().models.loras()}
    chosen = []
    for path in state.get("gen_loras") or ():
        with suppress(StudioError):  # one that is gone is said by the picker
            chosen.append(known.get(path) or studio().models.lora(path))
    asked: dict[str, Any] = {
        "quality": quality, "sampler": state.get("gen_sampler") or "auto", "source": state.get("gen_source")
    }  # fmt: skip
    steps, guidance = state.get("gen_steps"), state.get("gen_guidance")
    # Not validated: the fields may hold what they are about to put right.
    return (
        sampling(GenerateSpec.model_construct(**asked, steps=None, guidance=guidance), info, chosen)[0],
        sampling(GenerateSpec.model_construct(**asked, steps=steps, guidance=None), info, chosen)[1],
    )


def more(quality: str) -> tuple[dict[str, Any], tuple[LoraRef, ...]]:
    """The fields behind "More settings"."""
    models = studio().models.list()
    chosen = st.session_state.get("gen_model") or settings().model
    about = {info.reference: info for info in models}.get(chosen)
    hints: dict[str, dict[str, Any]] = {}
    if about:  # a model that was typed may not be here yet
        steps, guidance = automatic(quality, about)
        native = about.native_size
        sides = dict(zip(("width", "height"), map(str, default_size(native, None, about.sizes)), strict=True))
        for name, value in {"steps": f"{steps}", "guidance": f"{guidance:g}", **sides}.items():
            # no word before it: the fields are so narrow that its end would be cut off
            explained = f"{describe(GenerateSpec, name).help} {TEXT['auto_help']}"
            hints[name] = {"placeholder": value, "help": explained}
        because = TEXT["native"].format(native=native)
        for name in ("width", "height"):
            hints[name]["help"] = f"{hints[name]['help']} {because}"
    rest = parameters.form("gen", hints=hints, models=models)
    if about is not None:
        few_steps(about)
    dropped()
    return rest, rest.pop("loras")


def few_steps(info: ModelInfo) -> None:
    """Offer the published few-step adapter of a model that has none here."""
    known = info.fast_published
    chosen = list(st.session_state.get("gen_loras") or ())
    if known is None or info.fast is not None or known.reference in chosen:
        return
    said = TEXT["fast"].format(model=info.title, steps=known.steps, instead=info.steps, adapter=known.said)
    st.caption(text.escape(said))
    st.button(
        TEXT["fast_use"].format(steps=known.steps), key="gen_fast", icon=":material/bolt:", help=TEXT["fast_help"],
        on_click=st.session_state.update, args=({"gen_loras": [*chosen, known.reference]},),
    )  # fmt: skip


def dropped() -> None:
    """A picture from outside: load the recipe in it, or start from it."""
    file = st.file_uploader(
        TEXT["upload"], ["png", "jpg", "jpeg", "webp"], key="gen_file", help=TEXT["upload_help"], max_upload_size=20
    )
    if file is None:
        return
    state = st.session_state
    if state.get("gen_file_id") != file.file_id:  # read once for each file: hashes of models may be needed
        state["gen_file_id"], state["gen_file_recipe"], state["gen_file_wrong"] = file.file_id, None, ""
        try:
            state["gen_file_recipe"] = studio().read_recipe(file.getvalue())
        except StudioError as problem:
            state["gen_file_wrong"] = str(problem)
    imported: ImportedRecipe | None = state["gen_file_recipe"]
    if imported is None:
        if not _is_picture(file.getvalue()):
            st.error(text.say(state["gen_file_wrong"]), icon=":material/broken_image:")
            return
        st.caption(text.say(state["gen_file_wrong"]))
    with st.container(horizontal=True):
        if imported is not None and st.button(TEXT["load"], key="gen_file_load", icon=":material/receipt_long:"):
            state["gen_load"] = imported
            st.rerun()
        if st.button(TEXT["use"], key="gen_file_use", icon=":material/image:"):
            try:
                state["gen_source"] = studio().upload(file.getvalue(), owner(), file.name).id
            except StudioError as problem:
                st.error(text.say(problem), icon=":material/broken_image:")
            else:
                st.rerun()


def _is_picture(data: bytes) -> bool:
    """Whether it looks like one; whether it is sound is found out when it is used."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")):
            return True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return False


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
    with st.container(horizontal=True, vertical_alignment="center", border=True, key="gen_source_box"):
        st.image(widgets.thumbnail(picture), width=72, alt=TEXT["source"])
        strength = inputs.number(GenerateSpec, "strength", "gen_strength", slider=True)
        st.button(
            TEXT["drop_source"], key="gen_source_drop", icon=":material/close:", type="tertiary", on_click=drop_source
        )
    return {"source": picture_id, "strength": strength}


def drop_source() -> None:
    """Draw from the prompt alone."""
    st.session_state["gen_source"] = None


def hidden(edited: bool) -> list[Chip]:
    """What shapes the next picture beside the fields and the settings. `edited`: its prompt was changed by hand."""
    state, chips = st.session_state, []
    if state.get("gen_source"):
        chips.append(Chip("source", TEXT["starts_chip"], drop_source))
    if state.get("gen_own"):
        return [*chips, Chip("own", TEXT["own"], write_again)]  # drawn as it stands: no character is put into it
    chips += character.chips()
    if edited:
        chips.append(Chip("edited", TEXT["edited"], as_written))
    return chips


def write_again() -> None:
    """The prompt is written from the fields again, not the person's own."""
    st.session_state["gen_own"] = False
    st.session_state.pop("gen_own_for", None)
    st.session_state.pop("gen_own_until", None)


def as_written() -> None:
    """Every layer of the prompt as it was written."""
    for key in [key for key in st.session_state if str(key).startswith("gen_layer_")]:
        del st.session_state[key]
    st.session_state["gen_fixed"] = False
    st.session_state["gen_writer_seed"] = 0
