"""Every sentence that a person may be shown starts here.

`StudioError` is the one base class that pages, command line and API turn into words. Anything else that escapes is a
bug and is shown as one ("something went wrong inside the studio"), with its traceback in the log only. This module
knows no exit codes by number and no HTTP: `__main__` and `api` map the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


class StudioError(Exception):
    """A problem that the person in front of the studio can understand and act on.

    The message is one sentence (or two): what is wrong, and what to do.
    """


class BadInput(StudioError):
    """The request itself is wrong: exit code 2 on the command line, 4xx in the API, nothing was written."""


class NotFound(BadInput):
    """A picture, job, run, model or file that isn't there, or is somebody else's (404 in the API)."""


class Offline(StudioError):
    """A file has to be downloaded and there is no network."""


class OutOfMemory(StudioError):
    """The device has not enough memory for this request; the message names a smaller one that fits."""


class DiskFull(StudioError):
    """Nothing could be written; everything written before is intact."""


class Busy(StudioError):
    """The queue or the device is taken and the request can't wait."""


class Cancelled(Exception):
    """Raised by a progress callback to unwind a job whose owner cancelled it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the system had no memory left: CUDA, MPS and CPU each say it in another way.

    Matched by name and text, so that no torch is needed.
    """
    text = str(error)
    return (
        type(error).__name__ == "OutOfMemoryError"
        or isinstance(error, MemoryError)
        or (isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text))
    )


def explain(error: ValidationError) -> str:
    """A validation error as one sentence: which field, what is wrong, what was given."""
    # A union reports once for each of its members; the first error of the deepest place says the most.
    return sentence(max(error.errors(), key=lambda item: len(item["loc"])))


def sentence(error: Any, loc: Sequence[str | int] | None = None) -> str:
    """One of pydantic's errors as a sentence, on one line. `loc`: where it is, if not where pydantic says."""
    # It quotes what was given: a line break in there would begin a line of its own in a log or a terminal.
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in _sentence(error, loc))


def _sentence(error: Any, loc: Sequence[str | int] | None) -> str:
    if error["type"] == "union_tag_invalid":  # see `specs.base.by_kind`
        _, what, kind = error["ctx"]["tag"].split(":", 2)
        known = [tag.strip("'").split(":", 2)[2] for tag in error["ctx"]["expected_tags"].split(", ")]
        return f"There is no {what} of kind {kind!r}; there are {', '.join(known)}."
    where = ".".join(str(part) for part in (error["loc"] if loc is None else loc) if _said(part))
    message = plain(error)
    given = error.get("input")
    shown = "" if isinstance(given, dict | list | tuple) or given is None else f" (given: {str(given)[:60]})"
    if where and message.startswith("Input should"):
        return f"{where} {message.removeprefix('Input ')}{shown}."
    if where:
        return f"{where}: {message[:1].lower()}{message[1:]}{shown}."
    return f"{message[:1].upper()}{message[1:]}{shown}."


def _said(part: str | int) -> bool:
    """Whether a part of a place means something to people: validators and the kinds of a union don't."""
    return not str(part).startswith(("function-", "kind:"))


def plain(error: Any) -> str:
    """What one of pydantic's errors says, without its idiom."""
    if error["type"] in ("too_long", "string_too_long") and isinstance(error.get("input"), str):
        return f"this is too long, at most {error['ctx']['max_length']} characters are taken"
    if error["type"] == "string_unicode":
        return "this isn't text in UTF-8; if it is a path, give the file or folder another name"
    if error["type"] == "json_invalid":
        return f"this isn't valid JSON ({error['ctx']['error']})"
    return str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
