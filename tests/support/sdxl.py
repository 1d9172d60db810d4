"""A small *real* SDXL with random weights, in both layouts: a diffusers folder, and one file with the original names.

Two text encoders, pooled text and sizes, linear projections, levels and blocks as in the real one, four orders of
magnitude smaller. Knows nothing of the studio's own code, so that a test compares it with something independent.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, EulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from support.checkpoints import randomise, tiny_tokenizer, unet_key, vae_layout
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

SDXL_CONFIG = Path(__file__).resolve().parents[2] / "assets" / "models" / "sdxl-config"
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
WIDTHS = (32, 24)  # of the two text encoders
TIME = 8  # of each of the six sizes' embeddings


def tiny_sdxl(
    folder: Path,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    scheduler: Mapping[str, Any] | None = None,
    unet_config: Mapping[str, Any] | None = None,
    native_size: int = 64,
    controlnet: bool = False,
    studio: Mapping[str, Any] | None = None,
) -> Path:
    """Write a whole SDXL with random weights (about 1 MB) into `folder` and return it.

    `scheduler` and `unet_config`: entries of their configurations over the usual ones. `studio`: entries of
    `studio.json`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        vae = AutoencoderKL(
            block_out_channels=(8,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            sample_size=native_size,
            scaling_factor=0.13025,
            force_upcast=True,
        )
        unet = UNet2DConditionModel(
            **{
                "sample_size": native_size // 8,
                "block_out_channels": (8, 16, 16),
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                "layers_per_block": 2,
                "transformer_layers_per_block": (1, 1, 2),
                "attention_head_dim": (1, 2, 2),
                "cross_attention_dim": sum(WIDTHS),
                "use_linear_projection": True,
                "norm_num_groups": 4,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": TIME,
                "projection_class_embeddings_input_dim": WIDTHS[1] + 6 * TIME,
            }
            | dict(unet_config or {})
        )
        tokenizer = tiny_tokenizer()
        configs = [
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=layers,
                num_attention_heads=4,
                max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                projection_dim=width,
                hidden_act=act,
            )
            for width, layers, act in zip(WIDTHS, (3, 4), ("quick_gelu", "gelu"), strict=True)
        ]
        texts = {
            "text_encoder": CLIPTextModel(configs[0]),
            "text_encoder_2": CLIPTextModelWithProjection(configs[1]),
        }
        for name, module in ({"vae": vae, "unet": unet} | texts).items():
            randomise(module, generator)
            (module if dtype == torch.float32 else module.to(dtype)).save_pretrained(
                folder / name, safe_serialization=True
            )
        tokenizer.save_pretrained(folder / "tokenizer")
        tokenizer.pad_token = "!"
        tokenizer.save_pretrained(folder / "tokenizer_2")
        EulerDiscreteScheduler(
            **{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
               "timestep_spacing": "leading"} | dict(scheduler or {})
        ).save_pretrained(folder / "scheduler")  # fmt: skip
        if controlnet:
            net = ControlNetModel.from_unet(unet.float(), conditioning_embedding_out_channels=(4, 4, 4, 8))
            randomise(net, generator)
            (net if dtype == torch.float32 else net.to(dtype)).save_pretrained(
                folder / "controlnet", safe_serialization=True
            )
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "vae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "image_encoder": [None, None],
        "feature_extractor": [None, None],
    }
    facts = {"title": "Tiny random SDXL", "steps": 4, "guidance": 3.0, "sampler": "euler_a"} | dict(studio or {})
    if controlnet:
        facts["controlnet"] = {"lines": "controlnet", "canny": "controlnet"}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "studio.json").write_text(json.dumps(facts))
    return folder


_RESBLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_OPENCLIP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}


