"""What is known of a model or a LoRA before it is loaded. Data only: `catalogue` fills it, everybody reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from studio.engine.models.families import Family, FastReference, PromptWords


@dataclass(frozen=True)
class FastPath:
    """The few-step adapter of a model (LCM-LoRA, 2311.05556) and the settings that it was trained for."""

    adapter: Path  # a safetensors file
    steps: int
    guidance: float
    sampler: str


@dataclass(frozen=True)
class ModelInfo:
    """One model that the studio knows. `path` is None while it isn't on this machine; sizes in pixels and bytes."""

    reference: str
    title: str
    family: Family
    kind: Literal["embedded", "hub", "folder", "file"]
    path: Path | None
    size_bytes: int = 0  # on the disk, or to be downloaded; 0: unknown
    parameters: int = 0  # of the parts that are loaded to draw, without a ControlNet
    unet_parameters: int = 0  # of these
    state: Literal["ready", "download", "missing"] = "ready"
    note: str = ""
    native_size: int = 512
    sizes: tuple[tuple[int, int], ...] = ()  # it was trained with, the best first; none: squares, and any shape
    inpainting: bool = False  # fills a mask in a picture, and does nothing else
    text_layers: int = 12  # of the text encoder
    steps: int = 20
    guidance: float = 7.0
    sampler: str = "dpmpp_2m"
    fast: FastPath | None = None
    fast_published: FastReference | None = None  # that fits it and can be downloaded, on this machine or not
    controlnets: Mapping[str, str] = field(default_factory=dict)  # kind -> path or hub reference
    control: Mapping[str, float] = field(default_factory=dict)  # the `CONTROL` of its own ControlNets
    judge: Path | None = None
    quality: Path | None = None  # folder of the head that tells melted pictures (see `engine.gate`)
    tags: tuple[str, ...] = ()
    words: PromptWords | None = None  # None: the writers' own
    distill: Mapping[str, float] = field(default_factory=dict)
    face: tuple[float, float, float, float] | None = None  # left, top, right, bottom, in shares of the picture
    license: str = ""
    hash: str = ""
    vae: Path | None = None  # a file or folder, where a single file has none of its own

    @property
    def hub_id(self) -> str:
        """What everybody can find it by; empty for models that are only on this machine."""
        return self.reference if self.kind == "hub" else ""

    @property
    def public_name(self) -> str:
        """For files that may leave this machine: no path."""
        return self.hub_id or self.title


@dataclass(frozen=True)
class LoraInfo:
    """A LoRA file. `base` is what its own metadata says about the model it was trained on, if anything.

    One with state "download" isn't on this machine yet; its path is what it is called on the hub.
    """

    path: Path
    title: str
    hash: str
    trigger_words: tuple[str, ...] = ()
    weight: float = 1.0
    base: str = ""
    fast: FastPath | None = None  # a few-step adapter (the result of a distillation) says how to draw with it
    note: str = ""  # what of the file can't be applied
    beside: tuple[tuple[str, float], ...] = ()  # title and weight of LoRAs that were part of its teacher: use them too
    state: Literal["ready", "download"] = "ready"
