"""Where data sets stand, and whose they are: what keys of the API sent lies apart, a folder for each owner.

What lies in the folder itself (put there by hand, uploaded on a page) may be read by everybody who may use the studio;
only whose a set is may replace its captions or delete it. Deleted ones are kept for a day.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from studio.core.errors import NotFound
from studio.core.owners import OF_KEYS, private

DELETED = ".deleted"
KEPT = 24 * 3600  # seconds


@dataclass(frozen=True)
class OwnedDatasets:
    """The folder of data sets as one owner sees it."""

    folder: Path
    owner: str

    @property
    def own(self) -> Path:
        """Where this owner's sets are: a key has a folder of its own, everybody else shares one."""
        return self.folder / OF_KEYS / self.owner if private(self.owner) else self.folder

    @property
    def _roots(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys((self.own, self.folder)))

    def named(self, name: str) -> Path:
        """The folder or ZIP of a set (or a folder in it) by its name or path. Raises `NotFound` for all else.

        No part of a name begins with a dot: what does is the studio's own.
        """
        for root in (root.resolve() for root in self._roots):
            try:
                path = (root / name).resolve()
                inside = path.relative_to(root).parts if path.is_relative_to(root) and path.exists() else ()
                if inside and not any(part.startswith(".") for part in inside):
                    return path
            except (OSError, ValueError):  # too long, a NUL in it
                break
        raise NotFound(
            f"There is no data set {name[:80]!r} in the studio's folder datasets/; give the name of one there."
        )

    def owns(self, path: Path) -> bool:
        """Whether a set that `named` found is this owner's to change."""
        return path.is_relative_to(self.own.resolve())

    def names(self) -> Iterator[tuple[str, bool]]:
        """Every set that this owner may use, by name, and whether it is theirs; their own first."""
        seen: set[str] = set()
        for root in self._roots:
            for path in sorted(root.iterdir()) if root.is_dir() else ():
                fits = path.is_dir() or path.suffix.lower() == ".zip"
                if fits and not path.name.startswith(".") and path.name not in seen:
                    seen.add(path.name)
                    yield path.name, root == self.own

    def delete(self, name: str) -> None:
        """Take a set of this owner's out of the list. Raises `NotFound`, also for a part of one."""
        path = self.named(name)
        if path.parent != self.own.resolve():
            raise NotFound(f"There is no data set {name[:80]!r} of yours.")
        self.purge()
        (self.own / DELETED).mkdir(exist_ok=True)
        os.rename(path, self.own / DELETED / f"{time.time_ns()}-{path.name}")  # at once: nobody sees half a set

    def bring_back(self) -> str:
        """The set that this owner deleted last, in its place again: its name. Raises `NotFound` where there is none."""
        for path in self._deleted():
            name, number = path.name.partition("-")[2], 2
            target = self.own / name
            while target.exists():
                target, number = self.own / f"{Path(name).stem}-{number}{Path(name).suffix}", number + 1
            os.rename(path, target)
            return target.name
        raise NotFound("There is no deleted data set that could be brought back; they are kept for a day.")

    def purge(self, older_than: float = KEPT) -> None:
        """Really remove what was deleted more than `older_than` seconds ago."""
        for path in self._deleted():
            digits = path.name.partition("-")[0]
            if digits.isdigit() and time.time_ns() - int(digits) > older_than * 1e9:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def _deleted(self) -> list[Path]:
        deleted = self.own / DELETED
        return sorted(deleted.iterdir(), reverse=True) if deleted.is_dir() else []
