"""What a weight file is, read from its first bytes: safetensors or not, which tensors, which fingerprint.

Nothing is ever unpickled and no tensor is loaded: only headers and bytes are read. Digests of large files are kept in
one JSON file, because reading gigabytes takes seconds. Loads no torch, knows no model.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from studio.core.errors import BadInput, NotFound
from studio.core.files import open_regular

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
MAX_HEADER = 100_000_000  # bytes, the format's own limit
_HASHED = {".safetensors", ".json", ".txt", ".model"}


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors header."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """All tensors of a file by name, and its free-form metadata."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    def parameters(self, *prefixes: str) -> int:
        """How many numbers there are in all tensors, or in those whose names begin with one of `prefixes`."""
        return sum(math.prod(t.shape) for name, t in self.tensors.items() if name.startswith(prefixes or ""))


def one_line(title: str) -> str:
    """A title that somebody wrote into a file, as it can be shown: on one line, at most 100 characters."""
    title = " ".join(title.split())
    return title if len(title) <= 100 else title[:99] + "…"


def read_header(path: Path) -> Header:
    """The checked header of a safetensors file (format: 8 bytes little-endian length, JSON, then the tensors).

    Raises NotFound when there is no file, BadInput when it is a pickle under any name, truncated or damaged.
    """
    name = path.name
    if path.suffix.lower() in PICKLES:
        raise BadInput(f"{name} is a pickle, which can run code when it is opened; use the .safetensors version of it.")
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            if start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"):
                raise BadInput(f"{name} is a pickle under another name and was refused; use a real .safetensors file.")
            length = int.from_bytes(start, "little")
            if len(start) < 8 or not 2 <= length <= MAX_HEADER or not (head := file.read(1)) == b"{":
                raise BadInput(f"{name} is not a safetensors file, or damaged at its start; download it again.")
            if length > size - 8:
                raise BadInput(f"{name} is incomplete ({size:,} bytes); download it again.")
            raw = json.loads(head + file.read(length - 1))
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}.") from None
    except OSError as error:
        raise BadInput(f"{name} can't be read ({error.strerror}).") from None
    except (ValueError, RecursionError):
        raise BadInput(f"{name} has a damaged header; download it again.") from None
    try:
        metadata = {str(key): str(value) for key, value in (raw.pop("__metadata__", None) or {}).items()}
        tensors, spans = {}, []
        for key, entry in raw.items():
            tensors[key] = Tensor(str(entry["dtype"]), tuple(int(n) for n in entry["shape"]))
            begin, end = (int(n) for n in entry["data_offsets"])
            spans.append((begin, end))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise BadInput(f"{name} has a damaged header; download it again.") from None
    position = 0
    for begin, end in sorted(spans):
        if begin != position or end < begin:
            raise BadInput(f"{name} has a damaged header; download it again.")
        position = end
    if position != size - 8 - length:
        whole = position + 8 + length
        how = "is incomplete" if size < whole else "is longer than it says itself, so damaged"
        raise BadInput(f"{name} {how} ({size:,} of {whole:,} bytes); download it again.")
    return Header(tensors, metadata)


def component_weights(folder: Path, component: str) -> list[Path]:
    """The safetensors files of one component of a diffusers folder, checked; several when it was saved in shards.

    Full-precision files are preferred to a `fp16` variant. Raises BadInput when there are none.
    """
    parent = folder / component
    files = sorted(parent.glob("*.safetensors"))
    plain = [file for file in files if ".fp16." not in file.name and ".non_ema." not in file.name]
    chosen = plain or [file for file in files if ".fp16." in file.name]
    if not chosen:
        if any(file.suffix in PICKLES for file in parent.glob("*")):
            raise BadInput(
                f"The {component} of {folder.name} is a pickle, which can run code when it is opened; "
                "use a version of the model with .safetensors files."
            )
        raise BadInput(f"The model {folder.name} has no weights for its {component}; get it again.")
    for file in chosen:
        read_header(file)
    return chosen


_Key = tuple[str, int, int]  # absolute path, bytes, time of the last change in ns
_KEPT_FROM = 100_000  # bytes: what is smaller is read faster than looked up
_known: dict[_Key, str] = {}
_kept: Path | None = None
_lock = threading.Lock()


def keep_in(path: Path) -> None:
    """Remember digests in this file from now on, for the next process too. A damaged one is made anew."""
    global _kept
    with _lock:
        if path != _kept:
            _kept = path
            _known.update(_read(path))


def _read(path: Path) -> dict[_Key, str]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {
            (str(name), int(size), int(changed)): digest
            for name, size, changed, digest in rows
            if re.fullmatch(r"[0-9a-f]{64}", digest)
        }
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _write() -> None:
    """Everything that is known of large files and still true; other processes' entries stay."""
    if _kept is None or not _kept.parent.is_dir():
        return
    rows = [
        [*key, digest] for key, digest in (_read(_kept) | _known).items() if key[1] >= _KEPT_FROM and _still_true(key)
    ]
    part = _kept.with_name(f"{_kept.name}.{os.getpid()}.part")
    with suppress(OSError):  # without it files are read again, no more
        part.write_text(json.dumps(rows, indent=0), encoding="utf-8")
        os.replace(part, _kept)


def _still_true(key: _Key) -> bool:
    try:
        return _key(Path(key[0])) == key
    except OSError:
        return False


def _key(real: Path) -> _Key:
    stat = real.stat()
    return str(real), stat.st_size, stat.st_mtime_ns


def _digest(path: Path) -> str:
    """SHA-256 of a file, remembered until it changes; a file of the Hub's cache is named by its digest already."""
    real = path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", real.name):
        return real.name
    key = _key(real)
    with _lock:
        digest = _known.get(key)
    if digest is None:
        with open_regular(real) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with _lock:
            _known[key] = digest
            if key[1] >= _KEPT_FROM:
                _write()
    return digest


def remembered(path: Path) -> bool:
    """Whether `fingerprint(path)` answers at once; gigabytes take seconds to read."""
    for file in [path] if path.is_file() else (file for _, file in _deciding(path)):
        real = file.resolve()
        key = _key(real)
        if not (key[1] < _KEPT_FROM or re.fullmatch(r"[0-9a-f]{64}", real.name) or key in _known):
            return False
    return True


def _deciding(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Every file of a model folder that decides its pixels: its path inside, and its path."""
    for file in sorted(folder.glob("*/**/*")):
        inside = file.relative_to(folder)
        if file.suffix in _HASHED and inside.parts[0] != "judge" and not inside.name.startswith(".") and file.is_file():
            yield inside, file


def fingerprint(path: Path) -> str:
    """SHA-256 of a weight file, or of everything in a model folder that decides its pixels; 64 hex digits.

    In a folder the files directly in it (titles, defaults) and `judge/` don't count.
    """
    if path.is_file():
        return _digest(path)
    total = hashlib.sha256()
    for inside, file in _deciding(path):
        total.update(f"{inside.as_posix()}\0{_digest(file)}\n".encode())
    return total.hexdigest()
