"""How much memory there is and how much a drawing needs, from real sizes. Knows no recipe and no file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psutil
import torch

from studio.core.errors import OutOfMemory
from studio.engine import allocator
from studio.engine.diffusion.conditioning import blank
from studio.engine.diffusion.control import Control
from studio.engine.diffusion.denoiser import Denoiser

if TYPE_CHECKING:
    from studio.engine.models.components import Components

MAX_BATCH = 16
TILE = 512  # pixels
SHARE = 0.8  # of the free memory is planned with; allocators waste some, and others take some


def free(device: torch.device) -> int:
    """Bytes that can still be taken on `device`: also those that torch keeps for itself and nothing lies in."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + allocator.kept(device)
    return int(psutil.virtual_memory().available)


def total(device: torch.device) -> int:
    """Bytes that `device` has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return int(psutil.virtual_memory().total)


def card(device: torch.device) -> dict[str, Any]:
    """Name and memory (bytes) of a card, as `SystemStatus` has them; nothing for other devices."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return {}
    whole = total(device)
    return {
        "device_name": torch.cuda.get_device_name(device),
        "device_memory_used": whole - free(device),
        "device_memory_total": whole,
    }


def resident() -> int:
    """Bytes of main memory that this process holds."""
    return int(psutil.Process().memory_info().rss)


def parameters(components: Components) -> int:
    """Bytes of all weights of a loaded model."""
    return sum(p.numel() * p.element_size() for module in components.modules.values() for p in module.parameters())


