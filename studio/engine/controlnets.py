"""ControlNets beside a loaded model (2302.05543), sharing all of its parts. Knows nothing of drawings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from studio.engine import hub
from studio.engine.loading import load_controlnet
from studio.errors import BadInput, NotFound
from studio.settings import Settings

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from studio.engine.components import Components


def controlnet(
    components: Components, wanted: str, settings: Settings, on_note: Callable[[str], None] | None = None
) -> ControlNetModel:
    """The ControlNet for a kind of drawing (`lines`, `canny`), or by reference: a folder, a .safetensors file, hub id.

    Loaded on first use and kept with the model; downloaded when it isn't on this machine. Raises BadInput when the
    model has none for this kind or the ControlNet doesn't fit it, and Offline.
    """
    reference = components.info.controlnets.get(wanted, wanted)
    if reference in ("lines", "canny", "scribble"):
        raise BadInput(f"{components.info.title} has no ControlNet for {wanted}; choose another model.")
    if reference in components.controls:
        return components.controls[reference]
    path = Path(reference).expanduser()
    if not path.exists():
        if reference.count("/") != 1:
            raise NotFound(
                f"There is no ControlNet {reference!r}: give a diffusers folder, a .safetensors file, a hub id."
            )
        path = hub.get(reference, settings, on_note, components=("",))
    if on_note is not None:
        on_note("loading the ControlNet")
    net = load_controlnet(path, components.dtype)
    ours, theirs = components.unet.config, net.config
    if (theirs.in_channels, theirs.cross_attention_dim) != (ours.in_channels, ours.cross_attention_dim) or tuple(
        theirs.block_out_channels
    ) != tuple(ours.block_out_channels):
        raise BadInput(f"The ControlNet {path.name} was made for another kind of model than {components.info.title}.")
    components.controls[reference] = net.eval().requires_grad_(False).to(components.device)
    return components.controls[reference]
