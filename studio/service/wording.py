"""The words of a request: written, with another emotion, and taken apart into what a model can be asked for.

The part of resolving that knows prompts. It reads LoRA files for their trigger words, draws nothing and asks no
language model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from studio.core.errors import BadInput, NotFound
from studio.core.settings import Settings
from studio.core.specs import MAX_LORAS, MAX_PROMPT, Emotion, GenerateSpec, LoraRef, Style
from studio.engine.models.catalogue import LoraInfo, find_lora, loras
from studio.prompting import a1111, dynamic
from studio.prompting.confidence import apply_policy
from studio.prompting.exchange import replace_layer
from studio.prompting.knowledge import sentence
from studio.prompting.leaving_out import standing
from studio.prompting.traits import FACE, TRAITS, decide_traits
from studio.prompting.triggers import request_for, split
from studio.prompting.writers import PromptResult, assemble
from studio.service.prompts import PromptService


@dataclass(frozen=True, slots=True)
class Words:
    """What is drawn with one seed: texts without foreign syntax, and the LoRAs that the prompt named."""

    prompt: str
    negative: str
    loras: tuple[LoraRef, ...] = ()


class Wording:
    """Words of one studio's requests, as `prompts` writes and corrects them: with people's own tag lists.

    Thread-safe: it keeps nothing.
    """

    def __init__(self, settings: Settings, prompts: PromptService) -> None:
        self._settings = settings
        self.write = prompts.write_offline
        self._template = prompts.write_fixed
        self._contradicted = prompts.contradicted
        self._unknown = prompts.unknown_words
        self.harden = prompts.harden
        self.with_words = prompts.with_words

    def written(self, spec: GenerateSpec, fixed: bool | None = None) -> PromptResult:
        """What is written for this request when nobody edits it. Offline, the same every time.

        `fixed`: from the fixed template (True), by the writer however unsure it is (False), or as the request's
        `on_low_confidence` says (None): `BadInput` where that is "fail". A LoRA that isn't here raises `NotFound`.
        """
        request = request_for(spec, lambda path: find_lora(path, self._settings), self._named)
        loras = self._loras(spec)
        if fixed:
            return self._template(request, loras)
        return apply_policy(
            lambda attempt: self.write(attempt, loras),
            request,
            "run" if fixed is False else spec.on_low_confidence,
            lambda attempt: self._template(attempt, loras),
        )

    def _loras(self, spec: GenerateSpec) -> list[LoraInfo]:
        """The LoRAs that a request names beside its prompt or in it, those that are here."""
        typed = a1111.plain(spec.prompt if spec.prompt is not None else spec.text).loras
        named = [self._named(name) for name in (*(ref.path for ref in spec.loras), *(tag.name for tag in typed))]
        return [lora for lora in named if lora is not None]

    def traits(self, spec: GenerateSpec, seed: int) -> dict[str, str]:
        """What a request leaves open about its character, decided by the seed: {"hair_color": "red hair", ...}.

        Nothing for a prompt of one's own, and for a picture that another one shows the way; beside a drawing only the
        colours, for its lines say the rest.
        """
        if spec.prompt is not None or spec.source is not None:
            return {}
        groups = FACE if spec.control is not None else (*TRAITS, "clothes")
        return decide_traits(self.written(spec, fixed=False).positive_prompt, seed, spec.style, groups)

    def decided(self, spec: GenerateSpec, seed: int, fixed: bool | None) -> tuple[str, dict[str, str]]:
        """The prompt of a request that leaves its prompt to the writer, with its traits in it; and labels that say so:
        {"decided": "red hair, ...", "left_out": "glasses", "text": what is drawn of the person's words}.

        The fixed template gets no traits.
        """
        written = self.written(spec, fixed)
        traits = self.traits(spec, seed) if written.writer != "fixed" else {}
        text = ", ".join(filter(None, (written.layers.text, *traits.values())))
        style = self._contradicted(written.layers.style, text)
        prompt = assemble(written.layers.model_copy(update={"text": text, "style": style}))
        labels = {"left_out": ", ".join(written.left_out), "text": written.layers.text} if written.left_out else {}
        if traits and len(prompt) <= MAX_PROMPT:
            return prompt, labels | {"decided": ", ".join(traits.values())}
        return written.positive_prompt, labels

    def left_out(self, spec: GenerateSpec) -> dict[str, str]:
        """The label of a prompt that was written before, for words of the person's that aren't in it."""
        unknown = self._unknown(spec.text, spec.model, (), self._loras(spec)) if spec.text else ()
        left = [one.word for one in unknown if not re.search(standing(one.word), spec.prompt or "", re.IGNORECASE)]
        return {"left_out": ", ".join(left)} if left else {}

    def prompted(self, spec: GenerateSpec, emotion: Emotion, style: Style) -> GenerateSpec:
        """The same request with another emotion and style.

        An edited prompt stays as it is but for all tags that say the old emotion and style, whoever wrote them: they
        are exchanged where they stand; where they were edited away, the new ones go to the end.
        """
        changed = spec.model_copy(update={"emotion": emotion, "style": style})
        if spec.prompt is None:
            return changed
        layers, prompt = self.written(changed, fixed=False).layers, spec.prompt
        if emotion != spec.emotion:
            prompt = replace_layer(prompt, "emotion", spec.emotion, emotion, layers.emotion)
        if style != spec.style:
            prompt = replace_layer(prompt, "style", spec.style, style, layers.style)
        return changed.model_copy(update={"prompt": prompt})

    def as_drawn(self, spec: GenerateSpec) -> PromptResult:
        """What is drawn for a request when its prompt is left to the writer; with its traits if its seed is set."""
        left = spec.model_copy(update={"prompt": None, "negative": None})
        written = self.written(left, fixed=False)
        if left.seed is None:
            return written
        return written.model_copy(update={"positive_prompt": self.decided(left, left.seed, False)[0]})

    def texts(self, spec: GenerateSpec, notes: list[str], fixed: bool | None) -> tuple[str, str]:
        """The positive and the negative prompt as they were written or typed."""
        if spec.prompt is not None and (
            unknown := self._unknown(spec.prompt, spec.model, (), self._loras(spec), spec.seed or 0)
        ):
            once(notes, sentence(unknown))
        if spec.prompt is not None and spec.negative is not None:
            return spec.prompt, spec.negative
        written = self.written(spec, fixed if spec.prompt is None else False)  # a prompt of one's own isn't doubted
        if spec.prompt is None:
            for note in written.notes:
                once(notes, note)
        prompt = written.positive_prompt if spec.prompt is None else spec.prompt
        return prompt, written.negative_prompt if spec.negative is None else spec.negative

    def words(
        self,
        texts: tuple[str, str],
        spec: GenerateSpec,
        seed: int,
        notes: list[str],
        lora: Callable[[str], LoraInfo],
    ) -> Words:
        """Both texts for this seed: choices made, LoRAs taken out of them, and a note for all that can't be drawn.

        `lora` finds a file by reference. Raises nothing: what isn't here is left out, and said.
        """
        folder = self._settings.home / "wildcards"
        positive, negative = (dynamic.choose(a1111.ascii_signs(text), seed, folder) for text in texts)
        for name in dict.fromkeys([*positive.unreadable, *negative.unreadable]):
            once(
                notes, f"wildcards/{name}.txt is in an encoding that can't be told and was left out; save it as UTF-8."
            )
        for name in dict.fromkeys([*positive.missing, *negative.missing]):
            once(notes, f"There is no wildcard {name!r} (wildcards/{name}.txt in the studio's home); it was left out.")
        steps = spec.steps or a1111.STEPS
        prompt, against = a1111.plain(positive.text, steps), a1111.plain(negative.text, steps)
        for remark in (*prompt.remarks, *against.remarks):
            once(notes, remark)
        for tag in against.loras:
            once(notes, f"A LoRA does nothing in a negative prompt: {tag.name!r} was left out.")
        return Words(prompt.text, against.text, self._applied(prompt, spec, notes, lora))

    def _applied(
        self, prompt: a1111.Plain, spec: GenerateSpec, notes: list[str], lora: Callable[[str], LoraInfo]
    ) -> tuple[LoraRef, ...]:
        """The LoRAs that a prompt names, but those that were chosen beside it, which keep their weight."""
        typed = prompt.text.casefold()
        chosen: set[str] = set()
        for own in (lora(ref.path) for ref in spec.loras):
            chosen.add(str(own.path))
            words = split(own.trigger_words)  # there may be one for each of its outfits
            if not any(word.casefold() in typed for word in words):
                _silent(own, words, notes)
        applied: dict[str, LoraRef] = {}
        for tag in prompt.loras:
            info = self._named(tag.name)
            if info is None:
                once(
                    notes,
                    f"The LoRA {tag.name!r} that the prompt names isn't here and was left out; put its .safetensors "
                    "file into models/loras.",
                )
            elif str(info.path) not in chosen and len(spec.loras) + len(applied) >= MAX_LORAS:
                once(notes, f"Only {MAX_LORAS} LoRAs can be used at once; {tag.name!r} was left out.")
            elif str(info.path) not in chosen:
                weight = info.weight if tag.weight is None else tag.weight
                applied.setdefault(str(info.path), LoraRef(path=str(info.path), weight=weight))
                _silent(info, [word for word in split(info.trigger_words) if word.casefold() not in typed], notes)
        return tuple(applied.values())

    def _named(self, name: str) -> LoraInfo | None:
        """The LoRA that a prompt calls `name`: by title or file name, else the same but for case, blanks and signs."""
        for spelling in dict.fromkeys((name, name.replace("\\", "/").rsplit("/", 1)[-1])):
            try:
                return find_lora(spelling, self._settings)
            except NotFound:
                continue
            except BadInput:
                return None
        wanted = _bare(name.replace("\\", "/").rsplit("/", 1)[-1])
        return next(
            (info for info in loras(self._settings) if wanted in (_bare(info.path.stem), _bare(info.title))), None
        )


def _silent(info: LoraInfo, unsaid: Sequence[str], notes: list[str]) -> None:
    if unsaid:
        once(notes, f"The LoRA {info.title!r} listens to words that the prompt lacks: {', '.join(unsaid)}.")


def _bare(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.removesuffix(".safetensors").casefold())


def once(notes: list[str], note: str) -> None:
    """Add a note that isn't there yet."""
    if note not in notes:
        notes.append(note)
