"""The layers of a model by every name that LoRA files give them, and what each kind of adapter does to a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from studio.engine.models.lora_keys import KRON

# The second one's first: `text_encoder_` begins its names too
_TEXT = {
    "text_encoder_2": (
        "lora_te2_", "text_encoders_clip_g_transformer_", "clip_g_transformer_", "clip_g_", "text_encoder_2_",
    ),
    "text_encoder": (
        "lora_te1_", "lora_te_", "text_encoders_clip_l_transformer_", "clip_l_transformer_", "clip_l_",
        "cond_stage_model_transformer_", "text_encoder_", "text_model_",
    ),
}  # fmt: skip
PARTS = ("unet", *reversed(_TEXT))  # of a model, on which layers can lie
_UNET = ("lora_unet_", "lycoris_", "model_diffusion_model_", "diffusion_model_", "unet_")
_RESNET = {"norm1": "in_layers_0", "conv1": "in_layers_2", "time_emb_proj": "emb_layers_1", "norm2": "out_layers_0",
           "conv2": "out_layers_3", "conv_shortcut": "skip_connection"}  # fmt: skip
_FIXED = {"conv_in": "input_blocks_0_0", "time_embedding.linear_1": "time_embed_0",
          "time_embedding.linear_2": "time_embed_2", "add_embedding.linear_1": "label_emb_0_0",
          "add_embedding.linear_2": "label_emb_0_2", "conv_norm_out": "out_0", "conv_out": "out_2"}  # fmt: skip


def layer_names(module: torch.nn.Module) -> dict[str, str]:
    """Every layer with a weight by its name with underscores: diffusers' own, and the original layout's for a UNet."""
    layers = [
        name for name, layer in module.named_modules() if isinstance(getattr(layer, "weight", None), torch.Tensor)
    ]
    names = {name.replace(".", "_"): name for name in layers}
    prefixes = _original_names(module)
    for name in layers:
        if name in _FIXED:
            names.setdefault(_FIXED[name], name)
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix + ".")), None)
        if prefix is not None:
            inside = name.removeprefix(prefix + ".")
            inside = _RESNET.get(inside, inside) if ".resnets." in prefix else inside
            if "samplers." in prefix:
                inside = "op" if ".downsamplers." in prefix else "conv"
            names.setdefault(f"{prefixes[prefix]}_{inside.replace('.', '_')}", name)
            if ".upsamplers." in prefix:  # some converters number it as in blocks without attention
                names.setdefault(f"{prefixes[prefix][:-1]}1_conv", name)
    return names


def _original_names(unet: torch.nn.Module) -> dict[str, str]:
    """Where the original layout has the blocks of a diffusers UNet: down_blocks.0.resnets.1 is input_blocks_2_0."""
    names: dict[str, str] = {}
    for side, blocks, number in (("down", "input_blocks", 1), ("up", "output_blocks", 0)):
        for index, block in enumerate(getattr(unet, f"{side}_blocks", ())):
            attentions = len(getattr(block, "attentions", None) or ())
            for layer in range(len(block.resnets)):
                names[f"{side}_blocks.{index}.resnets.{layer}"] = f"{blocks}_{number}_0"
                if layer < attentions:
                    names[f"{side}_blocks.{index}.attentions.{layer}"] = f"{blocks}_{number}_1"
                number += 1
            if side == "down" and getattr(block, "downsamplers", None):
                names[f"down_blocks.{index}.downsamplers.0"] = f"{blocks}_{number}_0"
                number += 1
            if side == "up" and getattr(block, "upsamplers", None):
                names[f"up_blocks.{index}.upsamplers.0"] = f"{blocks}_{number - 1}_{2 if attentions else 1}"
    middle = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}
    return names | {f"mid_block.{name}": f"middle_block_{number}" for name, number in middle.items()}


def find_layer(stem: str, names: Mapping[str, Mapping[str, str]]) -> tuple[str, str | None]:
    """Which of `PARTS` a key without its ending belongs to, and the layer there (None: there is no such layer).

    `names`: those of each part that the model has, from `layer_names`.
    """
    name = stem.replace(".processor.", ".").replace("base_model.model.", "", 1).replace(".", "_")
    for part, prefixes in _TEXT.items():
        for prefix in prefixes:
            if name.startswith(prefix):
                # transformers 5 left the outermost name of the first one away that all files still have
                name, text = name.removeprefix(prefix).removeprefix("text_model_"), names.get(part, {})
                return part, text.get(name) or text.get("text_model_" + name)
    for prefix in _UNET:
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    unet = names["unet"]
    # diffusers before 0.20 had no list in to_out
    return "unet", unet.get(name) or (unet.get(name + "_0") if name.endswith("to_out") else None)


@dataclass(frozen=True)
class Change:
    """What a file does to one layer, `scale` times: the tensors of one adapter by their ending without the point.

    Endings that change the weight: `down` and `up` (with `lora_mid` between them), `hada_...`, `lokr_...`, `diff`,
    `w_norm`, and `dora_scale` or `lora_magnitude_vector` beside any of them; `b_norm` and `diff_b` change the bias.
    """

    tensors: Mapping[str, torch.Tensor]
    scale: float = 1.0

    def delta(self, weight: torch.Tensor, strength: float) -> torch.Tensor | None:
        """What is added to `weight` (fp32), in its shape; None when only the bias changes.

        Raises ValueError or RuntimeError when the shapes don't fit.
        """
        part = {key: value.to(weight.device, torch.float32) for key, value in self.tensors.items()}
        product = _product(part, weight.shape)
        if product is None:
            return None
        magnitude = _magnitude(part, weight.shape)
        if magnitude is None:
            return (strength * self.scale) * product
        return strength * (_renormalised(weight + self.scale * product, magnitude) - weight)

    def bias(self) -> torch.Tensor | None:
        """What is added to the layer's bias."""
        return self.tensors.get("b_norm", self.tensors.get("diff_b"))


