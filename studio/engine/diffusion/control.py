"""A drawing that steers a UNet through a ControlNet (2302.05543). Knows latents and conditioning, not what is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import ControlNetModel, ControlNetUnionModel

    from studio.engine.diffusion.conditioning import Conditioning

SOFT = 0.825  # per layer, from the middle outwards: the drawing's small details weigh least
UNION = {"scribble": 2, "canny": 3, "lines": 3}  # kinds of drawings as xinsir's network for several counts them
STRICTER = 1.3  # "the sketch matters more" where guidance can't amplify the drawing, or does it anyway


@dataclass(frozen=True)
class Control:
    """A drawing and how strictly it is followed: `image` is (1 or pictures, 3, height, width) in 0..1.

    `start` and `end` are shares of the steps between which it is applied, as in diffusers' pipeline. `mode` says what
    matters more where drawing and prompt disagree: "both", "prompt" or "sketch" (see `residuals`).

    The last three are the model's: what a weight of 1 means with guidance and without, and how much of the drawing the
    unconditional half gets. Below 1 guidance amplifies the drawing too; published ControlNets are trained for 1.
    """

    net: ControlNetModel | ControlNetUnionModel | torch.nn.Module
    image: Tensor
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mode: str = "both"
    guided: float = 1.0
    unguided: float = 1.0
    unconditional: float = 1.0
    kind: str = "lines"  # of the drawing; only a network for several kinds has to be told (`UNION`)

    def steps(self, count: int) -> range:
        """Which of `count` steps are steered: those that lie whole between `start` and `end`.

        Where none does (a short span, few steps), the one in which the middle of the span lies: a drawing that was
        asked for isn't left out in silence.
        """
        inside = [i for i in range(count) if self.start <= i / count and (i + 1) / count <= self.end]
        if not inside:
            inside = [min(count - 1, int((self.start + self.end) / 2 * count))]
        return range(inside[0], inside[-1] + 1)

    def residuals(
        self, x: Tensor, t: Tensor, conditioning: Conditioning, guided: bool = False
    ) -> tuple[list[Tensor], Tensor]:
        """What the ControlNet adds to the UNet's skip connections and to its middle block, in the precision of `x`.

        `x` (rows, channels, h, w), `t` (rows,) or 0-dimensional, and `conditioning` are what the UNet gets; with
        `guided` their first half is the unconditional one.

        "prompt": layers weigh less the finer they are. "sketch": so too, but only the conditional half gets them, so
        that guidance amplifies the drawing as it amplifies the prompt (guess mode, 2302.05543, section 3.3). Where it
        does so anyway (`unconditional` below 1) the sketch weighs more, and all of its details.
        """
        sketch, amplified = self.mode == "sketch", self.unconditional < 1
        share = 0.0 if sketch else self.unconditional
        pictures = len(x) // 2 if guided else len(x)
        parameter = next(self.net.parameters())
        drawing = self.image.to(x.device, parameter.dtype).expand(pictures, -1, -1, -1)
        conditional_only = guided and share == 0
        if conditional_only:
            x, conditioning = x[pictures:], conditioning[pictures:]
            t = t[pictures:] if t.ndim else t
        elif guided:
            drawing = torch.cat([drawing, drawing])
        weight = self.weight * (self.guided if guided else self.unguided)
        if sketch and (amplified or not guided):
            weight *= STRICTER
        told: dict[str, Any] = {"controlnet_cond": drawing, "conditioning_scale": weight}
        kinds = getattr(getattr(self.net, "module", self.net).config, "num_control_type", None)
        if kinds is not None:
            which = torch.zeros(len(x), kinds, device=x.device, dtype=x.dtype)
            which[:, UNION[self.kind]] = 1
            told = {"controlnet_cond": [drawing], "conditioning_scale": [weight], "control_type": which,
                    "control_type_idx": [UNION[self.kind]]}  # fmt: skip
        down, middle = self.net(
            x,
            t,
            encoder_hidden_states=conditioning.embeddings,
            added_cond_kwargs=conditioning.added_cond_kwargs,
            return_dict=False,
            **told,
        )
        layers = [*down, middle]
        if self.mode == "prompt" or (sketch and guided and not amplified):
            layers = [layer * SOFT ** (len(down) - index) for index, layer in enumerate(layers)]
        if conditional_only:
            layers = [torch.cat([torch.zeros_like(layer), layer]) for layer in layers]
        elif guided and share < 1:
            layers = [torch.cat([share * layer.chunk(2)[0], layer.chunk(2)[1]]) for layer in layers]
        layers = [layer.to(x.dtype) for layer in layers]
        return layers[:-1], layers[-1]
