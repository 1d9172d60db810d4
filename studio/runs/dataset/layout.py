"""What a training set's folders mean: kohya's repeats and projects, OneTrainer's concepts, links, foreign names.

kohya_ss makes `img/10_name class`, `reg/1_class`, `log` and `model`: only what is below `img` is trained on. OneTrainer
keeps `concepts.json` and masks beside pictures. A link is followed to what it leads to, a circle of links once.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from studio.core.errors import BadInput
from studio.core.text_encoding import decode
from studio.runs.dataset.views import IGNORED, MAX_FILES, PICTURES, Problem

KOHYA = re.compile(r"^(\d{1,3})_(.+)$")
CONCEPTS = "concepts.json"
MASKS = ("-masklabel.png", "-condlabel.png")
_IMAGES = {"img", "image", "images"}
# Folders that only hold the set: their names say nothing of what is in the pictures.
_HOLDERS = _IMAGES | {"train", "training", "data", "dataset", "pictures", "photos", "pics"}
_REGULAR = {"reg", "regs", "reg_img", "reg_images", "regularization", "regularisation", "class_images"}


@dataclass
class Listing:
    """The files of a set by their names relative to its folder, sorted, and what is wrong with others."""

    names: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)  # without a file in them or below
    problems: list[Problem] = field(default_factory=list)

    def leave_out(self, name: str, message: str) -> None:
        self.problems.append(Problem(file=name, kind="folder", message=message, used=False))


def listed(folder: Path) -> Listing:
    """Every file below `folder`, links followed. Raises BadInput for more than a set may have."""
    listing = Listing()
    for path, trouble in _walk(folder, "", {os.path.realpath(folder)}):
        if trouble:
            listing.problems.append(
                Problem(file=shown(path), kind="name", message=f"{shown(path)} {trouble}", used=False)
            )
        elif path.endswith("/"):
            listing.folders.append(path)
        elif not IGNORED.search(path):
            listing.names.append(path)
        if len(listing.names) > MAX_FILES:
            raise BadInput(f"{folder} has more than {MAX_FILES} files, the most that a data set may have.")
    listing.names.sort()
    return listing


def _walk(folder: Path, inside: str, seen: set[str]) -> Iterator[tuple[str, str]]:
    """(name relative to the set, what is wrong with it); a name that ends in / is a folder with nothing in it."""
    try:
        with os.scandir(folder) as entries:
            inner = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        yield inside, f"can't be read ({error.strerror}): it is left out."
        return
    if inside and not inner:
        yield f"{inside}/", ""
    for entry in inner:
        name = f"{inside}/{entry.name}" if inside else entry.name
        if IGNORED.search(name):
            continue
        try:
            name.encode()
        except UnicodeEncodeError:
            yield name, "has a name that isn't UTF-8: it is left out; give it another name."
            continue
        try:
            target, is_folder, is_file = os.path.realpath(entry.path), entry.is_dir(), entry.is_file()
        except OSError as error:  # a circle of links
            yield name, f"can't be read ({error.strerror}): it is left out."
            continue
        if is_folder and target not in seen:
            seen.add(target)
            yield from _walk(Path(entry.path), name, seen)
        elif is_folder:
            yield name, "leads to a folder that is looked at already: it is left out."
        elif is_file:
            yield name, ""
        elif entry.is_symlink():
            yield name, "is a link to something that isn't there: it is left out."
        else:
            yield name, "is no file (a pipe, a socket or a device): it is left out."


def shown(name: str) -> str:
    """A name as people know it, of a file system that keeps bytes: decoded where that is sure."""
    try:
        name.encode()
        return name
    except UnicodeEncodeError:
        raw = os.fsencode(name)
        return decode(raw) or raw.decode("utf-8", "backslashreplace")


def trained(listing: Listing) -> list[str]:
    """The names that count, with a remark for each folder whose pictures don't: regularisation, samples, masks."""
    names, top = listing.names, {name.split("/")[0] for name in listing.names if "/" in name}
    below = {part for part in top if any(KOHYA.match(inner) for inner in _second(names, part))}
    project = sorted(part for part in below if part.lower() in _IMAGES)
    regular = {part for part in top if part.lower() in _REGULAR and (below or any(map(KOHYA.match, top)))}
    kept = []
    aside: dict[str, int] = {}
    masks = [name for name in names if name.lower().endswith(MASKS)]
    for name in names:
        part = name.split("/")[0] if "/" in name else ""
        if part in regular or (project and part not in project):
            aside[part] = aside.get(part, 0) + (PurePosixPath(name).suffix.lower() in PICTURES)
        elif name not in masks:
            kept.append(name)
    for part, count in aside.items():
        what = "regularisation, which this training has none of" if part in regular else f"not below {project[0]}/"
        where = f"{part}/" if part else "The folder itself"
        number = f"{count} picture{'s' * (count != 1)}" if count else "no pictures"
        listing.leave_out(part or ".", f"{where} ({number}) is left out: {what}.")
    if masks:
        listing.leave_out(masks[0], f"{len(masks)} masks ({masks[0]} and so on) are left out: training here has none.")
    for empty in listing.folders:
        part = empty.split("/")[0]
        if part not in regular and not (project and part not in project):
            listing.leave_out(empty, f"{empty} is empty.")
    return kept


