"""A list of prompts as people have it, one a line or as CSV, becomes rows; bad lines are named. Draws nothing."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import tomllib
from typing import Any

from pydantic import ValidationError

from studio.core.errors import BadInput
from studio.core.samplers import sampler_of
from studio.core.specs import EMOTIONS, MAX_PROMPT, MAX_SEED, BatchRow
from studio.core.text_encoding import decode
from studio.store.metadata import a1111
from studio.store.metadata.facts import USUAL_SCHEDULES

MAX_ROWS = 1000
COLUMNS = ("prompt", "seed", "emotion")
# Options of A1111's script, and what they are here; those of kohya's sd-scripts.
_FIELDS = {
    "prompt": "prompt", "negative_prompt": "negative", "seed": "seed", "steps": "steps", "cfg_scale": "guidance",
    "sampler_name": "sampler", "scheduler": "schedule", "width": "width", "height": "height",
}  # fmt: skip
_KOHYA = {
    "n": "negative", "w": "width", "h": "height", "d": "seed", "s": "steps", "l": "guidance", "ss": "sampler",
}  # fmt: skip
# More names that JSON and TOML have for them.
_NAMES = _FIELDS | {
    "negative": "negative", "guidance": "guidance", "guidance_scale": "guidance", "scale": "guidance",
    "sampler": "sampler", "sample_sampler": "sampler", "sample_steps": "steps", "emotion": "emotion", "text": "prompt",
    "schedule": "schedule",
}  # fmt: skip
_OPTION = re.compile(r"(?:^|\s)--([A-Za-z]\w*)(?=[\s=]|$)")
SHOWN = 5  # bad lines that the sentence names


def decoded(data: bytes) -> str:
    """A file of prompts as text, in whatever encoding reads as words (see `core.text_encoding`).

    Raises `BadInput` where none does for sure: a guess would draw what nobody wrote.
    """
    text = decode(data)
    if text is None:
        raise BadInput("The list is in an encoding that can't be told; save it as UTF-8 and try again.")
    return text


def parse(text: str, table: bool = False) -> tuple[BatchRow, ...]:
    """Rows of a batch, in order. Blank lines and lines that start with # are skipped.

    A line may have the options of A1111's "Prompts from file" (--prompt "a cat" --negative_prompt "lowres" --seed 5) or
    of kohya's sample prompts (a cat --n lowres --d 5). JSON, a line or all of it, kohya's TOML, and A1111's generation
    data (prompt, negative prompt, a line of settings; one after the other) are read as well.
    CSV is recognised by a header that names the column `prompt` (with `seed`, `emotion`, in any order); everything else
    is one prompt a line, commas and all, unless it is said to be a `table` (a .csv file): then more than one column
    needs that header. Raises `BadInput` that names the first bad lines and what is wrong with them.
    """
    text = text.removeprefix("\ufeff")
    listed = _listed(text)
    lines = text.splitlines()
    head = next((line for line in lines if line.strip() and not line.lstrip().startswith("#")), "")
    delimiter = max(",;\t", key=head.count)
    names = [name.strip().strip('"').lower() for name in head.split(delimiter)]
    several = len(names) > 1 and not (head.startswith('"') and head.endswith('"') and head.count('"') == 2)
    if listed is None and any(map(a1111.is_settings, lines)):
        listed = _infotexts(lines)
    if listed is None and several and (table or "prompt" in names or set(names) <= set(COLUMNS)):
        _check_header(names)
    rows: list[BatchRow] = []
    wrong: list[str] = []
    if listed is not None:
        for number, given in enumerate(listed, 1):
            row = _named(number, given, wrong)
            if row is not None:
                _add(number, row, rows, wrong)
    elif "prompt" in names and set(names) <= set(COLUMNS):
        rows, wrong = _table(text, delimiter)
    else:
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.lstrip().startswith("#"):
                row = _options(number, line.strip(), wrong) if _OPTION.search(line) else {"prompt": line.strip()}
                if row is not None:
                    _add(number, row, rows, wrong)
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise BadInput("; ".join(wrong[:SHOWN]) + more + ".")
    if not rows:
        raise BadInput("The list has no prompts; put one on each line.")
    if len(rows) > MAX_ROWS:
        raise BadInput(f"The list has {len(rows)} prompts; at most {MAX_ROWS} fit into one batch.")
    return tuple(rows)


def _options(number: int, line: str, wrong: list[str]) -> dict[str, str] | None:
    """The fields that a line's options say; a name's words go on to the next option. None where one can't be."""
    try:
        row = _quoted(line) if line.startswith("--") else _plain(line)
    except ValueError:
        wrong.append(f"line {number}: a quote is opened and not closed")
        return None
    known = _FIELDS | _KOHYA
    for name in row:
        if name not in known:
            names = ", ".join(f"--{option}" for option in _FIELDS)
            wrong.append(
                f"line {number}: there is no option --{name[:30]} here, only {names}, and kohya's --n, --w and so on"
            )
            return None
    return _settled(number, {known[name]: said for name, said in row.items()}, wrong)


def _quoted(line: str) -> dict[str, str]:
    """Options as on a command line, as A1111 reads them. Raises ValueError for a quote that isn't closed."""
    row: dict[str, list[str]] = {}
    name = "prompt"
    for word in shlex.split(line):
        if word.startswith("--"):
            name = word[2:]
            row[name] = []
        else:
            row.setdefault(name, []).append(word)
    return {name: " ".join(said) for name, said in row.items()}


def _plain(line: str) -> dict[str, str]:
    """Words first, then options; quotes and backslashes in them are the prompt's own."""
    words, *rest = _OPTION.split(line)
    said = [part.strip(" \t=") for part in rest[1::2]]
    values = [part[1:-1] if len(part) > 1 and part[0] == part[-1] == '"' else part for part in said]
    return {"prompt": words.strip()} | dict(zip(rest[::2], values, strict=True))


