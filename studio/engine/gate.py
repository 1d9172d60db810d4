"""The gate before a picture is shown: the model's own quality head looks at its latents, a bad one is drawn again.

Only where the model has such a head (`quality` in its `studio.json`) and the recipe asks for it (`redraw`). Everything
follows from the recipe: the later seeds from its seed, the score from the latents, so the same recipe gives the same
picture. Knows latents and scores, not how a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from studio.core.specs import MAX_SEED
from studio.evaluation.quality import Quality

RETRIES = 2  # at most, of each picture
STRIDE = 1_000_003  # a prime far from the seeds of neighbours, which differ by 1


def later_seed(seed: int, attempt: int) -> int:
    """The seed of the `attempt`-th drawing of a picture, 0 being the first, with the recipe's own seed."""
    return (seed + attempt * STRIDE) % (MAX_SEED + 1)


@lru_cache(maxsize=2)
def head(folder: Path) -> Quality:
    """The quality head in `folder`, read once. Raises FileNotFoundError."""
    return Quality.load(folder)


def passed(
    quality: Quality, clean: Tensor, seeds: Sequence[int], draw: Callable[[list[int], list[int]], Tensor]
) -> tuple[Tensor, list[int]]:
    """The latents that are shown, (n, c, h, w), and in how many drawings each was come by, 1 to `RETRIES` + 1.

    `clean` are the first ones. `draw(rows, seeds)` draws these rows again and gives their latents. A picture is drawn
    again while its score is below the threshold, and of all its drawings the one with the best score is kept.
    """
    scores = quality(clean)
    shown, attempts = clean.clone(), [1] * len(seeds)
    for attempt in range(1, RETRIES + 1):
        rows = [row for row, score in enumerate(scores) if score < quality.threshold]
        if not rows:
            break
        fresh = draw(rows, [later_seed(seeds[row], attempt) for row in rows])
        for row, z, score in zip(rows, fresh, quality(fresh), strict=True):
            attempts[row] += 1
            if score > scores[row] and bool(torch.isfinite(z).all()):
                shown[row], scores[row] = z, score
    return shown, attempts
