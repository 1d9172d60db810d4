"""Every file of a training set looked at: what will be trained on, and what is wrong with the rest."""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image

from studio.core.errors import BadInput, NotFound
from studio.core.imaging import to_rgb
from studio.runs.dataset import layout
from studio.runs.dataset.captions import Captions, find, is_list, read_caption
from studio.runs.dataset.tags import add_tags, remove_tags, split_tags
from studio.runs.dataset.views import (
    CAPTIONS,
    DRAWN,
    EPOCH_HIGH,
    EPOCH_LOW,
    LISTS,
    MAX_PIXELS,
    METADATA,
    PICTURES,
    TINY,
    Entry,
    Problem,
    ProblemKind,
    Report,
)

_DRAWING = re.compile(r"\.control\.(png|jpe?g|webp|bmp)$", re.IGNORECASE)
_COMMON = {"", "1girl", "1boy", "solo", "girl", "boy"}
# What a damaged file makes Pillow raise.
FAULTS = (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, OverflowError, EOFError, RuntimeError,
          struct.error, zlib.error, MemoryError, Image.DecompressionBombError,
          Image.DecompressionBombWarning)  # fmt: skip
# A damaged header may claim any size; no picture of so many pixels is that small (deflate packs 1032 to 1).
LARGE, MOST_PER_BYTE = 16_000_000, 2000
_TEXTS = (*CAPTIONS, *LISTS)
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
    listing = layout.listed(folder)
    concepts = layout.concepts(folder, listing.names)
    names = layout.trained(listing)
    drawings = [name for name in names if _DRAWING.search(name)]
    names = [name for name in names if not _DRAWING.search(name)]
    problems = listing.problems
    names = _own_words(folder, _enabled(names, concepts, problems), problems)
    captions = find(folder, names, problems)
    pictures = [name for name in names if PurePosixPath(name).suffix.lower() in PICTURES]
    stems = {str(PurePosixPath(name).with_suffix("")): name for name in pictures}
    owned = {file for name in pictures if (file := captions.file_of(name))}
    problems += [problem for name in names if not _pictured(name) and (problem := _stray(folder, name, owned))]
    about = [problem for name in drawings if (problem := _drawing(folder, name, stems)) is not None]
    problems += about
    looker = _Looker(folder, resolution, captions, concepts, problems)
    entries = _own_triggers([entry for name in pictures if (entry := looker.look(name)) is not None])
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
        digest=_digest(folder, entries),
        drawings=len(drawings) - sum(not problem.used for problem in about),
    )


