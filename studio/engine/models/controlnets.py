"""ControlNets beside a loaded model (2302.05543), sharing all of its parts. Knows nothing of drawings.

Which one a request means, and its fingerprint, can be asked without torch; one at a time is kept in memory.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.core.errors import BadInput, NotFound
from studio.core.settings import Settings
from studio.engine.models import hub
from studio.engine.models.places import candidates
from studio.engine.models.weights import PICKLES, component_weights, fingerprint, read_header

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from studio.engine.models.components import Components

KINDS = ("lines", "canny", "scribble")


def find(reference: str, settings: Settings) -> Path | None:
    """The folder or file of a ControlNet; None for a hub id that isn't on this machine yet. Loads no torch.

    Raises NotFound, and BadInput for a pickle or a damaged file.
    """
    try:
        for path in candidates(reference, settings, settings.models_dir / "controlnets"):
            if path.is_file():
                read_header(path)
                return path
            if path.is_dir():
                return path
    except (OSError, RuntimeError, ValueError):  # a name too long for the file system, or no home folder for `~`
        pass
    if re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", reference) and not reference.endswith((".safetensors", *PICKLES)):
        return hub.snapshot(reference, ("",))
    raise NotFound(
        f"There is no ControlNet {reference!r}: give a diffusers folder, a .safetensors file, a hub id, "
        "or what the model has (lines, canny)."
    )


def digest(path: Path) -> str:
    """Fingerprint of a ControlNet on this machine, 64 hex digits. Raises BadInput when it has no usable weights."""
    if path.is_file():
        return fingerprint(path)
    path = path.resolve()
    if not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
        inside = next((name for name in ("controlnet", "adapter/controlnet") if (path / name).is_dir()), None)
        hint = f"; perhaps you mean {inside} in it" if inside else ""
        raise BadInput(f"The folder {path.name} holds no ControlNet (config.json and its .safetensors){hint}.")
    files = [path / "config.json", *component_weights(path.parent, path.name)]
    total = hashlib.sha256()
    for file in files:
        if file.is_file():
            total.update(f"{file.name}\0{fingerprint(file)}\n".encode())
    return total.hexdigest()


def fingerprint_of(known: Mapping[str, str], wanted: str, settings: Settings) -> str:
    """Fingerprint of the ControlNet that `controlnet` would take, `known` being those that the model knows by kind.

    Empty where the model has none of this kind, and while it has to be downloaded. Raises as `find` does.
    """
    reference = known.get(wanted, wanted)
    if reference in KINDS:
        return ""
    path = find(reference, settings)
    return "" if path is None else digest(path)


def absent(known: Mapping[str, str], wanted: str, settings: Settings) -> str | None:
    """Hub id of the ControlNet that `controlnet` would take, where it isn't on this machine yet. Raises as `find`."""
    reference = known.get(wanted, wanted)
    return reference if reference not in KINDS and find(reference, settings) is None else None


def fetch(reference: str, settings: Settings, on_note: Callable[[str], None] | None, half: bool) -> Path:
    """Download a ControlNet of the hub, `half` in 16 bits where it has such weights. Raises as `hub.get`."""
    return hub.get(reference, settings, on_note, components=("",), half=half)


def controlnet(
    components: Components, wanted: str, settings: Settings, on_note: Callable[[str], None] | None = None
) -> ControlNetModel:
    """The ControlNet for a kind of drawing (`lines`, `canny`), or by reference: a folder, a .safetensors file, hub id.

    Loaded on first use and kept with the model until another one, or other weights under its name, are asked for;
    downloaded when it isn't on this machine. Raises BadInput when the model has none for this kind or the ControlNet
    doesn't fit it, and Offline.
    """
    reference = components.info.controlnets.get(wanted, wanted)
    if reference in KINDS:
        raise BadInput(f"{components.info.title} has no ControlNet for {wanted}; choose another model.")
    path = find(reference, settings) or fetch(reference, settings, on_note, components.dtype.itemsize == 2)
    key = digest(path)
    if key in components.controls:
        return components.controls[key]
    from studio.engine.models.loading import load_controlnet  # torch

    if on_note is not None:
        on_note("loading the ControlNet")
    drop(components)  # before the next one is loaded: two may not fit
    net = load_controlnet(path, components.dtype).eval().requires_grad_(False)
    ours, theirs = components.unet.config, net.config
    # of an inpainting model it gets the latents alone
    if (theirs.in_channels, theirs.cross_attention_dim) != (ours.out_channels, ours.cross_attention_dim) or tuple(
        theirs.block_out_channels
    ) != tuple(ours.block_out_channels):
        raise BadInput(f"The ControlNet {path.name} was made for another kind of model than {components.info.title}.")
    if components.offload_hook is None:
        net.to(components.device)
    else:
        _offload(components, net)
    components.controls[key] = net
    return net


# --- on the card only while it works ------------------------------------------------------------------------------


class _Together:
    """Stands for the UNet's hook of accelerate: when the UNet has to leave the card, the ControlNet leaves too."""

    def __init__(self, unet: Any) -> None:
        self.unet = unet
        self.net: Any = None

    def init_hook(self, module: Any) -> Any:
        if self.net is not None:
            self.net.to("cpu")
        return self.unet.init_hook(module)


def _offload(components: Components, net: ControlNetModel) -> None:
    """Give the ControlNet the same kind of hook as the other parts.

    It works in turns with the UNet, step by step, so neither makes the other leave; the decoder makes both.
    """
    from accelerate import cpu_offload_with_hook
    from accelerate.hooks import UserCpuOffloadHook

    cpu_offload_with_hook(net, components.device)
    decoder = components.offload_hook.hook
    if not isinstance(decoder.prev_module_hook.hook, _Together):
        before = decoder.prev_module_hook
        decoder.prev_module_hook = UserCpuOffloadHook(before.model, _Together(before.hook))
    decoder.prev_module_hook.hook.net = net


def drop(components: Components) -> None:
    """Free the ControlNet from before."""
    if not components.controls:
        return
    components.controls.clear()
    if components.offload_hook is not None:
        together = components.offload_hook.hook.prev_module_hook.hook
        if isinstance(together, _Together):
            together.net = None
    from studio.engine import allocator  # torch

    allocator.release()  # a hook and its network point at each other
