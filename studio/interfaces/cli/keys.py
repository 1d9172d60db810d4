"""`keys`: who may use the HTTP API."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from studio.interfaces.cli.terminal import Json, answer, open_studio

app = typer.Typer(help="Keys of the HTTP API: add, list, revoke.", no_args_is_help=True)


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is. Keys of one name see the same pictures and runs.")],
    days: Annotated[float | None, typer.Option(help="How long it is good for; else until it is revoked.")] = None,
    per_minute: Annotated[
        int | None, typer.Option(help="Requests that it may send in a minute; 0: any number.")
    ] = None,
    per_day: Annotated[int | None, typer.Option(help="Pictures that its owner may have drawn in a day.")] = None,
    json: Json = False,
) -> None:
    """Make a key. It is shown this once: only its digest is kept."""
    key = open_studio().keys.add(name, days, per_minute, per_day)
    answer(json, {"name": name, "key": key}, [key])


@app.command("list")
def list_(json: Json = False) -> None:
    """All keys by name, without the keys."""
    keys = open_studio().keys.list()
    lines = [f"{key.id}  {key.state:8}  {_until(key.expires):12}  {key.name}" for key in keys]
    answer(json, {"keys": [key.model_dump() for key in keys]}, lines or ["There are no keys."])


@app.command("revoke")
def revoke(name: Annotated[str, typer.Argument(help="A name, or the id of one key.")], json: Json = False) -> None:
    """End the keys of a name, or one key by its id, at once."""
    count = open_studio().keys.revoke(name)
    answer(json, {"revoked": count}, [f"{count} revoked."])


def _until(moment: float | None) -> str:
    return "for good" if moment is None else time.strftime("%Y-%m-%d", time.localtime(moment))
