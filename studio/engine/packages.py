"""Installed packages that keep others from working, and the command that mends it. Asks metadata only: imports none."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

from studio.core.views import Trouble

TORCHAO = "0.16.0"  # peft raises for anything older as soon as a LoRA is put on a network; Colab brings 0.10


def python_command(arguments: str) -> str:
    """A command for this very Python."""
    return f'"{sys.executable}" -m {arguments}' if " " in sys.executable else f"{sys.executable} -m {arguments}"


def torchao() -> Trouble | None:
    """What an old torchao beside peft breaks: every LoRA and every distillation."""
    try:
        there = version("torchao")
    except PackageNotFoundError:
        return None
    if Version(there) >= Version(TORCHAO):
        return None
    return Trouble(
        what=f"torchao {there} is installed, and LoRAs can't be trained beside anything older than {TORCHAO}; "
        "the studio needs none.",
        command=python_command("pip uninstall -y torchao"),
    )
