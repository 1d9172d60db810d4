"""What is chosen for a machine and why: with faked figures of cards on any machine, for real on one with CUDA."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.checkpoints import full_sd15, tiny_sd, to_single_file

from studio.core.settings import REPOSITORY, Settings
from studio.core.specs import Recipe
from studio.core.views import Choice
from studio.engine import allocator, devices, memory, optimizations
from studio.engine.engine import Engine, load
from studio.engine.models import controlnets
from studio.engine.models.catalogue import resolve

GB = 10**9


def found(plan: optimizations.Plan | tuple[Choice, ...]) -> dict[str, Choice]:
    listed = plan.choices if isinstance(plan, optimizations.Plan) else plan
    return {choice.name: choice for choice in listed}


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A CUDA card of 8 GB that is only asked for its figures; 4 GB of it are free."""
    card = SimpleNamespace(free=4 * GB, total=8 * GB, name="Some Card", capability=(8, 6), reserved=0, allocated=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (card.free, card.total))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: card.name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: card.capability)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device=None: card.reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: card.allocated)
    return card


# --- a plan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "control", "offload"),
    [
        (4 * GB, 0, False),  # 2 GB in 16 bits, and the reserve
        (4 * GB, 1 * GB, False),
        (4 * GB, 2 * GB, True),  # it would fit alone, but not with its ControlNet
        (6 * GB, 0, True),
    ],
)
def test_weights_wait_in_main_memory_where_the_card_is_small(card, weights: int, control: int, offload: bool) -> None:
    plan = optimizations.plan(Settings(), weights, control)
    assert (plan.device.type, plan.dtype, plan.offload) == ("cuda", torch.float16, offload)
    reason = found(plan)["CPU offload"].reason
    assert ("ControlNet" in reason) == (offload and control > 0)
    assert not offload or "4.0 GB free" in reason


def test_a_larger_card_needs_no_offload(card) -> None:
    card.free = 7 * GB
    assert not optimizations.plan(Settings(), 6 * GB, 2 * GB).offload


def test_what_torch_keeps_for_itself_is_free(card) -> None:
    """After a first picture torch holds gigabytes in which nothing lies: they are no reason for tiles."""
    card.free, card.reserved, card.allocated = 1 * GB, 6 * GB, 2 * GB
    assert memory.free(torch.device("cuda")) == 5 * GB
    card.reserved = 1 * GB  # other allocators of torch count otherwise
    assert memory.free(torch.device("cuda")) == 1 * GB


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_what_nobody_holds_is_given_back(monkeypatch, device: str) -> None:
    given: list[str] = []
    for each in ("cuda", "mps"):
        there = each == device
        monkeypatch.setattr(
            getattr(torch, each) if each == "cuda" else torch.backends.mps, "is_available", there.__bool__
        )
        monkeypatch.setattr(getattr(torch, each), "empty_cache", lambda name=each: given.append(name))
    allocator.release()
    assert given == [device]


@pytest.mark.parametrize(
    ("name", "capability", "total", "dtype"),
    [
        ("NVIDIA GeForce RTX 3060", (8, 6), 12, torch.float16),
        ("Tesla T4", (7, 5), 16, torch.float16),
        ("NVIDIA GeForce RTX 2060", (7, 5), 6, torch.float16),
        ("NVIDIA GeForce RTX 5070", (12, 0), 12, torch.float16),
        ("NVIDIA GeForce GTX 1660 SUPER", (7, 5), 6, torch.float32),
        ("NVIDIA GeForce GTX 1650", (7, 5), 4, torch.float16),  # in full precision the model isn't on it at all
        ("NVIDIA T600 Laptop GPU", (7, 5), 4, torch.float16),
        ("NVIDIA GeForce GTX 1080", (6, 1), 8, torch.float32),
        ("NVIDIA GeForce GTX 1050", (6, 1), 4, torch.float16),
    ],
)
def test_the_precision_is_the_cards(card, name: str, capability: tuple[int, int], total: int, dtype) -> None:
    card.name, card.capability, card.total, card.free = name, capability, total * GB, (total - 1) * GB
    plan = optimizations.plan(Settings(), int(4.27 * GB))
    assert plan.dtype == dtype, found(plan)["Half precision"].reason
    assert plan.benchmark == (capability == (7, 5) and dtype == torch.float16)
    for asked, wanted in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        chosen = optimizations.plan(Settings(precision=asked), int(4.27 * GB))
        assert chosen.dtype == wanted
        assert asked in found(chosen)["Half precision"].reason


def test_half_the_memory_for_an_apple_gpu_of_a_new_torch(monkeypatch) -> None:
    there = optimizations.Machine("mps", 12 * GB, 16 * GB)
    for version, dtype in (("2.5.1", torch.float32), ("2.6.0", torch.float16), ("2.13.0", torch.float16)):
        monkeypatch.setattr(torch, "__version__", version)
        assert optimizations.plan(Settings(), 4 * GB, on=there).dtype == dtype


