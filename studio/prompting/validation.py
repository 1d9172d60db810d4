"""How much a prompt can be trusted, without drawing it: conflicts, words that no model knows, brackets, length.

Knows the lexicon and the syntax of prompts; doesn't know any model's real vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

from studio.prompting.lexicon import Lexicon
from studio.prompting.syntax import segments, strip_weights

# CLIP reads 77 tokens at a time, two of which are its own marks; a tag is about 2.5 tokens with its comma.
CHUNK_WORDS = 55


def assess(text: str, emotion: Sequence[str], lexicon: Lexicon) -> tuple[float, list[str]]:
    """Confidence (0 to 1) that a prompt of `text` and these emotion words shows what was asked, and why not more."""
    confidence, notes = 0.95, []
    parts = [part.text for part in segments(strip_weights(text))]
    clashes = lexicon.conflicts([emotion[0], *parts])
    if clashes:
        confidence -= min(0.4, 0.2 * len(clashes))
        notes += [f"'{clash.first}' and '{clash.second}' don't go together: {clash.reason}." for clash in clashes[:3]]
    if len(strip_weights(text).split()) > CHUNK_WORDS:
        confidence -= 0.05
        notes.append("A long text: its later words weigh less.")
    return confidence, notes
