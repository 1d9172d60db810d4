"""The fields of a spec as options of the command line, and what was typed as fields again. Knows no verb.

An option is blank until somebody types it, so that a spec's own defaults and a spec's own sentences count.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BaseModel

from studio.core.fields import SpecField, fields

PLAIN = {int: int, float: float, bool: bool}  # what the option parser converts; all else is text


def option(name: str, kind: Any, help: str, *names: str, default: Any = None) -> inspect.Parameter:
    """An option as a parameter of a verb; `default` `inspect.Parameter.empty` for one that has to be given."""
    info = typer.Option(*names, help=help, show_default=False)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def options(spec: type[BaseModel], without: Collection[str] = (), prefix: str = "") -> list[inspect.Parameter]:
    """An option for each field that has one. `prefix` goes before the parameters' names, not the options'."""
    known = fields(spec).items()
    return [_option(field, prefix) for name, field in known if name not in without and _has_option(field)]


def _has_option(field: SpecField) -> bool:
    tag = len(field.choices) == 1  # the kind of a request
    return field.about.option != "" and not tag and not _is_spec(field.type)


def nested(spec: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Specs inside of this one whose fields are options too: those that have to be given."""
    return {name: field.type for name, field in fields(spec).items() if field.required and _is_spec(field.type)}


def _is_spec(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _repeated(field: SpecField) -> bool:
    """Whether each of its values is an option of its own: those that are more than a word."""
    return get_origin(field.type) is tuple and _is_spec(get_args(field.type)[0])


def _option(field: SpecField, prefix: str) -> inspect.Parameter:
    names = field.about.option or f"--{field.name.replace('_', '-')}"
    if field.about.file == "picture":
        kind: Any = Path
    else:
        kind = list[str] if _repeated(field) else PLAIN.get(field.type, str)
    range = "" if field.type is bool or _repeated(field) else field.range
    if range and not field.choices:
        range = f"{range[:1].upper()}{range[1:]}"
    said = " ".join(part for part in (field.help, range and f"{range}.") if part)
    if field.about.blank and field.optional:
        said = f"{said} Blank: {field.about.blank}."
    elif field.default not in (None, "", ()) and field.type is not bool:
        default = field.default if isinstance(field.default, tuple) else (field.default,)
        said = f"{said} Default: {','.join(map(str, default))}."
    switch = field.type is bool and "/" not in str(names)  # there is nothing but to turn it on
    return option(
        prefix + field.name,
        kind if field.required or switch else kind | None,
        said.strip() or f"{field.label}.",
        *([names] if isinstance(names, str) else names),
        default=inspect.Parameter.empty if field.required else False if switch else None,
    )


def typed(
    spec: type[BaseModel], given: Mapping[str, Any], picture: Callable[[Path], str], prefix: str = ""
) -> dict[str, Any]:
    """The fields that were typed: blank ones are left out, texts parsed, `picture` puts files into the store."""
    values = {}
    for name, field in fields(spec).items():
        value = given.get(prefix + name)
        if value is None or (field.type is bool and value is False and field.default is False):
            continue
        if field.about.file == "picture":
            value = picture(value)
        elif field.about.parse is not None:
            value = [field.about.parse(one) for one in value] if _repeated(field) else field.about.parse(value)
        values[name] = value
    return values


def command(body: Callable[..., None], parameters: Iterable[inspect.Parameter], help: str) -> Callable[..., None]:
    """A function that the option parser can read: `body` with these parameters."""

    def verb(**given: Any) -> None:
        body(**given)

    ordered = sorted(parameters, key=lambda one: one.default is not inspect.Parameter.empty)
    verb.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    verb.__annotations__ = {one.name: one.annotation for one in ordered}
    verb.__doc__ = help
    return verb


JSON = option("json", bool, "The last line of standard output is one JSON object.", "--json", default=False)
LORA = option(
    "lora",
    list[str] | None,
    "PATH or PATH:WEIGHT (its own weight where none is said, else 1); may be repeated.",
    "--lora",
)
OFFLINE = option("offline", bool, "Write the prompt without asking a language model.", "--offline", default=False)
