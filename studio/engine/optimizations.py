"""Which optimisations are used and why: device, precision, attention, memory layout, offload. Knows no model's content.

Every choice is a `views.Choice` with its reason, for the System page.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from packaging.version import Version

from studio.core.errors import BadInput
from studio.core.settings import Settings
from studio.core.views import Choice
from studio.engine import devices, memory

if TYPE_CHECKING:
    from accelerate.hooks import UserCpuOffloadHook
    from diffusers import UNet2DConditionModel

    from studio.engine.models.components import Components

# Held back for activations and the system when weights are to stay on a card.
RESERVE = 1_500_000_000  # bytes
STEP_RESERVE = 600_000_000  # bytes: for the activations of a step beside the UNet, where parts take turns
_FLASH = (8, 0)  # cards from this compute capability on have flash attention in torch itself
_SDPA = "torch's fused attention: fast, and little memory."
_AGAIN = "a picture that overflows is made again in full precision."


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


# Cards whose half precision is slow or gives NaN, though their generation has it: no tensor cores (TU116, TU117)
_NO_TENSOR_CORES = re.compile(
    r"GTX 16\d0|MX450|MX550|\bT(400|500|550|600|1000|1200)\b|Quadro T\d|CMP 30HX", re.IGNORECASE
)
_HALF_ON_MPS = (2, 6)  # torch's version from which Apple GPUs draw Stable Diffusion 1.5 in fp16 without black pictures
_NAMES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Machine:
    """What is computed with: `cuda`, `mps` or `cpu`, and its figures, in bytes."""

    kind: str
    free: int
    total: int
    name: str = ""
    capability: tuple[int, int] = (0, 0)  # of a CUDA card


@dataclass(frozen=True)
class Plan:
    """What was decided before a model is loaded. `benchmark`: cuDNN tries its kernels for each size."""

    device: torch.device
    dtype: torch.dtype
    xformers: bool
    channels_last: bool
    offload: bool
    compile: bool
    benchmark: bool
    streamed: bool  # the UNet's blocks come to the card one by one
    choices: tuple[Choice, ...]


def kind_of(settings: Settings) -> str:
    """`cuda`, `mps` or `cpu`: what STUDIO_DEVICE asks for, there or not; for `auto` the best that is there."""
    if settings.device != "auto":
        return settings.device
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def machine(settings: Settings) -> Machine:
    """The device that `settings` ask for. Raises BadInput when it isn't there."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        mended = next((str(trouble) for trouble in devices.card_troubles(settings)), "set it to auto or cpu.")
        raise BadInput(f"STUDIO_DEVICE is cuda, but torch finds no CUDA device; {mended}")
    if settings.device == "mps" and not torch.backends.mps.is_available():
        raise BadInput("STUDIO_DEVICE is mps, but torch finds no Apple GPU; set it to auto or cpu.")
    device = torch.device(kind_of(settings))
    free, total = memory.free(device), memory.total(device)
    if device.type != "cuda":
        return Machine(device.type, free, total)
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    return Machine("cuda", free, total, name, capability)


def precision(settings: Settings, machine: Machine, need: int) -> tuple[torch.dtype, str]:
    """What to draw in and why. `need`: bytes of the weights in 32 bits."""
    if settings.precision != "auto":
        return _NAMES[settings.precision], f"STUDIO_PRECISION is {settings.precision}."
    if machine.kind == "cpu":
        return torch.float32, "A processor is slower with it."
    if machine.kind == "mps":
        if Version(torch.__version__).release[:2] >= _HALF_ON_MPS:
            return torch.float16, f"Half the memory, and faster; {_AGAIN}"
        return torch.float32, "Apple GPUs need torch 2.6 or newer for it."
    poor = _NO_TENSOR_CORES.search(machine.name)
    if poor or machine.capability < (7, 0):
        why = "This card is not faster with it" + (", and gives black pictures with some models" if poor else "")
        if need + RESERVE <= machine.total:
            return torch.float32, f"{why}."
        return torch.float16, f"{why}; but in full precision the model wouldn't fit on it."
    return torch.float16, f"Half the memory, and faster; {_AGAIN}"


def plan(
    settings: Settings, weight_bytes: int, control_bytes: int = 0, on: Machine | None = None, unet_bytes: int = 0
) -> Plan:
    """Decide for a machine and a model whose weights would be `weight_bytes` bytes in 32 bits.

    `control_bytes`: likewise of the ControlNet that sketches may need beside it, `unet_bytes` of its UNet, where that
    is known. `on`: another machine than this one.
    Raises BadInput when the settings ask for a device that isn't there.
    """
    there = machine(settings) if on is None else on
    cuda = there.kind == "cuda"
    dtype, why_dtype = precision(settings, there, weight_bytes + control_bytes)
    half = dtype.itemsize == 2
    need = (weight_bytes + control_bytes) // (2 if half else 1)
    offload = cuda and there.free < need + RESERVE
    unet = unet_bytes // (2 if half else 1)
    streamed = offload and memory.SHARE * there.free < unet + STEP_RESERVE and not settings.compile
    xformers = XFORMERS_PROBLEM is None and cuda and there.capability < _FLASH
    detected = {"cuda": "A CUDA device was found", "mps": "An Apple GPU was found", "cpu": "No GPU was found"}
    what = "the model and its ControlNet need" if control_bytes else "the model needs"
    turns = f"The card has {there.free / 1e9:.1f} GB free and {what} {need / 1e9:.1f} GB and room to work."
    if streamed:
        turns += f" The UNet alone has {unet / 1e9:.1f} GB: its blocks come one by one, which is slow."
    choices = (
        Choice(
            name="GPU", on=there.kind != "cpu",
            reason=f"{detected[there.kind] if settings.device == 'auto' else f'STUDIO_DEVICE is {settings.device}'}.",
        ),
        Choice(name="Half precision", on=half, reason=why_dtype),
        Choice(name="xformers", on=xformers, reason=_about_xformers(cuda, xformers)),
        Choice(name="SDPA attention", on=not xformers, reason="xformers does the same work." if xformers else _SDPA),
        Choice(name="channels_last", on=True, reason="Convolutions are faster in this memory layout."),
        Choice(
            name="CPU offload", on=offload,
            reason=turns
            if offload
            else "The whole model fits on the card."
            if cuda
            else "There is no card to spare.",
        ),
        Choice(
            name="torch.compile", on=settings.compile,
            reason="STUDIO_COMPILE is on."
            if settings.compile
            else "Minutes of warm-up for a few percent; STUDIO_COMPILE turns it on.",
        ),
    )  # fmt: skip
    # With cuDNN's usual choice of kernels, cards without tensor cores make NaN of fp16
    benchmark = cuda and half and there.capability == (7, 5)
    device = torch.device(there.kind)
    return Plan(device, dtype, xformers, True, offload, settings.compile, benchmark, streamed, choices)


