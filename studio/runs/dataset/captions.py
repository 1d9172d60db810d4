"""Captions beside pictures and in lists: read whoever wrote them, written as `.txt` in UTF-8.

A file beside `a.png` is `a.txt` or `a.caption` (kohya) or `a.png.txt` (Hydrus, gallery-dl), in capitals or not. A list
is `metadata.jsonl` or `metadata.csv` (diffusers), or kohya's JSON of names with their caption and tags.
"""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from studio.core.errors import NotFound
from studio.core.text_encoding import decode
from studio.runs.dataset.layout import CONCEPTS, read_json
from studio.runs.dataset.tags import split_tags
from studio.runs.dataset.views import CAPTIONS, METADATA, PICTURES, Problem
from studio.runs.rundir import write_failure

MAX_CAPTION = 2**20  # bytes
_FILE = ("file_name", "image_path", "image", "file")
_TEXT = ("text", "caption", "prompt")


@dataclass
class Captions:
    """Where the words of each picture stand. `texts`: file of a picture's key; `lines`: text by the picture's name."""

    texts: dict[str, str] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)

    def file_of(self, picture: str) -> str | None:
        """The text file of a picture, if there is one: exactly its name first, then letters in another case."""
        path = PurePosixPath(picture)
        exact = [str(path.with_suffix(suffix)) for suffix in CAPTIONS]
        names = [*exact, *(f"{picture}{suffix}" for suffix in CAPTIONS)]
        return next((self.texts[key] for key in [*names, *map(_key, names)] if key in self.texts), None)


def _key(name: str) -> str:
    """One name for all that people take for the same: letter case, and accents in one character or two (macOS)."""
    return unicodedata.normalize("NFC", name).casefold()


def find(folder: Path, names: Iterable[str], problems: list[Problem]) -> Captions:
    """All text files and lists of a set; what is wrong with a list goes to `problems`."""
    names = list(names)
    captions = Captions()
    for name in names:
        if PurePosixPath(name).suffix.lower() in CAPTIONS:
            captions.texts[name] = name
            captions.texts.setdefault(_key(name), name)
    known = {_key(name): name for name in reversed(names)}
    for name in names:
        path = PurePosixPath(name)
        if path.name.lower() in METADATA or (path.suffix.lower() == ".json" and path.name != CONCEPTS):
            _list(folder, name, known, problems, captions.lines)
    return captions


def is_list(folder: Path, name: str) -> bool:
    """Whether a JSON file is kohya's list of captions, and no file by mistake."""
    return PurePosixPath(name).suffix.lower() == ".json" and bool(_of_kohya(read_json(folder / name)))


def _list(folder: Path, name: str, known: dict[str, str], problems: list[Problem], lines: dict[str, str]) -> None:
    def problem(message: str) -> None:
        problems.append(Problem(file=name, kind="caption", message=message, used=False))

    parent = PurePosixPath(name).parent
    if name.lower().endswith(".json"):
        for stem, text in _of_kohya(read_json(folder / name)):
            able = [_key(str(parent / f"{stem}{suffix}")) for suffix in ("", *PICTURES)]
            lines |= {known[key]: text for key in able if key in known}
        return
    listed = _decoded((folder / name).read_bytes())
    if listed is None:
        problem(f"{name} is in an encoding that can't be told: it is left out; save it as UTF-8.")
        return
    table = name.lower().endswith(".csv")
    shape = "file_name,text" if table else '{"file_name": ..., "text": ...}'
    for number, row in _rows(listed, table):
        picture: str | None = next((row[key] for key in _FILE if isinstance(row.get(key), str)), None)
        words: str | None = next((row[key] for key in _TEXT if isinstance(row.get(key), str)), None)
        if picture is None or words is None:
            problem(f"{name}, line {number}, is not {shape}: it is left out.")
            continue
        file = known.get(_key(str(parent / picture.replace("\\", "/"))))
        if file is None:
            message = f"{name}, line {number}, names {picture!r}, which isn't there."
            problems.append(Problem(file=name, kind="name", message=message, used=False))
        else:
            lines[file] = words


def _rows(text: str, table: bool) -> Iterable[tuple[int, dict[str, Any]]]:
    if table:
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            for row in reader:
                yield reader.line_num, {str(key).strip().lower(): value for key, value in row.items()}
        except csv.Error:
            yield reader.line_num, {}
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = {}
            yield number, row if isinstance(row, dict) else {}


def _of_kohya(data: Any) -> list[tuple[str, str]]:
    """(name, words) of {"name": {"caption": ..., "tags": ...}}; nothing for any other JSON."""
    if not isinstance(data, dict) or not all(isinstance(item, dict) for item in data.values()):
        return []
    rows = []
    for name, item in data.items():
        words = [item[key] for key in ("caption", "tags") if isinstance(item.get(key), str) and item[key].strip()]
        if words:
            rows.append((name.replace("\\", "/").rsplit("/", 1)[-1], ", ".join(words)))
    return rows


def _decoded(data: bytes) -> str | None:
    return decode(data.strip(b"\0") if b"\0" not in data.strip(b"\0") else data)


def read_caption(folder: Path, name: str, captions: Captions) -> tuple[str | None, str]:
    """Words of one picture: the text file beside it, else its line in a list, else None. Newlines become commas.

    The second is the text file's name where its encoding can't be told: then there are no words.
    """
    file = captions.file_of(name)
    if file is None:
        return captions.lines.get(name), ""
    try:
        with open(folder / file, "rb") as opened:
            text = _decoded(opened.read(MAX_CAPTION))
    except OSError:
        text = None
    if text is None:
        return "", file
    return ", ".join(split_tags(text.replace("\r", "\n").replace("\n", ", "))), ""


def write_captions(folder: Path, captions: Mapping[str, str]) -> None:
    """Write `.txt` files beside pictures (name -> caption); they go before any metadata line.

    A linked picture gets its caption beside the link. Raises NotFound for a picture that isn't in the folder, or is in
    one that is only linked: nothing is written then; DiskFull, and BadInput for a folder that can't be written to.
    """
    for name in captions:
        path = folder / name
        if not path.parent.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise NotFound(f"There is no picture {name!r} in {folder.name}.")
    for name, caption in captions.items():
        path = (folder / name).with_suffix(".txt")
        fresh = path.with_name(path.name + ".tmp")
        try:
            fresh.write_text(caption.strip() + "\n", encoding="utf-8")
            os.replace(fresh, path)
        except OSError as error:
            raise write_failure("The captions can't be written", folder, error) from error
