"""Every file of a training set looked at: what will be trained on, and what is wrong with the rest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image

from studio.core.errors import BadInput, NotFound
from studio.core.imaging import flat
from studio.runs.dataset.captions import read_caption, read_metadata
from studio.runs.dataset.tags import add_tags, remove_tags, split_tags
from studio.runs.dataset.views import (
    CAPTIONS,
    DRAWN,
    EPOCH_HIGH,
    EPOCH_LOW,
    IGNORED,
    MAX_FILES,
    MAX_PIXELS,
    METADATA,
    PICTURES,
    TINY,
    Entry,
    Problem,
    Report,
)

_DRAWING = re.compile(r"\.control\.(png|jpe?g|webp|bmp)$", re.IGNORECASE)
_KOHYA = re.compile(r"^(\d{1,3})_(.+)$")
_COMMON = {"", "1girl", "1boy", "solo", "girl", "boy"}
_SAME_HASH, _SAME_COLOUR = 12, 6.0  # of 256 bits; of 255, mean over a 32 x 32 thumbnail


def automatic_repeats(pictures: int) -> int:
    """Repeats that bring an epoch between 200 and 400 pictures, as near to 300 as a whole number gets."""
    return max(1, round((EPOCH_LOW + EPOCH_HIGH) / 2 / max(1, pictures)))


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
    names = [name for name in names if not IGNORED.search(name)]
    drawings = [name for name in names if _DRAWING.search(name)]
    names = [name for name in names if not _DRAWING.search(name)]
    if len(names) > MAX_FILES:
        raise BadInput(f"{folder} has {len(names)} files; {MAX_FILES} are the most a data set may have.")
    problems: list[Problem] = []
    metadata = read_metadata(folder, names, problems)
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
