"""Prompts to tensors: weights as `(smile:1.3)` and `[x]`, any length, through compel. Knows no meaning of a prompt.

The syntax is A1111's, which everybody's prompts are written in: `(x)` 1.1, `((x))` 1.21, `(x:1.3)` 1.3, `[x]` 1/1.1;
a backslash before a bracket makes it a letter. A prompt without weights that fits goes straight through the text
encoder, as in `StableDiffusionPipeline`, and gives the same bits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from studio.core.errors import BadInput
from studio.engine.diffusion.conditioning import Conditioning

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from studio.engine.models.components import Components

CACHED = 256  # encodings kept per model: about 60 MB for SD 1.5
_STEP = 1.1
_TOKEN = re.compile(r"\\[()\[\]\\]|[()\[\]]|[^\\()\[\]]+|\\")
BREAK = re.compile(r"\bBREAK\b")  # A1111's: what follows begins a chunk of its own
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
            number = _NUMBER.search(str(pieces[-1][0])) if len(pieces) > start else None
            if number:
                pieces[-1][0] = str(pieces[-1][0])[: number.start()]
                scale(start, min(float(number[1]), 10.0))
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


def shared_tags_first(prompts: Sequence[str]) -> list[str]:
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
    for index, letter in enumerate(prompt):
        if letter in "([":
            depth += 1
        elif letter in ")]":
            depth = max(0, depth - 1)
        elif letter == "," and depth == 0:
            tags.append(prompt[start:index])
            start = index + 1
    tags.append(prompt[start:])
    return [tag.strip() for tag in tags if tag.strip()]


def emphasize(prompt: str, named: re.Pattern[str], weight: float = 1.6) -> str:
    """`prompt` with `weight` on every tag that is wholly `named` and has none of its own.

    >>> emphasize("1girl, blue eyes, (red hair:1.2)", re.compile("(red|blue) (eyes|hair)"))
    '1girl, (blue eyes:1.6), (red hair:1.2)'
    """
    return ", ".join(f"({tag}:{weight:g})" if named.fullmatch(tag) else tag for tag in _tags(prompt))


def encode_prompts(
    components: Components, prompts: Sequence[str], size: tuple[int, int] | None = None, clip_skip: int = 1
) -> Conditioning:
    """One row per prompt, (prompts, tokens, dim), padded to equal length with empty chunks.

    `tokens` is a multiple of the text encoder's length (77 for CLIP). Of a model with two text encoders (SDXL,
    2307.01952) both encodings stand side by side in `dim`, with the second one's summary and the sizes as further
    inputs. `size`: width and height of the picture, in pixels, for such a model; None: its native size. What was
    encoded lately comes from a cache.

    `clip_skip` counts the text encoders' layers from the end, as A1111 does: 1 is the last one. SDXL's usual one is the
    last but one, so that 1 and 2 are the same there, as in Forge and ComfyUI. Raises BadInput where there are fewer.
    """
    encoded = {prompt: _encode(components, prompt, clip_skip) for prompt in {*prompts}}
    longest = max(row.embeddings.shape[1] for row in encoded.values())
    if any(row.embeddings.shape[1] < longest for row in encoded.values()):
        empty = _encode(components, "", clip_skip).embeddings
        encoded = {prompt: _padded(row, empty, longest) for prompt, row in encoded.items()}
    rows = Conditioning.cat(encoded[prompt] for prompt in prompts)
    if rows.pooled is None:
        return rows
    width, height = size or (components.info.native_size,) * 2
    # the picture was this large, nothing of it was cut away at the top and left, and it is to be so again
    sizes = torch.tensor([[height, width, 0, 0, height, width]], device=components.device, dtype=components.dtype)
    return replace(rows, added={"time_ids": sizes.expand(len(rows), -1)})


def encode_pair(
    components: Components,
    prompts: Sequence[str],
    negatives: Sequence[str],
    size: tuple[int, int] | None = None,
    clip_skip: int = 1,
) -> tuple[Conditioning, Conditioning]:
    """(prompts, negative prompts), all of equal length, as guidance needs them; see `encode_prompts`."""
    both = encode_prompts(components, [*prompts, *negatives], size, clip_skip)
    return both[: len(prompts)], both[len(prompts) :]


def _padded(row: Conditioning, empty: torch.Tensor, tokens: int) -> Conditioning:
    """`row` with chunks of `empty` (1, chunk, dim) behind it, up to `tokens`."""
    missing = (tokens - row.embeddings.shape[1]) // empty.shape[1]
    return replace(row, embeddings=torch.cat([row.embeddings, *[empty] * missing], dim=1)) if missing else row


@torch.no_grad()
def _encode(components: Components, prompt: str, clip_skip: int) -> Conditioning:
    """One row of a prompt, without the sizes that SDXL is told."""
    key = (prompt, clip_skip, *components.text_key)
    cache = components.text_cache
    if key in cache:
        cache.move_to_end(key)
        return cache[key]
    row = Conditioning(_embed(components, components.tokenizer, components.text_encoder, prompt, clip_skip))
    if components.text_encoder_2 is not None:
        tokenizer, encoder = components.tokenizer_2, components.text_encoder_2
        second = Conditioning(_embed(components, tokenizer, encoder, prompt, clip_skip))
        longest = max(part.embeddings.shape[1] for part in (row, second))
        row = _padded(row, _embed(components, components.tokenizer, components.text_encoder, "", clip_skip), longest)
        second = _padded(second, _embed(components, tokenizer, encoder, "", clip_skip), longest)
        plain = "".join(text for text, _ in parse_weights(BREAK.split(prompt)[0]))
        ids = _ids(tokenizer, plain).to(components.device)
        pooled = encoder(ids).text_embeds.to(components.dtype)  # of the first chunk; weights don't reach it
        row = Conditioning(torch.cat([row.embeddings, second.embeddings], dim=2), pooled)
    cache[key] = row
    while len(cache) > CACHED:
        cache.popitem(last=False)
    return row


class _EarlierLayer:
    """A text encoder whose last hidden state is that of an earlier layer, as diffusers' pipelines read it.

    Raises BadInput where it has fewer layers.
    """

    def __init__(self, encoder: Any, two: bool, clip_skip: int) -> None:
        self._encoder, self._two, self._clip_skip = encoder, two, clip_skip
        most = encoder.config.num_hidden_layers
        if clip_skip > most:
            raise BadInput(
                f"This model's text encoder is too small for a Clip skip of {clip_skip}; take {most} or less."
            )

    def __call__(self, ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **options: Any) -> Any:
        options |= {"output_hidden_states": True, "return_dict": True}
        output = self._encoder(ids, attention_mask, **options)
        hidden = output.hidden_states[-self._clip_skip]
        # the norm belongs to the last layer's output, so an earlier one needs it too; SDXL takes it without
        model = getattr(self._encoder, "text_model", self._encoder)  # as older versions of transformers have it
        output.last_hidden_state = hidden if self._two else model.final_layer_norm(hidden)
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


def _ids(tokenizer: CLIPTokenizer, plain: str) -> torch.Tensor:
    """(1, length of the text encoder) of one text without weights, cut where it is longer."""
    return tokenizer(
        plain, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids


def _embed(components: Components, tokenizer: Any, encoder: Any, prompt: str, clip_skip: int) -> torch.Tensor:
    """(1, tokens, dim) of one prompt by one text encoder; behind each BREAK a chunk of its own begins.

    The last layer with its norm; where there are two encoders the last layer but one, without (SDXL). Or, for a
    `clip_skip` above that, an earlier one.
    """
    chunks = [chunk.strip(" ,\n") for chunk in BREAK.split(prompt)]
    if len(chunks) > 1:
        not_empty = [chunk for chunk in chunks if chunk] or [""]
        return torch.cat([_embed(components, tokenizer, encoder, chunk, clip_skip) for chunk in not_empty], dim=1)
    two = components.text_encoder_2 is not None
    if clip_skip > 1 + two:
        encoder, two = _EarlierLayer(encoder, two, clip_skip), False
    pieces = parse_weights(prompt)
    plain = "".join(text for text, _ in pieces)
    ids = tokenizer(plain, truncation=False, verbose=False).input_ids
    if all(weight == 1 for _, weight in pieces) and len(ids) <= tokenizer.model_max_length:
        output = encoder(_ids(tokenizer, plain).to(components.device), output_hidden_states=two)
        return (output.hidden_states[-2] if two else output.last_hidden_state).to(components.dtype)
    from compel.embeddings_provider import EmbeddingsProvider, ReturnedEmbeddingsType, SplitLongTextMode

    from studio.engine.models.loading import quiet

    layers = ReturnedEmbeddingsType
    provider = EmbeddingsProvider(
        tokenizer=tokenizer,
        text_encoder=encoder,
        truncate=False,
        returned_embeddings_type=layers.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
        if two
        else layers.LAST_HIDDEN_STATES_NORMALIZED,
        # tags are split at commas, as in A1111
        split_long_text_mode=SplitLongTextMode.PHRASES | SplitLongTextMode.COPY_FIRST_CLS_TOKEN,
        device=str(components.device),
    )
    texts = [text for text, _ in pieces]
    # compel blends with an infinite weight at 0: its smallest one is as good as nothing
    weights = [weight if math.isfinite(weight) else 1.0 for _, weight in pieces]
    with quiet():  # the tokenizer remarks that the prompt is long, which is what is dealt with here
        return provider.get_embeddings_for_weighted_prompt_fragments(
            [texts], [weights], device=str(components.device)
        ).to(components.dtype)