def _digest(folder: Path, entries: Iterable[Entry]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(f"{entry.file}\0{entry.prompt}\0{entry.repeats}\0".encode())
        with open(folder / entry.file, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _enabled(names: list[str], concepts: list[layout.Concept], problems: list[Problem]) -> list[str]:
    """Without the folders that OneTrainer has turned off, or keeps to measure with."""
    kept, off = [], dict.fromkeys(concept.folder for concept in concepts if not concept.enabled)
    for name in names:
        concept = layout.concept_of(name, concepts)
        if concept is None or concept.enabled:
            kept.append(name)
    for folder in off:
        message = f"{folder} is left out: {layout.CONCEPTS} has it turned off, or as other than pictures to train on."
        problems.append(Problem(file=folder, kind="folder", message=message, used=False))
    return kept


def _own_words(folder: Path, names: list[str], problems: list[Problem]) -> list[str]:
    """Without captions and lists that are links to other texts of this machine: they would be shown and trained on.

    A set of links is one all the same: where its pictures lead, their captions may lead too. A picture may lead
    anywhere: what is no picture isn't read.
    """
    kept, homes = [], {folder.resolve()}
    homes |= {path.resolve().parent for name in names if (path := folder / name).is_symlink() and _pictured(name)}
    for name in names:
        path = folder / name
        target = path.resolve() if path.is_symlink() and not _pictured(name) else None
        if target is not None and not (target.suffix.lower() in _TEXTS and any(map(target.is_relative_to, homes))):
            message = f"{name} is a link to a file that isn't beside a picture of the set: it is left out."
            problems.append(Problem(file=name, kind="caption", message=message, used=False))
        else:
            kept.append(name)
    return kept


def _pictured(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in PICTURES


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
        except FAULTS:
            if each == picture:
                return None  # said of the picture itself
            return problem("is not a drawing that can be read: a ControlNet leaves its picture out.", "unreadable")
    (w, h), (width, height) = sizes
    if abs(w / h * height / width - 1) > 0.03:
        said = f"is {w} x {h} and its picture {width} x {height}"
        return problem(f"{said}: both are cut to a square, so its lines may lie beside what they mean.", used=True)
    return None


def _stray(folder: Path, name: str, owned: set[str]) -> Problem | None:
    """What is wrong with a file that is no picture. `owned`: captions that have one."""
    path = PurePosixPath(name)
    if path.name.lower() in METADATA or path.name == layout.CONCEPTS or name in owned or is_list(folder, name):
        return None
    if path.suffix.lower() not in CAPTIONS:
        message = f"{name} is neither a picture (PNG, JPEG, WebP, BMP) nor a caption (.txt): it is left out."
    else:
        message = f"{name} has no picture of the same name: it is left out."
    return Problem(file=name, kind="name", message=message, used=False)


class _Looker:
    """Looks at one picture after the other, and remembers them: the same one twice is one too many."""

    def __init__(
        self, folder: Path, resolution: int, captions: Captions, concepts: list[layout.Concept], problems: list[Problem]
    ) -> None:
        self._folder = folder
        self._resolution = resolution
        self._captions = captions
        self._concepts = concepts
        self._problems = problems
        self._seen: list[tuple[str, str, int, np.ndarray]] = []

    def look(self, name: str) -> Entry | None:
        """One picture as an entry, or None where it can't be used."""
        picture = self._opened(name)
        if picture is None:
            return None
        trigger, repeats = layout.trigger_of(name, self._folder)
        concept = layout.concept_of(name, self._concepts)
        if concept is not None and concept.repeats is not None:
            repeats = concept.repeats
        caption, unreadable = read_caption(self._folder, name, self._captions)
        if concept is not None and concept.source == "filename":
            caption, unreadable = PurePosixPath(name).stem.replace("_", " "), ""
        if self._twice(name, picture, caption or ""):
            return None
        if not caption:
            word = f"only its trigger word, {trigger}" if trigger else "no words at all"
            said = f"has no caption: it is trained with {word}."
            if unreadable:
                said = f"has a caption in an encoding that can't be told ({unreadable}): it is trained with {word}. "
                said += "Save the caption as UTF-8."
            self._problem(name, "caption", said, True)
        return Entry(
            file=name,
            caption=caption or "",
            trigger=trigger,
            width=picture.width,
            height=picture.height,
            repeats=repeats,
            captioned=caption is not None,
        )

    def _problem(self, name: str, kind: ProblemKind, text: str, used: bool) -> None:
        self._problems.append(Problem(file=name, kind=kind, message=f"{name} {text}", used=used))

    def _opened(self, name: str) -> Image.Image | None:
        path, resolution = self._folder / name, self._resolution
        try:
            with Image.open(path) as file:
                pixels = file.width * file.height
                if pixels > MAX_PIXELS:
                    self._problem(
                        name, "unreadable", f"has {file.width} x {file.height} pixels, too many: it is left out.", False
                    )
                    return None
                if pixels > LARGE and pixels > MOST_PER_BYTE * path.stat().st_size:
                    raise OSError("truncated: less than the least that so many pixels take")
                kind = file.format
                picture = upright(file)
        except FAULTS as error:
            reason = "is truncated" if "truncated" in str(error) else "is not a picture that can be read"
            self._problem(name, "unreadable", f"{reason}: it is left out.", False)
            return None
        if kind != PICTURES[PurePosixPath(name).suffix.lower()]:
            self._problem(name, "name", f"is really a {kind} file; it is read all the same.", True)
        size = f"{picture.width} x {picture.height}"
        if min(picture.size) < TINY * resolution:
            self._problem(name, "tiny", f"is only {size} px for training at {resolution} px: it is left out.", False)
            return None
        if min(picture.size) < resolution:
            self._problem(name, "tiny", f"is {size} px and is enlarged to {resolution} px.", True)
        return picture

    def _twice(self, name: str, picture: Image.Image, caption: str) -> bool:
        """Whether it looks the same as another one, unless their captions say what differs (one face, five moods)."""
        bits, colours = fingerprint(picture)
        for other, other_caption, other_bits, other_colours in self._seen:
            if caption and other_caption and caption != other_caption:
                continue
            if (bits ^ other_bits).bit_count() <= _SAME_HASH and np.abs(colours - other_colours).mean() <= _SAME_COLOUR:
                said = f"looks the same as {other}"
                said += " and has the same caption" if caption and caption == other_caption else ""
                self._problem(name, "duplicate", f"{said}: it is left out.", False)
                return True
        self._seen.append((name, caption, bits, colours))
        return False


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
    return to_rgb(picture, "white")


def fingerprint(picture: Image.Image) -> tuple[int, np.ndarray]:
    """Difference hash of 16 x 16 (256 bits) and a 32 x 32 thumbnail: both near means the same picture.

    The hash alone takes two drawings of one composition for one; colours alone two pictures of one mood.
    """
    grey = np.asarray(picture.convert("L").resize((17, 16), Image.Resampling.LANCZOS), dtype=np.int16)
    bits = (grey[:, 1:] > grey[:, :-1]).flatten()
    colours = np.asarray(picture.resize((32, 32), Image.Resampling.BOX), dtype=np.float32)
    return int("".join("1" if bit else "0" for bit in bits), 2), colours


def behind_triggers(entries: Iterable[Entry], made: Mapping[str, str]) -> dict[str, str]:
    """Captions that a machine made for some of `entries` (file -> caption), so that no trigger word is lost by them.

    Where the captions of a folder begin with a word of its own, the new ones do too. And where a new one begins with a
    word that could be taken for the trigger, since all in its folder may begin with it, the trigger goes first.
    """
    entries = list(entries)
    own = _leading(entry for entry in entries if entry.caption)
    captions = {}
    for entry in entries:
        if entry.file in made:
            tags = split_tags(made[entry.file])
            word = own.get(entry.file.rpartition("/")[0], "" if not tags or tags[0] in _COMMON else entry.trigger)
            captions[entry.file] = add_tags(remove_tags(made[entry.file], word), word, first=True) if tags else ""
    return captions
