"""A picture for each word that a model knows, drawn by it: one seed, one character; only the word differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from studio.core.errors import NotFound
from studio.core.settings import Settings
from studio.core.specs import BatchRow, GenerateSpec
from studio.features.sheets.spec import BatchSpec
from studio.service.named_files import Files
from studio.service.resolving import Resolver
from studio.store.pictures import Pictures

SEED = 7
MODEST = "brown hair, medium hair, blue eyes"  # what a word stands beside, unless it says that itself


class WordPictures:
    """What the word list of a page shows."""

    def __init__(self, settings: Settings, resolver: Resolver, pictures: Pictures) -> None:
        self._settings, self._resolver, self._pictures = settings, resolver, pictures

    def drawn(self, words: Iterable[str], owner: str, model: str = "") -> dict[str, str]:
        """The ids of those pictures that this owner has already, by word."""
        files, ids = Files(self._settings), {}
        for word in words:
            with suppress(NotFound):
                [recipe] = self._resolver.recipes(self._asked(word, model), owner, files=files)
                ids[word] = self._pictures.get(recipe.key, owner).id
        return ids

    def request(self, words: Sequence[str], model: str = "") -> BatchSpec:
        """What draws the pictures of these words, those that are drawn already at no cost."""
        asked = [self._asked(word, model) for word in words]
        rows = tuple(BatchRow(prompt=one.prompt or "", seed=SEED) for one in asked)
        return BatchSpec(base=asked[0], rows=rows)

    def _asked(self, word: str, model: str) -> GenerateSpec:
        parts = [part for part in MODEST.split(", ") if part.split()[-1] != word.split()[-1]]
        who = [] if word in ("1girl", "1boy") else ["1girl"]
        prompt = ", ".join([*who, "solo", word, *parts])
        return GenerateSpec(prompt=prompt, negative="", seed=SEED, model=model or self._settings.model)
