"""The command line: every verb is a few options, one call of the service, and what it answered.

`--json` prints one JSON object as the last line of standard output; progress goes to standard error. Exit codes: 0, 2
(the request was wrong: one sentence), 1 (something else went wrong: one sentence). No logic lives here.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any

import typer

from studio.core.settings import settings
from studio.core.specs import GenerateSpec
from studio.interfaces.cli import doctor, files, keys, terminal, training
from studio.interfaces.cli.options import JSON, OFFLINE, command, options
from studio.interfaces.cli.terminal import Json, answer, only_given, open_studio
from studio.interfaces.cli.verbs import WRITTEN_FROM, add_verbs

app = typer.Typer(
    name="studio",
    help=__doc__.split("\n")[0],
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(training.runs_app, name="runs")
app.add_typer(keys.app, name="keys")


add_verbs(app)
training.add_verbs(app)
app.command()(files.recipe)
app.command()(files.dataset)
app.command()(doctor.doctor)


def write_prompt(json: bool, offline: bool, **given: Any) -> None:
    """What `prompt` does."""
    result = terminal.written(open_studio(), only_given(**given) | {"offline": offline})
    lines = [result.positive_prompt, f"Negative: {result.negative_prompt}", f"Confidence: {result.confidence:.2f}"]
    answer(json, result.model_dump(mode="json"), [*lines, *result.notes])


written_from = options(GenerateSpec, set(GenerateSpec.model_fields) - set(WRITTEN_FROM))
app.command("prompt")(command(write_prompt, [*written_from, OFFLINE, JSON], "Write a prompt and draw nothing."))


@app.command()
def harden(
    text: Annotated[str, typer.Argument(help="What was typed.")], protect: terminal.Protect = None, json: Json = False
) -> None:
    """Undo typos, look-alike glyphs and invisible characters."""
    terminal.harden(open_studio(), text, protect, json)


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repetitions: a minute or two.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Names of benchmarks; may be repeated.")] = None,
    json: Json = False,
) -> None:
    """Measure what the README quotes about speed, prompts and pictures, on this machine."""
    from studio.interfaces.cli import bench as benchmarks

    result = benchmarks.run(quick, only or [], terminal.say)
    answer(json, result, benchmarks.table(result))


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address; beyond this machine it needs STUDIO_API_KEY.")] = None,
    port: Annotated[int, typer.Option(help="Port of the API.")] = 8000,
) -> None:
    """Serve the HTTP API."""
    from studio.interfaces.api import app as api

    api.serve(settings(), host or settings().host, port)


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; the exit code. Every error is one sentence on standard error."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    return terminal.guarded(app, arguments)