def _about_xformers(cuda: bool, on: bool) -> str:
    if XFORMERS_PROBLEM is not None:
        return XFORMERS_PROBLEM
    if on:
        return "It is installed, and this card has no flash attention of torch's own."
    return "torch's own attention is as fast on this card." if cuda else "It needs CUDA."


def apply(components: Components, plan: Plan) -> None:
    """Carry `plan` out on freshly loaded components, which are on the CPU in the planned precision."""
    parts = [*components.text_encoders, components.unet, components.vae]
    for part in parts:
        part.eval().requires_grad_(False)
        if plan.channels_last and part in (components.unet, components.vae):
            part.to(memory_format=torch.channels_last)
    if plan.benchmark:
        torch.backends.cudnn.benchmark = True
    if plan.offload:
        from accelerate import cpu_offload_with_hook

        hook = None
        for part in parts:
            if plan.streamed and part is components.unet:
                _stream(components.unet, plan.device, hook)
            else:
                _, hook = cpu_offload_with_hook(part, plan.device, prev_module_hook=hook)
        components.offload_hook, components.streamed = hook, plan.streamed
    else:
        for part in parts:
            part.to(plan.device)
    components.choices = plan.choices
    if plan.xformers:
        try:
            _try_xformers(plan.device, plan.dtype)
            components.unet.enable_xformers_memory_efficient_attention()
        except Exception as error:
            reason = f"It is installed but doesn't work on this card ({_first_line(error)})."
            _say(components, xformers=(False, reason), **{"SDPA attention": (True, _SDPA)})
    if plan.compile:
        try:
            _try_compile(plan.device, plan.dtype)
        except Exception as error:  # no compiler, no Triton, a card that is too old for it
            reason = f"STUDIO_COMPILE is on, but it doesn't work on this machine ({_first_line(error)})."
            _say(components, **{"torch.compile": (False, reason)})
        else:
            components.unet.compile(dynamic=True)  # or it would compile anew for every other size


def _stream(unet: UNet2DConditionModel, device: torch.device, before: UserCpuOffloadHook) -> None:
    """Each block of the UNet on the card only while it works; what worked `before` leaves first."""
    unet.enable_group_offload(
        onload_device=device, offload_device=torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
    )
    unet.register_forward_pre_hook(lambda *_: before.offload())


def _try_xformers(device: torch.device, dtype: torch.dtype) -> None:
    """Attention as it will be asked for: in this precision, with heads as wide as Stable Diffusion's; may raise."""
    ops = importlib.import_module("xformers.ops")
    for width in (40, 64, 80, 160):
        heads = torch.zeros(1, 64, 8, width, device=device, dtype=dtype)
        ops.memory_efficient_attention(heads, heads, heads)


def _try_compile(device: torch.device, dtype: torch.dtype) -> None:
    """Compile a small function as the UNet will be, and run it; may raise."""
    x = torch.ones(8, device=device, dtype=dtype)
    torch.compile(lambda y: torch.nn.functional.silu(y) * 2, dynamic=True)(x)


def _say(components: Components, **found: tuple[bool, str]) -> None:
    """What has turned out otherwise than planned, by name: whether it is on, and why."""
    components.choices = tuple(
        each.model_copy(update=dict(zip(("on", "reason"), found.get(each.name, (each.on, each.reason)), strict=True)))
        for each in components.choices
    )


def tiling(components: Components, width: int, height: int) -> None:
    """Decode in tiles when a whole picture wouldn't fit into free memory; tiles can show faint seams, so only then."""
    on = memory.needs_tiles(components, width, height)
    if on:
        need, left = memory.decode_bytes(components, width, height), memory.free(components.device)
        components.vae.enable_tiling()
        side = memory.tile_side(components)
        components.vae.tile_sample_min_size = side
        components.vae.tile_latent_min_size = side // components.factor
        reason = f"Decoding {width} x {height} needs {need / 1e9:.1f} GB and {left / 1e9:.1f} GB are free."
    else:
        components.vae.disable_tiling()
        reason = f"Decoding {width} x {height} fits into memory."
    choice = Choice(name="VAE tiling", on=on, reason=reason)
    components.choices = (*(each for each in components.choices if each.name != choice.name), choice)
