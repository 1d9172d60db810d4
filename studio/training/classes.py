"""What is chosen for cards of each size: `python -m studio.training.classes` prints the tables as JSON.

Nothing is measured: the code that decides on a machine is asked about cards that aren't there, with models of each
family built on PyTorch's "meta" device, which has shapes and no numbers. Knows no run and no data.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from studio.core.errors import OutOfMemory
from studio.core.settings import ASSETS, Settings
from studio.core.specs import LoraSpec
from studio.engine import devices, memory, optimizations
from studio.engine.devices import Card
from studio.engine.diffusion.conditioning import blank
from studio.engine.diffusion.control import Control
from studio.engine.diffusion.denoiser import Denoiser
from studio.engine.models.catalogue import ModelInfo
from studio.engine.models.components import Components
from studio.engine.models.families import FAMILIES, SD15, SDXL, Family
from studio.engine.models.loading import load_tokenizer, quiet
from studio.engine.optimizations import Machine
from studio.training.distill.student import FullStudent, LoraStudent
from studio.training.lora.network import add_lora
from studio.training.runtime.runtime import training_bytes
from studio.training.runtime.saved_activations import save_fewer_activations

SIZES = (4, 6, 8, 12, 16, 24)  # GB, as cards are sold
TAKEN = 800_000_000  # bytes of a card that a desktop and CUDA itself hold before the studio starts
BATCHES = (8, 4, 2, 1)
KINDS = (
    ("GTX 900", "NVIDIA GeForce GTX 980", (5, 2), 4),
    ("GTX 10", "NVIDIA GeForce GTX 1080", (6, 1), 8),
    ("GTX 16", "NVIDIA GeForce GTX 1650", (7, 5), 4),
    ("GTX 16", "NVIDIA GeForce GTX 1660", (7, 5), 6),
    ("RTX 20, T4", "Tesla T4", (7, 5), 16),
    ("RTX 30, 40, A100, L4", "NVIDIA GeForce RTX 3060", (8, 6), 12),
    ("RTX 50", "NVIDIA GeForce RTX 5070", (12, 0), 12),
)  # name, card, compute capability, GB


@lru_cache
def to_draw(name: str) -> tuple[Components, int]:
    """A model of the family of this name in half precision, and the numbers of a ControlNet of it."""
    whole = networks(FAMILIES[name], torch.float16, control=True)
    return replace(whole, controls={}), numbers([*whole.controls.values()])


def networks(family: Family, dtype: torch.dtype, control: bool = False) -> Components:
    """A model of this family without numbers, on a card that isn't there."""
    config = ASSETS / "models" / family.single_file_config
    info = ModelInfo(family.name, family.title, family, "hub", None, native_size=family.default_size)
    classes = (CLIPTextModel, CLIPTextModelWithProjection)
    with quiet(), torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(config / "unet")).to(dtype)
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(config / "vae")).to(dtype)
        texts = {
            name: cls(CLIPTextConfig.from_pretrained(config / name)).to(dtype)
            for name, cls in zip(family.text_encoders, classes, strict=False)
        }
        controls = {"lines": ControlNetModel.from_unet(unet, load_weights_from_unet=False)} if control else {}
    for part in (unet, vae, *texts.values()):
        part.requires_grad_(False)
    tokenizer = load_tokenizer(ASSETS / "models" / SD15.single_file_config / "tokenizer")
    return Components(
        info=info, family=family, unet=unet, vae=vae, scheduler_config={}, tokenizer=tokenizer,
        device=torch.device("cuda"), dtype=dtype, controls=controls, **texts,
    )  # fmt: skip


def numbers(modules: list[nn.Module]) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def drawing(gigabytes: int, family: Family = SD15) -> dict[str, str]:
    """Precision, offload, pictures at once and tiles on a card of this size, that has half precision."""
    total = gigabytes * 2**30
    there = Machine("cuda", total - TAKEN, total, "a card", (8, 6))
    whole, control = to_draw(family.name)
    weights, unet = numbers([whole.unet, whole.vae, *whole.text_encoders]), numbers([whole.unet])
    control = 0 if family.sizes else control  # one of SDXL is as large as three of SD 1.5, and rarer
    plan = optimizations.plan(Settings(device="cuda"), 4 * weights, 4 * control, on=there, unet_bytes=4 * unet)
    # then the weights wait in main memory
    whole = replace(whole, offload_hook=True if plan.offload else None, streamed=plan.streamed)
    left = there.free - (0 if plan.offload else plan.dtype.itemsize * (weights + control))

    def at_once(width: int, height: int) -> int:
        try:
            return memory.batch_size(whole, width, height, guided=True, wanted=memory.MAX_BATCH, left=left)
        except OutOfMemory:
            return 0

    first = family.sizes[0] if family.sizes else (family.default_size,) * 2
    sides = [side for side in (512, 768, 1024, 1536, 2048) if at_once(side, side)]
    tiled = [side for side in sides if memory.needs_tiles(whole, side, side, left=left)]
    return {
        "card": f"{gigabytes} GB",
        "precision": str(plan.dtype).removeprefix("torch."),
        "offload": "block by block" if plan.streamed else "yes" if plan.offload else "no",
        f"{_size(*first)} at once": str(at_once(*first)),
        "largest": f"{sides[-1]} px" if sides else "none",
        "tiles from": f"{tiled[0]} px" if tiled else "never",
    }


def _size(width: int, height: int) -> str:
    return f"{width} px" if width == height else f"{width} x {height}"


