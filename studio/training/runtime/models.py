"""A base model for a trainer: fetched where it isn't on this machine, loaded on the CPU, frozen. Knows no training."""

from __future__ import annotations

import time

import torch

from studio.core.settings import Settings
from studio.engine.models import hub
from studio.engine.models.catalogue import ModelInfo, file_family, resolve
from studio.engine.models.components import Components
from studio.engine.models.families import accept
from studio.engine.models.loading import load_parts, load_vae
from studio.training.runtime.runtime import Runtime


def get_model(runtime: Runtime, reference: str, config: Settings) -> ModelInfo:
    """The resolved model, downloaded where it isn't on this machine, with its progress as the run's stage.

    Raises Cancelled where the run is to end meanwhile, as `Runtime.pause` does; what was downloaded is kept.
    """
    session, info, shown = runtime.session, resolve(reference, config), 0.0

    def progress(note: str) -> None:
        nonlocal shown
        runtime.pause()
        if session.main and time.monotonic() - shown > 1:
            shown = time.monotonic()
            session.run.update(stage=f"1. {note[0].upper()}{note[1:]}")

    if info.path is None:
        session.log(f"{info.reference} is not on this machine yet and is downloaded.")
        hub.get(info.reference, config, progress, accept=accept, accept_file=file_family)
        info = resolve(info.reference, config)
    return info


def load_frozen(
    info: ModelInfo,
    device: torch.device,
    dtype: torch.dtype,
    channels_last: bool = False,
    loaded: torch.dtype = torch.float32,
) -> Components:
    """All parts in fp32 on the CPU, frozen, never compiled: where each goes, and when, is the trainer's business.

    `device` and `dtype` are where and in which precision the UNet will compute. `loaded`: of all parts but the VAE, in
    place of fp32.
    """
    model = Components(info=info, family=info.family, device=device, dtype=dtype, **load_parts(info, loaded))
    if loaded != torch.float32:
        model.vae = load_vae(info, torch.float32)  # exact, and it can overflow in half precision
    for module in model.modules.values():
        module.requires_grad_(False).eval()
    if channels_last:
        model.unet.to(memory_format=torch.channels_last)
        model.vae.to(memory_format=torch.channels_last)
    return model
