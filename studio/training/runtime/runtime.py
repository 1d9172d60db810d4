"""Where and how a training run computes: device, precision, processes. The same for every trainer; knows no model.

accelerate starts the processes' group, scales half-precision losses, casts and reduces. Gradients are summed over the
processes once a step and not while they are computed (DistributedDataParallel): the pictures of a step may be shared
unevenly, one process may have to halve its part because memory ran out, and several networks take part in one step.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object
from torch import Tensor

from studio.core.errors import BadInput, OutOfMemory
from studio.core.settings import Settings
from studio.engine import memory
from studio.runs.requirements import ADAM
from studio.training.runtime.batch_sizer import OomBatchSizer, map_large_blocks
from studio.training.runtime.session import Diverged, Session

Item = TypeVar("Item")
# How long a process waits for another. While one prepares, draws or measures the others wait, maybe for hours, and the
# libraries' own limits (10 minutes with NCCL, 30 with gloo) would end the run. Where one dies torchrun ends all.
LONGEST_WAIT = timedelta(days=7)


def choose_precision(precision: str, cpu: bool) -> tuple[str, torch.dtype]:
    """Name and dtype of the precision to train in; "auto" is the fastest that the device computes with.

    Raises BadInput for half precision on the CPU.
    """
    if precision == "auto":
        precision = "fp32" if cpu else "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision == "fp16" and cpu:
        raise BadInput("Half precision (fp16) trains on NVIDIA cards only: choose auto, fp32 or bf16.")
    return precision, {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def move_to_device(module: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move a network: frozen weights in `dtype`, trained ones in fp32, which is what GradScaler can unscale.

    One tensor after another, so that a card never holds the whole network in full precision.
    """
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        wanted = torch.float32 if tensor.requires_grad else dtype
        tensor.data = tensor.data.to(device, wanted if tensor.is_floating_point() else None)


