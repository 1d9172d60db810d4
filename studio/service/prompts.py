"""Everything that the studio can do with words: write, correct, judge, attack and complete them.

The half of `service.studio.Studio` that needs no picture. It decides which lexicon is used (the studio's and people's
own tag lists) and keeps the one writer of the process; what a prompt is made of, `studio.prompting` knows.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from studio.prompting import a1111, dynamic
from studio.prompting.cache import Usage
from studio.prompting.confidence import apply_policy, judged, without_unknown
from studio.prompting.exchange import with_words
from studio.prompting.factory import make_writer
from studio.prompting.knowledge import Knowledge, UnknownWord, taught, unknown_words
from studio.prompting.lexicon import Lexicon, Suggestion
from studio.prompting.tag_csv import TagFile
from studio.prompting.tag_lists import TagList, TagLists
from studio.prompting.traits import character_in, with_character
from studio.prompting.writers import (
    PromptRequest,
    PromptResult,
    Writer,
    fixed_template,
    in_words_of,
    without_contradicted,
)
from studio.service.knowing import KnowledgeBase

if TYPE_CHECKING:
    from studio.core.settings import Settings
    from studio.core.specs import LowConfidence
    from studio.engine.models.catalogue import LoraInfo
    from studio.prompting.claude import ClaudeWriter
    from studio.prompting.harden import Hardened
    from studio.prompting.validation import Validation


class PromptService:
    """One per process, shared by its threads; reads no word list before it is asked."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._tag_lists = TagLists(settings.home / "tags")
        self._knowledge = KnowledgeBase(settings)
        self._writer: Writer | None = None
        self._lock = threading.Lock()

    @property
    def _lexicon(self) -> Lexicon:
        return self._tag_lists.lexicon()

    def _current_writer(self) -> Writer:
        lexicon = self._lexicon
        with self._lock:
            if self._writer is None:
                self._writer = make_writer(self.settings, lexicon)
            self._writer.use(lexicon)
            return self._writer

    def _claude(self) -> ClaudeWriter | None:
        from studio.prompting.claude import ClaudeWriter

        writer = self._current_writer()
        return writer if isinstance(writer, ClaudeWriter) else None

    @property
    def claude_writes(self) -> bool:
        """A key is set and the studio isn't offline: `write_prompt` and `review` may take seconds and cost money."""
        return self._claude() is not None

    def write_prompt(
        self, request: PromptRequest, on_low_confidence: LowConfidence = "run", loras: Iterable[LoraInfo] = ()
    ) -> PromptResult:
        """By Claude where a key is there, else offline. May take seconds the first time; answers are kept.

        With `request.offline` it is instant and free. Raises `BadInput` for a doubtful prompt where
        `on_low_confidence` is "fail"; see `confidence.apply_policy`. The confidence and `unknown_words` are about
        `request.model`; the words of `loras` are known.
        """
        writer, knowledge = self._current_writer(), self._knowledge.of(request.model, loras)
        return apply_policy(
            lambda attempt: self._judged(writer.write(attempt), attempt, knowledge),
            request,
            on_low_confidence,
            lambda attempt: self.write_fixed(attempt, loras),
        )

    def write_fixed(self, request: PromptRequest, loras: Iterable[LoraInfo] = ()) -> PromptResult:
        """The fixed template, which nobody doubts: in it, too, there is no word that the model can't draw."""
        fixed, knowledge = fixed_template(request), self._knowledge.of(request.model, loras)
        if request.every_word:
            return fixed
        unknown = unknown_words(self._said(fixed.layers.text), knowledge, self._lexicon, request.trigger_words)
        told = fixed.model_copy(update={"unknown_words": unknown})
        return without_unknown(told, knowledge, self._lexicon, request.trigger_words)

    def _judged(self, result: PromptResult, request: PromptRequest, knowledge: Knowledge) -> PromptResult:
        result = in_words_of(result, knowledge, request.quality)
        protected = request.trigger_words
        result = judged(result, self._said(result.layers.text), knowledge, self._lexicon, protected)
        return result if request.every_word else without_unknown(result, knowledge, self._lexicon, protected)

    def _said(self, text: str, seed: int = 0) -> str:
        """What of a text is drawn with this seed: its choices made, A1111's syntax but weights taken out of it."""
        return a1111.plain(dynamic.choose(text, seed, self.settings.home / "wildcards").text).text

    def unknown_words(
        self,
        prompt: str,
        model: str = "",
        protected: tuple[str, ...] = (),
        loras: Iterable[LoraInfo] = (),
        seed: int = 0,
    ) -> tuple[UnknownWord, ...]:
        """The words of a prompt that do little with a model ("": the default one): why, and what to say instead.

        `seed` makes the prompt's choices (`{red|blue} hair`), as it does where the prompt is drawn.
        """
        said = self._said(prompt, seed)
        return unknown_words(said, self._knowledge.of(model, loras), self._lexicon, protected)

    def known_words(self, model: str = "") -> dict[str, list[str]]:
        """What a model was taught to draw, by category; empty where nobody knows."""
        return taught(self._knowledge.of(model).tags, self._lexicon)

    def write_offline(self, request: PromptRequest, loras: Iterable[LoraInfo] = ()) -> PromptResult:
        """From the word lists alone, people's own among them: the same for the same request, instant and free.

        What is drawn for a request without a prompt, wherever it comes from. The words of `loras` are known.
        """
        result = self._current_writer().write(request.model_copy(update={"offline": True}))
        return self._judged(result, request, self._knowledge.of(request.model, loras))

    def with_words(self, prompt: str, words: str) -> tuple[str, list[str]]:
        """A prompt with `words` in place of what they contradict, and what that was; see `exchange.with_words`."""
        return with_words(prompt, words, self._lexicon)

    def contradicted(self, words: Iterable[str], text: str) -> tuple[str, ...]:
        """`words` of a layer without those that `text` says otherwise; see `writers.without_contradicted`."""
        return without_contradicted(words, text, self._lexicon)

    def apart(self, query: str) -> str:
        """What is searched for, with commas between its tags: "red hair sad" means "red hair, sad"."""
        return ", ".join(self._lexicon.apart(query))

    def japanese(self, tag: str) -> str:
        """The Japanese word for a tag, weights and brackets around it left out; "" where the lexicon has none."""
        return self._lexicon.japanese(a1111.plain(tag.strip()).text)

    def character(self, prompt: str, typed: str = "") -> tuple[str, ...]:
        """Who a drawn prompt shows, word by word, to be kept in others; see `traits.character_in`."""
        return character_in(prompt, typed, self._lexicon)

    def with_character(self, text: str, character: Sequence[str]) -> str:
        """What a person typed, with the words of a kept character that it leaves open."""
        return with_character(text, character, self._lexicon)

    def spent(self) -> Usage:
        """What all calls of Claude from this home folder have cost so far; nothing where no key is set."""
        claude = self._claude()
        return claude.spent() if claude else Usage()

    def harden(self, text: str, protected: tuple[str, ...] = ()) -> Hardened:
        """What was typed, with typos, look-alikes and invisible characters undone, and every change listed."""
        from studio.prompting.harden import harden  # its tables take a moment to load

        return harden(text, protected, self._lexicon)

    def attack(self, prompt: str, kind: str, share: float, seed: int, protected: tuple[str, ...] = ()) -> str:
        """The prompt with a share of its words misspelt, for a stress test. `kind`: typo, glyph, phonetic or mixed."""
        from studio.prompting.attacks import attack

        return attack(prompt, cast(Any, kind), share, seed, protected).text

    def validate(self, prompt: str, protected: tuple[str, ...] = (), model: str = "") -> Validation:
        """How far a prompt can be trusted with a model: ambiguity, conflicts, rare words, attackability, 0 to 10."""
        from studio.prompting.validation import validate

        return validate(prompt, protected, self._lexicon, self._knowledge.of(model))

    def review(self, prompt: str, protected: tuple[str, ...] = (), model: str = "") -> Validation:
        """As `validate`, by Claude where a key is there: seconds and money the first time, then remembered.

        Where that fails it is what `validate` says, with a `note`.
        """
        claude = self._claude()
        return claude.review(prompt, protected) if claude else self.validate(prompt, protected, model)

    def complete(self, text: str, limit: int = 6) -> list[Suggestion]:
        """What the last, half-typed tag of `text` may become, best first; Japanese too. Empty when nothing fits."""
        return self._lexicon.suggest(text, limit)

    def add_tags(self, data: bytes, name: str = "tags.csv") -> TagFile:
        """Keep a tag list (`name,type,count,"alias,alias"`) and use it from now on: completed, and never corrected.

        Returns its tags and the lines that are none. Raises `BadInput` for what isn't a tag list or is too much.
        """
        return self._tag_lists.add(data, name)

    def tag_lists(self) -> list[TagList]:
        """The tag lists that are in use."""
        return self._tag_lists.lists()

    def drop_tags(self, name: str) -> None:
        """Use a tag list no longer. Raises `NotFound`."""
        self._tag_lists.remove(name)
