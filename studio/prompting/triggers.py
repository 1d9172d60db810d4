"""Trigger words of the LoRAs that a request names: what neither the writer nor the spelling help may touch.

Every way into the studio asks here, so that a sheet, a grid or a batch is written like the one picture before it. Knows
no LoRA file: whoever calls finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from studio.core.specs import GenerateSpec, LoraRef
from studio.prompting import a1111
from studio.prompting.writers import PromptRequest

LONGEST, MOST = 200, 64  # as `PromptRequest` takes them: a file from elsewhere may say anything of itself


class Lora(Protocol):
    """What is asked of a LoRA here (`engine.models.LoraInfo` has it)."""

    @property
    def trigger_words(self) -> tuple[str, ...]: ...


FindLora = Callable[[str], Lora]  # by reference; raises NotFound and BadInput


def split(given: Iterable[str]) -> tuple[str, ...]:
    """Words and phrases from lists with commas between them, each once: many files say all of theirs as one phrase."""
    words = dict.fromkeys(word.strip() for phrase in given for word in phrase.split(","))
    return tuple(word for word in words if 0 < len(word) <= LONGEST)[:MOST]


def trigger_words(refs: Iterable[LoraRef], find: FindLora) -> tuple[str, ...]:
    """Those of all these LoRAs. Raises what `find` raises."""
    return split(word for ref in refs for word in find(ref.path).trigger_words)


def request_for(
    spec: GenerateSpec, find: FindLora, named: Callable[[str], Lora | None] = lambda name: None
) -> PromptRequest:
    """What a writer is asked for `spec`. Raises what `find` raises; without a text there is nothing to protect.

    `named` finds the LoRAs that the text itself names (`<lora:name:0.8>`), or None.
    """
    words = trigger_words(spec.loras, find) if spec.text else ()
    inside = [named(tag.name) for tag in a1111.plain(spec.text).loras]
    words = split([*words, *(word for lora in inside if lora is not None for word in lora.trigger_words)])
    return PromptRequest(
        emotion=spec.emotion,
        style=spec.style,
        quality=spec.quality,
        text=spec.text,
        every_word=spec.every_word,
        model=spec.model,
        trigger_words=words,
    )