@pytest.mark.parametrize(("capability", "taken"), [((7, 5), True), ((8, 6), False), ((12, 0), False)])
def test_xformers_only_where_torch_has_no_flash_attention(card, monkeypatch, capability, taken: bool) -> None:
    monkeypatch.setattr(optimizations, "XFORMERS_PROBLEM", None)
    card.capability = capability
    said = found(optimizations.plan(Settings(), 4 * GB))
    assert (said["xformers"].on, said["SDPA attention"].on) == (taken, not taken)


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_a_processor_draws_in_full_precision_and_offloads_nothing() -> None:
    plan = optimizations.plan(Settings(), 10**15)
    assert (plan.device.type, plan.dtype, plan.offload, plan.xformers) == ("cpu", torch.float32, False, False)
    assert found(plan)["SDPA attention"].on


def test_half_a_file_is_not_halved_again(tmp_path: Path, monkeypatch) -> None:
    """The same weights in 16 and in 32 bits, as a folder and as one file: the plan is asked about the same number."""
    asked: list[tuple[int, ...]] = []
    real = optimizations.plan
    monkeypatch.setattr(
        optimizations, "plan", lambda settings, *sizes, **more: asked.append(sizes) or real(settings, *sizes, **more)
    )
    settings = Settings(home=tmp_path, device="cpu")
    tiny = tiny_sd(tmp_path / "models" / "full", controlnet=True)
    tiny_sd(tmp_path / "models" / "half", controlnet=True, dtype=torch.float16)
    for name in ("full", "half"):
        parts = load(resolve(name, settings), settings)
        controls = controlnets.controlnet(parts, "lines", settings)
        numbers = [sum(p.numel() for p in net.parameters()) for net in (parts.unet, parts.vae, parts.text_encoder)]
        assert asked[-1] == (4 * sum(numbers), 4 * sum(p.numel() for p in controls.parameters()))
    assert asked[0] == asked[1]
    info = resolve(str(tiny), settings)
    assert info.parameters < info.size_bytes // 4, "its ControlNet isn't part of it"


# --- xformers --------------------------------------------------------------------------------------------------------

BROKEN = """
import studio.engine.engine
from studio.engine import optimizations as choices
from diffusers import UNet2DConditionModel
from studio.core.settings import Settings
print({c.name: c.reason for c in choices.plan(Settings(device="cpu"), 0).choices}["xformers"])
"""


