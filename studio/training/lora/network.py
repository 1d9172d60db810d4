"""The LoRA of a run on its model: which layers it is put on. Knows networks, no data and no loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from peft import LoraConfig
from torch import Tensor

from studio.core.specs import LoraSpec
from studio.engine.models.catalogue import ModelInfo
from studio.engine.models.components import Components
from studio.runs.requirements import TEXT_TARGETS
from studio.training.export.adapter_files import Adapter, from_parameters
from studio.training.runtime import steps


def alpha_of(spec: LoraSpec) -> float:
    """The LoRA's scale is alpha / rank."""
    return spec.alpha or spec.rank / 2


def add_lora(model: Components, spec: LoraSpec) -> dict[str, torch.nn.Module]:
    """Put the run's LoRA on the frozen UNet, and on the text encoders where they learn too; what learns, by part.

    The second matrices are zero: nothing is changed yet. The first ones are drawn from the run's seed.
    """
    targets: dict[str, tuple[str, ...]] = {"unet": model.family.lora_targets}
    if spec.text_encoder_lr:
        targets |= dict.fromkeys(model.family.text_encoders, TEXT_TARGETS)
    adapted = {part: getattr(model, part) for part in targets}
    # the last layer of the first of two encoders isn't read, so there is nothing to learn
    unread = {"text_encoder": model.text_encoder.config.num_hidden_layers - 1} if model.text_encoder_2 else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(steps.generator(spec.seed, "init").initial_seed() % 2**32)
        for part, module in adapted.items():
            module.add_adapter(
                LoraConfig(
                    r=spec.rank,
                    lora_alpha=alpha_of(spec),
                    init_lora_weights="gaussian",
                    target_modules=list(targets[part]),
                    layers_to_transform=list(range(unread[part])) if part in unread else None,
                )
            )
    return adapted


def trained_parameters(adapted: dict[str, torch.nn.Module]) -> dict[str, torch.nn.Parameter]:
    """By part and name: `unet.<name>`, `text_encoder.<name>`."""
    return {
        f"{part}.{name}": p
        for part, module in adapted.items()
        for name, p in module.named_parameters()
        if p.requires_grad
    }


def adapter_of(spec: LoraSpec, info: ModelInfo, groups: Mapping[str, Mapping[str, Tensor]]) -> Adapter:
    """The LoRA of a run or of one of its checkpoints: the weights' running mean where there is one."""
    values = groups.get("ema", groups["lora"])
    return from_parameters(values, spec.rank, alpha_of(spec), info.family.lora_targets, TEXT_TARGETS)
