"""What people read, in their language: gettext catalogues, `studio/locale/<language>/messages.po`.

English stands in the code and is each message's id. `_("Draw")` gives it in the language of whoever it is for; a table
of sentences made by `texts` gives each when it is taken out; `translated` is for a sentence that was written in English
elsewhere and kept (a job's error, a note): it is looked up as it is, then as one of the catalogue's sentences with
{placeholders}, whose values are put into the translation.

Whose language it is, the interface says: `speak` for one request, `speak_always` for a process (the command line), or
a function given to `ask` (the pages, where each browser has its own). Nothing here knows an interface. What nobody said
is English, and so is what is written down.
"""

from __future__ import annotations

import gettext as gnu
import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _collections_abc import dict_items, dict_values

LOCALE = Path(__file__).resolve().parents[1] / "locale"
ENGLISH = "en"
T = TypeVar("T")

_spoken: ContextVar[str | None] = ContextVar("language", default=None)
_process: list[str] = [ENGLISH]
_askers: list[Callable[[], str | None]] = []


def languages() -> dict[str, str]:
    """The languages that there are, and what each is called in itself: English, and a folder of `LOCALE` each."""
    return {ENGLISH: "English"} | {
        folder.name: _entries(folder.name).metadata.get("X-Language-Name", folder.name)
        for folder in sorted(LOCALE.iterdir())
        if (folder / "messages.po").is_file()
    }


def negotiate(wanted: str | None) -> str | None:
    """The first language of "ja,en-US;q=0.9", "ja-JP" or "ja_JP.UTF-8" that there is; None where there is none.

    What stands in front counts for more: browsers list what they take in order.
    """
    known = {name.lower(): name for name in _names()}
    for part in (wanted or "").split(","):
        tag = re.split(r"[;.@]", part.strip())[0].replace("_", "-").lower()
        while tag:
            if tag in known:
                return known[tag]
            tag = tag.rpartition("-")[0] or {"zh": "zh-hans"}.get(tag, "")
    return None


@cache
def _names() -> tuple[str, ...]:
    return (ENGLISH, *(folder.parent.name for folder in sorted(LOCALE.glob("*/messages.po"))))


@contextmanager
def speak(language: str | None) -> Iterator[None]:
    """In this block, and what it calls, this language is spoken."""
    token = _spoken.set(language)
    try:
        yield
    finally:
        _spoken.reset(token)


def speak_always(language: str | None) -> None:
    """From now on this process speaks this language wherever nothing else is said (None: English)."""
    _process[0] = language or ENGLISH


def ask(whose: Callable[[], str | None]) -> None:
    """`whose` says the language of whoever is served just now; None where nobody is."""
    if whose not in _askers:
        _askers.append(whose)


def language() -> str:
    """What is spoken just now."""
    if spoken := _spoken.get():
        return spoken
    return next((said for asked in _askers if (said := asked())), _process[0])


def _(message: str) -> str:
    """A message in the language that is spoken."""
    return _catalogue(language()).gettext(message) if message else ""


def ngettext(one: str, many: str, count: int) -> str:
    """A message about `count` of something."""
    return _catalogue(language()).ngettext(one, many, count)


def pgettext(context: str, message: str) -> str:
    """A message that means two things in English; `context` says which one this is."""
    return _catalogue(language()).pgettext(context, message)


def N_(message: str) -> str:
    """Says that this is a message; it is translated where it is shown."""
    return message


class texts(dict[str, T]):
    """A table of messages, each in the language that is spoken when it is taken out. Of a tuple: its first part.

    `context` says which of two meanings its English words have.
    """

    def __init__(self, messages: Mapping[str, T], context: str = "") -> None:
        super().__init__(messages)
        self.context = context

    def _said(self, message: str) -> str:
        return pgettext(self.context, message) if self.context else _(message)

    def __getitem__(self, name: str) -> T:
        found: Any = super().__getitem__(name)
        if isinstance(found, tuple):
            return (self._said(found[0]), *found[1:])  # type: ignore[return-value]
        return self._said(found) if isinstance(found, str) else found  # type: ignore[return-value]

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default

    def items(self) -> dict_items[str, T]:
        return {name: self[name] for name in self}.items()

    def values(self) -> dict_values[str, T]:
        return {name: self[name] for name in self}.values()


