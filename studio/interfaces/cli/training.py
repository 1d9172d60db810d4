"""The verbs of the command line that train: `train-lora`, `train-control`, `distill` and `runs`.

Each is one call of the service. Knows what counts as "the same run" for `--resume`: only what was said on the command
line, never a default.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from studio.core.specs import RUN_KINDS, RunSpec, makes_lora
from studio.core.specs.runs import RunKind
from studio.core.views import RunView
from studio.interfaces.cli import files, terminal
from studio.interfaces.cli.options import JSON, LORA, command, option, options, typed
from studio.interfaces.cli.terminal import (
    OWNER,
    Failed,
    Json,
    Out,
    answer,
    lora_refs,
    only_given,
    open_studio,
    say,
)
from studio.service import Studio

runs_app = typer.Typer(help="Training runs: list, show, stop, resume, export, delete, undo.", no_args_is_help=True)

LOG_LINES = 12  # that `runs show` says of a run that failed
MEASURED = ("held_out", "held_out_without")  # losses of a ControlNet on what it never learnt from

# What a run may go on with; any other option that was given must be what the run was started with.
_CHANGEABLE = ("epochs", "learning_rate", "time_limit_minutes", "checkpoint_minutes")


def add_verbs(app: typer.Typer) -> None:
    """Give `app` a command for each kind of run."""
    for name, kind in RUN_KINDS.items():
        app.command(kind.verb)(_verb(name, kind))


def _lora(run: RunView, adapter: str | None) -> dict[str, Any]:
    keys = {"run": run.id, "state": run.state, "epoch": run.epoch, "loss": run.loss}
    return keys | {"adapter": adapter, "checkpoints": run.checkpoints}


def _distilled(run: RunView, adapter: str | None) -> dict[str, Any]:
    return {"run": run.id, "state": run.state, "adapter": adapter, "curve": run.extra.get("curve", [])}


def _control(run: RunView, adapter: str | None) -> dict[str, Any]:
    followed = {key: run.extra[key] for key in MEASURED if key in run.extra}
    keys = {"run": run.id, "state": run.state, "epoch": run.epoch, "loss": run.loss, "adapter": adapter}
    return keys | followed


ANSWERS: dict[str, Callable[[RunView, str | None], dict[str, Any]]] = {"lcm": _distilled, "control": _control}
RESUME = "Go on with your last run that all options agree with, if any; a finished one gives its result again."


def _verb(name: str, kind: RunKind) -> Callable[..., None]:
    spec = kind.spec
    parameters = options(spec)
    if "loras" in spec.model_fields:
        parameters.append(LORA)
    parameters += [
        option("out", Path | None, "Copy the result into this folder.", "--out"),
        option("resume", bool, RESUME, "--resume", default=False),
        option("detach", bool, "Return at once; `runs show` tells how it stands.", "--detach", default=False),
        JSON,
    ]

    def run(**given: Any) -> None:
        studio = open_studio()
        out: Path | None = given["out"]
        terminal.check_folder(out)
        fields = typed(spec, given, lambda path: terminal.image_id(studio, path))
        fields |= only_given(loras=lora_refs(given.get("lora")))
        if out is not None:
            fields.setdefault("name", out.resolve().name)
        defaults = studio.runs.defaults(name, fields.get("model", studio.settings.model), fields)
        data_said: dict[str, Any] = {}
        done = carry_out(studio, spec, defaults, fields, given["resume"], given["detach"], data_said)
        adapter = copied(done, out)
        keys = ANSWERS.get(name, _lora)(done, adapter) | ({"data": data_said} if data_said else {})
        answer(given["json"], keys, [f"{done.id}: {done.state}", *([adapter] if adapter else [])])
        _fail_for(done)

    return command(run, parameters, kind.help)


def carry_out(
    studio: Studio,
    kind: type[RunSpec],
    defaults: dict[str, Any],
    given: dict[str, Any],
    resume: bool,
    detach: bool,
    data_said: dict[str, Any] | None = None,
) -> RunView:
    """Start a run with the fields `given` over `defaults`, or go on with the newest one that agrees with `given`.

    One that is finished, and isn't given more epochs, is returned as it is: its result is what was asked for.
    What is in its data is said before a new one starts, and goes into `data_said`.
    """
    spec = terminal.spec(kind, defaults | given)
    run = agreeing(studio, spec, given) if resume else None
    if run is None:
        if resume:
            say("No run of yours agrees with these options: a new one begins.")
        told = {} if data_said is None else data_said
        run = studio.runs.start(spec, OWNER, lambda report: told.update(files.announced(report, given.get("repeats"))))
    elif run.state == "done" and not ("epochs" in given and spec.epochs > run.epochs):
        say(f"Run {run.id} agrees with these options and is finished; more --epochs go on with it.")
        return run
    elif not run.active:
        said = {name: getattr(spec, name) for name in _CHANGEABLE if name in given}
        run = studio.runs.resume(run.id, OWNER, **{name: v for name, v in said.items() if v != run.spec.get(name)})
    if detach:
        return run
    run = _follow(studio, run)
    for note in run.notes:
        say(note)
    return run


def agreeing(studio: Studio, spec: RunSpec, given: dict[str, Any]) -> RunView | None:
    """The newest run of this owner that agrees with what was `given` of `spec`."""
    wanted = spec.model_dump(mode="json")
    fixed = [name for name in given if name not in _CHANGEABLE]
    for run in studio.runs.list(OWNER):
        if run.spec and run.kind == spec.kind and all(_equal(run.spec.get(name), wanted[name]) for name in fixed):
            return run
    return None


def _equal(left: Any, right: Any) -> bool:
    """Whether two fields say the same: a run has the full path of what was given as another one."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, str) and isinstance(right, str) and (os.sep in left or os.sep in right):
        return Path(left).resolve() == Path(right).resolve()
    return bool(left == right)


