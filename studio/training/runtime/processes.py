"""Several processes that train one model: what they tell each other. Knows tensors, not what they mean."""

from __future__ import annotations

from typing import Any

import torch


def agreed(said: bool, world: int) -> bool:
    """Whether any process says so. All of them come here, and none goes on before the last."""
    if world == 1:
        return said
    everybody: list[Any] = [None] * world
    torch.distributed.all_gather_object(everybody, said)
    return any(everybody)


def share_gradients(parameters: list[torch.nn.Parameter], loss: torch.Tensor, world: int) -> torch.Tensor:
    """Mean of the gradients, in place, and of the loss over all processes, in one message."""
    if world == 1:
        return loss
    flat = torch.cat([*(p.grad.flatten() for p in parameters if p.grad is not None), loss.float().view(1)])
    torch.distributed.all_reduce(flat)
    flat /= world
    offset = 0
    for p in parameters:
        assert p.grad is not None
        p.grad.copy_(flat[offset : offset + p.numel()].view_as(p))
        offset += p.numel()
    return flat[-1]
