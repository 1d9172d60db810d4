"""The parts of one loaded model, together. Knows neither where they came from nor what is drawn with them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from studio.core.views import Choice
from studio.engine.models.catalogue import ModelInfo
from studio.engine.models.families import Family

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    from studio.engine.diffusion.conditioning import Conditioning
    from studio.engine.diffusion.preview import Previewer
    from studio.engine.models.adapters import Merged


@dataclass
class Components:
    """A loaded model, in evaluation mode, shared by text-to-image, image-to-image and ControlNet.

    Nothing of a request is ever left on it: schedulers are made anew, adapters are detached. `text_key` names what is
    attached to the text encoder; with the prompt it is the key of `text_cache`.
    """

    info: ModelInfo
    family: Family
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler_config: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    text_encoder_2: CLIPTextModelWithProjection | None = None  # of SDXL
    tokenizer_2: CLIPTokenizer | None = None
    choices: tuple[Choice, ...] = ()
    controls: dict[str, ControlNetModel] = field(default_factory=dict)  # by fingerprint; one at a time
    offload_hook: Any = None  # of accelerate, where parts move to the card only while they work
    streamed: bool = False  # then the UNet's blocks do so one by one: it is too large as a whole
    merged: Merged | None = None  # weights with the adapters of the last pictures added; see `adapters.attached`
    sizes: dict[tuple[Any, ...], int] = field(default_factory=dict, repr=False)  # see `memory`
    text_key: tuple[Any, ...] = ()
    text_cache: OrderedDict[tuple[Any, ...], Conditioning] = field(default_factory=OrderedDict, repr=False)
    previewer: Previewer | None = None  # learns with every picture; made when the first one is asked for
    emotion_means: OrderedDict[str, torch.Tensor] = field(default_factory=OrderedDict, repr=False)  # see `morph`

    @property
    def factor(self) -> int:
        """Pixels per latent cell and side: 8 for SD 1.5, 16 for the embedded model."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        """Latent channels: 4 for SD 1.5, 16 for the embedded model."""
        return int(self.unet.config.out_channels)  # an inpainting model reads more than it writes

    @property
    def text_encoders(self) -> list[torch.nn.Module]:
        """One, or SDXL's two."""
        return [self.text_encoder] if self.text_encoder_2 is None else [self.text_encoder, self.text_encoder_2]

    @property
    def vae_dtype(self) -> torch.dtype:
        """What the autoencoder computes in: 32 bits where it is known to overflow in 16 (SDXL's, unless mended)."""
        overflows = self.family.vae_overflows and self.vae.config.force_upcast and self.vae.dtype == torch.float16
        return torch.float32 if overflows else self.vae.dtype

    @property
    def modules(self) -> dict[str, torch.nn.Module]:
        """Everything that holds weights, by name."""
        second = {} if self.text_encoder_2 is None else {"text_encoder_2": self.text_encoder_2}
        return {"unet": self.unet, "vae": self.vae, "text_encoder": self.text_encoder, **second, **self.controls}
