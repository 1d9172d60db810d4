"""What a prompt is made of: comma-separated segments, words, weights, LoRA tags, quotes.

Written for the weight syntaxes of A1111 (`(smile:1.3)`, `[smile]`, `\\(` for a plain bracket, `<lora:name:0.8>`) and
compel (`smile++`, `("a b").and()`). It only finds where they are; what they mean is the engine's business.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

ANGLE = re.compile(r"<[^<>\n]{1,200}>")  # <lora:name:0.8>, <lyco:...>, <hypernet:...>, <token>
NUMBER = re.compile(r":\s*[-+]?\d*\.?\d+")
QUOTED = re.compile(
    r'"[^"\n]{1,300}"|“[^”\n]{1,300}”|„[^“”\n]{1,300}[“”]|«[^»\n]{1,300}»|「[^」\n]{1,300}」|『[^』\n]{1,300}』'
)
SINGLE_QUOTED = re.compile(r"(?<![^\s,(])'[^'\n]{1,120}'(?![^\s,.)!?])")
WILDCARD = re.compile(r"__[^\s,]{1,80}__")
LINK = re.compile(r"(?:https?://|www\.)\S+|(?<![^\s,])[^\s@,]{1,64}@[^\s@]{1,255}\.\w{2,}")
OPENERS, CLOSERS = "([{", ")]}"
_CLOSING = CLOSERS + string.whitespace + "\xa0\u3000"
_WEIGHT = re.compile(r":\s*[-+]?(?:\d*\.)?\d+$")


@dataclass(frozen=True, slots=True)
class Segment:
    """One comma-separated part without its brackets and weight; `prompt[start:end] == text`."""

    start: int
    end: int
    text: str


def strip_weights(text: str) -> str:
    """A prompt without brackets of weight, numbers and LoRA tags: only the words that are meant."""
    text = ANGLE.sub(" ", text)
    text = re.sub(r"\\([()\[\]])", "\x02\\1", text)
    text = re.sub(r"(?<!\x02)[()\[\]{}]", lambda m: " , " if m.group() in ")]}" else " ", NUMBER.sub("", text))
    text = re.sub(r"(?<=\w)(?:\+{1,4}|-{2,4})(?=\s|,|$)", "", text)
    return text.replace("\x02", "")


def segments(prompt: str) -> list[Segment]:
    """The parts of a prompt between commas, line breaks, `|` and `BREAK`, without weight syntax; no empty ones."""
    pieces = []
    position = 0
    for match in [*re.finditer(r"[,、，;\n|]|\bBREAK\b|$", prompt)]:
        start, end = position, match.start()
        position = match.end()
        while start < end and (prompt[start].isspace() or prompt[start] in OPENERS):
            start += 1
        part = prompt[start:end]
        part = (_WEIGHT.sub("", part.rstrip(_CLOSING)) if _unescaped_close(part) else part).rstrip()
        part = re.sub(r"(?<=\w)(?:\+{1,4}|-{2,4})$", "", part)
        if part and not ANGLE.fullmatch(part):
            pieces.append(Segment(start, start + len(part), part))
    return pieces


def _unescaped_close(part: str) -> bool:
    stripped = part.rstrip()
    if not stripped or stripped[-1] not in CLOSERS or stripped.endswith(("\\)", "\\]")):
        return False
    # "watercolor (medium)" keeps its bracket: it was opened inside
    return stripped.count("(") < stripped.count(")") or "(" not in stripped


def balance(prompt: str) -> list[str]:
    """What is wrong with the brackets, one sentence each; empty when all close."""
    stack: list[tuple[str, int]] = []
    wrong = []
    for index, char in _brackets(prompt):
        if char in OPENERS:
            stack.append((char, index))
        elif stack and OPENERS.index(stack[-1][0]) == CLOSERS.index(char):
            stack.pop()
        else:
            wrong.append(f"'{char}' at character {index + 1} closes nothing")
    wrong += [f"'{char}' at character {index + 1} is never closed" for char, index in stack]
    return wrong


def repair_brackets(prompt: str) -> str:
    """The same prompt with brackets that close nothing removed, and those never closed closed at its end."""
    stack: list[str] = []
    drop: set[int] = set()
    for index, char in _brackets(prompt):
        if char in OPENERS:
            stack.append(char)
        elif stack and OPENERS.index(stack[-1]) == CLOSERS.index(char):
            stack.pop()
        else:
            drop.add(index)
    kept = "".join(char for index, char in enumerate(prompt) if index not in drop)
    if stack:
        kept = kept.rstrip("\\") + "".join(CLOSERS[OPENERS.index(char)] for char in reversed(stack))
    if balance(kept):  # taking one away made a face such as ":(" of another: give up on all of them
        kept = re.sub(r"\\?[()\[\]{}]", "", kept)
    return kept


def _brackets(prompt: str) -> Iterator[tuple[int, str]]:
    escaped = False
    for index, char in enumerate(prompt):
        if char in OPENERS + CLOSERS and not escaped and not _emoticon(prompt, index):
            yield index, char
        escaped = char == "\\" and not escaped


def _emoticon(prompt: str, index: int) -> bool:
    """`:)`, `;(`, `:]` as tags of their own don't count as brackets."""
    return (
        index > 0
        and prompt[index - 1] in ":;=xX"
        and (index == 1 or prompt[index - 2] in " ,")
        and (index + 1 == len(prompt) or prompt[index + 1] in " ,")
    )


def protected_spans(text: str, words: Iterable[str] = ()) -> list[tuple[int, int]]:
    """Parts that nobody may change: LoRA tags, wildcards, links, quoted text, numbers of weights, and `words` (trigger
    words and the like, wherever they stand by themselves, in any case).
    """
    spans = [m.span() for pattern in _FIXED for m in pattern.finditer(text)]
    for word in words:
        if word.strip():
            # re.ASCII is not wanted: a trigger word may be Japanese
            pattern = re.compile(rf"(?<![^\W_]){re.escape(word.strip())}(?![^\W_])", re.IGNORECASE)
            spans += [m.span() for m in pattern.finditer(text)]
    return sorted(spans)


_FIXED = (
    ANGLE,
    WILDCARD,
    LINK,
    QUOTED,
    SINGLE_QUOTED,
    re.compile(r"\b(?:BREAK|AND)\b"),
    re.compile(r"\)\.\w+\([^()\n]*\)"),
)
