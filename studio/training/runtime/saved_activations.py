"""Layers that don't learn, taught to keep less for the backward pass; results and gradients stay the same bits.

PyTorch keeps a convolution's input for the gradient of its weights, also where nobody wants that gradient, and the
gated feed-forward layers of a transformer (GEGLU, 2002.05202) keep a product that is made again in no time. In a LoRA
run almost all layers are such. Knows modules; nothing of LoRA, losses or files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from torch import Tensor, nn


class _Convolution(torch.autograd.Function):
    """`F.conv2d` whose backward pass needs the weight and the input's shape only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, options: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.options = x.shape, options
        stride, padding, dilation, groups = options
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        nothing = grads[0].new_empty(1).expand(ctx.shape)  # the shape is all that is read of it
        gradient = torch.ops.aten.convolution_backward(
            grads[0], nothing, weight, None, stride, padding, dilation, False, [0, 0], groups, [True, False, False]
        )[0]
        return gradient, None, None, None


class _Gate(torch.autograd.Function):
    """h gelu(g) of `both` = [h, g], which is all that it keeps."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        h, g = both.chunk(2, dim=-1)
        return h * F.gelu(g)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        h, g = ctx.saved_tensors[0].chunk(2, dim=-1)
        return torch.cat([grads[0] * F.gelu(g), torch.ops.aten.gelu_backward(grads[0] * h, g)], dim=-1)


def _convolve(layer: nn.Conv2d) -> Callable[[Tensor], Tensor]:
    options = (layer.stride, layer.padding, layer.dilation, layer.groups)

    def forward(x: Tensor) -> Tensor:
        weight, bias = layer.weight, layer.bias
        device = x.device.type
        if device != "meta" and torch.is_autocast_enabled(device):  # which looks into no function of one's own
            dtype = torch.get_autocast_dtype(device)
            x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        return _Convolution.apply(x, weight, bias, options)

    return forward


def _gate(layer: GEGLU) -> Callable[..., Tensor]:
    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _Gate.apply(layer.proj(x))

    return forward


def save_fewer_activations(model: nn.Module) -> None:
    """Let every frozen convolution and every GEGLU of `model` save less for the backward pass.

    Call it when what learns is decided.
    """
    for layer in model.modules():
        if isinstance(layer, GEGLU):
            layer.forward = _gate(layer)
        elif type(layer) is nn.Conv2d and isinstance(layer.padding, tuple) and layer.padding_mode == "zeros":
            learns = any(p.requires_grad for p in layer.parameters())
            if not learns:
                layer.forward = _convolve(layer)
