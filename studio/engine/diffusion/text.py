"""Prompts to tensors: weights as `(smile:1.3)` and `[x]`, any length, through compel. Knows no meaning of a prompt.

The syntax is A1111's, which everybody's prompts are written in: `(x)` 1.1, `((x))` 1.21, `(x:1.3)` 1.3, `[x]` 1/1.1;
a backslash before a bracket makes it a letter. A prompt without weights that fits goes straight through the text
encoder, as in `StableDiffusionPipeline`, and gives the same bits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from studio.engine.diffusion.sampling import Conditioning

if TYPE_CHECKING:
    from studio.engine.models.components import Components

CACHED = 256  # encodings kept per model: about 60 MB for SD 1.5
_STEP = 1.1
_TOKEN = re.compile(r"\\[()\[\]\\]|[()\[\]]|[^\\()\[\]]+|\\")
_NUMBER = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$")


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    """Pieces of `prompt` with their weights, brackets removed. Brackets that don't close reach to the end.

    >>> parse_weights("1girl, (smile:1.3), [hat]")
    [('1girl, ', 1.0), ('smile', 1.3), (', ', 1.0), ('hat', 0.9090909090909091)]
    """
    pieces: list[list[object]] = []  # [text, weight]
    open_round: list[int] = []
    open_square: list[int] = []

    def scale(start: int, factor: float) -> None:
        for piece in pieces[start:]:
            piece[1] = float(piece[1]) * factor  # type: ignore[arg-type]

    for token in _TOKEN.findall(prompt):
        if token == "(":
            open_round.append(len(pieces))
        elif token == "[":
            open_square.append(len(pieces))
        elif token == ")" and open_round:
            start = open_round.pop()
            said = _NUMBER.search(str(pieces[-1][0])) if len(pieces) > start else None
            if said:
                pieces[-1][0] = str(pieces[-1][0])[: said.start()]
                scale(start, min(float(said[1]), 10.0))
            else:
                scale(start, _STEP)
        elif token == "]" and open_square:
            scale(open_square.pop(), 1 / _STEP)
        else:
            pieces.append([token[1:] if len(token) == 2 and token[0] == "\\" else token, 1.0])
    for start in open_round:
        scale(start, _STEP)
    for start in open_square:
        scale(start, 1 / _STEP)
    merged: list[tuple[str, float]] = []
    for text, weight in ((str(text), float(weight)) for text, weight in pieces):  # type: ignore[arg-type]
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + text, weight)
        elif text:
            merged.append((text, weight))
    return merged


def arranged(prompts: Sequence[str]) -> list[str]:
    """The prompts with what they share first and in the order of the first one, what differs last.

    The text encoder is causal: words in front don't see what follows. So the shared words, the character, come out of
    it equal in all prompts, number by number, and an interpolation changes nothing but the tail.
    """
    split = [_tags(prompt) for prompt in prompts]
    common = [tag for tag in dict.fromkeys(split[0]) if all(tag in tags for tags in split)]
    return [", ".join([*common, *(tag for tag in tags if tag not in common)]) for tags in split]


def _tags(prompt: str) -> list[str]:
    """Split at the commas outside of brackets."""
    tags, depth, start = [], 0, 0
    for place, letter in enumerate(prompt):
        if letter in "([":
            depth += 1
        elif letter in ")]":
            depth = max(0, depth - 1)
        elif letter == "," and depth == 0:
            tags.append(prompt[start:place])
            start = place + 1
    tags.append(prompt[start:])
    return [tag.strip() for tag in tags if tag.strip()]


def stressed(prompt: str, named: re.Pattern[str], weight: float = 1.6) -> str:
    """`prompt` with `weight` on every tag that is wholly `named` and has none of its own.

    >>> stressed("1girl, blue eyes, (red hair:1.2)", re.compile("(red|blue) (eyes|hair)"))
    '1girl, (blue eyes:1.6), (red hair:1.2)'
    """
    return ", ".join(f"({tag}:{weight:g})" if named.fullmatch(tag) else tag for tag in _tags(prompt))


def encode(components: Components, prompts: Sequence[str], negatives: Sequence[str]) -> Conditioning:
    """Encoded prompts and negatives, (pictures, tokens, dim) each, padded to equal length with empty chunks.

    `tokens` is a multiple of the text encoder's length (77 for CLIP). What was encoded lately comes from a cache.
    """
    known = {text: _encode_one(components, text) for text in {*prompts, *negatives}}
    longest = max(encoding.shape[1] for encoding in known.values())
    for text, encoding in known.items():
        if encoding.shape[1] < longest:
            empty = _encode_one(components, "")
            known[text] = torch.cat([encoding, *[empty] * ((longest - encoding.shape[1]) // empty.shape[1])], dim=1)
    return Conditioning(
        torch.cat([known[text] for text in prompts]),
        torch.cat([known[text] for text in negatives]),
    )


def length(components: Components, prompt: str, negative: str) -> int:
    """Tokens of the longer of two encoded prompts: pictures of one length can be drawn together."""
    return max(_encode_one(components, text).shape[1] for text in (prompt, negative))


@torch.no_grad()
def _encode_one(components: Components, prompt: str) -> torch.Tensor:
    """(1, tokens, dim) of one prompt."""
    key = (prompt, *components.text_key)
    cache = components.text_cache
    if key in cache:
        cache.move_to_end(key)
        return cache[key]
    pieces = parse_weights(prompt)
    plain = "".join(text for text, _ in pieces)
    tokenizer = components.tokenizer
    ids = tokenizer(plain, truncation=False, verbose=False).input_ids
    if all(weight == 1 for _, weight in pieces) and len(ids) <= tokenizer.model_max_length:
        padded = tokenizer(plain, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
        encoding = components.text_encoder(padded.input_ids.to(components.device))[0]
    else:
        encoding = _through_compel(components, pieces)
    encoding = encoding.to(components.dtype)
    cache[key] = encoding
    while len(cache) > CACHED:
        cache.popitem(last=False)
    return encoding


def _through_compel(components: Components, pieces: Sequence[tuple[str, float]]) -> torch.Tensor:
    from compel.embeddings_provider import EmbeddingsProvider, SplitLongTextMode

    from studio.engine.models.loading import quiet

    provider = EmbeddingsProvider(
        tokenizer=components.tokenizer,
        text_encoder=components.text_encoder,
        truncate=False,
        # tags are split at commas, as in A1111
        split_long_text_mode=SplitLongTextMode.PHRASES | SplitLongTextMode.COPY_FIRST_CLS_TOKEN,
        device=str(components.device),
    )
    texts = [text for text, _ in pieces]
    # compel blends with an infinite weight at 0: its smallest one is as good as nothing
    weights = [weight if math.isfinite(weight) else 1.0 for _, weight in pieces]
    with quiet():  # the tokenizer remarks that the prompt is long, which is what is dealt with here
        return provider.get_embeddings_for_weighted_prompt_fragments([texts], [weights], device=str(components.device))
