"""What torch's allocators keep of a device's memory for later, and giving it back."""

from __future__ import annotations

import gc

import torch


def kept(device: torch.device) -> int:
    """Bytes that torch holds on a CUDA card and in which nothing lies: the card counts them as used, torch takes them
    before it asks for more."""
    return max(0, int(torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)))


def release() -> None:
    """Let go of what nobody holds any more, so that other programs can have it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
