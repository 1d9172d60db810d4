"""How much memory a distillation takes, from the real sizes of its weights and activations, before it is started.

`python -m studio.training.distill.memory SPEC.json` prints one JSON object: `memory` and `free` in bytes, `latents` and
`steps` in seconds (see `duration`).

The networks are built without weights and run once on PyTorch's "meta" device, which computes shapes only; what
autograd would keep for the backward pass is counted there. Knows no data and no device.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from studio.core.settings import settings
from studio.core.specs import LcmSpec
from studio.engine.diffusion.conditioning import blank
from studio.engine.memory import free, resident
from studio.engine.models.catalogue import resolve
from studio.engine.models.components import Components
from studio.engine.models.loading import load_parts
from studio.runs.requirements import ADAM, RUNTIME
from studio.training.distill import dmd
from studio.training.distill.duration import duration, seconds_per_call
from studio.training.distill.student import FullStudent, LoraStudent
from studio.training.runtime.runtime import Runtime


@dataclass(frozen=True)
class Estimate:
    """Bytes. `trained`: trainable numbers, their gradients, Adam's state and their running mean."""

    weights: int
    trained: int
    activations: int
    parameters: int  # how many numbers are trained; not bytes

    @property
    def total(self) -> int:
        return RUNTIME + self.weights + self.trained + self.activations


def estimate(
    spec: LcmSpec, unet_config: dict[str, Any], side: int, tokens: int, targets: tuple[str, ...], others: int,
    dtype: torch.dtype = torch.float32,
) -> Estimate:  # fmt: skip
    """Of a run of `spec` on a UNet with this configuration.

    `side` is the latents' (512 px of SD 1.5: 64), `tokens` the length of a prompt, `others` the bytes of text encoder
    and VAE. Frozen weights and activations are in `dtype`, what is trained in fp32.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(unet_config)
        base = sum(p.numel() for p in unet.parameters())
        critic = dmd.make_critic(unet, targets, spec.rank) if spec.objective == "dmd" else None
        student = LoraStudent(unet, targets, spec.rank) if spec.form == "lora" else FullStudent(unet)
        z = torch.empty(spec.batch_size, unet.config.in_channels, side, side)
        text = blank(unet.config, tokens, spec.batch_size)
        t = torch.zeros(spec.batch_size, dtype=torch.long)
        kept: dict[int, int] = {}
        weights = {p.untyped_storage()._cdata for p in student.unet.parameters()}

        def count(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                kept[storage._cdata] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            output = student.student(z, t, text, torch.zeros(spec.batch_size))
    parameters = sum(p.numel() for p in student.trainable.values())
    follows = sum(p.numel() for p in critic.trainable.values()) if critic is not None else 0
    del output
    return Estimate(
        weights=dtype.itemsize * base + others,
        trained=4 * (parameters + follows) * (1 + 1 + ADAM + 1),
        activations=sum(kept.values()) * dtype.itemsize // 4,
        parameters=parameters,
    )


def check(runtime: Runtime, spec: LcmSpec, components: Components) -> None:
    """Before anything long: what the run will take, in its log, and as a note where that is more than available is.

    Raises OutOfMemory where even single pictures are too many for the card.
    """
    session, parts = runtime.session, (components.vae, *components.text_encoders)
    others = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
    side, tokens = components.info.native_size // components.factor, components.tokenizer.model_max_length
    config, targets = dict(components.unet.config), components.family.lcm_lora_targets
    one = spec.model_copy(update={"batch_size": 1})
    least = estimate(one, config, side, tokens, targets, others, runtime.dtype).total - RUNTIME
    runtime.check_memory(least, "make a LoRA and not a whole model, or take a smaller one")
    needed = estimate(spec, config, side, tokens, targets, others, runtime.dtype).total
    available = free(runtime.device) + (resident() if runtime.on_cpu else 0)
    session.log(f"About {needed / 1e9:.1f} GB of memory; {available / 1e9:.1f} GB are there")
    if runtime.on_cpu and needed > available:
        session.log(
            f"This run needs about {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are free: it may be "
            "ended by the system. Choose fewer pictures per step, or turn on gradient checkpointing.", note=True,
        )  # fmt: skip


def measure(spec: LcmSpec) -> dict[str, float]:
    """Bytes that a run of `spec` takes, bytes that are free where it would run, and seconds."""
    info, cuda = resolve(spec.model, settings(), with_hash=False), torch.cuda.is_available()
    device = torch.device("cuda" if cuda and settings().device != "cpu" else "cpu")
    available = free(device)
    parts = load_parts(info, torch.float32)
    vae = parts["vae"]
    beside = (vae, *(parts[name] for name in info.family.text_encoders))
    others = sum(p.numel() * p.element_size() for part in beside for p in part.parameters())
    tokens = parts["tokenizer"].model_max_length
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    needed = estimate(
        spec, dict(parts["unet"].config), info.native_size // factor, tokens, info.family.lcm_lora_targets, others
    )
    unet = parts["unet"].to(device, torch.float32 if device.type == "cpu" else torch.float16)
    time = duration(spec, info.steps, info.guidance, seconds_per_call(unet, info.native_size // factor, tokens))
    return {"memory": float(needed.total), "free": float(available), "latents": time.latents, "steps": time.steps}


if __name__ == "__main__":
    print(json.dumps(measure(LcmSpec.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")))))