def translated(sentence: str) -> str:
    """A sentence that was written in English, in the language that is spoken; as it is where no message fits it.

    Several sentences are translated one by one.
    """
    spoken = language()
    return sentence if spoken == ENGLISH or not sentence else _translated(sentence, spoken)


@lru_cache(maxsize=4096)
def _translated(sentence: str, spoken: str) -> str:
    if (found := _fitting(sentence, spoken)) is not None:
        return found
    parts = re.split(r"(?<=[.!?:;])\s+(?=[A-Z0-9])", sentence)
    if len(parts) == 1:
        return sentence
    said = [_fitting(part, spoken) for part in parts]
    if None in said and len(parts) > 2:  # two of them may be one message
        for cut in range(1, len(parts)):
            pair = [" ".join(parts[:cut]), " ".join(parts[cut:])]
            both = [_fitting(part, spoken) for part in pair]
            if None not in both:
                return _joined([part or "" for part in both])
    return _joined([found or part for found, part in zip(said, parts, strict=True)])


def _joined(parts: list[str]) -> str:
    text = parts[0]
    for part in parts[1:]:
        text += part if text.endswith(("。", "!", "?", ":", ";", "」")) else " " + part
    return text


def _fitting(sentence: str, spoken: str) -> str | None:
    catalogue = _catalogue(spoken)
    if (found := catalogue.gettext(sentence)) != sentence:
        return found
    for pattern, said in _patterns(spoken):
        if matched := pattern.fullmatch(sentence):
            return _filled(said, {name: _translated(value, spoken) for name, value in matched.groupdict().items()})
    return None


def _filled(said: str, values: Mapping[str, str]) -> str:
    return "".join(literal + ("" if name is None else values[f"p_{name}"]) for literal, name in _pieces(said))


@cache
def _patterns(spoken: str) -> list[tuple[re.Pattern[str], str]]:
    """Messages with placeholders as expressions; those that say the most of a sentence are tried first."""
    found = []
    for entry in _entries(spoken):
        forms = [(entry.msgid, entry.msgstr)]
        if entry.msgid_plural:
            forms = [
                (one, next(iter(reversed(entry.msgstr_plural.values())), ""))
                for one in (entry.msgid, entry.msgid_plural)
            ]
        for original, said in forms:
            pieces = placeholders(original)
            if said and pieces:
                fixed, expression = _expression(original)
                if fixed >= 4:  # less would fit anything
                    found.append((-fixed, re.compile(expression, re.DOTALL), said))
    return [(pattern, said) for _fixed, pattern, said in sorted(found, key=lambda item: item[0])]


def _expression(message: str) -> tuple[int, str]:
    """How many letters of a message are its own, and the expression that finds the values of its placeholders."""
    fixed, parts, seen = 0, [], set()
    for literal, name in _pieces(message):
        parts.append(re.escape(literal))
        fixed += sum(letter.isalpha() for letter in literal)
        if name is not None:
            # A value is no end of one sentence and the beginning of another.
            parts.append(f"(?P=p_{name})" if name in seen else rf"(?P<p_{name}>(?:(?![.!?]\s+[A-Z]).)+?)")
            seen.add(name)
    return fixed, "".join(parts)


def placeholders(message: str) -> list[str]:
    """The names of a message's placeholders, sorted; none where its braces are no placeholders."""
    try:
        return sorted({name for _literal, name in _pieces(message) if name is not None})
    except ValueError:
        return []


def _pieces(message: str) -> Iterator[tuple[str, str | None]]:
    """The text before each placeholder, and its name (those without one are numbered)."""
    number = 0
    for literal, name, _spec, _conversion in Formatter().parse(message):
        if name == "":
            name, number = str(number), number + 1
        yield literal, name


@cache
def _entries(spoken: str) -> Any:
    import polib  # the command line in English needs none

    return polib.pofile(str(LOCALE / spoken / "messages.po"))


@cache
def _catalogue(spoken: str) -> gnu.NullTranslations:
    if spoken == ENGLISH:
        return gnu.NullTranslations()
    return gnu.GNUTranslations(io.BytesIO(_entries(spoken).to_binary()))