class Runtime:
    """One process of a run: its device, its share of the work, and what the processes agree on.

    `dtype` is that of frozen weights and of autocast; `precision` its name in requests.
    """

    def __init__(self, session: Session, precision: str, config: Settings) -> None:
        self.session = session
        self.on_cpu = config.device == "cpu" or not torch.cuda.is_available()
        self.precision, self.dtype = choose_precision(precision, self.on_cpu)
        mixed = "no" if self.precision == "fp32" else self.precision
        group = InitProcessGroupKwargs(timeout=LONGEST_WAIT)
        self.accelerator = Accelerator(mixed_precision=mixed, cpu=self.on_cpu, kwargs_handlers=[group])
        self.device: torch.device = self.accelerator.device
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        self.main = self.accelerator.is_main_process
        if self.on_cpu:
            map_large_blocks()
        else:  # the same bytes on one card from run to run, as far as CUDA has such kernels
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)

    def to_device(self, *modules: torch.nn.Module) -> None:
        """Each network on the device: frozen weights in `dtype`, trained ones in fp32."""
        for module in modules:
            move_to_device(module, self.device, self.dtype)

    def autocast(self) -> AbstractContextManager[Any]:
        return self.accelerator.autocast()

    def check_memory(self, needed: int, advice: str) -> None:
        """Before anything long: raises OutOfMemory, with `advice`, where the card has less than `needed` bytes at all.

        Activations, which depend on the pictures, aren't counted, so a run that passes may still have to take fewer
        pictures at a time. Main memory isn't checked here: it can be swapped, and was looked at before the start.
        """
        there = memory.total(self.device)
        if not self.on_cpu and needed > there:
            raise OutOfMemory(
                f"This run needs at least {needed / 1e9:.1f} GB of the card's memory and it has {there / 1e9:.1f} GB: "
                f"{advice}."
            )

    # --- several processes ---

    def share(self, batch_size: int) -> slice:
        """Which pictures of each batch are this process's. Raises BadInput where they can't be shared evenly."""
        if batch_size % self.processes:
            raise BadInput(
                f"A batch of {batch_size} can't be shared by {self.processes} processes; choose a multiple of "
                f"{self.processes}."
            )
        each = batch_size // self.processes
        return slice(self.rank * each, (self.rank + 1) * each)

    def agreed(self, here: bool) -> bool:
        """Whether it is so in any process. All of them come here, and none goes on before the last."""
        return any(gather_object([here]))

    def from_main(self, value: Item) -> Item:
        """What the main process has as `value`. All of them come here."""
        box = [value]
        broadcast_object_list(box)
        return box[0]

    def wait(self) -> None:
        """Until all processes are here."""
        self.accelerator.wait_for_everyone()

    def stop_or_save(self) -> tuple[Literal["", "stop", "time"], bool]:
        """Why the run ends now, if it does, and whether a checkpoint is due by the clock.

        Only one process looks at the clock and the folder, or they would part ways.
        """
        return self.from_main((self.session.must_stop(), self.session.checkpoint_due()) if self.main else ("", False))

    def pause(self) -> None:
        """Between the parts of long work that is no step. Raises Cancelled where the run is to end.

        Where several processes do the same work none may leave it alone: they go on to the next step.
        """
        if self.processes == 1:
            self.session.check_stop()

    # --- a step ---

    def backward(self, loss: Tensor) -> Tensor:
        """Add the gradient of `loss`, which is this process's part of the step's mean; the loss without its graph."""
        self.accelerator.backward(loss)
        return loss.detach()

    def accumulate(
        self, sizer: OomBatchSizer, groups: Iterable[Sequence[Item]], backward: Callable[[Sequence[Item]], Tensor],
        optimizer: Any,
    ) -> Tensor:  # fmt: skip
        """The sum of `backward` over this process's pictures, as many at a time as there is memory for.

        `groups`: pictures that can be stacked. The gradients of `optimizer`'s parameters are added up.
        """

        def start_again(size: int) -> None:
            optimizer.zero_grad()
            self.session.log(f"Not enough memory: {size} pictures at a time now, with the same result.", note=True)

        return sizer.total(groups, backward, start_again).to(self.device)

    def step(self, optimizer: Any, loss: Tensor, max_norm: float, step: int) -> float:
        """One step along the gradient summed over all processes, clipped to `max_norm`; the sum of their `loss`.

        `optimizer` was prepared by the accelerator; `step` counts from 1. Raises Diverged where the loss or the
        gradient is no number, in fp16 however little it is scaled: nothing is changed then, and the last good weights
        are in memory.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        loss = self._summed(parameters, loss)
        self.session.check_loss(step, float(loss))
        self.accelerator.unscale_gradients(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        scaler = self.accelerator.scaler
        if scaler is None:  # which leaves such a step out by itself, and lowers its scale
            self.session.check_gradient(step, float(norm))
        optimizer.step()
        optimizer.zero_grad()
        # It begins at 65536 and is halved with every step that is left out: below 1 no step would be made any more
        if scaler is not None and scaler.get_scale() < 1:
            raise Diverged(
                f"The gradient is too large for half precision at step {step}. The last good checkpoint is kept; "
                "resume from it with a lower learning rate, or in a new run choose bf16 or fp32."
            )
        return float(loss)

    def _summed(self, parameters: list[Tensor], loss: Tensor) -> Tensor:
        """The gradients, in place, and the loss, summed over all processes in one message."""
        if self.processes == 1:
            return loss
        for p in parameters:
            if p.grad is None:  # no picture was left for this process
                p.grad = torch.zeros_like(p)
        flat = torch.cat([*(p.grad.flatten() for p in parameters), loss.float().view(1)])
        flat = self.accelerator.reduce(flat, "sum")
        for p, part in zip(parameters, flat[:-1].split([p.numel() for p in parameters]), strict=True):
            p.grad.copy_(part.view_as(p))
        return flat[-1]


def training_bytes(modules: list[torch.nn.Module], dtype: torch.dtype, average: bool) -> int:
    """Bytes that networks take on a device while they train, without activations.

    Frozen weights in `dtype`; trained ones in fp32, each with its gradient, the optimiser's state and its running mean.
    """
    each = 4 * (1 + 1 + ADAM + average)
    return sum(
        p.numel() * (each if p.requires_grad else dtype.itemsize) for module in modules for p in module.parameters()
    )