def _follow(studio: Studio, run: RunView) -> RunView:
    """Wait for a training run. The first Ctrl-C asks it to save and end, the second leaves it to itself."""
    shown, asked = "", False
    while run.active:
        try:
            run = studio.runs.get(run.id)
            loss = "" if run.smoothed is None else f", loss {run.smoothed:.4f}"
            left = "" if run.seconds_left is None else f", {run.seconds_left:.0f} s left"
            line = f"{run.state}: {run.stage} epoch {run.epoch}/{run.epochs}, step {run.step}/{run.steps}{loss}{left}"
            if line != shown:
                say(line)
                shown = line
            time.sleep(0.5)
        except KeyboardInterrupt:
            if asked:
                raise
            asked = True
            say("Stopping after this step; everything is saved. Once more leaves the run to itself.")
            studio.runs.stop(run.id)
    return studio.runs.get(run.id)


def _fail_for(run: RunView) -> None:
    """Raise what a run ended with, if it failed."""
    if run.state in ("failed", "crashed"):
        sentence = run.error or f"Run {run.id} exited without an error message; `runs show {run.id}` has its log."
        if not run.checkpoints:
            raise Failed(f"{sentence} `runs resume {run.id}` starts it again.")
        ways = f" `runs resume {run.id}` goes on from the last checkpoint"
        ways += f", `runs export {run.id}` makes its result of it." if makes_lora(run.kind, run.spec) else "."
        raise Failed(sentence + ways)


def copied(run: RunView, out: Path | None) -> str | None:
    """The result's path as text, copied into `out` where one is given."""
    if run.adapter is None or out is None:
        return str(run.adapter) if run.adapter else None
    try:
        if run.adapter.is_dir():  # a whole model
            return str(shutil.copytree(run.adapter, out, dirs_exist_ok=True))
        out.mkdir(parents=True, exist_ok=True)
        facts = run.adapter.parent / "studio.json"
        if facts.exists():  # trigger words, and how to draw with a few-step one; by the file's name, for there may be
            shutil.copy2(facts, out / f"{run.adapter.stem}.json")  # several LoRAs in that folder
        return str(shutil.copy2(run.adapter, out / run.adapter.name))
    except OSError as error:
        raise Failed(f"{out} can't be written to ({error.strerror}); the result is {run.adapter}.") from error


# --- runs -----------------------------------------------------------------------------------------------------------


def _answer_run(run: RunView, json: bool) -> None:
    left = "" if run.seconds_left is None else f", {run.seconds_left:.0f} s left"
    lines = [f"{run.id}: {run.state}, epoch {run.epoch} of {run.epochs}, step {run.step} of {run.steps}{left}"]
    answer(json, run.model_dump(mode="json"), lines + ([run.error] if run.error else []))


@runs_app.command("list")
def runs_list(json: Json = False) -> None:
    """All training runs, newest first."""
    views = open_studio().runs.list()
    lines = [f"{run.id}  {run.state}  epoch {run.epoch}/{run.epochs}  step {run.step}/{run.steps}" for run in views]
    answer(
        json,
        {"runs": [run.model_dump(mode="json", exclude={"metrics", "log"}) for run in views]},
        lines or ["No runs yet."],
    )


@runs_app.command("show")
def runs_show(id: str, json: Json = False) -> None:
    """How a run stands."""
    run = open_studio().runs.get(id)
    _answer_run(run, json)
    if not json and run.state in ("failed", "crashed"):
        say("\n".join(run.log.strip().splitlines()[-LOG_LINES:]))


@runs_app.command("stop")
def runs_stop(id: str, json: Json = False) -> None:
    """Save and end a run after the step it is in."""
    _answer_run(open_studio().runs.stop(id), json)


@runs_app.command("resume")
def runs_resume(
    id: str,
    epochs: Annotated[int | None, typer.Option(help="How many in all, 1 to 1000.")] = None,
    rate: Annotated[float | None, typer.Option("--learning-rate", help="Another one, if the loss blew up.")] = None,
    json: Json = False,
) -> None:
    """Go on exactly where the last checkpoint is."""
    _answer_run(open_studio().runs.resume(id, epochs=epochs, learning_rate=rate), json)


@runs_app.command("export")
def runs_export(id: str, out: Out = None, json: Json = False) -> None:
    """Make the LoRA of a run that failed or was cut off from its last good checkpoint."""
    studio = open_studio()
    terminal.check_folder(out)
    adapter = copied(studio.runs.export(id), out)
    answer(json, {"run": id, "adapter": adapter}, [str(adapter)])


@runs_app.command("delete")
def runs_delete(id: str, json: Json = False) -> None:
    """Remove a run with its checkpoints; `runs undo` brings it back for a day."""
    open_studio().runs.delete(id)
    answer(json, {"deleted": id}, [f"{id} is deleted; `runs undo` brings it back."])


@runs_app.command("undo")
def runs_undo(json: Json = False) -> None:
    """Bring back the run that was deleted last."""
    run = open_studio().runs.undo_delete()
    answer(json, {"restored": run.id}, [f"{run.id} is back."])
