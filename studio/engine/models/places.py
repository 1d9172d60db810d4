"""Where a model, LoRA, ControlNet or captioner may lie that somebody named. Looks at names only, opens nothing."""

from __future__ import annotations

from pathlib import Path

from studio.core.files import lexically_below
from studio.core.settings import EMBEDDED_MODEL, Settings
from studio.engine.models import hub


def candidates(reference: str, settings: Settings, folder: Path) -> list[Path]:
    """Paths that `reference` may mean, the likeliest first: as it is, in `folder`, and in the home folder.

    With `settings.named_only` those alone that lie where the studio keeps such files, whatever is on the disk: the
    caller answers everything else as if it weren't there. May raise OSError, RuntimeError and ValueError for a name
    that no file can have.
    """
    if not settings.named_only:
        return [Path(reference).expanduser(), folder / reference]
    found = (folder / reference, settings.home / reference, Path(reference))
    return [path for path in found if permitted(path, settings)]


def permitted(path: Path, settings: Settings) -> bool:
    """Whether a path leads below the folders of models, of results of runs, or of the Hub's cache."""
    if any(lexically_below(path, place) for place in (settings.models_dir, EMBEDDED_MODEL, hub.cache())):
        return True
    return lexically_below(path, settings.runs_dir) and "adapter" in path.parts


def inside(folder: Path, name: object) -> Path:
    """A file or folder that a model's own notes name, below that model. Raises ValueError where they lead elsewhere."""
    path = folder / str(name)
    if not lexically_below(path, folder):
        raise ValueError(f"{name!r} lies outside of the model")
    return path
