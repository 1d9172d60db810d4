"""What a verb says of the words that a LoRA brings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from support.verbs import Done


def test_trigger_words_are_known_words(run: Callable[..., Done], tmp_path: Path, model: str) -> None:
    [weights] = Path(model, "unet").glob("*.safetensors")
    out, into, *kernel = load_file(weights)["conv_in.weight"].shape
    halves = {"lora_down": torch.zeros(1, into, *kernel), "lora_up": torch.zeros(out, 1, 1, 1)}
    save_file(
        {f"lora_unet_conv_in.{name}.weight": half for name, half in halves.items()}, tmp_path / "coat.safetensors",
        metadata={"modelspec.trigger_phrase": "qwendolin coat"},
    )  # fmt: skip
    asked = ["generate", "--text", "qwendolin coat", "--seed", 5, "--steps", 1, "--json"]
    assert run(*asked).json["unknown_words"]
    with_lora = run(*asked, "--lora", tmp_path / "coat.safetensors")
    assert with_lora.code == 0, with_lora.err
    assert with_lora.json["unknown_words"] == []
    assert "little" not in with_lora.err
