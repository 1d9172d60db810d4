"""The verb `doctor`: what this machine has, what was chosen for it, and what is in the way. Decides nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from studio.core.views import Diagnosis
from studio.interfaces.cli.terminal import Json, answer, open_studio


def doctor(
    classes: Annotated[
        bool, typer.Option("--classes", help="What is chosen for cards of 4 to 24 GB instead, as docs/gpu.md has it.")
    ] = False,
    json: Json = False,
) -> None:
    """Examine this machine: what it has, what is chosen for it, what will not work, and what mends that."""
    studio = open_studio()
    if classes:
        tables = studio.runs.card_classes()
        answer(json, tables, [line for name in ("sizes", "sdxl", "kinds") for line in (*markdown(tables[name]), "")])
        return
    diagnosis = studio.doctor()
    answer(json, diagnosis.model_dump(mode="json"), lines(diagnosis))


def lines(diagnosis: Diagnosis) -> list[str]:
    """A line for each finding and choice, then what will not work."""
    text_lines = [f"{one.name}: {one.value}{f'  ({one.reason})' if one.reason else ''}" for one in diagnosis.findings]
    text_lines += [f"{one.name}: {'on' if one.on else 'off'}  ({one.reason})" for one in diagnosis.choices]
    if not diagnosis.troubles:
        return [*text_lines, "", "Nothing is in the way."]
    text_lines += ["", "What will not work:"]
    for trouble in diagnosis.troubles:
        text_lines.append(f"- {trouble.what}")
        text_lines += [f"    {trouble.command}"] if trouble.command else []
    return text_lines


def markdown(rows: list[dict[str, str]]) -> list[str]:
    """Rows that have the same keys, as a table."""
    heads = list(rows[0])
    cells = [heads, ["---"] * len(heads), *([row[head] for head in heads] for row in rows)]
    return [f"| {' | '.join(row)} |" for row in cells]
