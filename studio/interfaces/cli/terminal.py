"""What all verbs of the command line share: options to fields, progress to standard error, errors to sentences.

Calls the service and prints; decides nothing. Knows no torch and no streamlit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json as json_module
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from studio.core.errors import BadInput, StudioError, explain
from studio.core.fields import listed
from studio.core.settings import settings
from studio.core.specs import AnimationFormat, LowConfidence
from studio.core.views import JobView
from studio.service import LoraInfo, PromptRequest, PromptResult, Studio

OWNER = "local"  # whoever may use this command line owns what it makes
MAX_LIST = 20 * 2**20  # bytes of a list of prompts
BY_SUFFIX: dict[str, AnimationFormat] = {
    ".gif": "gif", ".png": "apng", ".apng": "apng", ".webp": "webp", ".mp4": "mp4", ".zip": "zip",
}  # fmt: skip
_closing = contextlib.ExitStack()
SpecT = TypeVar("SpecT", bound=BaseModel)


class Failed(StudioError):
    """A job or run that ended without its result; its own sentence says why."""


# --- options that several verbs have ------------------------------------------------------------------------------


Json = Annotated[bool, typer.Option("--json", help="The last line of standard output is one JSON object.")]
Out = Annotated[Path | None, typer.Option("--out", help="Copy the files into this folder.")]
Protect = Annotated[
    list[str] | None,
    typer.Option("--protect", help="Words that stay as they are, with commas between them; may be repeated."),
]

# --- options to fields ----------------------------------------------------------------------------------------------


def open_studio() -> Studio:
    """The studio of this home, closed when the verb is over."""
    studio = Studio(settings())
    at_exit(studio.close)
    return studio


def only_given(**given: Any) -> dict[str, Any]:
    """Only what was said: the rest are the spec's own defaults."""
    return {name: value for name, value in given.items() if value is not None}


def spec(kind: type[SpecT], fields: dict[str, Any]) -> SpecT:
    """Raises `BadInput` with one sentence."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise BadInput(explain(error)) from error


def sides(size: str | None) -> dict[str, Any]:
    """`512` or `512x768` as width and height; nothing for None. Raises `BadInput`."""
    if size is None:
        return {}
    match = re.fullmatch(r"\s*(\d{1,6})\s*(?:[x×]\s*(\d{1,6})\s*)?", size)
    if match is None:
        raise BadInput(f"The size {size[:40]!r} isn't a number of pixels like 512 or 512x768.")
    return {"width": int(match[1]), "height": int(match[2] or match[1])}


def lora_refs(given: Sequence[str] | None) -> list[dict[str, Any]] | None:
    """`PATH` or `PATH:WEIGHT`, each as a `LoraRef`'s fields."""
    if not given:
        return None
    refs = []
    for text in given:
        path, colon, weight = text.rpartition(":")
        is_weight = bool(colon and path) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+|nan|inf)", weight, re.IGNORECASE)
        refs.append({"path": path, "weight": weight} if is_weight else {"path": text})
    return refs


def image_id(studio: Studio, path: Path) -> str:
    """The id of a picture file, checked and put into the store. Raises `BadInput`."""
    limit = studio.settings.max_upload_mb * 2**20
    return studio.upload(read_file(path, limit), OWNER, path.name).id


def read_list(path: Path) -> bytes:
    return read_file(path, MAX_LIST)


def read_file(path: Path, limit: int) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"{path} can't be read ({reason}).") from error
    if len(data) > limit:
        raise BadInput(f"{path} is larger than the {limit // 2**20} MB that are accepted.")
    return data


def text(argument: str) -> str:
    """An argument as text. Raises `BadInput` for bytes that the terminal's encoding doesn't know."""
    try:
        argument.encode()
    except UnicodeEncodeError as error:
        raise BadInput("The text isn't valid UTF-8.") from error
    return argument


