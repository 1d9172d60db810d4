"""Which optimisations are used and why: device, precision, attention, memory layout, offload. Knows no model's content.

Every choice is a `views.Choice` with its reason, for the System page.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from studio.core.errors import BadInput
from studio.core.settings import Settings
from studio.core.views import Choice
from studio.engine import memory

if TYPE_CHECKING:
    from studio.engine.models.components import Components

# Held back for activations and the system when weights are to stay on a card.
RESERVE = 1_500_000_000  # bytes


def _xformers_problem() -> str | None:
    """Why xformers can't be used, or None. Asked before diffusers is loaded, which imports whatever is installed."""
    if importlib.util.find_spec("xformers") is None:
        return "It is not installed; torch's own attention is as fast."
    try:
        importlib.import_module("xformers.ops")
    except Exception as error:  # made for another torch or CUDA, it may fail in any way
        from diffusers.utils import import_utils

        import_utils._xformers_available = False  # or no network could be imported from diffusers
        return f"It is installed but can't be imported ({_first_line(error)}); torch's own attention is as fast."
    return None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:120]


XFORMERS_PROBLEM = _xformers_problem()


@dataclass(frozen=True)
class Plan:
    """What was decided before a model is loaded."""

    device: torch.device
    dtype: torch.dtype
    xformers: bool
    channels_last: bool
    offload: bool
    compile: bool
    choices: tuple[Choice, ...]


def kind_of(settings: Settings) -> str:
    """`cuda`, `mps` or `cpu`: what STUDIO_DEVICE asks for, there or not; for `auto` the best that is there."""
    if settings.device != "auto":
        return settings.device
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def plan(settings: Settings, weight_bytes: int, control_bytes: int = 0) -> Plan:
    """Decide for this machine and a model whose weights would be `weight_bytes` bytes in 32 bits.

    `control_bytes`: likewise of the ControlNet that sketches may need beside it. Raises BadInput when the settings ask
    for a device that isn't there.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    requested = settings.device
    if requested == "cuda" and not cuda:
        raise BadInput("STUDIO_DEVICE is cuda, but torch finds no CUDA device; set it to auto or cpu.")
    if requested == "mps" and not mps:
        raise BadInput("STUDIO_DEVICE is mps, but torch finds no Apple GPU; set it to auto or cpu.")
    kind = kind_of(settings)
    device = torch.device(kind)
    detected = {"cuda": "a CUDA device was found", "mps": "an Apple GPU was found", "cpu": "no GPU was found"}
    why = f"STUDIO_DEVICE is {requested}" if requested != "auto" else detected[kind]
    dtype = torch.float16 if kind == "cuda" else torch.float32
    half = dtype == torch.float16
    choices = [
        Choice(name="GPU", on=kind != "cpu", reason=f"{why}."),
        Choice(
            name="Half precision",
            on=half,
            reason="Half the memory and faster on CUDA; a picture that overflows is decoded again in full precision."
            if half
            else "Only CUDA is faster with it; here it would be slower or less exact.",
        ),
    ]
    xformers = XFORMERS_PROBLEM is None and kind == "cuda"
    choices.append(
        Choice(
            name="xformers",
            on=xformers,
            reason=XFORMERS_PROBLEM or ("It is installed and CUDA is there." if xformers else "It needs CUDA."),
        )
    )
    choices.append(
        Choice(
            name="SDPA attention",
            on=not xformers,
            reason="xformers does the same work." if xformers else "torch's fused attention: fast, and little memory.",
        )
    )
    choices.append(Choice(name="channels_last", on=True, reason="Convolutions are faster in this memory layout."))
    need = (weight_bytes + control_bytes) // (2 if half else 1)
    free = memory.free(device)
    offload = kind == "cuda" and free < need + RESERVE
    what = "the model and its ControlNet need" if control_bytes else "the model needs"
    choices.append(
        Choice(
            name="CPU offload",
            on=offload,
            reason=f"The card has {free / 1e9:.1f} GB free and {what} {need / 1e9:.1f} GB and room to work."
            if offload
            else "There is no card to spare."
            if kind != "cuda"
            else "The whole model fits on the card.",
        )
    )
    choices.append(
        Choice(
            name="torch.compile",
            on=settings.compile,
            reason="STUDIO_COMPILE is on."
            if settings.compile
            else "Minutes of warm-up for a few percent; STUDIO_COMPILE turns it on.",
        )
    )
    return Plan(device, dtype, xformers, True, offload, settings.compile, tuple(choices))


def apply(components: Components, plan: Plan) -> None:
    """Carry `plan` out on freshly loaded components, which are on the CPU in the planned precision."""
    parts = [components.text_encoder, components.unet, components.vae]
    for part in parts:
        part.eval().requires_grad_(False)
        if plan.channels_last and part is not components.text_encoder:
            part.to(memory_format=torch.channels_last)
    if plan.offload:
        from accelerate import cpu_offload_with_hook

        hook = None
        for part in parts:
            _, hook = cpu_offload_with_hook(part, plan.device, prev_module_hook=hook)
        components.offload_hook = hook
    else:
        for part in parts:
            part.to(plan.device)
    components.choices = plan.choices
    if plan.xformers:
        try:
            components.unet.enable_xformers_memory_efficient_attention()  # tries it once on the card
        except Exception as error:
            _fall_back(components, f"It is installed but doesn't work on this card ({_first_line(error)}).")
    if plan.compile:
        components.unet.compile()


def _fall_back(components: Components, reason: str) -> None:
    """Say that torch's own attention does what xformers should have done."""
    new = {
        "xformers": {"on": False, "reason": reason},
        "SDPA attention": {"on": True, "reason": "torch's fused attention: fast, and little memory."},
    }
    components.choices = tuple(each.model_copy(update=new.get(each.name, {})) for each in components.choices)


def tiling(components: Components, width: int, height: int) -> None:
    """Decode in tiles when a whole picture wouldn't fit into free memory; tiles can show faint seams, so only then."""
    on = False
    if not memory.surely_fits(components, width, height):
        need, left = memory.decode_bytes(components, width, height), memory.free(components.device)
        on = need > memory.SHARE * left
    if on:
        components.vae.enable_tiling()
        reason = f"Decoding {width} x {height} needs {need / 1e9:.1f} GB and {left / 1e9:.1f} GB are free."
    else:
        components.vae.disable_tiling()
        reason = f"Decoding {width} x {height} fits into memory."
    choice = Choice(name="VAE tiling", on=on, reason=reason)
    components.choices = (*(each for each in components.choices if each.name != choice.name), choice)
