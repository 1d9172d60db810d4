"""What is installed, as the System page says it. Asks metadata only: imports none of it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "streamlit")


def versions() -> dict[str, str]:
    """Python, the processor's cores, and those of `PACKAGES` that are there."""
    found = {"python": platform.python_version(), "cores": str(os.cpu_count())}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
