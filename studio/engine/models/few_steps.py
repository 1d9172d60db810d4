"""Few-step adapters that are published for a whole family: which is here, which can be downloaded. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from studio.engine.models import hub
from studio.engine.models.families import FAMILIES, FAST_FILES, FastReference
from studio.engine.models.infos import FastPath


def fast_path(known: FastReference, path: Path) -> FastPath:
    """How to draw with a published adapter whose file this is."""
    return FastPath(path, known.steps, known.guidance, known.sampler)


def fast_here(offered: Sequence[FastReference]) -> FastPath | None:
    """The first of some published few-step adapters that is on this machine."""
    for known in offered:
        if (path := hub.cached_file(known.reference, known.file)) is not None:
            return fast_path(known, path)
    return None


def downloadable(offered: Sequence[FastReference]) -> FastReference | None:
    """The first of them whose file is known, and so can be fetched for whoever asks."""
    return next((known for known in offered if known.sha256), None)


def few_step(reference: str) -> FastReference | None:
    """The downloadable adapter of this hub id, or of the path that stands for it where it isn't here yet."""
    return next((known for known in _downloadable() if known.reference == reference.replace("\\", "/")), None)


def of_file(name: str, digest: str) -> FastReference | None:
    """The published adapter that a file of this name with this SHA-256 is, by either."""
    by_hash = next((known for known in _downloadable() if known.sha256 == digest), None)
    return by_hash or FAST_FILES.get(name.lower())


def _downloadable() -> list[FastReference]:
    return [known for family in FAMILIES.values() for known in family.fast if known.sha256]
