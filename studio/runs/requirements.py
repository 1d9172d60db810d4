"""What a run needs at the least, in bytes, from its request and its model's sizes: room for what it writes, memory.

Arithmetic only: knows no files, no torch and no device. Activations, which depend on the pictures, are left out: a run
that isn't refused may still run out of memory, one that is refused would have. Everything is trained in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from studio.core.specs import ControlRunSpec, LcmSpec, RunSpec

Shapes = Mapping[str, tuple[int, ...]]
FLOAT = 4  # bytes
ADAM = 2  # numbers that the optimiser keeps for each one that it changes
RUNTIME = 600 * 2**20  # bytes of Python, torch, diffusers and their libraries
_SPARE = 64 * 2**20  # bytes of samples, metrics and log
# Layers of the UNet as Stable Diffusion's original single files call them; attention has the same names in both.
_ORIGINAL = {
    "conv1": "in_layers.2", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
    "time_emb_proj": "emb_layers.1", "downsamplers.0.conv": "0.op", "upsamplers.0.conv": "conv",
}  # fmt: skip
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")  # of CLIP's text encoder
_CONTROLNET = ("conv_in.", "time_embedding.", "down_blocks.", "mid_block.", "time_embed.", "input_blocks.", "middle_")


@dataclass(frozen=True)
class Sizes:
    """How many numbers a model has, and each thing that is trained on it. LoRAs per rank."""

    unet: int
    others: int  # text encoder and autoencoder
    lora: int
    lcm_lora: int
    text_lora: int
    controlnet: int


# Of models that have yet to be downloaded.
SD15 = Sizes(859_520_964, 206_714_343, 199_296, 1_050_816, 73_728, 348_712_960)
SDXL = Sizes(2_567_463_684, 901_374_183, 1_451_520, 3_074_240, 401_408, 1_238_121_600)
OF_FAMILY = {"sd15": SD15, "sdxl": SDXL}


def sizes_of(unet: Shapes, others: Shapes, targets: Iterable[str], lcm_targets: Iterable[str]) -> Sizes:
    """From the shapes of all weights by name, in diffusers' or in the original layout."""
    return Sizes(
        unet=_numbers(unet.values()),
        others=_numbers(others.values()),
        lora=_per_rank(unet, targets),
        lcm_lora=_per_rank(unet, lcm_targets),
        text_lora=_per_rank(others, TEXT_TARGETS),
        controlnet=_numbers(shape for name, shape in unet.items() if name.startswith(_CONTROLNET)),
    )


def _numbers(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def _per_rank(shapes: Shapes, targets: Iterable[str]) -> int:
    """Inputs and outputs of every layer that is named: a low-rank pair has so many numbers for each of its ranks."""
    names = [name for target in targets for name in (target, _ORIGINAL.get(target, target))]
    ends = tuple(f".{name}.weight" for name in names)
    layers = [shape for name, shape in shapes.items() if len(shape) > 1 and f".{name}".endswith(ends)]
    return sum(shape[0] + math.prod(shape[1:]) for shape in layers)


def trained(spec: RunSpec, sizes: Sizes) -> int:
    """Numbers that the optimiser changes."""
    if isinstance(spec, ControlRunSpec):
        return sizes.controlnet
    if isinstance(spec, LcmSpec):
        return sizes.unet if spec.form == "full" else spec.rank * sizes.lcm_lora
    return spec.rank * (sizes.lora + (sizes.text_lora if spec.text_encoder_lr else 0))


def _averaged(spec: RunSpec) -> bool:
    return isinstance(spec, LcmSpec | ControlRunSpec) or spec.ema


def _critic(spec: RunSpec, sizes: Sizes) -> int:
    """Numbers of the second LoRA that distribution matching trains beside the student."""
    return spec.rank * sizes.lcm_lora if isinstance(spec, LcmSpec) and spec.objective == "dmd" else 0


def disk(spec: RunSpec, sizes: Sizes, native_size: int) -> int:
    """Bytes of all checkpoints that are there at once, with the one that is being written, and of the result."""
    each = FLOAT * trained(spec, sizes)
    saved = math.ceil(spec.epochs / spec.checkpoint_epochs)
    there = min(saved, spec.keep_checkpoints + 1) + (2 if spec.checkpoint_minutes else 0)
    checkpoints = there * (each * (1 + ADAM + _averaged(spec)) + FLOAT * _critic(spec, sizes) * (1 + ADAM))
    if isinstance(spec, LcmSpec):
        # the best so far and its successor, three formats or a whole model; a latent has about a number for 16 pixels
        result = 2 * each + (3 * each if spec.form == "lora" else each + FLOAT * sizes.others)
        result += 0 if spec.data else spec.latents * FLOAT * native_size**2 // 16
    elif isinstance(spec, ControlRunSpec):
        result = each
    else:
        result = each * (3 + min(saved, spec.keep_checkpoints))  # three formats, and a file for each checkpoint
    return checkpoints + result + _SPARE


def memory(spec: RunSpec, sizes: Sizes, card: bool) -> int:
    """Bytes of main memory. With a graphics card the model only passes through it, in fp32."""
    loaded = FLOAT * (sizes.unet + sizes.others)
    if card:
        return RUNTIME + loaded
    # the numbers themselves, their gradients, the optimiser's state, their running mean
    learning = FLOAT * trained(spec, sizes) * (1 + 1 + ADAM + _averaged(spec))
    if isinstance(spec, LcmSpec | ControlRunSpec):
        return RUNTIME + loaded + learning + FLOAT * _critic(spec, sizes) * (1 + 1 + ADAM)
    kept = FLOAT * sizes.unet if not spec.text_encoder_lr else loaded  # what is done with leaves first
    return RUNTIME + max(loaded, kept + learning)