def _listed(text: str) -> list[Any] | None:
    """The prompts of a JSON list, of an object with one, of JSON on each line, or of kohya's TOML; None for no such."""
    start = text.lstrip()[:1]
    if start not in ("[", "{"):
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        try:
            data = [json.loads(line) for line in text.splitlines() if line.strip()]
            if not all(isinstance(item, dict) for item in data):
                return None
        except (ValueError, RecursionError):
            return _of_toml(text)
    if isinstance(data, dict):
        data = data.get("prompts", [data])
    return data if isinstance(data, list) else None


def _infotexts(lines: list[str]) -> list[Any]:
    """The prompts of A1111's generation data, as pictures and its log have them, one text after the other."""
    found, begin = [], 0
    ends = [number for number, line in enumerate(lines) if a1111.is_settings(line)]
    for end in ends:
        facts = a1111.read("\n".join(lines[begin : end + 1]))
        begin = end + 1
        found.append({
            "prompt": facts.prompt, "negative": facts.negative, "seed": facts.seed, "steps": facts.steps,
            "guidance": facts.guidance, "sampler": facts.sampler or None, "schedule": facts.schedule,
            "width": facts.width, "height": facts.height,
        })  # fmt: skip
    rest = [line.strip() for line in lines[begin:] if line.strip() and not line.startswith("Template")]
    return found + rest


def _of_toml(text: str) -> list[Any] | None:
    try:
        shared = tomllib.loads(text).get("prompt")
    except (ValueError, RecursionError):
        return None
    if not isinstance(shared, dict):
        return None
    own = shared.pop("subset", [{}])
    return [shared | item for item in own if isinstance(item, dict)] if isinstance(own, list) else None


def _named(number: int, given: Any, wrong: list[str]) -> dict[str, str] | None:
    """The fields of one prompt in JSON or TOML: a string, or an object."""
    if isinstance(given, str):
        return {"prompt": given.strip()}
    if not isinstance(given, dict):
        wrong.append(f"line {number}: a prompt is a text or an object with one")
        return None
    for name, value in given.items():
        if name.lower() not in _NAMES or isinstance(value, dict | list):
            wrong.append(f"line {number}: there is no {name[:30]!r} in a list of prompts, only {', '.join(_NAMES)}")
            return None
    return _settled(
        number, {_NAMES[name.lower()]: str(value) for name, value in given.items() if value is not None}, wrong
    )


def _settled(number: int, fields: dict[str, str], wrong: list[str]) -> dict[str, str] | None:
    """The same with the sampler by our name."""
    if fields.get("seed") == "-1":  # A1111's for a random one
        del fields["seed"]
    schedule = fields.pop("schedule", "")
    if schedule.lower() not in USUAL_SCHEDULES:
        wrong.append(f"line {number}: the schedule {schedule[:40]!r} isn't in this studio")
        return None
    if schedule.lower() == "karras" and "sampler" not in fields:  # the usual ones say nothing of their own
        wrong.append(f"line {number}: --scheduler Karras says nothing without --sampler_name")
        return None
    if "sampler" in fields:
        ours = sampler_of(fields["sampler"], schedule)
        if ours is None:
            wrong.append(f"line {number}: the sampler {fields['sampler'][:40]!r} isn't in this studio")
            return None
        fields["sampler"] = ours
    return fields


def _check_header(names: list[str]) -> None:
    known = f"the columns are {', '.join(COLUMNS)}"
    if "prompt" not in names:
        raise BadInput(
            f"The first line has to name the columns, and one of them has to be prompt ({known}); it says "
            f"{', '.join(names)[:60]!r}. A list with one prompt a line is a .txt file."
        )
    for name in names:
        if name not in COLUMNS:
            raise BadInput(f"There is no column {name[:30]!r} in a list of prompts; {known}.")
        if names.count(name) > 1:
            raise BadInput(f"The column {name!r} is there twice.")


def _table(text: str, delimiter: str) -> tuple[list[BatchRow], list[str]]:
    rows: list[BatchRow] = []
    wrong: list[str] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    header: list[str] = []
    first = 1  # line on which the row begins: a cell in quotes may go on for several
    try:
        for cells in reader:
            first, line = reader.line_num + 1, first
            cells = [cell.strip() for cell in cells]
            if not any(cells) or cells[0].startswith("#"):
                continue
            if not header:
                header = [cell.lower() for cell in cells]
            elif len(cells) > len(header):
                wrong.append(f"line {line}: {len(cells)} columns instead of {len(header)} (quote commas)")
            else:
                row = {name: cell for name, cell in zip(header, cells, strict=False) if cell}
                _add(line, row, rows, wrong)
    except csv.Error:  # not strict, it would take the rows that follow for more of this cell
        wrong.append(f"line {first}: a quote is opened and not closed where the cell ends (write a quote in it twice)")
    return rows, wrong


def _add(number: int, row: dict[str, str], rows: list[BatchRow], wrong: list[str]) -> None:
    try:
        rows.append(BatchRow.model_validate(row))
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        given = row.get(field, "")[:30]
        wrong.append(
            f"line {number}: "
            + {
                "prompt": f"the prompt is longer than {MAX_PROMPT} characters or has NUL in it"
                if given
                else "no prompt",
                "seed": f"the seed {given!r} isn't a whole number from 0 to {MAX_SEED}",
                "emotion": f"the emotion {given!r} isn't one of {', '.join(EMOTIONS)}",
            }.get(field, f"the {field} {given!r} isn't one that this studio can draw with")
        )
