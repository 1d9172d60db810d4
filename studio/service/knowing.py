"""What the models of this studio were taught, read from what lies beside their weights.

A folder's `studio.json` says a model's tags, its captions' other words for them, and where it was measured how often
each tag is seen. LoRA files may say their captions' tags (`ss_tag_frequency`, kohya's) beside their trigger words.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from studio.core.errors import StudioError
from studio.core.files import read_regular
from studio.core.settings import Settings
from studio.engine.models.catalogue import LoraInfo, resolve
from studio.engine.models.weights import read_header
from studio.prompting.knowledge import Knowledge
from studio.prompting.triggers import split

MOST_CAPTIONS = 5000  # tags of a LoRA's captions that are taken


class KnowledgeBase:
    """Knowledge by model reference, each read once while its files stay as they are. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept: dict[tuple[str, float], Knowledge] = {}

    def of(self, reference: str, loras: Iterable[LoraInfo] = ()) -> Knowledge:
        """What a model knows together with these LoRAs. A model that isn't here, or says nothing, knows no tags."""
        base = self._model(reference or self._settings.model)
        added = {word for lora in loras for word in _taught(lora)}
        return base if not added else Knowledge(
            title=base.title, tags=base.tags, synonyms=base.synonyms, neutral=base.neutral, shares=base.shares,
            unreliable=base.unreliable, quality=base.quality, negative=base.negative,
            added=frozenset(added),
        )  # fmt: skip

    def _model(self, reference: str) -> Knowledge:
        try:
            info = resolve(reference, self._settings, with_hash=False)
        except StudioError:
            return Knowledge()
        words: dict[str, Any] = (
            {} if info.words is None else {"quality": info.words.quality, "negative": info.words.negative}
        )
        file = info.path / "studio.json" if info.path is not None and info.path.is_dir() else None
        if file is None or not info.tags or not file.is_file():
            return Knowledge(title=info.title, **words)
        key = (str(file), file.stat().st_mtime)
        if key not in self._kept:
            facts = json.loads(read_regular(file))
            self._kept[key] = Knowledge(
                title=info.title,
                tags=frozenset(info.tags),
                synonyms={str(tag): tuple(map(str, words)) for tag, words in dict(facts.get("synonyms") or {}).items()},
                neutral=frozenset(map(str, facts.get("neutral") or ())),
                unreliable=frozenset(map(str, facts.get("unreliable") or ())),
                shares={str(tag): float(share) for tag, share in dict(facts.get("drawn") or {}).items()},
                **words,
            )
        return self._kept[key]


def _taught(lora: LoraInfo) -> tuple[str, ...]:
    """Trigger words of a LoRA, and the tags of its captions where its file tells them."""
    words = split(lora.trigger_words)
    with suppress(StudioError, ValueError, AttributeError, TypeError):
        counts: dict[str, Any] = json.loads(read_header(Path(lora.path)).metadata.get("ss_tag_frequency", "{}"))
        tags = (str(tag).strip() for folder in counts.values() for tag in folder)
        words += tuple(dict.fromkeys(tag for tag in tags if tag))[:MOST_CAPTIONS]
    return words
