"""Tag lists in the format of A1111's tag autocompletion: `name,type,count,"alias,alias"`, one tag a line.

Written after the files that a1111-sd-webui-tagcomplete reads; where words stand instead of the count ("Quality tag") it
is 0. This module doesn't know the studio's own lexicon: the numbers of `type` are Danbooru's.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from studio.core.errors import BadInput, NotFound
from studio.core.text_encoding import decode

TYPES = {0: "general", 1: "artist", 3: "copyright", 4: "character", 5: "meta"}
MAX_BYTES = 64 * 2**20
MAX_ROWS = 500_000
MAX_NAME = 128


@dataclass(frozen=True, slots=True)
class TagRow:
    """One line that was accepted."""

    name: str
    category: str
    count: int
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BadRow:
    """One line that was not, by its number in the file (from 1) and why."""

    line: int
    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class TagFile:
    """What a file holds: the tags and the lines that are none."""

    rows: tuple[TagRow, ...]
    bad: tuple[BadRow, ...]


def read(path: Path | str) -> TagFile:
    """Read a tag list from disk. Raises NotFound or BadInput when there is no such file or it isn't text."""
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"There is no tag list at {path}.")
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path.name} is larger than {MAX_BYTES >> 20} MB, too much for a tag list.")
    return parse(path.read_bytes(), path.name)


def parse(data: bytes, name: str = "the file") -> TagFile:
    """Read a tag list from bytes, in UTF-8 or what else reads as words. Raises BadInput when it isn't text."""
    try:
        text: str | None = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = decode(data)
    if text is not None and "\x00" in text:
        text = decode(data)  # UTF-16 without a mark
    if text is None:
        raise BadInput(f"{name} isn't text, or in an encoding that can't be told; save it as CSV in UTF-8.")
    rows: list[TagRow] = []
    bad: list[BadRow] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if len(rows) >= MAX_ROWS:
            bad.append(BadRow(number, line[:80], f"only the first {MAX_ROWS:,} tags are read"))
            break
        row = _row(line)
        if isinstance(row, str):
            if number == 1 and row.startswith("the type"):
                continue  # a header line
            bad.append(BadRow(number, line[:80], row))
        elif row.name in seen:
            bad.append(BadRow(number, line[:80], f"'{row.name}' stands in line {seen[row.name]} already"))
        else:
            seen[row.name] = number
            rows.append(row)
    return TagFile(tuple(rows), tuple(bad))


def _row(line: str) -> TagRow | str:
    """The tag of one line, or what is wrong with it."""
    try:
        cells = next(csv.reader(io.StringIO(line), strict=True))
    except (csv.Error, StopIteration):
        return "the quotes aren't closed"
    while len(cells) > 4 and not cells[-1].strip():
        cells.pop()
    name = " ".join(cells[0].replace("_", " ").lower().split()) if len(cells[0]) > 3 else cells[0].lower().strip()
    if not name:
        return "the name is missing"
    if len(name) > MAX_NAME:
        return f"the name is longer than {MAX_NAME} characters"
    if not name.isprintable() and any(unicodedata.category(c) in ("Cc", "Cf") for c in name):
        return "the name holds invisible characters"
    if any(c in name for c in "<>"):
        return (
            "the name holds < or >, which are syntax in a prompt" if len(name) > 4 else TagRow(name, "general", 0, ())
        )
    kind, count = 0, 0
    if len(cells) > 1 and cells[1].strip():
        if not cells[1].strip().isdecimal():
            return "the type (second column) must be a number"
        kind = int(cells[1])
    if len(cells) > 2 and cells[2].strip().isdecimal():  # tagcomplete's extra lists have words there
        count = int(cells[2])
    if len(cells) > 4:
        return f"there are {len(cells)} columns instead of 4; put the aliases in quotes"
    aliases = cells[3].split(",") if len(cells) > 3 else []
    cleaned = (" ".join(alias.replace("_", " ").lower().split()) for alias in aliases)
    return TagRow(name, TYPES.get(kind, "other"), min(count, 10**12), tuple(dict.fromkeys(a for a in cleaned if a)))
