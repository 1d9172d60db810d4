"""Work on many pictures, as many at a time as fit into memory. Knows no model, and not what the work is."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch

from studio.core.errors import is_out_of_memory
from studio.engine import allocator

Result = TypeVar("Result")
Item = TypeVar("Item")

MAPPED = 4 * 2**20
M_MMAP_THRESHOLD = -3  # in glibc's malloc.h


def map_large_blocks() -> None:
    """Let blocks of `MAPPED` bytes and more be given back to the system as soon as they are freed, on Linux.

    Left alone, glibc soon takes blocks of up to 32 MiB from its heap, where those of a training step leave holes
    (mallopt(3), M_MMAP_THRESHOLD): a LoRA step of SD 1.5 at 512 px then takes 0.6 GB more.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library has no such function
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MAPPED)


def release() -> None:
    """Give back what nobody holds any more, also the card's, and on Linux what the allocator keeps for later."""
    gc.collect()  # before the C library is asked, which can only give back what is free
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library than glibc has no such function
            ctypes.CDLL(None).malloc_trim(0)
    allocator.release()


class OomBatchSizer:
    """How many pictures are worked on at once: `size` at first, half of it whenever memory runs out."""

    def __init__(self, size: int) -> None:
        self.size = size

    def halve(self, error: Exception) -> None:
        """Be smaller from now on. Raises `error` where that isn't about memory, or where one picture was too many."""
        if not is_out_of_memory(error) or self.size == 1:
            raise error
        self.size = max(1, self.size // 2)

    def total(
        self, groups: Iterable[Sequence[Item]], work: Callable[[Sequence[Item]], torch.Tensor],
        start_again: Callable[[int], None],
    ) -> torch.Tensor:  # fmt: skip
        """The sum of `work` over parts of every group, whose gradients it adds up; 0 where there are no groups.

        When memory runs out in one part, those before it have left their gradients already: `start_again` forgets them
        (it is told the new size), and everything is done anew in smaller parts, with the same result but for rounding.
        """
        groups = list(groups)
        while True:
            try:
                parts = [group[k : k + self.size] for group in groups for k in range(0, len(group), self.size)]
                return torch.stack([work(part) for part in parts]).sum() if parts else torch.zeros(())
            except (RuntimeError, MemoryError) as error:
                self.halve(error)
            release()  # outside of `except`: there the failed frames still hold their tensors
            start_again(self.size)

    def map(self, start: int, stop: int, work: Callable[[int, int], Result]) -> list[Result]:
        """`work(from, to)` for consecutive parts of `start` to `stop`; its results in order."""
        results: list[Result] = []
        while start < stop:
            end = min(start + self.size, stop)
            try:
                results.append(work(start, end))
                start = end
                continue
            except (RuntimeError, MemoryError) as error:
                self.halve(error)
            release()  # outside of `except`: there the failed frames still hold their tensors
        return results
