"""Small *real* taggers and captioners with random weights, built from the real transformers classes and written in a
fraction of a second. A tagger's answer is set by its bias, so that it is known beforehand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    GPT2Config,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTForImageClassification,
)

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "girl", "with", "red", "hair", "who", "smiles")
SIDE = 32
_VISION: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": SIDE,
    "patch_size": 16,
}  # fmt: skip


def _write(folder: Path, name: str, data: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(data))


def _processor(folder: Path, kind: str) -> None:
    # as published repositories have it: no word of a backend
    third = [0.5, 0.5, 0.5]
    _write(folder, "preprocessor_config.json", {
        "image_processor_type": kind, "do_resize": True, "do_normalize": True, "do_rescale": True, "image_mean": third,
        "image_std": third, "resample": 2, "rescale_factor": 1 / 255, "size": {"height": SIDE, "width": SIDE},
    })  # fmt: skip


def tagger(folder: Path, labels: Sequence[str], bias: Sequence[float], problem_type: str | None) -> Path:
    """An image classifier that sees `labels` with the logits `bias` in every picture. Returns `folder`."""
    config = ViTConfig(**_VISION, id2label=dict(enumerate(labels)), problem_type=problem_type)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ViTForImageClassification(config)
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.bias.copy_(torch.tensor(bias))
    network.save_pretrained(folder)
    _processor(folder, "ViTImageProcessor")
    return folder


def blip(folder: Path) -> Path:
    """A BLIP captioner that strings `WORDS` together. Returns `folder`."""
    sizes = {name: value for name, value in _VISION.items() if name not in ("image_size", "patch_size")}
    ids = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = sizes | ids | {"vocab_size": len(WORDS), "encoder_hidden_size": 32, "projection_dim": 16}
    config = BlipConfig(text_config=text, vision_config=_VISION | {"projection_dim": 16}, projection_dim=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BlipForConditionalGeneration(config).save_pretrained(folder)
    _processor(folder, "BlipImageProcessor")
    _tokenizer(folder)
    return folder


def encoder_decoder(folder: Path) -> Path:
    """A ViT that a GPT-2 puts into words, without the pooling layer that published ones lack. Returns `folder`."""
    decoder = GPT2Config(
        vocab_size=len(WORDS), n_embd=32, n_layer=1, n_head=2, n_positions=64, bos_token_id=2, eos_token_id=3
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**_VISION), decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = VisionEncoderDecoderModel(config)
    weights = {name: tensor for name, tensor in network.state_dict().items() if ".pooler." not in name}
    network.save_pretrained(folder, state_dict=weights)
    _processor(folder, "ViTImageProcessor")
    _tokenizer(folder)
    return folder


def _tokenizer(folder: Path) -> None:
    BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)}).save_pretrained(folder)