def check_folder(out: Path | None) -> None:
    """Refuse before anything is drawn what could not be written afterwards."""
    if out is None:
        return
    if out.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".gif") and not out.is_dir():
        raise BadInput(f"{out} is the name of a picture, and the results need a folder; choose one.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"{out} can't be a folder for the results ({reason}).") from error
    if not os.access(out, os.W_OK):
        raise BadInput(f"{out} can't be written to; choose another folder.")


def file_named(out: Path | None, form: AnimationFormat | None = None) -> tuple[Path | None, AnimationFormat | None]:
    """The file that `--out` names, and its format; None twice for a folder. Raises `BadInput` for what can't be one.

    `form`: the only format that there is, if there is only one.
    """
    if out is None or out.is_dir() or (implied := BY_SUFFIX.get(out.suffix.lower())) is None:
        return None, None
    if form is not None and implied != form:
        raise BadInput(f"{out} can't be written: this makes a {form.upper()}; name a folder or a .{form} file.")
    if out.exists():
        raise BadInput(f"{out} is there already; choose another name.")
    check_folder(out.parent)
    return out, implied


# --- calls and waiting ----------------------------------------------------------------------------------------------


def written(
    studio: Studio,
    fields: dict[str, Any],
    on_low_confidence: LowConfidence = "run",
    loras: Iterable[LoraInfo] = (),
) -> PromptResult:
    """A prompt for these fields; doubts about it go to standard error, or are raised.

    See `service.prompts.PromptService.write_prompt`.
    """
    result = studio.prompts.write_prompt(spec(PromptRequest, fields), on_low_confidence, loras)
    for note in result.notes:
        say(note)
    return result


def harden(studio: Studio, given: str, protect: Sequence[str] | None = None, json: bool = False) -> None:
    """What `harden` does: the text put right, and every change. Words and phrases in `protect` stay as they are."""
    hardened = studio.prompts.harden(
        text(given), tuple(word for words in protect or () for word in listed(text(words)))
    )
    changes = [{"from": c.source, "to": c.target, "kind": c.kind, "confidence": c.confidence} for c in hardened.changes]
    lines = [hardened.text, *(f"{c['from']} -> {c['to']} ({c['kind']})" for c in changes)]
    answer(json, {"text": hardened.text, "changes": changes}, lines)


def follow_job(studio: Studio, view: JobView) -> JobView:
    """Wait for a job, with its progress on standard error. Raises what it failed with; Ctrl-C cancels it."""
    shown = ""
    try:
        while view.active:
            view = studio.wait(view.id, OWNER, 0.5)
            left = "" if view.seconds_left is None else f", {view.seconds_left:.0f} s left"
            ahead = "1 job ahead" if view.position == 1 else f"{view.position} jobs ahead"
            waiting = ahead if view.position else f"{view.done} of {view.total}{left}"
            line = f"{view.state}: {waiting}" + (f" ({view.note})" if view.note else "")
            if view.active and line != shown:
                say(line)
                shown = line
    except KeyboardInterrupt:
        studio.cancel(view.id, OWNER)
        raise
    for note in view.notes:
        say(note)
    if view.state != "done":
        kind = BadInput if view.bad_input else Failed
        raise kind(view.error or f"The job was {view.state}.")
    return view


def save_to(studio: Studio, ids: Iterable[str], out: Path | None, prefix: str = "") -> list[str]:
    """Copies numbered from 1 in `out`, or the store's own files where it is None. Paths as text.

    A name has the picture's key in it: the same picture has the same name again, another one never takes it.
    """
    paths = []
    for number, id in enumerate(ids, 1):
        path = studio.picture_path(id, OWNER)
        if out is not None:
            try:
                path = Path(shutil.copy2(path, out / f"{prefix}{number:04d}-{id[:8]}{path.suffix}"))
            except OSError as error:
                raise Failed(
                    f"{out} can't be written to ({error.strerror}); the pictures are in the gallery."
                ) from error
        paths.append(str(path.resolve()))
    return paths


def save_one(studio: Studio, id: str, file: Path | None, out: Path | None, prefix: str) -> str:
    """A copy as `file` where that is given, else as `save_to` makes it. Its path as text."""
    if file is None:
        return save_to(studio, [id], out, prefix)[0]
    try:
        with open(file, "xb") as made:  # never over another file, even one that came while this was drawn
            made.write(studio.picture_path(id, OWNER).read_bytes())
    except OSError as error:
        raise Failed(f"{file} can't be written ({error.strerror}); the result is in the gallery.") from error
    return str(file.resolve())


def save_filmstrip(studio: Studio, ids: Sequence[str], out: Path | None) -> str | None:
    """All frames as one picture, `filmstrip.png` in `out`; nothing without a folder. Its path as text.

    Where the name is taken by another one, part of its content's fingerprint is added.
    """
    if out is None:
        return None
    data = studio.filmstrip(ids, OWNER)
    path = out / "filmstrip.png"
    try:
        if path.exists() and path.read_bytes() != data:
            path = out / f"filmstrip-{hashlib.sha256(data).hexdigest()[:8]}.png"
        path.write_bytes(data)
    except OSError as error:
        raise Failed(f"{path} can't be written to ({error.strerror}); the frames are in the gallery.") from error
    return str(path.resolve())


# --- saying ---------------------------------------------------------------------------------------------------------


def say(line: str) -> None:
    """Progress and remarks: standard error."""
    print(line, file=sys.stderr, flush=True)


def answer(json: bool, data: dict[str, Any], lines: Iterable[str]) -> None:
    """The result: lines for people, or one line of JSON (ASCII: any terminal and any pipe takes it)."""
    if json:
        print(json_module.dumps(data, default=str))
    else:
        for line in lines:
            print(line)
    sys.stdout.flush()


def at_exit(close: Callable[[], None]) -> None:
    """Close something when the verb is over, however it ends."""
    _closing.callback(close)


def guarded(app: typer.Typer, arguments: list[str] | None) -> int:
    """Run one verb. 0, 2 for a wrong request, 1 for all else; one sentence and never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a prompt in Japanese on a terminal that can't show it
    try:
        with _closing:
            code = app(arguments, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except BadInput as error:
        say(str(error))
        return 2
    except StudioError as error:
        say(str(error))
        return 1
    except typer.Exit as error:
        return int(error.exit_code)
    except typer.TyperException as error:
        say(error.format_message())
        return 2
    except (KeyboardInterrupt, typer.Abort):
        say("Stopped.")
        return 1
    except BrokenPipeError:  # `| head`: whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ValidationError as error:
        say(explain(error))
        return 2
    except Exception as error:
        if os.environ.get("STUDIO_DEBUG"):
            raise
        say(f"Something went wrong inside the studio ({type(error).__name__}); STUDIO_DEBUG=1 shows where.")
        return 1
