"""What requests name: models, LoRAs, ControlNets, upscalers and masks, each looked at once. Loads no torch."""

from __future__ import annotations

from typing import Any

from PIL import Image

from studio.core.settings import Settings
from studio.core.specs import ControlSpec, MaskSpec
from studio.core.views import Picture
from studio.engine.models import controlnets, hub, upscalers
from studio.engine.models.catalogue import LoraInfo, ModelInfo, find_lora, resolve
from studio.engine.models.families import PUBLISHED
from studio.engine.models.upscalers import UpscalerInfo
from studio.service import ownership


class Files:
    """Models and LoRAs by reference, each looked at once: a batch of a thousand prompts has one model."""

    def __init__(self, settings: Settings, owner: str = "") -> None:
        self._settings = settings
        self._owner = owner  # who asks: results of other keys' runs are not found
        self._models: dict[str, ModelInfo] = {}
        self._loras: dict[str, LoraInfo] = {}
        self._nets: dict[Any, str] = {}
        self._upscalers: dict[str, UpscalerInfo] = {}
        self._masks: dict[Any, tuple[float, bool]] = {}

    def mask(self, spec: MaskSpec, picture: Picture, mask: Picture) -> tuple[float, bool]:
        """Width by height of the area around a mask, and whether it covers all of its picture.

        Raises `BadInput` for a mask that isn't the picture's, or in which there is nothing.
        """
        key = (spec, picture.id)
        if key not in self._masks:
            from studio.engine.media import retouch  # OpenCV: only where something is retouched

            with Image.open(mask.path) as opened:
                used = retouch.check((picture.width, picture.height), opened, spec)
            self._masks[key] = retouch.drawn_shape(used, spec.padding), retouch.covers(used)
        return self._masks[key]

    def model(self, reference: str) -> ModelInfo:
        """Raises `NotFound` and `BadInput`."""
        if reference not in self._models:
            info = resolve(reference, self._settings)
            if info.state == "download" and reference not in PUBLISHED:
                hub.tell(info.reference, self._settings)
                info = resolve(reference, self._settings)
            ownership.check(info.path, self._owner, self._settings, reference)
            self._models[reference] = info
        return self._models[reference]

    def lora(self, reference: str) -> LoraInfo:
        """Raises `NotFound` and `BadInput`."""
        if reference not in self._loras:
            info = find_lora(reference, self._settings)
            ownership.check(info.path, self._owner, self._settings, reference)
            self._loras[reference] = info
        return self._loras[reference]

    def upscaler(self, reference: str) -> UpscalerInfo:
        """Raises `NotFound` and `BadInput`."""
        if reference not in self._upscalers:
            self._upscalers[reference] = upscalers.find(reference, self._settings)
        return self._upscalers[reference]

    def net(self, info: ModelInfo, spec: ControlSpec, drawing: Picture, size: tuple[int, int]) -> str:
        """Fingerprint of the ControlNet that will follow this drawing; "" for none, and for one not downloaded yet.

        Raises `NotFound` and `BadInput`, also for a drawing in which there is nothing to follow.
        """
        key = (info.reference, spec, size)
        if key not in self._nets:
            from studio.engine.media import control_images as control  # OpenCV: only where something is drawn

            fitting = control.controlnet_kind(drawing.path, spec, size, info.controlnets)
            wanted = spec.model or fitting
            self._nets[key] = controlnets.fingerprint_of(info.controlnets, wanted, self._settings)
        return self._nets[key] if spec.weight else ""
