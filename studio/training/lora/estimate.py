"""What a LoRA run will take, measured: `python -m studio.training.lora.estimate SPEC.json` prints one JSON object.

Three real steps of the real model at the real size, on random latents, in a process of its own whose memory is then
the run's. Knows no data set: how many steps an epoch has is said by whoever asks.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from studio.core.settings import settings
from studio.core.specs import LoraSpec
from studio.engine.diffusion.conditioning import blank
from studio.engine.diffusion.denoiser import Denoiser
from studio.engine.models.catalogue import resolve
from studio.training.lora.network import add_lora, trained_parameters
from studio.training.lora.texts import TextEncoders
from studio.training.runtime.average import MovingAverage
from studio.training.runtime.batch_sizer import map_large_blocks
from studio.training.runtime.models import load_frozen
from studio.training.runtime.optimizers import make_optimizer
from studio.training.runtime.runtime import choose_precision, move_to_device
from studio.training.runtime.saved_activations import save_fewer_activations

STEPS = 3


def measure(spec: LoraSpec) -> dict[str, float]:
    """Seconds per optimiser step and for loading, peak memory in bytes (of the card where there is one)."""
    started = time.monotonic()
    info = resolve(spec.model, settings(), with_hash=False)
    cuda = torch.cuda.is_available() and settings().device != "cpu"
    device = torch.device("cuda" if cuda else "cpu")
    if not cuda:
        map_large_blocks()
    _, dtype = choose_precision(spec.precision, not cuda)
    model = load_frozen(info, device, torch.float32)
    side = (spec.resolution or info.native_size) // model.factor
    told = blank(model.unet.config, model.tokenizer.model_max_length, spec.batch_size).to(device, dtype)
    encode = TextEncoders.of(model) if spec.text_encoder_lr else None
    trained = add_lora(model, spec)
    unet = trained["unet"]
    del model
    for module in trained.values():
        move_to_device(module, device, dtype)
        module.train()
    parameters = trained_parameters(trained)
    if spec.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    else:
        save_fewer_activations(unet)
    optimizer = make_optimizer(spec, parameters)
    average = MovingAverage(parameters, spec.ema_decay) if spec.ema else None
    loading, seconds = time.monotonic() - started, []
    for step in range(STEPS):
        began = time.monotonic()
        for _ in range(spec.accumulation):
            x = torch.randn(spec.batch_size, unet.config.in_channels, side, side, device=device, dtype=dtype)
            t = torch.randint(1000, (spec.batch_size,), device=device)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                rows = told if encode is None else replace(encode([""] * spec.batch_size).to(dtype), added=told.added)
                loss = Denoiser(unet, rows)(x, t).float().square().mean()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            average.update(step)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - began)
    return {
        "seconds_per_step": min(seconds[1:]),  # the first one also sets things up
        "seconds_to_load": loading,
        "memory": float(torch.cuda.max_memory_allocated() if cuda else _peak_resident()),
    }


def _peak_resident() -> int:
    """Bytes of main memory that this process held at most."""
    try:
        import resource
    except ImportError:  # Windows, where the system counts the peak itself
        now = psutil.Process().memory_info()
        return int(getattr(now, "peak_wset", now.rss))
    # Linux counts kilobytes, macOS bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    print(json.dumps(measure(LoraSpec.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")))))