def kept(run: Callable[[], Any], blocks: list[nn.Module], weights: list[nn.Module]) -> tuple[int, int]:
    """Numbers that autograd keeps for the backward pass of `run`, in all and of the `block` that keeps most."""
    by_storage: dict[int, int] = {}
    own = {p.untyped_storage()._cdata for module in weights for p in module.parameters()}
    before, worst = [0], [0]

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            by_storage[storage._cdata] = storage.nbytes() // 4  # all of it is in 32 bits here
        return tensor

    def enter(*_: Any) -> None:
        before[0] = sum(by_storage.values())

    def leave(*_: Any) -> None:
        worst[0] = max(worst[0], sum(by_storage.values()) - before[0])

    handles = [block.register_forward_pre_hook(enter) for block in blocks]
    handles += [block.register_forward_hook(leave) for block in blocks]
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        output = run()
    del output
    for handle in handles:
        handle.remove()
    return sum(by_storage.values()), worst[0]


def trainings(family: Family = SD15) -> dict[str, tuple[int, int, int]]:
    """Of each kind of training of a family at its size: bytes without activations, bytes of those of one picture, and
    the latter with gradient checkpointing."""
    half = torch.float16
    by_kind: dict[str, tuple[int, int, int]] = {}
    side = family.default_size
    x, t = torch.empty(1, 4, side // 8, side // 8, device="meta"), torch.zeros(1, dtype=torch.long, device="meta")

    def add(name: str, module: nn.Module, run: Callable[[], Any], fixed: int) -> None:
        blocks = [*module.down_blocks, module.mid_block, *getattr(module, "up_blocks", ())]
        whole, largest = kept(run, blocks, [module])
        # between two blocks only what leads from one to the next and across is kept; one of them is made again at a
        # time
        checkpointed = largest + memory.step_bytes(parts, side, side, guided=False) // parts.unet.dtype.itemsize
        by_kind[name] = (fixed, 2 * whole, 2 * min(whole, checkpointed))

    parts = networks(family, torch.float32)
    text = blank(parts.unet.config, 77).to("meta")
    with quiet(), torch.device("meta"):
        unet = add_lora(parts, LoraSpec(data="x", model="x", rank=32))["unet"]
        save_fewer_activations(unet)
    add("LoRA, rank 32", unet, lambda: Denoiser(unet, text)(x, t), training_bytes([unet], half, average=False))

    others = 4 * numbers([parts.vae, *parts.text_encoders])  # in full precision, as long as pictures are encoded
    for name, make in (
        ("LCM-LoRA, rank 64", lambda unet: LoraStudent(unet, family.lcm_lora_targets, 64)),
        ("Whole model", FullStudent),
    ):
        parts = networks(family, torch.float32)
        frozen = 2 * numbers([parts.unet])
        with torch.device("meta"):
            student = make(parts.unet)
            w = torch.zeros(1)
        fixed = frozen + others + 4 * 5 * sum(p.numel() for p in student.trainable.values())

        def ask(student: Any = student, w: torch.Tensor = w) -> Any:
            return student.student(x, t, text, w)

        add(name, student.unet, ask, fixed)

    parts = networks(family, torch.float32, control=True)
    net = parts.controls["lines"].requires_grad_(True)
    drawing = torch.empty(1, 3, side, side, device="meta")
    fixed = training_bytes([net, parts.unet, *parts.text_encoders], half, average=True) + 4 * numbers([parts.vae])
    add("ControlNet", net, lambda: Denoiser(parts.unet, text, control=Control(net, drawing))(x, t), fixed)
    return by_kind


def training(gigabytes: int, needs: dict[str, tuple[int, int, int]]) -> dict[str, str]:
    """How many pictures at once each kind of training takes on a card of this size; their gradients are added up."""
    room = gigabytes * 2**30 - TAKEN
    row = {}
    for name, (fixed, each, checkpointed) in needs.items():
        fits = next((batch for batch in BATCHES if fixed + batch * each <= room), 0)
        smaller = next((batch for batch in BATCHES if fixed + batch * checkpointed <= room), 0)
        if fits:
            row[name] = f"{fits} at once"
        elif smaller:
            row[name] = f"{smaller} at once with checkpointing"
        else:
            row[name] = f"no ({(fixed + checkpointed) / 1e9:.0f} GB)"
    return row


def kinds() -> list[dict[str, str]]:
    """A row for each generation of cards: what SD 1.5 is drawn in on it, and which of PyTorch's wheels it needs."""
    whole, _ = to_draw(SD15.name)
    weights, rows = 4 * numbers([whole.unet, whole.vae, *whole.text_encoders]), []
    for kind, name, capability, gigabytes in KINDS:
        there = Machine("cuda", gigabytes * 2**30 - TAKEN, gigabytes * 2**30, name, capability)
        plan = optimizations.plan(Settings(device="cuda"), weights, on=there)
        wheels = [devices.suitable(Card(name, driver, capability, there.total)) for driver in ("525.60", "580.65")]
        old, new = (f"CUDA {wheel}" if wheel else "none: update it" for wheel in wheels)
        rows.append(
            {
                "card": f"{kind} ({gigabytes} GB)",
                "precision": str(plan.dtype).removeprefix("torch."),
                "offload": "yes" if plan.offload else "no",
                "torch, driver below 580": old,
                "torch, driver 580 and newer": new,
            }
        )
    return rows


def sizes(family: Family = SD15) -> list[dict[str, str]]:
    """A row for each size of card: how it draws, and what can be trained on it."""
    needs = trainings(family)
    return [drawing(size, family) | training(size, needs) for size in SIZES]


if __name__ == "__main__":
    print(json.dumps({"sizes": sizes(), "sdxl": sizes(SDXL), "kinds": kinds()}))
