"""The three networks of a distillation (teacher, student, target) in as little memory as each form allows.

LCM-LoRA (2311.05556): one UNet for all three. The student is a LoRA on it, the teacher the same UNet with that LoRA
switched off, the target the student itself. Whatever was merged into the UNet before (a character) is the teacher's.
Full: three UNets; the student's has a guidance input, the target is its running mean (2310.04378, sec. 4.2).
Knows what each network is called with; nothing of losses, data, optimisers or files.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from studio.engine.diffusion.conditioning import Conditioning
from studio.engine.diffusion.denoiser import Denoiser
from studio.training.runtime.average import MovingAverage

Text: TypeAlias = "Tensor | Conditioning"
ADAPTER = "student"
GUIDANCE_DIM = 256  # of the guidance embedding, as in diffusers' full-UNet script


def add_lora(unet: UNet2DConditionModel, targets: tuple[str, ...], rank: int) -> None:
    """Freeze `unet` and put the student's LoRA on every layer named in `targets`; alpha = rank, so its scale is 1.

    The second matrix starts at zero: the student begins as the teacher. Random numbers come from torch's own generator.
    """
    unet.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets), init_lora_weights="gaussian"),
        adapter_name=ADAPTER,
    )
    for module in unet.modules():
        if isinstance(module, LoraLayer):
            _merge_where_cheaper(module, rank)


def _merge_where_cheaper(layer: Any, rank: int) -> None:
    """Let a narrow layer add B A to its weight on the fly instead of running two more layers beside it.

    Per position and in multiplications, beside costs r (in + out) forward and twice that backward; merged costs
    in * out for the weight's gradient. With rank 64, all of the embedded model is narrow and little of SD 1.5 is.
    """
    base = layer.get_base_layer()
    if not isinstance(base, nn.Linear | nn.Conv2d):
        return
    out, into = base.weight.shape[0], base.weight[0].numel()
    if 3 * rank * (into + out) <= into * out:
        return
    down, up = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]

    def forward(x: Tensor) -> Tensor:
        if layer.disable_adapters:
            return base(x)
        weight = base.weight + (up.weight.flatten(1) @ down.weight.flatten(1)).view_as(base.weight).to(base.weight)
        if isinstance(base, nn.Linear):
            return F.linear(x, weight, base.bias)
        return base._conv_forward(x, weight, base.bias)

    layer.forward = forward


class LoraStudent:
    """LCM-LoRA: `unet` is teacher, student and target. Its running mean is what pictures are drawn with.

    Texts are what the UNet is told, a row per picture: a `Conditioning`, or encoded prompts (batch, tokens, dim) alone;
    `empty` is that of "", one row; z and outputs (batch, c, h, w); t and w (batch,).
    """

    group = "lora"

    def __init__(
        self, unet: UNet2DConditionModel, targets: tuple[str, ...], rank: int, ema_decay: float = 0.95,
        averaged: bool = True,
    ) -> None:  # fmt: skip
        self.unet = unet
        add_lora(unet, targets, rank)
        self.trainable = {name: p for name, p in unet.named_parameters() if p.requires_grad}
        for parameter in self.trainable.values():
            parameter.data = parameter.data.float()  # a half-precision UNet still learns in fp32
        # where nobody draws with it there is no mean, and no memory for one
        self.average = MovingAverage(self.trainable, ema_decay, tensors=None if averaged else {})

    @torch.no_grad()
    def teacher(self, z: Tensor, t: Tensor, text: Text, empty: Text) -> tuple[Tensor, Tensor]:
        """(unconditional, conditional) output of the teacher at (z, t)."""
        self.unet.disable_adapters()
        try:
            return Denoiser(self.unet, Conditioning.of(text), Conditioning.of(empty)).branches(z, t)
        finally:
            self.unet.enable_adapters()

    def student(self, z: Tensor, t: Tensor, text: Text, w: Tensor) -> Tensor:
        """Output of the student at (z, t). `w` is not told to it: it learns the mean over the range."""
        return Denoiser(self.unet, Conditioning.of(text))(z, t)

    @torch.no_grad()
    def target(self, z: Tensor, t: Tensor, text: Text, w: Tensor) -> Tensor:
        """Output of the target: the student, without a gradient (LCM-LoRA has no EMA target)."""
        return self.student(z, t, text, w)

    @contextmanager
    def drawing(self) -> Iterator[UNet2DConditionModel]:
        """The UNet with the mean weights in it; afterwards it holds the trained ones again, the same tensors."""
        with self.average.applied(), torch.no_grad():
            yield self.unet

    @contextmanager
    def teaching(self) -> Iterator[UNet2DConditionModel]:
        """The UNet as the teacher is, for drawing with it."""
        self.unet.disable_adapters()
        try:
            with torch.no_grad():
                yield self.unet
        finally:
            self.unet.enable_adapters()


class FullStudent:
    """Full distillation: the student is a whole UNet that is told `w`; the target is its mean with rate mu."""

    group = "unet"

    def __init__(self, teacher: UNet2DConditionModel, ema_decay: float = 0.95) -> None:
        self._teacher = teacher.requires_grad_(False)
        # By keyword: in a merged configuration it would lose to the list of values that the teacher left at default.
        self.unet = UNet2DConditionModel.from_config(teacher.config, time_cond_proj_dim=GUIDANCE_DIM)
        missing, unexpected = self.unet.load_state_dict(teacher.state_dict(), strict=False)
        assert missing == ["time_embedding.cond_proj.weight"], missing
        assert not unexpected, unexpected
        # The paper starts at zero, so that the student begins as the teacher whatever w is; diffusers' script doesn't.
        nn.init.zeros_(self.unet.time_embedding.cond_proj.weight)
        self.unet.to(next(teacher.parameters()).device, torch.float32, memory_format=torch.channels_last).train()
        self._target = copy.deepcopy(self.unet).requires_grad_(False).eval()
        self.trainable = dict(self.unet.named_parameters())
        means = dict(self._target.named_parameters())
        self.average = MovingAverage(self.trainable, ema_decay, constant=True, tensors=means)

    @torch.no_grad()
    def teacher(self, z: Tensor, t: Tensor, text: Text, empty: Text) -> tuple[Tensor, Tensor]:
        """(unconditional, conditional) output of the teacher at (z, t)."""
        return Denoiser(self._teacher, Conditioning.of(text), Conditioning.of(empty)).branches(z, t)

    def student(self, z: Tensor, t: Tensor, text: Text, w: Tensor) -> Tensor:
        """Output of the student at (z, t) for guidance `w`."""
        return Denoiser(self.unet, Conditioning.of(text), guidance=w + 1)(z, t)

    @torch.no_grad()
    def target(self, z: Tensor, t: Tensor, text: Text, w: Tensor) -> Tensor:
        """Output of the running mean theta-minus."""
        return Denoiser(self._target, Conditioning.of(text), guidance=w + 1)(z, t)

    @contextmanager
    def drawing(self) -> Iterator[UNet2DConditionModel]:
        """The target: what is kept in the end."""
        with torch.no_grad():
            yield self._target

    @contextmanager
    def teaching(self) -> Iterator[UNet2DConditionModel]:
        """The teacher, for drawing with it."""
        with torch.no_grad():
            yield self._teacher


Student = LoraStudent | FullStudent


def tensors_of(student: Student) -> dict[str, Mapping[str, Tensor]]:
    """Everything that a checkpoint holds of a student: groups of named tensors, to be restored in place."""
    return {student.group: student.trainable, "ema": student.average.tensors}
