"""What the names of tensors in a LoRA file say about them. Loads no torch, knows no model."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

# The halves of a low-rank pair: kohya, PEFT, and diffusers from its first form to its last.
PAIRS = {
    ".lora_down.weight": ".lora_up.weight",
    ".lora_A.weight": ".lora_B.weight",
    ".lora.down.weight": ".lora.up.weight",
    "_lora.down.weight": "_lora.up.weight",
    ".lora_linear_layer.down.weight": ".lora_linear_layer.up.weight",
}
KRON = ("lokr_w1", "lokr_w2")  # the two sides of LoKr's product, each whole or as a pair of its own
_ENDINGS = re.compile(
    r"[._](hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)|lora_mid|lora_magnitude_vector|dora_scale|w_norm|b_norm"
    r"|diff_b|diff|alpha)(?:(?<=lora_mid)\.weight|(?<=vector)\.weight)?$"
)


def split_key(key: str) -> tuple[str, str] | None:
    """A tensor's name as the layer's name and its ending in this module's terms; None for endings unknown here."""
    key = re.sub(r"\.default(?=\.weight$|$)", "", key)  # PEFT's name of the only adapter
    for down, up in PAIRS.items():
        for ending, half in ((down, "down"), (up, "up")):
            if key.endswith(ending):
                return key.removesuffix(ending), half
    match = _ENDINGS.search(key)
    if match is None:
        return None
    return key[: match.start()], match[1]


def complete(endings: Collection[str]) -> bool:
    """Whether a layer has all factors of its adapter."""
    if "down" in endings or "up" in endings:
        return "down" in endings and "up" in endings
    if any(ending.startswith("hada_") for ending in endings):
        return {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"} <= set(endings)
    if any(ending.startswith("lokr_") for ending in endings):
        return all({name} <= set(endings) or {f"{name}_a", f"{name}_b"} <= set(endings) for name in KRON)
    return not {"w_norm", "b_norm", "diff", "diff_b"}.isdisjoint(endings)


def unused(keys: Iterable[str]) -> list[str]:
    """The tensors that nobody here knows how to apply."""
    return [key for key in keys if split_key(key) is None]
