"""What is said of a machine: cards that torch can't use, the wheel that works, and the verb that says all of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from studio.core.settings import REPOSITORY, Settings
from studio.engine import devices, doctor, optimizations, packages
from studio.engine.devices import Card, Wheel

GB = 2**30
GTX1080 = Card("NVIDIA GeForce GTX 1080", "570.86", (6, 1), 8 * GB)
T4 = Card("Tesla T4", "550.54", (7, 5), 16 * GB)
RTX3060 = Card("NVIDIA GeForce RTX 3060", "580.65", (8, 6), 12 * GB)
RTX5070 = Card("NVIDIA GeForce RTX 5070", "575.10", (12, 0), 12 * GB)
OLD = Card("NVIDIA GeForce GTX 960", "470.20", (5, 2), 4 * GB)


@pytest.fixture(autouse=True)
def nothing_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "torchao", lambda: None)


def on(monkeypatch: pytest.MonkeyPatch, card: Card, wheel: Wheel) -> None:
    monkeypatch.setattr(devices, "cards", lambda: (card,))
    monkeypatch.setattr(devices, "wheel", lambda: wheel)


@pytest.mark.parametrize(
    ("card", "wheel", "said", "index"),
    [
        (RTX3060, Wheel("2.13.0+cpu", ""), "built without CUDA", "2.13.0+cu130 --index-url https://download"),
        (GTX1080, Wheel("2.13.0+cpu", ""), "built without CUDA", "whl/cu126"),
        (T4, Wheel("2.13.0", "13.0"), "needs a driver 580 or newer, and 550.54", "whl/cu126"),
        (GTX1080, Wheel("2.13.0+cu128", "12.8"), "no kernels for the card NVIDIA GeForce GTX 1080 (sm_61)", "cu126"),
        (Card("NVIDIA GeForce GTX 1080", "580.1", (6, 1), 8 * GB), Wheel("2.13.0", "13.0"), "sm_61", "cu126"),
        (Card("NVIDIA GeForce RTX 5070", "580.1", (12, 0), 12 * GB), Wheel("2.5.1", "12.4"), "(sm_120)", "cu130"),
        (RTX5070, Wheel("2.13.0", "13.0"), "install NVIDIA's driver 580 or newer", ""),
        (OLD, Wheel("2.13.0+cu126", "12.6"), "install NVIDIA's driver 525 or newer", ""),
    ],
)
def test_a_card_that_torch_cannot_use_is_named_with_the_wheel_that_works(
    monkeypatch, card: Card, wheel: Wheel, said: str, index: str
) -> None:
    on(monkeypatch, card, wheel)
    [trouble] = devices.troubles(Settings())
    assert said in trouble.what
    assert index in trouble.command
    assert bool(trouble.command) == bool(index)
    assert sys.executable in trouble.command or not index
    assert devices.troubles(Settings(device="cpu")) == [], "who asked for the processor has it"


@pytest.mark.parametrize(
    ("card", "wheel"),
    [
        (RTX3060, Wheel("2.13.0", "13.0")),
        (T4, Wheel("2.13.0+cu128", "12.8")),
        (GTX1080, Wheel("2.13.0+cu126", "12.6")),
        (RTX5070, Wheel("2.9.0+cu128", "12.8")),
    ],
)
def test_a_card_that_torch_can_use_is_no_trouble(monkeypatch, card: Card, wheel: Wheel) -> None:
    on(monkeypatch, card, wheel)
    if card.capability < (10, 0):
        assert devices.troubles(Settings()) == []
    assert devices.runs(card.capability, wheel.cuda)


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 6), ["sm_75", "sm_80", "sm_90"], True),  # code for 8.0 runs on 8.6
        ((8, 9), ["sm_75", "sm_80", "sm_86"], True),
        ((7, 0), ["sm_75", "sm_80"], False),
        ((6, 1), ["sm_50", "sm_60", "sm_70"], True),
        ((12, 0), ["sm_75", "sm_90"], False),
        ((12, 0), ["sm_90", "compute_90"], True),  # compiled on the spot
        ((12, 1), ["sm_100", "sm_120"], True),
        ((9, 0), ["sm_90a"], True),
    ],
)
def test_torchs_own_list_decides_where_it_is_known(capability, architectures: list[str], runs: bool) -> None:
    assert devices.runs(capability, "13.0", architectures) == runs


def test_the_driver_is_asked_for_its_cards(monkeypatch, tmp_path: Path) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\n"
        "echo 'NVIDIA GeForce RTX 3060, 580.65.06, 8.6, 12288'\n"
        "echo 'NVIDIA Graphics, 580.65.06, [N/A], 1'\n"
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    devices.cards.cache_clear()
    try:
        assert devices.cards() == (Card("NVIDIA GeForce RTX 3060", "580.65.06", (8, 6), 12 * GB),)
        smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
        devices.cards.cache_clear()
        assert devices.cards() == ()
    finally:
        devices.cards.cache_clear()


@pytest.mark.parametrize(
    ("name", "file", "cuda"),
    [
        ("2.13.0+cu126", "", "12.6"),
        ("2.13.0+cpu", "cuda: Optional[str] = None", ""),
        ("2.13.0", "__version__ = '2.13.0'\ncuda: Optional[str] = '13.0'\n", "13.0"),
        ("2.13.0", "cuda: Optional[str] = None\n", ""),  # PyPI's for Windows
    ],
)
def test_what_torch_is_built_for_is_read_without_loading_it(
    monkeypatch, tmp_path: Path, name: str, file: str, cuda: str
) -> None:
    (tmp_path / "version.py").write_text(file)

    class Spec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr(devices, "version", lambda package: name)
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda package: Spec)
    devices.wheel.cache_clear()
    try:
        assert devices.wheel() == Wheel(name, cuda)
    finally:
        devices.wheel.cache_clear()


def test_a_device_that_is_not_there_is_a_trouble_with_its_reason(monkeypatch, tmp_path: Path) -> None:
    on(monkeypatch, T4, Wheel("2.13.0", "13.0"))
    monkeypatch.setattr(optimizations.torch.cuda, "is_available", lambda: False)
    found = doctor.examine(Settings(home=tmp_path, device="cuda", offline=True))
    assert any("needs a driver 580" in trouble.what for trouble in found.troubles)
    assert {"Device", "NVIDIA driver", "torch", "Main memory", "Disk of the studio", "Model hub"} <= {
        finding.name for finding in found.findings
    }


def test_a_home_that_cannot_be_written_to_is_a_trouble(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_refused", lambda home: "Read-only file system")
    found = doctor.examine(Settings(home=tmp_path, device="cpu", offline=True))
    assert any("set STUDIO_HOME" in trouble.what for trouble in found.troubles)


def test_a_hub_that_does_not_answer_is_said_soon(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "HUB_SECONDS", 0.5)
    settings = Settings(home=tmp_path, device="cpu", hf_endpoint="http://127.0.0.1:9")
    found = doctor.examine(settings)
    assert [f.value for f in found.findings if f.name == "Model hub"] == ["not reachable"]
    assert any("can't be reached" in trouble.what for trouble in found.troubles)


def test_the_verb_says_it_in_lines_and_as_json(tmp_path: Path) -> None:
    environment = os.environ | {"STUDIO_HOME": str(tmp_path), "STUDIO_OFFLINE": "true", "STUDIO_DEVICE": "cpu"}

    def verb(*options: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "studio", "doctor", *options], env=environment, cwd=REPOSITORY,
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    plain = verb()
    assert "Precision: float32" in plain
    assert "SDPA attention: on" in plain
    found = json.loads(verb("--json").splitlines()[-1])
    assert {"findings", "choices", "troubles"} == set(found)
