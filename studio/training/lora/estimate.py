"""What a LoRA run will take, measured: `python -m studio.training.lora.estimate SPEC.json` prints one JSON object.

Three real steps of the real model at the real size, on random latents, in a process of its own whose memory is then
the run's. Knows no data set: how many steps an epoch has is said by whoever asks.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig

from studio.core.settings import settings
from studio.core.specs import LoraSpec
from studio.engine.models.catalogue import resolve
from studio.engine.models.components import Components
from studio.engine.models.loading import load_parts
from studio.training.lora.train import TEXT_TARGETS
from studio.training.runtime import saved_activations, steps
from studio.training.runtime.batch_sizer import map_large_blocks
from studio.training.runtime.optimizers import make_optimizer

STEPS = 3


def measure(spec: LoraSpec) -> dict[str, float]:
    """Seconds per optimiser step and for loading, peak memory in bytes (of the card where there is one)."""
    started = time.monotonic()
    info = resolve(spec.model, settings(), with_hash=False)
    cuda = torch.cuda.is_available() and settings().device != "cpu"
    device = torch.device("cuda" if cuda else "cpu")
    if not cuda:
        map_large_blocks()
    _, dtype = steps.precision(spec.precision, not cuda)
    model = Components(
        info=info, family=info.family, device=device, dtype=torch.float32, **load_parts(info, torch.float32)
    )
    side = (spec.resolution or info.native_size) // model.factor
    width, length = model.text_encoder.config.hidden_size, model.tokenizer.model_max_length
    unet, text_encoder = model.unet, model.text_encoder
    del model
    trained = {"unet": (unet, info.family.lora_targets)}
    if spec.text_encoder_lr:
        trained["text_encoder"] = (text_encoder, TEXT_TARGETS)
    del text_encoder
    parameters: dict[str, torch.nn.Parameter] = {}
    for part, (module, targets) in trained.items():
        module.requires_grad_(False).to(device, dtype)
        module.add_adapter(LoraConfig(r=spec.rank, target_modules=list(targets)))
        cast_training_params([module], dtype=torch.float32)
        module.train()
        parameters |= {f"{part}.{name}": p for name, p in module.named_parameters() if p.requires_grad}
    if spec.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    else:
        saved_activations.keep_less(unet)
    optimizer = make_optimizer(spec, parameters)
    average = [p.detach().clone() for p in parameters.values()] if spec.ema else []
    loading, seconds = time.monotonic() - started, []
    for step in range(STEPS):
        began = time.monotonic()
        for _ in range(spec.accumulation):
            x = torch.randn(spec.batch_size, unet.config.in_channels, side, side, device=device, dtype=dtype)
            t = torch.randint(1000, (spec.batch_size,), device=device)
            if "text_encoder" in trained:
                tokens = torch.zeros(spec.batch_size, length, dtype=torch.long, device=device)
                text = trained["text_encoder"][0](tokens)[0].to(dtype)  # (batch, 77, dim)
            else:
                text = torch.randn(spec.batch_size, length, width, device=device, dtype=dtype)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = unet(x, t, encoder_hidden_states=text).sample.float().square().mean()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if average:
            steps.update_average(average, parameters.values(), spec.ema_decay, step)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - began)
    # Linux counts kilobytes, macOS bytes
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "seconds_per_step": min(seconds[1:]),  # the first one also sets things up
        "seconds_to_load": loading,
        "memory": float(torch.cuda.max_memory_allocated() if cuda else memory),
    }


if __name__ == "__main__":
    print(json.dumps(measure(LoraSpec.model_validate_json(Path(sys.argv[1]).read_text()))))