def _product(part: Mapping[str, torch.Tensor], shape: torch.Size) -> torch.Tensor | None:
    """The change of a weight of this shape before its scale; LyCORIS' kinds as in 2309.14859, section 3."""
    if "down" in part:
        up, down = part["up"], part["down"]
        if "lora_mid" in part:
            return _three(up.flatten(1).T, part["lora_mid"], down.flatten(1), shape)
        return _two(up, down, shape)
    if "hada_w1_a" in part:
        return _factored(part, "hada_w1", "hada_t1", shape) * _factored(part, "hada_w2", "hada_t2", shape)
    if "lokr_w1" in part or "lokr_w1_a" in part:
        return _kronecker(part, shape)
    whole = part.get("w_norm", part.get("diff"))
    if whole is not None and whole.numel() != shape.numel():
        raise ValueError("another shape")
    return None if whole is None else whole.reshape(shape)


def _two(left: torch.Tensor, right: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Their product; sizes are compared first, for a file may claim one that no memory holds."""
    left, right = left.flatten(1), right.flatten(1)
    if left.shape[0] * right.shape[1] != shape.numel():
        raise ValueError("another shape")
    return (left @ right).reshape(shape)


def _three(left: torch.Tensor, core: torch.Tensor, right: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Tucker's form of a convolution: a pair (rank, out) and (rank, in) around a core (rank, rank, height, width)."""
    if core.ndim != 4 or (left.shape[1], right.shape[1], *core.shape[2:]) != tuple(shape):
        raise ValueError("another shape")
    return torch.einsum("ijhw,io,jc->ochw", core, left, right)


def _factored(part: Mapping[str, torch.Tensor], name: str, core: str, shape: torch.Size) -> torch.Tensor:
    first, second = part[name + "_a"], part[name + "_b"]
    if core in part:
        return _three(first, part[core], second, shape)
    return _two(first, second, shape)


def _kronecker(part: Mapping[str, torch.Tensor], shape: torch.Size) -> torch.Tensor:
    """LoKr: the Kronecker product of a small matrix and one as large as is left, each whole or low-rank itself."""
    sides = []
    for name in KRON:
        if name in part:
            side = part[name]
        elif name == "lokr_w2" and "lokr_t2" in part:
            core, first, second = part["lokr_t2"], part["lokr_w2_a"], part["lokr_w2_b"]
            inner = torch.Size((first.shape[1], second.shape[1], *shape[2:]))
            side = _three(first, core, second, inner if inner.numel() <= shape.numel() else shape)
        else:
            first, second = part[name + "_a"].flatten(1), part[name + "_b"].flatten(1)
            if first.shape[0] * second.shape[1] > shape.numel():
                raise ValueError("another shape")
            side = first @ second
        sides.append(side)
    small, large = sides
    # the output channels are split between both; a matrix without the kernel's sides has them in its second axis
    if small.numel() * large.numel() != shape.numel() or small.shape[0] * large.shape[0] != shape[0]:
        raise ValueError("another shape")
    small = small.reshape(*small.shape, *[1] * (large.ndim - small.ndim))
    return torch.kron(small, large.contiguous()).reshape(shape)


def _magnitude(part: Mapping[str, torch.Tensor], shape: torch.Size) -> torch.Tensor | None:
    """DoRA's lengths, in a shape that says of which axis: PEFT has one a row, LyCORIS one a row or a column."""
    rows = (shape[0], *[1] * (len(shape) - 1))
    if "lora_magnitude_vector" in part:
        return part["lora_magnitude_vector"].reshape(rows)
    found = part.get("dora_scale")
    if found is None:
        return None
    by_column = found.ndim > 1 and found.shape[:2] == (1, *shape[1:2])
    return found.reshape((1, shape[1], *[1] * (len(shape) - 2)) if by_column else rows)


def _renormalised(merged: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """Rows or columns of the changed weight with the lengths that were learnt (DoRA, 2402.09353, eq. 5)."""
    others = [axis for axis in range(merged.ndim) if magnitude.shape[axis] == 1]
    length = torch.linalg.vector_norm(merged, dim=others or None, keepdim=True)
    return merged * (magnitude / (length + torch.finfo(merged.dtype).eps))


def rank(tensors: Mapping[str, torch.Tensor]) -> int | None:
    """What alpha is divided by; None where there is no low rank and alpha counts for nothing."""
    for name in ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b"):
        if name in tensors:
            return tensors[name].shape[0]
    return None


def fits(change: Change, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether a change has this layer's shape."""
    tensors, added = change.tensors, change.bias()
    if "down" in tensors and len(tensors) == 2:  # the plain pair of nearly all files: no need to multiply it
        down, up = tensors["down"], tensors["up"]
        return (
            down.shape[0] == up.shape[1]
            and up.shape[0] == weight.shape[0]
            and up.shape[0] * down[0].numel() == weight.numel()
        )
    try:
        change.delta(weight.float(), 1.0)
    except (ValueError, RuntimeError, IndexError, KeyError):
        return False
    return added is None or (bias is not None and bias.shape == added.shape)
