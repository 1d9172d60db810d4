"""A loaded model held for one batch of frames after another, and how many frames a batch has. Knows no schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch

from studio.core.errors import OutOfMemory, is_out_of_memory
from studio.engine import allocator, memory

if TYPE_CHECKING:
    from studio.engine.models.components import Components

T = TypeVar("T")
R = TypeVar("R")

# On a CPU frames share the cost of small layers: four embedded-sized ones take a third less time than one by one, more
# save nothing. Large layers fill it alone. What isn't finished is lost by a cancel and shown late, so it is kept small.
CPU_BATCH = 4
CPU_BYTES = 64 * 2**20


class ModelLease:
    """Draws with a loaded model that it can release between two batches.

    Who waits in between may draw with another model, and the memory has room for one of them. `batch` is how many
    frames are drawn at once; it shrinks where the memory turns out too small.
    """

    batch: int
    size: tuple[int, int]  # width, height in pixels

    def __init__(self, components: Components) -> None:
        self._components: Components | None = components

    @property
    def components(self) -> Components:
        assert self._components is not None, "drawing without a model"
        return self._components

    def acquire(self, components: Components) -> None:
        """Draw with `components`, the same model as before, from now on."""
        self._components = components

    def release(self) -> None:
        """Hold the model no longer, so that its memory can be freed."""
        self._components = None

    def halving_batch(self, work: Callable[[int], T], most: int) -> T:
        """`work(n)` with `batch` rows at once but no more than `most`; with half of them each time the memory is full.

        Raises OutOfMemory where not even one fits.
        """
        count = max(1, min(self.batch, most))
        while True:
            try:
                return work(count)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                error.__traceback__ = None  # its frames hold the tensors that are in the way
            if self.components.device.type != "cpu":
                allocator.release()
            if count == 1:
                native, (width, height) = self.components.info.native_size, self.size
                raise OutOfMemory(
                    f"There was not enough memory for {width} x {height}; choose {native} x {native} or smaller."
                )
            self.batch = count = count // 2

    def in_batches(self, rows: Sequence[R], draw: Callable[[Sequence[R]], torch.Tensor]) -> Iterator[torch.Tensor]:
        """`draw(some)` (some, ...) of all `rows`, in order, as many at once as fit."""
        while rows:
            made = self.halving_batch(lambda count, rows=rows: draw(rows[:count]), len(rows))  # type: ignore[misc]
            yield made
            rows = rows[len(made) :]


def frames_per_batch(components: Components, width: int, height: int, guided: bool, anchors: int = 1) -> int:
    """How many frames are drawn at once: on a CPU a few, elsewhere what fits into memory, 1 to `memory.MAX_BATCH`.

    Frames aren't promised to the last bit, as single pictures are: their company may round them differently. Attention
    to an anchor doubles what the keys take, and each of the `anchors` is one more row.
    """
    step = max(1, memory.step_bytes(components, width, height, guided))
    most = min(CPU_BATCH, CPU_BYTES // step) if components.device.type == "cpu" else memory.MAX_BATCH
    room = int(memory.free(components.device) * memory.SHARE) - memory.waiting_bytes(components)
    return max(1, min(most, room // (2 * step) - anchors))
