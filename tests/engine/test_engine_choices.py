"""What is chosen for a machine and why: with faked figures of cards on any machine, for real on one with CUDA."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.checkpoints import full_sd15, tiny_sd, to_single_file

from studio.core.settings import REPOSITORY, Settings
from studio.core.specs import Recipe
from studio.core.views import Choice
from studio.engine import devices, memory, optimizations
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
    card = SimpleNamespace(free=4 * GB, total=8 * GB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (card.free, card.total))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Some Card")
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


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_a_processor_draws_in_full_precision_and_offloads_nothing() -> None:
    plan = optimizations.plan(Settings(), 10**15)
    assert (plan.device.type, plan.dtype, plan.offload, plan.xformers) == ("cpu", torch.float32, False, False)
    assert found(plan)["SDPA attention"].on


def test_half_a_file_is_not_halved_again(tmp_path: Path, monkeypatch) -> None:
    """The same weights in 16 and in 32 bits, as a folder and as one file: the plan is asked about the same number."""
    asked: list[tuple[int, ...]] = []
    real = optimizations.plan
    monkeypatch.setattr(optimizations, "plan", lambda settings, *sizes: asked.append(sizes) or real(settings, *sizes))
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


def test_an_xformers_that_does_not_work_on_the_card_is_left(tmp_path: Path, monkeypatch) -> None:
    tiny_sd(tmp_path / "models" / "tiny")
    settings = Settings(home=tmp_path, device="cpu")
    parts = load(resolve("tiny", settings), settings)

    def refuse() -> None:
        raise NotImplementedError("no kernel image is available\nfor this device")

    monkeypatch.setattr(parts.unet, "enable_xformers_memory_efficient_attention", refuse)
    plan = optimizations.plan(settings, 0)
    optimizations.apply(parts, type(plan)(**(vars(plan) | {"xformers": True})))
    said = found(parts.choices)
    assert said["SDPA attention"].on
    assert not said["xformers"].on
    assert "no kernel image is available)" in said["xformers"].reason


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
