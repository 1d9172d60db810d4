"""Small *real* checkpoints with random weights, built from the real diffusers and transformers classes.

`tiny_sd` has the shape of the model that ships with the studio (16x downsampling, 16 latent channels, pooled text in
the time embedding, v-prediction, whole-tag tokens), two orders of magnitude smaller, and is written in well under a
second. `full_sd15` has Stable Diffusion 1.5's exact size. `to_single_file` writes a diffusers folder in the original
LDM layout. Knows nothing of the studio's own code, so that a test compares it with something independent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import AddedToken, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SD15_CONFIG = Path(__file__).resolve().parents[2] / "assets" / "models" / "sd15-config"
SD15_UNET_PARAMETERS = 859_520_964
WORDS = [
    "a",
    "anime",
    "angry",
    "blue",
    "calm",
    "casual",
    "cat",
    "character",
    "detailed",
    "dress",
    "eyes",
    "face",
    "formal",
    "girl",
    "boy",
    "hair",
    "happy",
    "of",
    "photo",
    "red",
    "sad",
    "short",
    "long",
    "smile",
    "style",
    "surprised",
    "the",
    "with",
]
TAGS = ("red hair", "blue eyes", "casual style", "detailed face", "1girl", "1boy")


def tiny_tokenizer(positions: int = 77) -> CLIPTokenizer:
    """A byte-level CLIP tokenizer that knows a few words and, as added tokens, a few whole tags."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(byte) for byte in printable] + [chr(256 + k) for k in range(256 - len(printable))]
    vocabulary = symbols + [symbol + "</w>" for symbol in symbols]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        left = word[0]
        for index, letter in enumerate(word[1:], 1):
            right = letter + "</w>" if index == len(word) - 1 else letter
            if left + right not in vocabulary:
                vocabulary.append(left + right)
                merges.append((left, right))
            left += right
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)}, merges=merges, model_max_length=positions
    )
    tokenizer.add_tokens([AddedToken(tag, single_word=True, normalized=True) for tag in TAGS])
    return tokenizer


def randomise(module: torch.nn.Module, generator: torch.Generator) -> None:
    # Layers that start at zero would make a picture independent of what they do, and a test of them blind.
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))


