"""Captions as a UNet in training is told them: encodings of one text encoder or two, cached or with their gradient.

Brackets are letters here: captions have no weights. Knows text encoders, no picture and no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from studio.engine.diffusion.conditioning import Conditioning
from studio.engine.models.components import Components


@dataclass(frozen=True)
class TextEncoders:
    """Tokenizers and text encoders of a model, side by side: one, or SDXL's two."""

    tokenizers: Sequence[Any]
    encoders: Sequence[Any]

    @classmethod
    def of(cls, model: Components) -> TextEncoders:
        second = [model.tokenizer_2] if model.tokenizer_2 is not None else []
        return cls([model.tokenizer, *second], model.text_encoders)

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """One row per prompt, without the sizes that SDXL is told; with the gradient of what requires it.

        Of one encoder its last layer; of two (2307.01952, section 2.1) the last but one of each, and the second one's
        summary.
        """
        ids = [tokenize(tokenizer, prompts) for tokenizer in self.tokenizers]
        device = next(self.encoders[0].parameters()).device
        if len(self.encoders) == 1:
            return Conditioning(self.encoders[0](ids[0].to(device))[0])
        first, second = (
            encoder(one.to(device), output_hidden_states=True) for encoder, one in zip(self.encoders, ids, strict=True)
        )
        return Conditioning(torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=2), second.text_embeds)


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Token ids (prompts, 77), cut at the model's length."""
    ids: Tensor = tokenizer(
        list(prompts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def too_long(tokenizer: Any, prompts: Iterable[str]) -> list[str]:
    """Those prompts of which the text encoder doesn't read the end."""
    return [
        p for p in prompts if len(tokenizer(p, truncation=False, verbose=False).input_ids) > tokenizer.model_max_length
    ]


@torch.no_grad()
def cache_texts(
    encode: TextEncoders, prompts: Iterable[str], pause: Callable[[], None] = lambda: None
) -> dict[str, Conditioning]:
    """One row of each distinct prompt, on the CPU. `pause` is called before each and may raise."""
    encoded = {}
    for prompt in dict.fromkeys(prompts):
        pause()
        encoded[prompt] = encode([prompt]).to("cpu")
    return encoded