def decode_bytes(components: Components, width: int, height: int) -> int:
    """Peak bytes of decoding one picture, from the sizes of the decoder's activations."""
    key = ("decode", width, height)
    if key not in components.sizes:
        shape = (1, components.vae.config.latent_channels, height // components.factor, width // components.factor)
        components.sizes[key] = _peak(components.vae, lambda vae: vae.decode(torch.empty(shape, device="meta")))
    return components.sizes[key] * components.vae_dtype.itemsize


def step_bytes(components: Components, width: int, height: int, guided: bool) -> int:
    """Peak bytes of one sampling step of one picture, from the sizes of the activations of the UNet.

    A ControlNet beside it works before it in each step, and what it hands over lives until the UNet is done.
    """
    key = ("step", width, height)
    shape = (1, components.channels, height // components.factor, width // components.factor)
    latents, time = torch.empty(shape, device="meta"), torch.zeros(1, device="meta")
    beside = components.unet.config.in_channels - components.channels  # of an inpainting model
    extra = torch.empty((1, beside, *shape[2:]), device="meta") if beside else None
    text = blank(components.unet.config, components.tokenizer.model_max_length).to("meta")
    if key not in components.sizes:
        components.sizes[key] = _peak(
            components.unet, lambda unet: Denoiser(unet, text, extra_channels=extra)(latents, time)
        )
    elements = components.sizes[key]
    for name, net in components.controls.items():
        own, given = ("control", name, width, height), ("residuals", name, width, height)
        if own not in components.sizes:
            drawing = torch.empty((1, 3, height, width), device="meta")
            numbers: list[int] = []

            def rehearse(net: Any, drawing: torch.Tensor = drawing, numbers: list[int] = numbers) -> None:
                down, middle = Control(net, drawing).residuals(latents, time, text)
                numbers.append(sum(layer.numel() for layer in (*down, middle)))

            components.sizes[own] = _peak(net, rehearse)
            components.sizes[given] = numbers[0]
        elements = max(elements + components.sizes[given], components.sizes[own])
    return elements * components.unet.dtype.itemsize * (2 if guided else 1)


def waiting_bytes(components: Components) -> int:
    """Bytes of the weights that a sampling step needs on the card and that wait in main memory: UNet and ControlNet.

    Of a UNet whose blocks come one by one, the largest of them. Zero unless parts are offloaded; what is on the card
    already isn't free any more.
    """
    if components.offload_hook is None:
        return 0
    unet = components.unet
    own = [unet] if not components.streamed else [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    largest = max(_elsewhere(part, components.device) for part in own)
    return largest + sum(_elsewhere(net, components.device) for net in components.controls.values())


def _elsewhere(module: torch.nn.Module, device: torch.device) -> int:
    """Bytes of the weights that aren't on the device."""
    return sum(p.numel() * p.element_size() for p in module.parameters() if p.device.type != device.type)


def surely_fits(components: Components, width: int, height: int, left: int | None = None) -> bool:
    """Whether one picture fits by a coarse bound several times the exact one, which takes no rehearsal to know.

    Half a second less before the first picture of a small model. `left`: bytes that are free; None: asks the device.
    """
    left = free(components.device) if left is None else left
    cells = (width // components.factor) * (height // components.factor)
    step = 16 * cells * sum(components.unet.config.block_out_channels) * components.unet.dtype.itemsize
    for net in components.controls.values():  # half a UNet more, and the drawing in full size
        step += step // 2
        step += 8 * width * height * net.config.conditioning_embedding_out_channels[0] * net.dtype.itemsize
    widest = max(components.vae.config.block_out_channels[:2])
    decode = 10 * width * height * widest * components.vae_dtype.itemsize
    return max(step, decode) < left * SHARE


def tile_side(components: Components) -> int:
    """Pixels of the sides of tiles: those of the VAE's training, but no more than 512: SDXL's would save nothing."""
    side = components.vae.config.sample_size
    return min(TILE, int(side if isinstance(side, int) else side[0]))


def needs_tiles(components: Components, width: int, height: int, left: int | None = None) -> bool:
    """Whether a whole picture of this size can't be decoded at once; tiles can show faint seams, so only then."""
    left = free(components.device) if left is None else left
    return not surely_fits(components, width, height, left) and (decode_bytes(components, width, height) > SHARE * left)


def batch_size(
    components: Components, width: int, height: int, guided: bool, wanted: int, left: int | None = None
) -> int:
    """How many pictures to draw at once, 1 to `MAX_BATCH`.

    On the CPU always one: larger batches gain a quarter at best, and their convolutions round differently, so that a
    picture could not be made again alone with the same pixels. Raises OutOfMemory when not even one fits.
    Counts the ControlNet that is loaded beside the model: load it first. `left`: bytes that are free; None: asks the
    device.
    """
    left = free(components.device) if left is None else left
    alone = components.device.type == "cpu"
    if alone and surely_fits(components, width, height, left):
        return 1
    step, decode = step_bytes(components, width, height, guided), decode_bytes(components, width, height)
    room = int(left * SHARE)
    weights = waiting_bytes(components)
    # decoding can fall back to tiles
    tile = decode_bytes(components, *(min(side, tile_side(components)) for side in (width, height)))
    if max(step + weights, min(decode, tile)) > room:
        side = components.info.native_size
        smaller = f"{side} x {side}" if width * height > side * side else "a smaller size"
        raise OutOfMemory(
            f"A picture of {width} x {height} needs about {max(step + weights, tile) / 1e9:.1f} GB and "
            f"{room / 1e9:.1f} GB are free; choose {smaller} or close other programs."
        )
    if alone:
        return 1
    return max(1, min(MAX_BATCH, wanted, (room - weights) // max(1, step)))


def short(components: Components, width: int, height: int, guided: bool, wanted: int, left: int) -> bool:
    """Whether `wanted` pictures at once (on a CPU one at a time) may be short of the `left` bytes that are free."""
    if components.device.type == "cpu":
        return not surely_fits(components, width, height, left)
    room = int(left * SHARE) - waiting_bytes(components)
    step, decode = step_bytes(components, width, height, guided), decode_bytes(components, width, height)
    return max(step * min(wanted, MAX_BATCH), decode) > room


@torch.no_grad()
def _peak(module: torch.nn.Module, run: object) -> int:
    """Peak number of elements alive in a forward pass: a rehearsal on the meta device, which computes shapes only.

    A layer's input and output live together, and what a skip connection keeps lives until it is used. PyTorch frees the
    rest at once (checked against measured memory in the tests).
    """
    with torch.device("meta"):
        rehearsal = type(module).from_config(module.config)
    skips_kept, widest = 0, 0

    def after(layer: torch.nn.Module, inputs: tuple[object, ...], output: object) -> None:
        nonlocal widest
        tensors = [tensor for tensor in (*inputs, output) if isinstance(tensor, torch.Tensor)]
        widest = max(widest, sum(tensor.numel() for tensor in tensors))

    def keep(layer: torch.nn.Module, inputs: tuple[object, ...], output: object) -> None:
        nonlocal skips_kept
        skips = output[1] if isinstance(output, tuple) and len(output) > 1 else ()
        skips_kept += sum(tensor.numel() for tensor in skips if isinstance(tensor, torch.Tensor))

    for layer in rehearsal.modules():
        if not any(True for _ in layer.children()):
            layer.register_forward_hook(after)
    for block in getattr(rehearsal, "down_blocks", ()):
        block.register_forward_hook(keep)
    run(rehearsal)  # type: ignore[operator]
    # the widest layer, a normalised copy and the residual beside it
    return skips_kept + 2 * widest