def tiny_sd(
    folder: Path,
    prediction_type: str = "v_prediction",
    controlnet: bool = False,
    addition_embed_type: str | None = "text",
    *,
    factor: int = 16,
    latent_channels: int = 16,
    cross_attention_dim: int = 32,
    native_size: int = 64,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    studio: dict[str, object] | None = None,
) -> Path:
    """Write a complete diffusers checkpoint with random weights (about 1 MB) into `folder` and return it.

    `controlnet`: also write `controlnet/`, a ControlNet of the same shape with non-zero outputs. `factor`: pixels per
    latent, a power of two. `studio`: entries of `studio.json` over the default ones; the file is always written.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        levels = factor.bit_length()
        vae = AutoencoderKL(
            block_out_channels=(8,) * levels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            latent_channels=latent_channels,
            layers_per_block=1,
            norm_num_groups=2,
            sample_size=native_size,
            scaling_factor=0.5,
            mid_block_add_attention=False,
        )
        unet = UNet2DConditionModel(
            sample_size=native_size // factor,
            in_channels=latent_channels,
            out_channels=latent_channels,
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=cross_attention_dim,
            attention_head_dim=(2, 4),
            norm_num_groups=8,
            addition_embed_type=addition_embed_type,
            addition_embed_type_num_heads=4,
            resnet_time_scale_shift="scale_shift" if addition_embed_type else "default",
        )
        tokenizer = tiny_tokenizer()
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=cross_attention_dim,
                intermediate_size=2 * cross_attention_dim,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                projection_dim=cross_attention_dim,
                hidden_act="gelu",
            )
        )
        for module in (vae, unet, text_encoder):
            randomise(module, generator)
        for name, module in (("vae", vae), ("unet", unet), ("text_encoder", text_encoder)):
            module.to(dtype).save_pretrained(folder / name, safe_serialization=True)
        tokenizer.save_pretrained(folder / "tokenizer")
        DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type=prediction_type,
            clip_sample=False,
            set_alpha_to_one=False,
        ).save_pretrained(folder / "scheduler")
        if controlnet:
            net = ControlNetModel.from_unet(
                unet.float(), conditioning_embedding_out_channels=(4,) * (factor.bit_length() - 1) + (8,)
            )
            if addition_embed_type:  # `from_unet` leaves the number of heads at the class's default
                weights = net.state_dict()
                plain = {key: value for key, value in net.config.items() if not key.startswith("_")}
                net = ControlNetModel.from_config(plain | {"addition_embed_type_num_heads": 4})
                net.load_state_dict(weights)
            randomise(net, generator)
            net.to(dtype).save_pretrained(folder / "controlnet", safe_serialization=True)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "vae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    facts: dict[str, object] = {
        "title": "Tiny random model",
        "family": "sd15",
        "native_size": native_size,
        "steps": 4,
        "guidance": 3.0,
        "sampler": "dpmpp_2m",
        "license": "CC0-1.0",
    }
    if controlnet:
        facts["controlnet"] = {"lines": "controlnet", "canny": "controlnet"}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "studio.json").write_text(json.dumps(facts | (studio or {})))
    return folder


def full_sd15(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Write a full-size Stable Diffusion 1.5 with random weights (4.3 GB in fp32) as a diffusers folder.

    The normal initialisation of a thousand million numbers takes a minute; a repeated block of random ones, scaled to
    each layer's fan-in, takes seconds and is as good for everything but the picture.
    """
    block = torch.empty(2**20).uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))
    builders = {
        "unet": lambda: UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(SD15_CONFIG / "unet")),
        "vae": lambda: AutoencoderKL.from_config(AutoencoderKL.load_config(SD15_CONFIG / "vae")),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig.from_pretrained(SD15_CONFIG / "text_encoder")),
    }
    for name, build in builders.items():
        with torch.device("meta"):
            module = build()
        if name == "unet":
            assert sum(parameter.numel() for parameter in module.parameters()) == SD15_UNET_PARAMETERS
        module.to_empty(device="cpu")
        with torch.no_grad():
            for parameter_name, parameter in module.named_parameters():
                if parameter.ndim == 1:
                    parameter.fill_(1.0 if parameter_name.endswith("weight") else 0.0)
                    continue
                fan_in = parameter[0].numel()
                values = block.repeat(-(-parameter.numel() // block.numel()))[: parameter.numel()]
                parameter.copy_(values.view_as(parameter) * (3 / fan_in) ** 0.5)
            for buffer_name, buffer in module.named_buffers():
                if buffer_name.endswith("position_ids"):
                    buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
        module.to(dtype).save_pretrained(folder / name, safe_serialization=True)
        del module
    CLIPTokenizer.from_pretrained(SD15_CONFIG / "tokenizer").save_pretrained(folder / "tokenizer")
    PNDMScheduler.from_config(PNDMScheduler.load_config(SD15_CONFIG / "scheduler")).save_pretrained(
        folder / "scheduler"
    )
    (folder / "model_index.json").write_bytes((SD15_CONFIG / "model_index.json").read_bytes())
    return folder


# --- the original layout ------------------------------------------------------------------------------------------
# Written from the structure of the latent-diffusion UNet and autoencoder themselves (Rombach et al., 2112.10752):
# numbered input and output blocks, one number per residual block or resampling layer.

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_FIXED = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}


def unet_key(key: str, layers: int, attending: Sequence[bool]) -> str:
    """The original layout's name of a UNet's tensor; `attending`: whether each of the upward levels has attention."""
    for ours, theirs in _UNET_FIXED.items():
        if key.startswith(ours + "."):
            rest = key[len(ours) + 1 :]
            head, _, tail = rest.partition(".")
            return f"{theirs}.{_RESNET[head]}.{tail}" if ".resnets." in ours else f"{theirs}.{rest}"
    side, level_text, kind, index_text, rest = key.split(".", 4)
    level, index = int(level_text), int(index_text)
    if side == "down_blocks":
        number = 1 + level * (layers + 1) + index
        if kind == "downsamplers":
            return f"input_blocks.{1 + level * (layers + 1) + layers}.0.op.{rest.removeprefix('conv.')}"
        block, place = f"input_blocks.{number}", int(kind == "attentions")
    else:
        number = level * (layers + 1) + index
        if kind == "upsamplers":
            # a residual block, an attention where the level has one, then the upsampling
            return f"output_blocks.{level * (layers + 1) + layers}.{2 if attending[level] else 1}.{rest}"
        block, place = f"output_blocks.{number}", int(kind == "attentions")
    if kind == "resnets":
        head, _, tail = rest.partition(".")
        rest = f"{_RESNET[head]}.{tail}"
    return f"{block}.{place}.{rest}"


def _vae_key(key: str, blocks: int) -> str:
    key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    key = key.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    if "mid_block.attentions.0" in key:
        key = key.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
        for ours, theirs in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
            key = key.replace(f".{ours}.", f".{theirs}.")
    parts = key.split(".")
    if len(parts) > 2 and parts[1] in ("down_blocks", "up_blocks"):
        up = parts[1] == "up_blocks"
        level = blocks - 1 - int(parts[2]) if up else int(parts[2])
        head = f"{parts[0]}.{'up' if up else 'down'}.{level}"
        if parts[3] == "resnets":
            return ".".join([head, "block", *parts[4:]])
        return ".".join([head, "upsample" if up else "downsample", *parts[5:]])
    return key


def to_single_file(folder: Path, path: Path) -> Path:
    """Write the diffusers folder `folder` as one file in the original Stable Diffusion 1.x layout; returns `path`."""
    weights: dict[str, torch.Tensor] = {}
    unet_config = json.loads((folder / "unet" / "config.json").read_text())
    layers, attending = unet_config["layers_per_block"], ["Attn" in kind for kind in unet_config["up_block_types"]]
    for key, value in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").items():
        weights["model.diffusion_model." + unet_key(key, layers, attending)] = value
    weights |= vae_weights(folder)
    for key, value in load_file(folder / "text_encoder" / "model.safetensors").items():
        name = key if key.startswith("text_model.") else "text_model." + key
        weights["cond_stage_model.transformer." + name] = value
    positions = weights["cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"].shape[0]
    weights["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(positions)[None]
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    weights["alphas_cumprod"] = torch.cumprod(1 - betas, 0).float()
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
    return path


def vae_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The VAE of a diffusers folder with the names that single files have."""
    config = json.loads((folder / "vae" / "config.json").read_text())
    return vae_layout(load_file(folder / "vae" / "diffusion_pytorch_model.safetensors"), config)


def vae_layout(weights: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """A VAE's tensors with the names and shapes that single files have."""
    found: dict[str, torch.Tensor] = {}
    for key, value in weights.items():
        name = _vae_key(key, len(config["block_out_channels"]))
        if ".attn_1." in name and name.endswith("weight") and value.ndim == 2:
            value = value[:, :, None, None]  # the original has 1x1 convolutions there
        found["first_stage_model." + name] = value
    return found
