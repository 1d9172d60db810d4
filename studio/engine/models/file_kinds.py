"""Which kind of weights a safetensors file holds, told by the names and shapes of its tensors. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from studio.engine.models.lora_keys import split_key
from studio.engine.models.weights import Tensor

Tensors = Mapping[str, Tensor]
_OTHER_ADAPTERS = {"oft_": "OFT", ".on_input": "IA3", "ia3_": "IA3", ".a1.weight": "GLoRA", "vera_lambda": "VeRA"}
_UNET = "model.diffusion_model."
_TEXT = ("cond_stage_model.", "conditioner.embedders.")
_INPUT = ("input_blocks.0.0.weight", "conv_in.weight")  # of a UNet, in the original layout and in diffusers'


def other_adapter(names: Tensors) -> str:
    """The name of an adapter that is called a LoRA in many places and is none that can be applied; "" for others."""
    return next((kind for sign, kind in _OTHER_ADAPTERS.items() if any(sign in name for name in names)), "")


def has_lora(names: Tensors) -> bool:
    """Whether anything in it is of a LoRA."""
    return any(split_key(name) is not None for name in names)


def is_vae(tensors: Tensors) -> bool:
    """Whether it is a VAE alone with the four channels of Stable Diffusion's latents."""
    first = tensors.get("decoder.conv_in.weight", tensors.get("first_stage_model.decoder.conv_in.weight"))
    return first is not None and first.shape[1:2] == (4,) and not _some("diffusion_model.", *_TEXT)(tensors)


def kind_of(tensors: Tensors) -> str:
    """What the file is, with its article, such as "a VAE"; "" where it isn't known or is Stable Diffusion 1.x.

    A LoRA isn't looked for, see `has_lora`.
    """
    return next((kind for kind, told in _KINDS.items() if told(tensors)), "")


def _some(*parts: str) -> Callable[[Tensors], bool]:
    return lambda tensors: any(part in name for name in tensors for part in parts)


def _begins(*parts: str) -> Callable[[Tensors], bool]:
    return lambda tensors: any(name.startswith(parts) for name in tensors)


def _channels(tensors: Tensors) -> int:
    """That the UNet in it takes in; 0 without one."""
    found = (tensors.get(prefix + name) for prefix in (_UNET, "") for name in _INPUT)
    return next((tensor.shape[1] for tensor in found if tensor is not None and len(tensor.shape) > 1), 0)


def _is_refiner(tensors: Tensors) -> bool:
    """Whether SDXL's second text encoder is its only one; or, without any, a UNet that reads no other."""
    if _begins("conditioner.embedders.")(tensors):
        return _begins("conditioner.embedders.0.model.")(tensors)
    summary, sizes = tensors.get(_UNET + "label_emb.0.0.weight"), 5 * 256
    return summary is not None and len(summary.shape) == 2 and summary.shape[1] == 1280 + sizes


def _is_embedding(tensors: Tensors) -> bool:
    vectors = [tensor for tensor in tensors.values() if len(tensor.shape) in (1, 2)]
    known = {"emb_params", "clip_l", "clip_g", "string_to_param.*"}
    single = len(tensors) == 1 and vectors and vectors[0].shape[-1] in (768, 1024, 1280)
    return len(tensors) <= 4 and len(vectors) == len(tensors) and bool(known & set(tensors) or single)


# In this order: the first that is true.
_KINDS: dict[str, Callable[[Tensors], bool]] = {
    "a textual inversion (embedding)": _is_embedding,
    "a ControlNet": _some("input_hint_block.", "controlnet_cond_embedding.", "control_model.", "controlnet_blocks."),
    "an IP-Adapter": _begins("ip_adapter.", "image_proj."),
    "a motion module of AnimateDiff": _some("motion_modules."),
    "a Stable Diffusion 3 model": _some("joint_blocks."),
    "a Flux model": _some("double_blocks.", "single_transformer_blocks."),
    "the refiner of SDXL": _is_refiner,
    # nine: it is told a mask
    "a model that needs another picture beside the words": lambda tensors: _channels(tensors) not in (0, 4, 9),
    "the UNet of an SDXL model in diffusers' layout": _begins("add_embedding.linear_1."),
    "an SDXL model": _some("conditioner.embedders.", ".label_emb.0.0.weight"),
    "another kind of diffusion model (a transformer)": _some(
        "transformer_blocks.0.attn.to_q", "blocks.0.attn.qkv", "blocks.0.self_attn", "layers.0.attention.qkv"
    ),
    "a VAE": lambda tensors: is_vae(tensors) or (_begins("decoder.")(tensors) and _begins("encoder.")(tensors)),
    "a text encoder": lambda tensors: _begins("text_model.", "encoder.block.", "shared.weight")(tensors),
    "the UNet of a model in diffusers' layout": lambda tensors: (
        _begins("down_blocks.", "unet.down_blocks.")(tensors) and _some("conv_in.weight")(tensors)
    ),
    "the UNet of a model alone": _begins("input_blocks."),
    "a model whose layers have other names than those known here": _begins("diffusion_model.input_blocks."),
}
