"""Tag lists that people bring along, and the lexicon with them in it.

They are kept below `STUDIO_HOME` as they came (one CSV each, see `tag_csv`), so every process of the studio reads the
same ones. The lexicon is built once per process and again when a file changes. Knows no page and no prompt.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from studio.core.errors import BadInput, DiskFull, NotFound, StudioError
from studio.prompting import tag_csv
from studio.prompting.lexicon import Lexicon, Tag, added

log = logging.getLogger(__name__)

MAX_LISTS = 8
MAX_TAGS = 200_000  # of all lists together: about 300 MB, and seconds at first use; Danbooru's usual list has 140,000
MAX_BYTES = 32 * 2**20  # of all lists together


@dataclass(frozen=True, slots=True)
class TagList:
    """A list that is in use."""

    name: str
    tags: int
    size: int


class TagLists:
    """The lists in one folder. Safe for threads; other processes see a change at their next call of `lexicon`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._seen: tuple[tuple[str, int, int], ...] = ()
        self._lexicon: Lexicon | None = None
        self._counts: dict[str, int] = {}

    def add(self, data: bytes, name: str) -> tag_csv.TagFile:
        """Keep a list; one of the same name is replaced. Returns its tags and the lines that are none.

        Raises `BadInput` for what isn't a tag list or is too much, `DiskFull` when it can't be written.
        """
        stem = re.sub(r"[^\w-]+", "_", Path(name).stem).strip("_")[:60] or "tags"
        path = self.folder / f"{stem}.csv"
        if len(data) > MAX_BYTES:
            raise BadInput(f"The file is larger than the {MAX_BYTES >> 20} MB that tag lists may have.")
        parsed = tag_csv.parse(data, Path(name).name or "the file")
        if not parsed.rows:
            why = "; ".join(f"line {bad.line}: {bad.reason}" for bad in parsed.bad[:3])
            raise BadInput(f'No tag could be read; it needs lines like `blue_hair,0,12345,"aoi"`. {why}'.strip())
        others = [one for one in self.lists() if one.name != stem]
        if len(others) >= MAX_LISTS:
            raise BadInput(f"There are {MAX_LISTS} tag lists already; remove one first.")
        if len(parsed.rows) + sum(one.tags for one in others) > MAX_TAGS:
            raise BadInput(f"All tag lists together may have {MAX_TAGS:,} tags; this would be more.")
        if len(data) + sum(one.size for one in others) > MAX_BYTES:
            raise BadInput(f"All tag lists together may have {MAX_BYTES >> 20} MB; this would be more.")
        partial = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            partial.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise DiskFull(f"The tag list couldn't be written: {error.strerror}.") from error
        return parsed

    def lists(self) -> list[TagList]:
        """What is in use, by name."""
        self.lexicon()
        return [TagList(Path(name).stem, self._counts.get(name, 0), size) for name, _, size in self._seen]

    def remove(self, name: str) -> None:
        """Forget a list. Raises `NotFound`."""
        if name not in [one.name for one in self.lists()]:
            raise NotFound(f"There is no tag list named {name[:60]!r}.")
        (self.folder / f"{name}.csv").unlink(missing_ok=True)

    def lexicon(self) -> Lexicon:
        """The studio's own lexicon and these lists; the same object until a file changes."""
        now = tuple(self._files())
        with self._lock:
            if self._lexicon is None or now != self._seen:
                tags: list[Tag] = []
                self._counts = {}
                for name, _, _ in now:
                    try:
                        read = added(tag_csv.read(self.folder / name), name)
                    except StudioError as problem:  # put there by hand, or damaged: the others still count
                        log.warning("the tag list %s isn't used: %s", name, problem)
                        continue
                    if len(tags) + len(read) <= MAX_TAGS:
                        tags += read
                        self._counts[name] = len(read)
                own = Lexicon.load()
                self._lexicon = Lexicon([*own.tags.values(), *tags]) if tags else own
                self._seen = now
            return self._lexicon

    def _files(self) -> Iterator[tuple[str, int, int]]:
        """Name, time and size of each list: what tells one state of the folder from the next."""
        try:
            entries = sorted(os.scandir(self.folder), key=lambda entry: entry.name)
        except OSError:
            return
        for entry in entries:
            if entry.name.endswith(".csv") and entry.is_file():
                stat = entry.stat()
                yield entry.name, stat.st_mtime_ns, stat.st_size
