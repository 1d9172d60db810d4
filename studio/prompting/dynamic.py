"""Prompts with a choice in them, as A1111's users write them: `{red|blue}`, `{2$$a|b|c}`, `{3::a|b}`, `__wildcard__`.

The syntax is that of the extensions Dynamic Prompts and Wildcards. A wildcard is a text file with one option a line,
below `STUDIO_HOME/wildcards`; options may hold choices and wildcards again. What is chosen depends on the seed and the
text alone. Knows nothing of what the words mean.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from studio.core.text_encoding import decode
from studio.prompting.a1111 import tidy

WILDCARD = re.compile(r"__(?=[^\s,_]*[^\W_])([\w*./\\-][\w*./\\ -]{0,78}?)__")
DEEPEST = 12  # choices within choices
MOST = 500  # wildcards of one text that are replaced, those in lines of their files among them
LONGEST = 20_000  # characters of a prompt on its way
LARGEST = 4 * 2**20  # bytes of a wildcard file
_COUNT = re.compile(r"\s*(\d{1,2})(?:\s*-\s*(\d{1,2}))?\s*\$\$(?:([^$]{0,20})\$\$)?")
_WEIGHT = re.compile(r"\s*(\d*\.?\d+)::")


@dataclass(slots=True)
class Choices:
    """What `choose` made of a text: the text, and what couldn't be chosen."""

    text: str
    missing: list[str] = field(default_factory=list)  # names of wildcards that there is no file for
    unreadable: list[str] = field(default_factory=list)  # wildcards' files whose encoding can't be told


def has_choices(text: str) -> bool:
    """Another seed may give other words."""
    return "{" in text or "}" in text or WILDCARD.search(text) is not None


def choose(text: str, seed: int, folder: Path | None) -> Choices:
    """`text` with every choice made by `seed`, and no brace and no wildcard left in it."""
    if not has_choices(text):
        return Choices(text)
    choosing = _Choosing(random.Random(f"choices {seed}"), folder)
    made = choosing.made(text, 0)[:LONGEST]
    if "{" in made or "}" in made:  # one without its partner
        made = made.translate({ord("{"): None, ord("}"): None, ord("|"): ","})
    return Choices(tidy(made), choosing.missing, choosing.unreadable)


class _Choosing:
    """The choices of one text: what is random in them, the files that were read for them, and how many are left."""

    def __init__(self, rng: random.Random, folder: Path | None) -> None:
        self.rng = rng
        self.missing: list[str] = []
        self.unreadable: list[str] = []
        self._spoilt: set[str] = set()  # wildcards with such a file
        self._folder = folder
        self._files: dict[str, list[str]] = {}
        self._left = MOST

    def made(self, text: str, depth: int) -> str:
        """`text` with its choices made; its wildcards are left out where there were too many, or too deep a one."""
        if depth > DEEPEST or len(text) > LONGEST:
            return WILDCARD.sub("", text)
        made: list[str] = []
        position = 0
        for start, end in _outer(text):
            made += [self._drawn(text[position:start], depth)]
            made += [self._variant(text[start + 1 : end], depth)]
            position = end + 1
        return "".join([*made, self._drawn(text[position:], depth)])

    def _variant(self, inside: str, depth: int) -> str:
        """One option of `a|b`, or as many as `2$$a|b|c` says; `x` alone (NovelAI's emphasis) is itself."""
        low, high, joint = 1, 1, ", "
        if (count := _COUNT.match(inside)) is not None:
            inside = inside[count.end() :]
            low, high = int(count[1]), int(count[2] or count[1])
            joint = count[3] if count[3] is not None else joint
        options, weights = [], []
        for option in _split(inside):
            weight = _WEIGHT.match(option)
            options.append(option[weight.end() :] if weight else option)
            weights.append(float(weight[1]) if weight else 1.0)
        number = min(len(options), self.rng.randint(min(low, high), max(low, high)))
        picked: list[str] = []
        for _ in range(number):
            if not any(weights):
                break
            index = self.rng.choices(range(len(options)), weights)[0]
            picked.append(self.made(options.pop(index), depth + 1).strip())
            weights.pop(index)
        return joint.join(picked)

    def _drawn(self, text: str, depth: int) -> str:
        """`text` with each wildcard replaced by a line of its file."""

        def one(match: re.Match[str]) -> str:
            if self._left <= 0:
                return "\x00"
            self._left -= 1
            lines = self._lines(match[1])
            if not lines:
                if match[1] not in self.missing and match[1] not in self._spoilt:
                    self.missing.append(match[1])
                return "\x00"
            weights = [float(weight[1]) if (weight := _WEIGHT.match(line)) else 1.0 for line in lines]
            line = self.rng.choices(lines, weights)[0] if any(weights) else ""
            return self.made(_WEIGHT.sub("", line, count=1), depth + 1).strip()

        return WILDCARD.sub(one, text)

    def _lines(self, name: str) -> list[str]:
        if name not in self._files:
            unreadable: list[str] = []
            self._files[name] = _lines(name, self._folder, unreadable)
            if unreadable:
                self._spoilt.add(name)
                self.unreadable += [file for file in unreadable if file not in self.unreadable]
        return self._files[name]


def _outer(text: str) -> Iterator[tuple[int, int]]:
    """Places of the outermost pairs of braces."""
    depth, start = 0, 0
    for index, letter in enumerate(text):
        if letter == "{":
            start = index if depth == 0 else start
            depth += 1
        elif letter == "}" and depth:
            depth -= 1
            if depth == 0:
                yield start, index


def _split(inside: str) -> list[str]:
    """At the bars outside of braces and of A1111's `[a|b]`."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(inside):
        if letter in "{[":
            depth += 1
        elif letter in "}]":
            depth -= 1
        elif letter == "|" and depth == 0:
            parts.append(inside[start:index])
            start = index + 1
    return [*parts, inside[start:]]


def _lines(name: str, folder: Path | None, unreadable: list[str]) -> list[str]:
    """The options of a wildcard; `name` may lie in a folder and have a `*` in it, but never leave the wildcards.

    A file in an encoding that can't be told goes to `unreadable`.
    """
    pattern = name.replace("\\", "/").strip("/ ")
    if folder is None or ".." in pattern or not folder.is_dir():
        return []
    options: list[str] = []
    try:
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() == ".txt")
        for file in files:
            said = file.relative_to(folder).with_suffix("").as_posix()
            fits = said == pattern or ("/" not in pattern and file.stem == pattern)
            if (fits or ("*" in pattern and _glob(pattern).fullmatch(said))) and file.stat().st_size <= LARGEST:
                text = decode(file.read_bytes())
                if text is None:
                    unreadable.append(said)
                options += _options(text or "")
    except OSError:
        return []
    return options


def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile("[^/]*".join(re.escape(part) for part in pattern.split("*")))


def _options(text: str) -> list[str]:
    """The lines that aren't blank or comments."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
