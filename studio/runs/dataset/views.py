"""What is known of a checked training set, and the words that its files are told apart by."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from studio.core.views import View
from studio.runs.dataset.tags import split_tags

PICTURES = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".webp": "WEBP", ".bmp": "BMP",
}  # fmt: skip
CAPTIONS = (".txt", ".caption")
METADATA = ("metadata.jsonl", "metadata.csv")
LISTS = (".jsonl", ".csv", ".json")  # suffixes of captions in lists, of kohya's and OneTrainer's too
DRAWN = ".control.png"  # beside a picture: its drawing, made by hand, for a ControlNet
MAX_FILES = 20_000
MAX_BYTES = 4 * 2**30  # unpacked
MAX_PIXELS = 100_000_000
TINY = 0.5  # of the training resolution; below it there is too little in a picture to learn from
EPOCH_LOW, EPOCH_HIGH = 200, 400  # pictures x repeats of an epoch (hollowstrawberry/kohya-colab)
# What systems leave beside files: macOS, Windows, and the thumbnails and bins of network storage.
IGNORED = re.compile(
    r"(^|/)(\.|__MACOSX|Thumbs\.db$|desktop\.ini$|Icon\r$"
    r"|(@eaDir|#recycle|\$RECYCLE\.BIN|System Volume Information)(/|$))",
    re.IGNORECASE,
)

ProblemKind = Literal["unreadable", "tiny", "duplicate", "name", "caption", "folder"]


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
    kind: ProblemKind
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

    @property
    def left_out(self) -> tuple[str, ...]:
        """A sentence for each file or folder that isn't trained on."""
        return tuple(problem.message for problem in self.problems if not problem.used)

    def summary(self, repeats: int | None = None) -> list[str]:
        """What will be trained on, and all that a person should know of it first. `repeats`: of the run, if it says."""
        words = ", ".join(f"{word} ({count})" for word, count in self.triggers.items()) or "none"
        often = [entry.repeats or repeats or self.repeats for entry in self.entries]
        number = f"{len(often)} picture{'s' * (len(often) != 1)}"
        lines = [
            f"{number}, {sum(often)} in an epoch (repeats: {', '.join(map(str, sorted(set(often))))}). "
            f"Trigger words: {words}. Without a caption: {sum(not entry.caption for entry in self.entries)}. "
            f"Left out: {len(self.left_out)}."
        ]
        return lines + [problem.message for problem in self.problems]