def test_an_xformers_that_cannot_be_imported_breaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "xformers").mkdir()
    (tmp_path / "xformers" / "__init__.py").write_text("")
    (tmp_path / "xformers" / "ops.py").write_text("raise ImportError('libcudart.so.11: cannot open')")
    (tmp_path / "xformers-0.0.29.dist-info").mkdir()
    (tmp_path / "xformers-0.0.29.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: xformers\nVersion: 0.0.29\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BROKEN], env=os.environ | {"PYTHONPATH": paths}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "It is installed but can't be imported (libcudart.so.11: cannot open)" in done.stdout


def carried_out(tmp_path: Path, **changes) -> dict[str, Choice]:
    tiny_sd(tmp_path / "models" / "tiny")
    settings = Settings(home=tmp_path, device="cpu")
    parts = load(resolve("tiny", settings), settings)
    optimizations.apply(parts, replace(optimizations.plan(settings, 0), **changes))
    parts.unet(torch.zeros(1, 16, 4, 4), torch.tensor(5), torch.zeros(1, 77, 32))  # whatever was left draws
    return found(parts.choices)


def test_an_xformers_that_does_not_work_on_the_card_is_left(tmp_path: Path, monkeypatch) -> None:
    """It is asked for what drawing will ask: on an RTX 50 its kernels work in 32 bits and fail in 16."""

    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        if query.dtype == torch.float16:
            raise NotImplementedError("no kernel image is available\nfor this device")
        return query

    monkeypatch.setitem(sys.modules, "xformers", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "xformers.ops", SimpleNamespace(memory_efficient_attention=attention))
    optimizations._try_xformers(torch.device("cpu"), torch.float32)
    with pytest.raises(NotImplementedError):
        optimizations._try_xformers(torch.device("cpu"), torch.float16)
    monkeypatch.setattr(optimizations, "_try_xformers", lambda device, dtype: attention(*[torch.zeros(1).half()] * 3))
    said = carried_out(tmp_path, xformers=True)
    assert said["SDPA attention"].on
    assert not said["xformers"].on
    assert "no kernel image is available)" in said["xformers"].reason


def test_a_compiler_that_does_not_work_is_left(tmp_path: Path, monkeypatch) -> None:
    def no_compiler(*arguments: object, **named: object) -> None:
        raise RuntimeError("Cannot find a working triton installation.\nMore information")

    monkeypatch.setattr(torch, "compile", no_compiler)
    said = carried_out(tmp_path, compile=True)
    assert not said["torch.compile"].on
    assert "Cannot find a working triton installation.)" in said["torch.compile"].reason


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_status_names_the_card_and_its_memory(card, tmp_path: Path) -> None:
    status = Engine(Settings(home=tmp_path)).status()
    assert (status["loaded"], status["device"], status["device_name"]) == (False, "cuda", "Some Card")
    assert (status["device_memory_used"], status["device_memory_total"]) == (4 * GB, 8 * GB)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_status_without_a_card_says_the_device(tmp_path: Path) -> None:
    status = Engine(Settings(home=tmp_path, device="cuda")).status()  # asked for and not there: said at the first job
    assert status["device"] == "cuda"
    assert "device_memory_total" not in status


@pytest.mark.parametrize(
    ("system", "machine", "torch_version", "driver", "device"),
    [
        ("linux", "x86_64", "2.9.0+cpu", True, "cpu"),
        ("linux", "x86_64", "2.9.0+cu128", True, "cuda"),
        ("linux", "x86_64", "2.9.0", True, "cuda"),
        ("linux", "x86_64", "2.9.0", False, "cpu"),
        ("darwin", "arm64", "2.9.0", False, "mps"),
        ("darwin", "x86_64", "2.9.0", False, "cpu"),
        ("win32", "AMD64", "2.9.0+cu128", False, "cuda"),
        ("win32", "AMD64", "2.9.0", False, "cpu"),
    ],
)
def test_what_auto_will_be_is_known_before_torch(
    monkeypatch, tmp_path: Path, system: str, machine: str, torch_version: str, driver: bool, device: str
) -> None:
    monkeypatch.setattr(devices.sys, "platform", system)
    monkeypatch.setattr(devices.platform, "machine", lambda: machine)
    monkeypatch.setattr(devices, "version", lambda name: torch_version)
    monkeypatch.setattr(devices, "_NVIDIA", (tmp_path if driver else tmp_path / "none",))
    assert devices.expected(Settings()) == device
    assert devices.expected(Settings(device="cpu")) == "cpu"


# --- with a card -----------------------------------------------------------------------------------------------------


def draw(engine: Engine, **changes) -> np.ndarray:
    values = {
        "model": "tiny", "model_hash": "", "prompt": "1girl, happy", "negative": "sad", "seed": 5, "steps": 4,
        "guidance": 3.0, "sampler": "dpmpp_2m", "width": 64, "height": 64,
    }  # fmt: skip
    return np.asarray(dict(engine.draw([Recipe(**values | changes)]))[0]).astype(int)


@pytest.fixture
def cuda(tmp_path: Path) -> Engine:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    tiny_sd(tmp_path / "models" / "tiny", controlnet=True)
    return Engine(Settings(home=tmp_path, device="cuda", preview_every=0))


@pytest.mark.gpu
def test_a_card_loads_in_half_precision_and_draws_what_a_processor_draws(cuda: Engine) -> None:
    parts = cuda.components("tiny")
    assert {p.dtype for net in parts.modules.values() for p in net.parameters()} == {torch.float16}
    assert {p.device.type for net in parts.modules.values() for p in net.parameters()} == {"cuda"}
    exact = draw(Engine(cuda.settings.model_copy(update={"device": "cpu"})))
    assert np.abs(draw(cuda) - exact).mean() < 8


@pytest.mark.gpu
def test_a_card_takes_xformers_or_torchs_own_attention(cuda: Engine) -> None:
    parts = cuda.components("tiny")
    said = found(parts.choices)
    assert said["xformers"].on != said["SDPA attention"].on
    names = {type(processor).__name__ for processor in parts.unet.attn_processors.values()}
    assert names == ({"XFormersAttnProcessor"} if said["xformers"].on else {"AttnProcessor2_0"})


@pytest.mark.gpu
def test_offloaded_parts_come_to_the_card_only_to_work(cuda: Engine, monkeypatch) -> None:
    whole = draw(cuda)
    cuda.free()
    monkeypatch.setattr(optimizations, "RESERVE", 10**15)
    parts = cuda.components("tiny")
    assert found(parts.choices)["CPU offload"].on
    assert memory.waiting_bytes(parts) > 0
    assert np.abs(draw(cuda) - whole).max() <= 1


@pytest.mark.gpu
def test_a_single_file_loads_in_half_precision(cuda: Engine) -> None:
    folder = full_sd15(cuda.settings.models_dir / "sd15", dtype=torch.float16)
    to_single_file(folder, cuda.settings.models_dir / "one.safetensors")
    parts = cuda.components("one.safetensors")
    assert parts.unet.dtype == parts.vae.dtype == torch.float16
    assert parts.info.parameters * 2 <= parts.info.size_bytes + 10**6