def _second(names: list[str], part: str) -> set[str]:
    return {name.split("/")[1] for name in names if name.startswith(f"{part}/") and name.count("/") > 1}


# --- trigger words and repeats --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Concept:
    """What OneTrainer says of one folder."""

    folder: str  # relative to the set, "" for all of it
    enabled: bool = True
    repeats: int | None = None
    source: str = "sample"  # of its captions: a file beside the picture, the picture's name, or one file for all


def trigger_of(name: str, folder: Path) -> tuple[str, int | None]:
    """The trigger word and repeats of one picture, by the nearest folder with kohya's number, else by the first.

    A first folder that only holds the set, such as `train/` (diffusers) or `images/`, is no word.
    """
    parts = PurePosixPath(name).parts[:-1]
    numbered = [part for part in parts if KOHYA.match(part)]
    if not numbered and not parts and (own := KOHYA.match(folder.name)):
        return _word(own[2]), _times(own[1])
    if numbered:
        match = KOHYA.match(numbered[-1])
        assert match is not None
        return _word(match[2]), _times(match[1])
    said = next((part for part in parts if part.lower() not in _HOLDERS), "")
    return _word(said), None


def _times(digits: str) -> int | None:
    return int(digits) or None


def _word(text: str) -> str:
    """A comma would end the tag, and a trigger word has to stay one."""
    return re.sub(r"[\s,]+", " ", text).strip()


def concepts(folder: Path, names: list[str]) -> list[Concept]:
    """OneTrainer's list in `concepts.json`, as far as it speaks of folders in the set."""
    if CONCEPTS not in names:
        return []
    data = read_json(folder / CONCEPTS)
    inside = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    concepts = []
    for item in data if isinstance(data, list) else ():
        if not isinstance(item, dict) or not isinstance(item.get("path"), str):
            continue
        parts = [part for part in re.split(r"[/\\]", item["path"]) if part not in ("", ".")]
        endings = ["/".join(parts[start:]) for start in range(len(parts))]
        match = next((ending for ending in endings if ending in inside), None)
        if match is None:
            continue
        text = item.get("text") if isinstance(item.get("text"), dict) else {}
        repeats = item.get("balancing") if item.get("balancing_strategy", "REPEATS") == "REPEATS" else None
        whole = isinstance(repeats, int | float) and 1 < repeats <= 1000
        concepts.append(
            Concept(
                folder=match,
                enabled=item.get("enabled", True) is not False and item.get("type", "STANDARD") == "STANDARD",
                repeats=round(repeats) if whole and repeats is not None else None,
                source=str(text.get("prompt_source", "sample") if text else "sample"),
            )
        )
    return concepts


def concept_of(name: str, known: list[Concept]) -> Concept | None:
    """The one for the nearest folder of a picture."""
    able = [concept for concept in known if name.startswith(f"{concept.folder}/")]
    return max(able, key=lambda concept: len(concept.folder), default=None)


def read_json(path: Path) -> Any:
    """A JSON file in whatever encoding; None for what can't be read."""
    try:
        text = decode(path.read_bytes()[: 64 * 2**20], lambda text: text.lstrip()[:1] in ("{", "["))
        return None if text is None else json.loads(text)
    except (OSError, ValueError, RecursionError):
        return None
