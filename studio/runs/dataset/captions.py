"""Captions beside pictures and in lists: read and written."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from studio.core.errors import NotFound
from studio.runs.dataset.tags import split_tags
from studio.runs.dataset.views import CAPTIONS, METADATA, Problem
from studio.runs.rundir import write_failure


def read_metadata(folder: Path, names: Iterable[str], problems: list[Problem]) -> dict[str, str]:
    found: dict[str, str] = {}
    known = set(names)
    for name in known:
        path = PurePosixPath(name)
        if path.name != METADATA:
            continue
        lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                picture, text = str(path.parent / row["file_name"]), str(row["text"])
            except (ValueError, KeyError, TypeError):
                message = f'{name}, line {number}, is not {{"file_name": ..., "text": ...}}: it is left out.'
                problems.append(Problem(file=name, kind="caption", message=message, used=False))
                continue
            if picture not in known:
                message = f"{name}, line {number}, names {row['file_name']!r}, which isn't there."
                problems.append(Problem(file=name, kind="name", message=message, used=False))
            found[picture] = text
    return found


def _decoded(data: bytes) -> str:
    """A caption file as text: UTF-8, UTF-16 with its mark, or Shift-JIS as Windows writes it; "" for anything else."""
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if marked else ("utf-8-sig", "cp932"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        return "" if any(ord(letter) < 32 and letter not in "\t\n\r" for letter in text) else text
    return ""


def read_caption(folder: Path, name: str, metadata: Mapping[str, str]) -> str | None:
    """Caption of one picture: the text file beside it, else its metadata line, else None. Newlines become commas."""
    for suffix in CAPTIONS:
        path = (folder / name).with_suffix(suffix)
        if path.is_file():
            return ", ".join(split_tags(_decoded(path.read_bytes()).replace("\n", ", ")))
    return metadata.get(name)


def write_captions(folder: Path, captions: Mapping[str, str]) -> None:
    """Write `.txt` files beside pictures (name -> caption); they go before any metadata line.

    Raises NotFound for a picture that isn't in the folder: nothing is written then; DiskFull, and BadInput for a folder
    that can't be written to.
    """
    for name in captions:
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise NotFound(f"There is no picture {name!r} in {folder.name}.")
    for name, caption in captions.items():
        path = (folder / name).with_suffix(".txt")
        fresh = path.with_name(path.name + ".tmp")
        try:
            fresh.write_text(caption.strip() + "\n", encoding="utf-8")
            os.replace(fresh, path)
        except OSError as error:
            raise write_failure("The captions can't be written", folder, error) from error
