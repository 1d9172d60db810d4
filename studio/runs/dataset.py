"""A training set on disk: unpack it, find what is wrong with it, read and edit its captions.

`style_1/`, `style_2/` are trigger words, unless the captions inside begin with one of their own; kohya's `10_name/` is
ten repeats of the trigger word `name`. A caption is a `.txt` or `.caption` file beside its picture (kohya) or a line of
`metadata.jsonl` with `file_name` and `text` (diffusers); `NAME.control.png` is the drawing of the picture NAME, for a
ControlNet. Nothing here decodes for training or knows a model: that is `training.dataset`.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import lzma
import os
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image

from studio.core.errors import BadInput, NotFound
from studio.core.imaging import flat
from studio.core.views import View
from studio.runs.rundir import write_failure

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
CAPTIONS = (".txt", ".caption")
METADATA = "metadata.jsonl"
DRAWN = ".control.png"  # beside a picture: its drawing, made by hand, for a ControlNet
MAX_FILES = 20_000
MAX_BYTES = 4 * 2**30  # unpacked
MAX_PIXELS = 100_000_000
TINY = 0.5  # of the training resolution; below it there is too little in a picture to learn from
EPOCH_LOW, EPOCH_HIGH = 200, 400  # pictures x repeats of an epoch (hollowstrawberry/kohya-colab)
_IGNORED = re.compile(r"(^|/)(\.|__MACOSX|Thumbs\.db$|desktop\.ini$)")
_DRAWING = re.compile(r"\.control\.(png|jpe?g|webp|bmp)$", re.IGNORECASE)
_KOHYA = re.compile(r"^(\d{1,3})_(.+)$")
_COMMON = {"", "1girl", "1boy", "solo", "girl", "boy"}
# Names that no file system takes, or a file where another entry has a folder.
_ARCHIVES_FAULT = {errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EILSEQ}
_SAME_HASH, _SAME_COLOUR = 12, 6.0  # of 256 bits; of 255, mean over a 32 x 32 thumbnail


class Entry(View):
    """One picture that will be trained on. `file` is relative to the folder, with forward slashes."""

    file: str
    caption: str  # as written, without the trigger word
    trigger: str = ""
    width: int
    height: int
    repeats: int | None = None  # from a kohya folder name; None: the run's own number
    captioned: bool = True  # False: neither a text file nor a metadata line was there

    @property
    def prompt(self) -> str:
        """What the model reads: trigger word first, then the caption, unless it starts with the word already."""
        tags = split_tags(self.caption)
        if not self.trigger or self.trigger in tags:
            return ", ".join(tags)
        return ", ".join([self.trigger, *tags])


class Problem(View):
    """Something that was found. `used`: whether the picture is trained on all the same."""

    file: str
    kind: Literal["unreadable", "tiny", "duplicate", "name", "caption"]
    message: str
    used: bool


class Report(View):
    """A checked data set."""

    folder: Path
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]
    triggers: dict[str, int]  # trigger word -> pictures
    repeats: int  # chosen so that an epoch has 200 to 400 pictures
    digest: str  # SHA-256 of every picture and caption that is used
    drawings: int = 0  # that lie beside pictures (`DRAWN`) and can be read

    @property
    def per_epoch(self) -> int:
        return sum(entry.repeats or self.repeats for entry in self.entries)


def automatic_repeats(pictures: int) -> int:
    """Repeats that bring an epoch between 200 and 400 pictures, as near to 300 as a whole number gets."""
    return max(1, round((EPOCH_LOW + EPOCH_HIGH) / 2 / max(1, pictures)))


# --- unpacking -----------------------------------------------------------------------------------------------------


def folder_of(data: Path, into: Path, max_bytes: int = MAX_BYTES) -> Path:
    """The folder of a data set given as a folder or a ZIP; a ZIP is unpacked under `into`, once per content.

    Raises NotFound, BadInput for a ZIP that can't be trusted (nothing of it is kept), DiskFull.
    """
    try:
        if data.is_dir():
            return data.resolve()
        with open(data, "rb") as file:
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
            os.rename(Path(fresh) / "data", target)
    return _inner(target).resolve()


def _unpack(archive: Path, target: Path, max_bytes: int) -> None:
    target.mkdir()
    try:
        with zipfile.ZipFile(archive) as bundle:
            named = [(m, _safe_name(m, archive.name)) for m in bundle.infolist() if not m.is_dir()]
            members = [(m, name) for m, name in named if not _IGNORED.search(str(name))]
            if len(members) > MAX_FILES:
                raise BadInput(
                    f"{archive.name} has {len(members)} files; {MAX_FILES} are the most a data set may have."
                )
            left = max_bytes
            for member, name in members:
                if name.suffix.lower() not in {*PICTURES, *CAPTIONS, ".jsonl"}:
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
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError,
            UnicodeError) as error:  # fmt: skip
        raise BadInput(f"{archive.name} is not a ZIP that can be read ({error}).") from error


def _safe_name(member: zipfile.ZipInfo, archive: str) -> PurePosixPath:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    escapes = name.is_absolute() or ".." in name.parts or "\x00" in member.filename
    escapes = escapes or not name.parts or ":" in name.parts[0]
    if escapes or stat.S_ISLNK(member.external_attr >> 16):
        raise BadInput(f"{archive} has an entry that points outside of it ({member.filename!r}): it isn't unpacked.")
    return name


def _inner(folder: Path) -> Path:
    # A ZIP of a folder of style folders has one folder more than the data set.
    while True:
        inside = list(folder.iterdir())
        if len(inside) != 1 or not inside[0].is_dir() or not all(p.is_dir() for p in inside[0].iterdir()):
            return folder
        folder = inside[0]


# --- the check -----------------------------------------------------------------------------------------------------


def check(folder: Path, resolution: int) -> Report:
    """Look at every file. `resolution`: the side in px that will be trained at.

    Drawings (`DRAWN`) are no pictures of the set; that they can be read, and whose they are, is looked at.

    Raises NotFound where there is no folder, BadInput where not one picture can be trained on.
    """
    if not folder.is_dir():
        raise NotFound(f"There is no data set at {folder}: give a folder of pictures or a ZIP of one.")
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()
    )
    names = [name for name in names if not _IGNORED.search(name)]
    drawings = [name for name in names if _DRAWING.search(name)]
    names = [name for name in names if not _DRAWING.search(name)]
    if len(names) > MAX_FILES:
        raise BadInput(f"{folder} has {len(names)} files; {MAX_FILES} are the most a data set may have.")
    problems: list[Problem] = []
    metadata = _metadata(folder, names, problems)
    pictures = [name for name in names if PurePosixPath(name).suffix.lower() in PICTURES]
    stems = {str(PurePosixPath(name).with_suffix("")): name for name in pictures}
    for name in names:
        problem = _stray(name, stems)
        if problem and name not in pictures:
            problems.append(problem)
    about = [problem for name in drawings if (problem := _drawing(folder, name, stems)) is not None]
    problems += about
    seen: list[tuple[str, int, np.ndarray]] = []
    looked = [_look(folder, name, metadata, resolution, problems, seen) for name in pictures]
    entries = _own_triggers([entry for entry in looked if entry is not None])
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(f"{entry.file}\0{entry.prompt}\0{entry.repeats}\0".encode())
        digest.update(hashlib.sha256((folder / entry.file).read_bytes()).digest())
    if not entries:
        said = " ".join(problem.message for problem in problems[:3]) or "The folder is empty."
        said += f" And so on: {len(problems)} remarks in all." if len(problems) > 3 else ""
        raise BadInput(f"There is no picture to train on. {said}")
    triggers: dict[str, int] = {}
    for entry in entries:
        if entry.trigger:
            triggers[entry.trigger] = triggers.get(entry.trigger, 0) + 1
    return Report(
        folder=folder,
        entries=tuple(entries),
        problems=tuple(problems),
        triggers=triggers,
        repeats=automatic_repeats(len(entries)),
        digest=digest.hexdigest(),
        drawings=len(drawings) - sum(not problem.used for problem in about),
    )


def _drawing(folder: Path, name: str, pictures: Mapping[str, str]) -> Problem | None:
    """What is wrong with a drawing beside a picture, None where nothing is. `pictures`: by name without suffix."""

    def problem(message: str, kind: Literal["unreadable", "name"] = "name", used: bool = False) -> Problem:
        return Problem(file=name, kind=kind, message=f"{name} {message}", used=used)

    if not name.endswith(DRAWN):
        return problem(f"looks like a drawing, which is a PNG and ends in {DRAWN}: it is left out.")
    picture = pictures.get(name.removesuffix(DRAWN))
    if picture is None:
        return problem("has no picture of the same name: it is left out.")
    sizes = []
    for each in (name, picture):
        try:
            with Image.open(folder / each) as file:
                if file.width * file.height > MAX_PIXELS:
                    raise ValueError
                sizes.append(upright(file).size)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            if each == picture:
                return None  # said of the picture itself
            return problem("is not a drawing that can be read: a ControlNet leaves its picture out.", "unreadable")
    (w, h), (width, height) = sizes
    if abs(w / h * height / width - 1) > 0.03:
        said = f"is {w} x {h} and its picture {width} x {height}"
        return problem(f"{said}: both are cut to a square, so its lines may lie beside what they mean.", used=True)
    return None


def _stray(name: str, stems: Mapping[str, str]) -> Problem | None:
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    if path.name == METADATA:
        return None
    if suffix in CAPTIONS:
        if str(path.with_suffix("")) in stems:
            return None
        message = f"{name} has no picture of the same name: it is left out."
    else:
        message = f"{name} is neither a picture (PNG, JPEG, WebP, BMP) nor a caption (.txt): it is left out."
    return Problem(file=name, kind="name", message=message, used=False)


def _look(
    folder: Path,
    name: str,
    metadata: Mapping[str, str],
    resolution: int,
    problems: list[Problem],
    seen: list[tuple[str, int, np.ndarray]],
) -> Entry | None:
    """One picture as an entry, or None where it can't be used; adds to `problems` and `seen`."""

    def problem(kind: Literal["unreadable", "tiny", "duplicate", "name", "caption"], text: str, used: bool) -> None:
        problems.append(Problem(file=name, kind=kind, message=f"{name} {text}", used=used))

    try:
        with Image.open(folder / name) as file:
            if file.width * file.height > MAX_PIXELS:
                problem("unreadable", f"has {file.width} x {file.height} pixels, too many: it is left out.", False)
                return None
            kind = file.format
            picture = upright(file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "is truncated" if "truncated" in str(error) else "is not a picture that can be read"
        problem("unreadable", f"{reason}: it is left out.", False)
        return None
    if kind != PICTURES[PurePosixPath(name).suffix.lower()]:
        problem("name", f"is really a {kind} file; it is read all the same.", True)
    if min(picture.size) < TINY * resolution:
        smallest = f"{picture.width} x {picture.height}"
        problem("tiny", f"is only {smallest} px for training at {resolution} px: it is left out.", False)
        return None
    if min(picture.size) < resolution:
        problem("tiny", f"is {picture.width} x {picture.height} px and is enlarged to {resolution} px.", True)
    bits, colours = fingerprint(picture)
    for other, other_bits, other_colours in seen:
        if (bits ^ other_bits).bit_count() <= _SAME_HASH and np.abs(colours - other_colours).mean() <= _SAME_COLOUR:
            problem("duplicate", f"looks the same as {other}: it is left out.", False)
            return None
    seen.append((name, bits, colours))
    trigger, repeats = _trigger(name)
    caption = read_caption(folder, name, metadata)
    if not caption:
        word = f"only its trigger word, {trigger}" if trigger else "no words at all"
        problem("caption", f"has no caption: it is trained with {word}.", True)
    return Entry(
        file=name,
        caption=caption or "",
        trigger=trigger,
        width=picture.width,
        height=picture.height,
        repeats=repeats,
        captioned=caption is not None,
    )


def _own_triggers(entries: list[Entry]) -> list[Entry]:
    own = _leading(entries)
    folders = [entry.file.rpartition("/")[0] for entry in entries]
    return [
        entry.model_copy(update={"trigger": own[folder]}) if folder in own else entry
        for entry, folder in zip(entries, folders, strict=True)
    ]


def _leading(entries: Iterable[Entry]) -> dict[str, str]:
    """Where all captions of a folder begin with the same word, and not one that says little, that is the trigger."""
    first: dict[str, list[str]] = {}
    for entry in entries:
        first.setdefault(entry.file.rpartition("/")[0], []).append((split_tags(entry.caption) or [""])[0])
    return {
        folder: words[0]
        for folder, words in first.items()
        if len(words) > 1 and len(set(words)) == 1 and words[0] not in _COMMON
    }


def upright(picture: Image.Image) -> Image.Image:
    """RGB, turned as the camera held it, transparent parts on white (black would be learnt as a background)."""
    return flat(picture, "white")


def fingerprint(picture: Image.Image) -> tuple[int, np.ndarray]:
    """Difference hash of 16 x 16 (256 bits) and a 32 x 32 thumbnail: both near means the same picture.

    The hash alone takes two drawings of one composition for one; colours alone two pictures of one mood.
    """
    grey = np.asarray(picture.convert("L").resize((17, 16), Image.Resampling.LANCZOS), dtype=np.int16)
    bits = (grey[:, 1:] > grey[:, :-1]).flatten()
    colours = np.asarray(picture.resize((32, 32), Image.Resampling.BOX), dtype=np.float32)
    return int("".join("1" if bit else "0" for bit in bits), 2), colours


def _trigger(name: str) -> tuple[str, int | None]:
    parts = PurePosixPath(name).parts
    if len(parts) == 1:
        return "", None
    kohya = _KOHYA.match(parts[0])
    word = kohya[2] if kohya else parts[0]
    # A comma would end the tag, and a trigger word has to stay one.
    return re.sub(r"[\s,]+", " ", word).strip(), int(kohya[1]) if kohya else None


# --- captions ------------------------------------------------------------------------------------------------------


def _metadata(folder: Path, names: Iterable[str], problems: list[Problem]) -> dict[str, str]:
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


def behind_triggers(entries: Iterable[Entry], made: Mapping[str, str]) -> dict[str, str]:
    """Captions that a machine made for some of `entries` (file -> caption), so that no trigger word is lost by them.

    Where the captions of a folder begin with a word of its own, the new ones do too. And where a new one begins with a
    word that could be taken for the trigger, since all in its folder may begin with it, the trigger goes first.
    """
    entries = list(entries)
    own = _leading(entry for entry in entries if entry.caption)
    found = {}
    for entry in entries:
        if entry.file in made:
            tags = split_tags(made[entry.file])
            word = own.get(entry.file.rpartition("/")[0], "" if not tags or tags[0] in _COMMON else entry.trigger)
            found[entry.file] = add_tags(remove_tags(made[entry.file], word), word, first=True) if tags else ""
    return found


def split_tags(caption: str) -> list[str]:
    """The comma-separated tags of a caption, without blanks and repetitions, in order."""
    return list(dict.fromkeys(tag for tag in (part.strip() for part in caption.split(",")) if tag))


def add_tags(caption: str, tags: str, first: bool = False) -> str:
    """With `tags` (comma-separated) at the end, or `first`; a tag that is there already stays where it is."""
    here, new = split_tags(caption), split_tags(tags)
    new = [tag for tag in new if tag not in here]
    return ", ".join(new + here if first else here + new)


def remove_tags(caption: str, tags: str) -> str:
    """Without `tags` (comma-separated, exact, letter case doesn't matter)."""
    unwanted = {tag.lower() for tag in split_tags(tags)}
    return ", ".join(tag for tag in split_tags(caption) if tag.lower() not in unwanted)


def replace_tag(caption: str, old: str, new: str) -> str:
    """With the whole tag `old` replaced by `new` (which may be several tags), never a part of a tag."""
    replaced = [new if tag.lower() == old.strip().lower() else tag for tag in split_tags(caption)]
    return ", ".join(split_tags(", ".join(replaced)))


def tag_counts(captions: Iterable[str]) -> dict[str, int]:
    """How many captions have each tag, the most common first."""
    counts: dict[str, int] = {}
    for caption in captions:
        for tag in split_tags(caption):
            counts[tag] = counts.get(tag, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
