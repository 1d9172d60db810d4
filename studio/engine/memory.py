"""How much memory there is and how much a drawing needs. Knows sizes, not what is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import torch

if TYPE_CHECKING:
    from studio.engine.components import Components

MAX_BATCH = 16


def free(device: torch.device) -> int:
    """Bytes that can still be taken on `device`."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def total(device: torch.device) -> int:
    """Bytes that `device` has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return int(psutil.virtual_memory().total)


def resident() -> int:
    """Bytes of main memory that this process holds."""
    return int(psutil.Process().memory_info().rss)


def parameters(components: Components) -> int:
    """Bytes of all weights of a loaded model."""
    return sum(p.numel() * p.element_size() for module in components.modules.values() for p in module.parameters())
