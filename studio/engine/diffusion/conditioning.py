"""What a UNet is told besides latents and time, one row per picture. Knows no prompt, no encoder and no UNet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Encoded prompts: `embeddings` (rows, tokens, dim) for cross-attention, and what larger models read beside them.

    `pooled` (rows, dim) is the summary of a second text encoder. `added` holds further inputs by the UNet's own names,
    (rows, ...) each: SDXL's `time_ids` (2307.01952, section 2.2). Made by `text.encode_prompts`; rows can be taken,
    joined and blended, so that whoever samples or trains never looks inside.
    """

    embeddings: Tensor
    pooled: Tensor | None = None
    added: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> Conditioning:
        """The rows of a slice, a list of indices or a mask; always with a dimension of rows."""
        return self._map(lambda tensor: tensor[rows])

    def expand(self, count: int) -> Conditioning:
        """`count` rows: itself, or its only row so many times without a copy. Raises RuntimeError for other numbers."""
        if len(self) == count:
            return self
        return self._map(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def split(self) -> list[Conditioning]:
        """One row each."""
        return [self[row : row + 1] for row in range(len(self))]

    def to(self, *where: Any) -> Conditioning:
        """On another device or in another precision; arguments as `Tensor.to`."""
        return self._map(lambda tensor: tensor.to(*where))

    def mean(self) -> Conditioning:
        """One row: the mean of all."""
        return self._map(lambda tensor: tensor.mean(0, keepdim=True))

    def lerp(self, other: Conditioning, amount: float) -> Conditioning:
        """The straight line from this (0) to `other` (1), row by row."""
        return _together([self, other], lambda pair: torch.lerp(pair[0], pair[1], amount))

    @classmethod
    def of(cls, text: Tensor | Conditioning) -> Conditioning:
        """`text` itself, or encoded prompts (rows, tokens, dim) as all that there is to be told."""
        return text if isinstance(text, Conditioning) else cls(text)

    @classmethod
    def cat(cls, parts: Iterable[Conditioning]) -> Conditioning:
        """The rows of all `parts`, which have equally many tokens and the same inputs."""
        return _together(list(parts), torch.cat)

    @property
    def added_cond_kwargs(self) -> dict[str, Tensor] | None:
        """`pooled` and `added` as diffusers' UNets and ControlNets take them; None where there is neither."""
        pooled = {} if self.pooled is None else {"text_embeds": self.pooled}
        return {**pooled, **self.added} or None

    def _map(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        return _together([self], lambda alone: change(alone[0]))


def blank(unet_config: Mapping[str, Any], tokens: int, rows: int = 1) -> Conditioning:
    """Zeros in the shapes that a UNet with this configuration reads: for rehearsals, and to measure memory."""
    embeddings = torch.zeros(rows, tokens, unet_config["cross_attention_dim"])
    if unet_config.get("addition_embed_type") != "text_time":
        return Conditioning(embeddings)
    sizes = 6  # original height and width, crop from top and left, target height and width
    width = unet_config["projection_class_embeddings_input_dim"] - sizes * unet_config["addition_time_embed_dim"]
    return Conditioning(embeddings, torch.zeros(rows, width), {"time_ids": torch.zeros(rows, sizes)})


def _together(parts: list[Conditioning], join: Callable[[list[Tensor]], Tensor]) -> Conditioning:
    """`join` of the tensors that lie at the same place in all `parts`."""
    first = parts[0]
    return Conditioning(
        join([part.embeddings for part in parts]),
        None if first.pooled is None else join([part.pooled for part in parts if part.pooled is not None]),
        {name: join([part.added[name] for part in parts]) for name in first.added},
    )
