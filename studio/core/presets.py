"""Settings that suit a model and a machine, for whoever starts a run: the page, the command line, benchmarks.

Data only: each entry is some fields of a `LoraSpec`, or of an `LcmSpec`.
"""

from __future__ import annotations

from typing import Any

EMBEDDED = "Laptop, embedded model"
LORA: dict[str, dict[str, Any]] = {
    EMBEDDED: {
        "model": "embedded", "rank": 32, "learning_rate": 5e-4, "batch_size": 4, "accumulation": 1,
        "gradient_checkpointing": False, "epochs": 20, "text_encoder_lr": 0.0, "resolution": None,
    },
    "T4, character": {
        "model": "stable-diffusion-v1-5/stable-diffusion-v1-5", "rank": 32, "learning_rate": 2e-4, "batch_size": 2,
        "accumulation": 1, "gradient_checkpointing": True, "epochs": 20, "text_encoder_lr": 5e-5, "resolution": 512,
    },
    "T4, style": {
        "model": "stable-diffusion-v1-5/stable-diffusion-v1-5", "rank": 32, "learning_rate": 2e-4, "batch_size": 4,
        "accumulation": 1, "gradient_checkpointing": True, "epochs": 20, "text_encoder_lr": 0.0, "resolution": 512,
    },
    "12 GB card, SDXL": {
        "model": "OnomaAIResearch/Illustrious-XL-v1.0", "rank": 32, "learning_rate": 1e-4, "batch_size": 2,
        "accumulation": 1, "gradient_checkpointing": True, "epochs": 20, "text_encoder_lr": 0.0, "resolution": None,
    },
}  # fmt: skip


def lora_defaults(model: str) -> dict[str, Any]:
    """What a LoRA run on `model` begins with where nothing else is said: the spec's defaults but for the embedded one.

    (On other models a preset depends on the machine and the aim, which nobody said.)
    """
    return LORA[EMBEDDED] if model == "embedded" else {"model": model}


# From nothing to better than DPM++ 2M at as few steps in one and a half hours of two busy cores (docs/distillation.md)
_DISTILL_EMBEDDED: dict[str, Any] = {
    "objective": "dmd", "epochs": 20, "steps_per_epoch": 100, "batch_size": 8, "learning_rate": 2e-4,
    "ema_decay": 0.99, "exact_target_share": 0.15, "dmd_share": 0.06,
}  # fmt: skip


UNSPARING = "large card"
# With a model of Stable Diffusion's size it is the teacher's own pictures that take long: the 2,000 that a large card
# draws first would take a T4 two hours. What a machine really takes is measured (`training.distill.duration`).
_DISTILL_MACHINE: dict[str, dict[str, Any]] = {
    "processor": {"latents": 64, "epochs": 5, "steps_per_epoch": 40, "batch_size": 1, "gradient_checkpointing": False},
    "small card": {"latents": 500, "batch_size": 4, "gradient_checkpointing": True},
    UNSPARING: {},
}


def distill_defaults(model: str, form: str = "lora", machine: str = UNSPARING) -> dict[str, Any]:
    """What a distillation of `model` into a LoRA, or into a whole model ("full"), begins with.

    `machine`: "processor", "small card" (below 20 GB, or older than RTX 30) or "large card", on which nothing
    has to be spared, nor with a small model on any.
    """
    if model != "embedded":
        return {"model": model, **_DISTILL_MACHINE[machine]}
    return {"model": model, **(_DISTILL_EMBEDDED if form == "lora" else {})}