def open_clip(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a `CLIPTextModelWithProjection` with OpenCLIP's names, whose attention has one input layer."""
    found = {theirs: weights[ours] for ours, theirs in _OPENCLIP.items()}
    found["text_projection"] = weights["text_projection.weight"].T
    found["logit_scale"] = torch.tensor(4.6)
    layers = "text_model.encoder.layers."
    count = 1 + max(int(key[len(layers) :].split(".")[0]) for key in weights if key.startswith(layers))
    for layer in range(count):
        own, block = f"{layers}{layer}.", f"transformer.resblocks.{layer}."
        for ours, theirs in _RESBLOCK.items():
            for kind in ("weight", "bias"):
                found[f"{block}{theirs}.{kind}"] = weights[f"{own}{ours}.{kind}"]
        for kind in ("weight", "bias"):
            parts = [weights[f"{own}self_attn.{name}_proj.{kind}"] for name in "qkv"]
            found[f"{block}attn.in_proj_{kind}"] = torch.cat(parts)
    return found


def to_sdxl_file(folder: Path, path: Path, extra: Mapping[str, torch.Tensor] | None = None) -> Path:
    """Write the diffusers folder `folder` as one file in SDXL's original layout; returns `path`."""
    parts = {
        name: load_file(folder / name / f"{'model' if 'text' in name else 'diffusion_pytorch_model'}.safetensors")
        for name in PARTS
    }
    configs = {name: json.loads((folder / name / "config.json").read_text()) for name in ("unet", "vae")}
    weights = original_layout(parts, configs) | dict(extra or {})
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
    return path


def original_layout(
    parts: Mapping[str, Mapping[str, torch.Tensor]], configs: Mapping[str, Mapping[str, Any]]
) -> dict[str, torch.Tensor]:
    """The tensors of `PARTS` with the names and shapes of SDXL's original layout; `configs`: of UNet and VAE."""
    layers = configs["unet"]["layers_per_block"]
    attending = ["Attn" in kind for kind in configs["unet"]["up_block_types"]]
    weights: dict[str, torch.Tensor] = {}
    for key, value in parts["unet"].items():
        name = key.replace("add_embedding.linear_1", "label_emb.0.0").replace("add_embedding.linear_2", "label_emb.0.2")
        name = name if name.startswith("label_emb") else unet_key(key, layers, attending)
        weights["model.diffusion_model." + name] = value
    weights |= vae_layout(parts["vae"], configs["vae"])
    for key, value in parts["text_encoder"].items():
        name = key if key.startswith("text_model.") else "text_model." + key
        weights["conditioner.embedders.0.transformer." + name] = value
    second = open_clip(parts["text_encoder_2"])
    return weights | {"conditioner.embedders.1.model." + key: value for key, value in second.items()}


def full_sdxl_file(path: Path, seed: int = 0) -> Path:
    """Write SDXL in its real size with random weights as one fp16 file in the original layout (6.9 GB).

    Tensor by tensor, so that it takes no memory. The values are a repeated block of random ones, scaled to each layer's
    fan-in, as in `full_sd15`.
    """
    unet_config, vae_config = (json.loads((SDXL_CONFIG / name / "config.json").read_text()) for name in ("unet", "vae"))
    text_configs = [CLIPTextConfig.from_pretrained(SDXL_CONFIG / name) for name in ("text_encoder", "text_encoder_2")]
    with torch.device("meta"):
        modules = (
            UNet2DConditionModel.from_config(unet_config),
            AutoencoderKL.from_config(vae_config),
            CLIPTextModel(text_configs[0]),
            CLIPTextModelWithProjection(text_configs[1]),
        )
        parts = {name: dict(module.named_parameters()) for name, module in zip(PARTS, modules, strict=True)}
        with torch.no_grad():
            weights = original_layout(parts, {"unet": unet_config, "vae": vae_config})
    header, offset = {}, 0
    for key, value in weights.items():
        end = offset + 2 * value.numel()
        header[key] = {"dtype": "F16", "shape": list(value.shape), "data_offsets": [offset, end]}
        offset = end
    block = np.random.default_rng(seed).uniform(-1, 1, 2**20).astype(np.float32)
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    with path.open("wb") as file:
        file.write(len(said).to_bytes(8, "little") + said)
        for key, value in weights.items():
            if value.ndim < 2:
                fill = 1.0 if key.endswith("weight") else 0.0
                file.write(np.full(value.numel(), fill, np.float16).tobytes())
                continue
            scaled = (block * (3 / value[0].numel()) ** 0.5).astype(np.float16).tobytes()
            for left in range(2 * value.numel(), 0, -len(scaled)):
                file.write(scaled[:left])
    return path


def ship(folder: Path, assets: Path) -> Path:
    """Put the configurations of the small model where those of the real one ship: below `assets`, which is returned."""
    ignore = shutil.ignore_patterns("*.safetensors", "tokenizer*")
    shutil.copytree(folder, assets / "models" / "sdxl-config", ignore=ignore)
    shutil.copytree(folder / "tokenizer", assets / "models" / "sd15-config" / "tokenizer")
    return assets


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `sdxl` in the `models` of a home folder, for tests that only read it."""
    return tiny_sdxl(tmp_path_factory.mktemp("sdxl") / "models" / "sdxl", controlnet=True)
