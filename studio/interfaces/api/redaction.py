"""Answers without the folders of this machine: where files lie on the server is nobody's business."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from studio.core.owners import OF_KEYS
from studio.core.settings import Settings

# Fields that may hold a path, and fields with sentences that may quote one.
_PATHS = {"adapter", "captioner", "data", "folder", "home", "image", "init", "judge", "model", "path", "samples"}
_SENTENCES = {"error", "log", "note", "notes", "message"}


def path_redactor(settings: Settings) -> Callable[[Any], Any]:
    """A function that turns an answer (plain JSON) into one without the folders of this machine.

    A data set, a model and a LoRA get the names under which a request finds them; other files below the home folder
    their place in it; everything else its last part.
    """
    home = settings.home.resolve()
    folders = [folder.resolve() for folder in (settings.datasets_dir, settings.models_dir / "loras")]
    folders += [settings.models_dir.resolve(), home]

    def path(text: str) -> str:
        given = Path(text)
        if not given.is_absolute() and not text.startswith("~"):
            return text  # a hub id, a name, or a path that tells nothing of this machine
        root = next((root for root in folders if given.is_relative_to(root)), None)
        if root is None:
            return given.name
        parts = given.relative_to(root).parts
        return "/".join(parts[2:] if parts[:1] == (OF_KEYS,) else parts) or "."

    def redact(value: Any, field: str = "") -> Any:
        if isinstance(value, dict):
            return {key: redact(inner, str(key)) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [redact(inner, field) for inner in value]
        if isinstance(value, str) and field in _PATHS:
            return path(value)
        if isinstance(value, str) and field in _SENTENCES:
            return value.replace(f"{home}/", "").replace(str(home), home.name)
        return value

    return redact
