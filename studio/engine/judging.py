"""What a model's own judge sees in finished pictures. Knows no job and no prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from studio.evaluation.judge import Judge


@dataclass(frozen=True)
class Look:
    """One picture: the emotion and style it shows, and how sure the judge is of each emotion (0 to 1)."""

    emotion: str
    style: str
    emotions: dict[str, float]


@lru_cache(maxsize=2)
def _judge(folder: Path) -> Judge:
    return Judge.load(folder)


def look(folder: Path, pictures: Sequence[Image.Image]) -> list[Look]:
    """Judge `pictures` with the judge in `folder`, in order. Raises FileNotFoundError where there is none."""
    judge = _judge(folder)
    verdict = judge(pictures)
    sure = verdict.probabilities["emotion"].tolist()
    return [
        Look(emotion, style, dict(zip(judge.values["emotion"], row, strict=True)))
        for emotion, style, row in zip(verdict.labels["emotion"], verdict.labels["style"], sure, strict=True)
    ]
