"""The verbs of the command line that look at other people's files and draw nothing: `recipe` and `dataset`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from studio.core.fields import describe
from studio.core.specs import GenerateSpec
from studio.core.views import ImportedRecipe
from studio.interfaces.cli import terminal
from studio.interfaces.cli.terminal import Json, answer, open_studio, say


def recipe(
    file: Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP, or a text file with settings.")], json: Json = False
) -> None:
    """What a picture file says of how it was drawn, by whichever program, and what of that can't be repeated here."""
    studio = open_studio()
    limit = studio.settings.max_upload_mb * 2**20
    imported = studio.read_recipe(terminal.read_file(file, limit))
    said = imported.written or imported.spec
    fields = ("prompt", "negative", "model", "steps", "guidance", "sampler", "seed", "width", "height")
    keys: dict[str, Any] = {"file": str(file), "program": imported.program, "origin": imported.origin}
    keys |= {name: getattr(said, name) for name in fields}
    keys["model"] = said.model if "model" in said.model_fields_set else None
    keys["model_hash"] = imported.model_hash
    keys["loras"] = [{"name": ref.path, "weight": ref.weight} for ref in said.loras]
    keys["notes"] = list(imported.notes)
    keys["request"] = imported.spec.model_dump(mode="json")  # with what is on this machine
    answer(json, keys, _lines(imported, keys))


def _lines(imported: ImportedRecipe, keys: dict[str, Any]) -> list[str]:
    size = f"{keys['width']}x{keys['height']}" if keys["width"] and keys["height"] else None
    loras = ", ".join(f"{lora['name']} ({lora['weight']:g})" for lora in keys["loras"])
    shown = {
        "steps": keys["steps"], "guidance": keys["guidance"], "sampler": keys["sampler"], "seed": keys["seed"],
        "size": size, "model": keys["model"], "LoRAs": loras,
    }  # fmt: skip
    lines = [f"Made with {imported.program}.", f"Prompt: {keys['prompt']}"]
    lines += [f"Negative: {keys['negative']}"] if keys["negative"] else []
    lines.append(", ".join(f"{name}: {value}" for name, value in shown.items() if value not in (None, "")))
    return [*lines, *imported.notes]


def dataset(
    data: Annotated[str, typer.Argument(metavar="FOLDER|ZIP", help="A folder of pictures, or a ZIP of one.")],
    model: Annotated[str | None, typer.Option(help=describe(GenerateSpec, "model").help)] = None,
    resolution: Annotated[
        int | None, typer.Option(min=64, max=2048, help="Pixels that it would be trained at; blank: the model's.")
    ] = None,
    json: Json = False,
) -> None:
    """What would be trained on: pictures, captions, trigger words, repeats, and all that is left out."""
    studio = open_studio()
    report = studio.datasets.check(data, model or studio.settings.model, resolution)
    lines = [f"{entry.file}: {entry.prompt}" for entry in report.entries]
    answer(json, summary(report), [*lines, *report.summary()])


def summary(report: Any, repeats: int | None = None) -> dict[str, Any]:
    """A checked training set as JSON. `repeats`: of a run, if it says so."""
    pictures = [
        {
            "file": entry.file, "caption": entry.caption, "prompt": entry.prompt, "trigger": entry.trigger,
            "repeats": entry.repeats or repeats or report.repeats, "width": entry.width, "height": entry.height,
        }
        for entry in report.entries
    ]  # fmt: skip
    problems = [problem.model_dump(mode="json") for problem in report.problems]
    return {
        "folder": str(report.folder),
        "pictures": pictures,
        "trigger_words": report.triggers,
        "per_epoch": sum(picture["repeats"] for picture in pictures),
        "left_out": [problem for problem in problems if not problem["used"]],
        "remarks": [problem for problem in problems if problem["used"]],
    }


def announced(report: Any, repeats: int | None = None) -> dict[str, Any]:
    """Say on standard error what a run will train on, before it starts; the same as JSON, pictures only counted."""
    for line in report.summary(repeats):
        say(line)
    counts = summary(report, repeats)
    return counts | {"pictures": len(counts["pictures"])}
