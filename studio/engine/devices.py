"""Which device models will be on, told without torch: for pages that are on the screen before the first job."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from studio.core.settings import Settings

_NVIDIA = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"), Path("/dev/dxg"))  # the last one: WSL


def expected(settings: Settings) -> str:
    """`cuda`, `mps` or `cpu`: what STUDIO_DEVICE asks for, or what `auto` will most likely turn out to be.

    The engine asks torch when it starts and has the last word (`choices.plan`).
    """
    if settings.device != "auto":
        return settings.device
    if sys.platform == "darwin":
        return "mps" if platform.machine() == "arm64" else "cpu"
    try:
        build = version("torch").partition("+")[2]  # "cpu", "cu128", or nothing on PyPI
    except PackageNotFoundError:
        return "cpu"
    if build == "cpu" or build.startswith("xpu"):
        return "cpu"
    return "cuda" if (sys.platform == "win32" and build) or any(path.exists() for path in _NVIDIA) else "cpu"
