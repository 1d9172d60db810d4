"""Attention between the pictures of one batch: every frame also looks at an anchor, or at both ends of a morph.

Knows the attention layers of a UNet and rows of a batch; not what is drawn nor how it is sampled. Leaving the context
puts the very same processors back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Anchors:
    """What the layers do at the next UNet call; None in `first` is plain attention.

    Row i of the batch attends to itself and to row `first[i]`, and, where `second` is given, to itself and to row
    `second[i]`; the two answers are mixed with `weight[i]`, 0 for all `first`. A row that is its own anchor comes out
    as without (a softmax over keys that are all there twice). A batch of both branches of guidance is these rows twice.
    """

    first: torch.Tensor | None = None  # (rows,)
    second: torch.Tensor | None = None  # (rows,)
    weight: torch.Tensor | None = None  # (rows,) in 0..1


class AnchoredAttention:
    """An attention processor: Attn(Q, [K_a, K], [V_a, V]), or AID's fused outer interpolation between two anchors.

    With a first and a second anchor: (1 - w) Attn(Q, [K_1, K], [V_1, V]) + w Attn(Q, [K_2, K], [V_2, V]), the "fused
    outer" of He et al., 2403.17924, section 4.2. With one anchor it is the cross-frame attention of 2303.13439 with the
    frame's own keys kept, so that an expression can still change.
    """

    def __init__(self, original: Any, anchors: Anchors) -> None:
        self.original = original
        self.anchors = anchors

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        **ignored: Any,
    ) -> torch.Tensor:
        anchors = self.anchors
        if anchors.first is None:
            return self.original(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        branches = len(hidden_states) // len(anchors.first)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (batch, heads, tokens, dim)
            for part in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )

        def beside(rows: torch.Tensor) -> torch.Tensor:
            each = (x.unflatten(0, (branches, -1))[:, rows].flatten(0, 1) for x in (key, value))
            both = (torch.cat([anchor, x], dim=2) for anchor, x in zip(each, (key, value), strict=True))
            return F.scaled_dot_product_attention(query, *both)

        mixed = beside(anchors.first)
        if anchors.second is not None and anchors.weight is not None:
            weight = anchors.weight.to(mixed).repeat(branches)[:, None, None, None]
            mixed = torch.lerp(mixed, beside(anchors.second), weight)
        mixed = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        if attn.residual_connection:
            mixed = mixed + hidden_states
        return mixed / attn.rescale_output_factor


@contextmanager
def anchored(unet: nn.Module, cross: bool = False) -> Iterator[Anchors]:
    """Let self-attention (with `cross` also attention to the text) follow the `Anchors` that this gives.

    Everything is as before afterwards, also when the body raises.
    """
    before = dict(unet.attn_processors)
    anchors = Anchors()
    ours = {
        name: AnchoredAttention(processor, anchors) if cross or "attn1" in name else processor
        for name, processor in before.items()
    }
    unet.set_attn_processor(ours)
    try:
        yield anchors
    finally:
        unet.set_attn_processor(before)
