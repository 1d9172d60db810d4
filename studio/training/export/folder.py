"""A result's folder is the old one or the new one, whole, at any moment at which somebody looks or the process dies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def fresh_folder(folder: Path) -> Path:
    """Where what is to become `folder` is written first; what an earlier process left there is gone."""
    fresh = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    return fresh


def replace_folder(folder: Path, fresh: Path) -> None:
    """Put `fresh` in the place of `folder`. Between two renames the old one lies beside it as `.old`."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)
