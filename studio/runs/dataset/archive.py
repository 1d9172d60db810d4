"""A training set in a ZIP: unpacked once per content, or refused whole."""

from __future__ import annotations

import errno
import hashlib
import lzma
import os
import re
import stat
import struct
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from studio.core.errors import BadInput, NotFound
from studio.core.files import is_text, open_regular
from studio.core.text_encoding import decode_together
from studio.runs.dataset.views import CAPTIONS, IGNORED, LISTS, MAX_BYTES, MAX_FILES, PICTURES
from studio.runs.rundir import write_failure

# Names that no file system takes, or a file where another entry has a folder.
_ARCHIVES_FAULT = {errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EILSEQ}


def folder_of(data: Path, into: Path, max_bytes: int = MAX_BYTES) -> Path:
    """The folder of a data set given as a folder or a ZIP; a ZIP is unpacked under `into`, once per content.

    Raises NotFound, BadInput for a ZIP that can't be trusted (nothing of it is kept), DiskFull.
    """
    if not is_text(data):
        raise BadInput(f"The path {str(data)!a} isn't UTF-8, so nothing can be kept about it; give it another name.")
    try:
        if data.is_dir():
            return data.resolve()
        with open_regular(data) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise NotFound(f"There is no data set at {data}: give a folder of pictures or a ZIP of one.") from error
        raise BadInput(f"{data} can't be read ({error.strerror}).") from error
    name = re.sub(r"[^a-z0-9]+", "-", data.stem.lower()).strip("-")[:40] or "data"
    target = into / f"{name}-{digest}"
    if not target.exists():
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=into) as fresh:
            try:
                _unpack(data, Path(fresh) / "data", max_bytes)
            except OSError as error:
                if error.errno is None or error.errno in _ARCHIVES_FAULT:
                    raise BadInput(f"{data.name} can't be unpacked ({error.strerror or error}).") from error
                raise write_failure(f"{data.name} can't be unpacked", into, error) from error
            try:
                os.rename(_inner(Path(fresh) / "data"), target)
            except OSError:
                if not target.is_dir():  # otherwise another process was first, with the same content
                    raise
    return _inner(target).resolve()


def _unpack(archive: Path, target: Path, max_bytes: int) -> None:
    target.mkdir()
    try:
        with zipfile.ZipFile(archive) as bundle:
            names = _names(bundle.infolist(), archive.name)
            named = [(m, _safe_name(name, m, archive.name)) for m, name in names.items() if not _is_folder(m, name)]
            members = [(m, name) for m, name in named if not IGNORED.search(str(name))]
            twice = [str(name) for name, count in Counter(name for _, name in members).items() if count > 1]
            if twice:  # the later one would take the place of the other
                raise BadInput(f"{archive.name} has more than one entry called {twice[0]!r}: pack it again.")
            if len(members) > MAX_FILES:
                raise BadInput(
                    f"{archive.name} has {len(members)} files; {MAX_FILES} are the most a data set may have."
                )
            left = max_bytes
            for member, name in members:
                if name.suffix.lower() not in {*PICTURES, *CAPTIONS, *LISTS}:
                    # The name stays, so that the check can list it; what is inside is of no use.
                    (target / name).parent.mkdir(parents=True, exist_ok=True)
                    (target / name).touch()
                    continue
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                with bundle.open(member) as source, open(target / name, "wb") as copy:
                    # Counted while it unpacks: the sizes in the header may lie.
                    while block := source.read(min(2**20, left + 1)):
                        left -= len(block)
                        if left < 0:
                            raise BadInput(
                                f"{archive.name} unpacks to more than {max_bytes / 2**20:.0f} MB: make it smaller."
                            )
                        copy.write(block)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, ValueError,
            struct.error, OverflowError, KeyError, IndexError) as error:  # fmt: skip
        raise BadInput(f"{archive.name} is not a ZIP that can be read ({error}).") from error


def _is_folder(member: zipfile.ZipInfo, name: str) -> bool:
    return member.is_dir() or name.endswith(("/", "\\"))


def _names(members: Iterable[zipfile.ZipInfo], archive: str) -> dict[zipfile.ZipInfo, str]:
    """The name of every entry, decoded before anything is made of it: the second byte of a kanji may be a backslash.

    Names without the flag for UTF-8 are in the encoding of the machine that packed them (APPNOTE 4.4.4, appendix D);
    one machine, so all of them are looked at together. Raises BadInput where it can't be told.
    """
    names: dict[zipfile.ZipInfo, str] = {}
    unsure: dict[zipfile.ZipInfo, bytes] = {}
    for member in members:
        if member.flag_bits & 0x800 or member.orig_filename.isascii():
            names[member] = member.orig_filename
        else:
            raw = member.orig_filename.encode("cp437")
            written = _unicode_path(member.extra, raw)
            if written is None:
                unsure[member] = raw
            else:
                names[member] = written
    if unsure:
        decoded = decode_together(unsure.values(), ("utf-8", "cp932", "cp1252", "gbk", "cp850", "cp437"))
        if decoded is None:
            raise BadInput(
                f"The names in {archive} are in an encoding that can't be told, and folders are trigger words: pack it "
                "again with names in UTF-8, or unpack it and give the folder."
            )
        names |= dict(zip(unsure, decoded, strict=True))
    return names


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """Info-ZIP's Unicode Path (APPNOTE 4.6.9), where it belongs to this name."""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        body, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == 0x7075 and len(body) > 5 and body[0] == 1 and body[1:5] == struct.pack("<I", zlib.crc32(raw)):
            try:
                return body[5:].decode("utf-8")
            except UnicodeDecodeError:
                return None
    return None


def _safe_name(filename: str, member: zipfile.ZipInfo, archive: str) -> PurePosixPath:
    name = PurePosixPath(filename.replace("\\", "/"))
    escapes = name.is_absolute() or ".." in name.parts or "\x00" in filename
    escapes = escapes or not name.parts or ":" in name.parts[0]
    if escapes or stat.S_ISLNK(member.external_attr >> 16):
        raise BadInput(f"{archive} has an entry that points outside of it ({filename!r}): it isn't unpacked.")
    return name


def _inner(folder: Path) -> Path:
    # A ZIP of a folder of style folders has one folder more than the data set.
    while True:
        inside = list(folder.iterdir())
        if len(inside) != 1 or not inside[0].is_dir() or not all(p.is_dir() for p in inside[0].iterdir()):
            return folder
        folder = inside[0]
