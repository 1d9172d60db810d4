"""What small files beside a LoRA say about it, whichever program wrote them. They are notes: none condemns the LoRA.

Read are our own `NAME.json` and `studio.json`, the `NAME.json` of A1111's web UI ("activation text", "preferred
weight"), and what managers of Civitai downloads keep: `NAME.civitai.info` (Civitai Helper), `NAME.metadata.json` (LoRA
Manager), `NAME.cm-info.json` (Stability Matrix) and `NAME.rgthree-info.json`. Knows no torch and no tensors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.core.files import read_regular
from studio.core.text_encoding import decode

_LARGEST = 10_000_000  # bytes; longer ones are no notes
_MANAGERS = (".civitai.info", ".metadata.json", ".cm-info.json", ".rgthree-info.json")
# what everybody's activation text has and no LoRA was taught: the number of people
_PEOPLE = re.compile(r"(?:\d+\+?(?:girl|boy|other)s?|solo)", re.IGNORECASE)


@dataclass(frozen=True)
class Sidecar:
    """What is said of a LoRA; empty where nothing is. `facts` is our own note as it stands."""

    title: str = ""
    base: str = ""
    trigger_words: tuple[str, ...] = ()
    weight: float = 1.0  # -2 to 2
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_sidecars(path: Path) -> Sidecar:
    """The notes beside the LoRA file `path`; unreadable ones, and values that make no sense, are passed over."""
    own = _object(path.with_suffix(".json"))
    facts = _object(path.parent / "studio.json") if own is None else own
    facts = facts or {}
    managers = [_civitai(note) for suffix in _MANAGERS if (note := _object(path.with_suffix(suffix))) is not None]
    words = (
        _words(facts.get("trigger_words"))
        or _activation(facts.get("activation text"))
        or next((trained for trained, _ in managers if trained), ())
    )
    weight = _weight(facts.get("weight"))
    if weight is None:
        preferred = _weight(facts.get("preferred weight"))
        weight = preferred or 1.0  # A1111 writes 0 where nobody chose a weight
    return Sidecar(
        title=_text(facts.get("title")),
        base=_text(facts.get("base")) or next((base for _, base in managers if base), "") or _a1111_base(facts),
        trigger_words=words,
        weight=weight,
        facts=facts,
    )


def _object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None when there is none that can be read."""
    try:
        data = read_regular(path, _LARGEST)
    except (OSError, ValueError):
        return None
    text = decode(data, lambda text: text.lstrip()[:1] == "{")
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _words(value: object) -> tuple[str, ...]:
    """Words from a list or one string; what isn't text in it is passed over."""
    values = value if isinstance(value, list) else [value]
    return tuple(word for one in values if (word := _text(one)))


def _activation(value: object) -> tuple[str, ...]:
    """The parts of A1111's activation text, which is a piece of a prompt, without LoRA tags and counts of people."""
    parts = [part.strip() for part in re.sub(r"<[^<>]*>", "", _text(value)).split(",")]
    return tuple(part for part in parts if part and not _PEOPLE.fullmatch(part))


def _weight(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and -2 <= number <= 2 else None


def _civitai(note: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """Trained words and base model of a version of Civitai's API, as the managers keep it or inside of theirs."""
    inner = note.get("civitai")
    versions = [inner, note] if isinstance(inner, dict) else [note]
    words: tuple[str, ...] = ()
    base = ""
    for version in versions:
        trained = version.get("trainedWords") or version.get("TrainedWords")
        if isinstance(trained, list):
            trained = [one.get("word") if isinstance(one, dict) else one for one in trained]
        words = words or _words(trained)
        base = base or next(
            (text for key in ("baseModel", "BaseModel", "base_model") if (text := _text(version.get(key)))), ""
        )
    return words, base


def _a1111_base(facts: Mapping[str, Any]) -> str:
    version = _text(facts.get("sd version"))
    return "" if version == "Unknown" else version
