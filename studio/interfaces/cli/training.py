"""The verbs of the command line that train: `train-lora`, `train-control`, `distill` and `runs`.

Each is one call of the service. Knows what counts as "the same run" for `--resume`: only what was said on the command
line, never a default.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from studio.core import presets
from studio.core.specs import ControlRunSpec, LcmSpec, LoraSpec
from studio.core.views import RunView
from studio.interfaces.cli import files, terminal
from studio.interfaces.cli.terminal import (
    OWNER,
    Failed,
    Json,
    Loras,
    Model,
    Out,
    Seed,
    answer,
    lora_refs,
    only_said,
    open_studio,
    say,
)
from studio.service import Studio

runs_app = typer.Typer(help="Training runs: list, show, stop, resume, export, delete.", no_args_is_help=True)

Epochs = Annotated[int | None, typer.Option(help="1 to 1000.")]
Rank = Annotated[int | None, typer.Option(help="1 to 256.")]
Rate = Annotated[float | None, typer.Option("--learning-rate", help="Above 0, up to 1; such as 0.0002.")]
Batch = Annotated[int | None, typer.Option("--batch", help="Pictures per step, from 1.")]
Limit = Annotated[float | None, typer.Option("--time-limit", help="Save and stop after so many minutes.")]
Often = Annotated[float | None, typer.Option("--checkpoint-minutes", help="Also save every so many.")]
Detach = Annotated[bool, typer.Option("--detach", help="Return at once; `runs show` tells how it stands.")]

LOG_LINES = 12  # that `runs show` says of a run that failed
MEASURED = ("held_out", "held_out_without")  # losses of a ControlNet on what it never learnt from

# What a run may go on with; any other option that was given must be what the run was started with.
_CHANGEABLE = ("epochs", "learning_rate", "time_limit_minutes", "checkpoint_minutes")


def train_lora(
    data: Annotated[str, typer.Option(help="A folder of pictures, or a ZIP of one.")],
    out: Annotated[Path | None, typer.Option(help="Copy the finished LoRA into this folder.")] = None,
    name: Annotated[str | None, typer.Option(help="What the LoRA is called.")] = None,
    model: Model = None,
    epochs: Epochs = None,
    rank: Rank = None,
    rate: Rate = None,
    batch: Batch = None,
    repeats: Annotated[int | None, typer.Option(help="How often each picture is shown in an epoch.")] = None,
    minutes: Limit = None,
    save: Often = None,
    seed: Seed = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the last run on this data that all options agree with, if any."),
    ] = False,
    detach: Detach = False,
    json: Json = False,
) -> None:
    """Teach a model a style."""
    studio = open_studio()
    terminal.check_folder(out)
    given = only_said(
        data=data, model=model, name=name or (out.resolve().name if out else None), epochs=epochs, rank=rank, seed=seed,
        learning_rate=rate, batch_size=batch, repeats=repeats, time_limit_minutes=minutes, checkpoint_minutes=save,
    )  # fmt: skip
    data_said: dict[str, Any] = {}
    defaults = presets.lora_defaults(model or studio.settings.model)
    run = carry_out(studio, LoraSpec, defaults, given, resume, detach, data_said)
    adapter = copied(run, out)
    keys = {
        "run": run.id,
        "state": run.state,
        "epoch": run.epoch,
        "loss": run.loss,
        "adapter": adapter,
        "checkpoints": run.checkpoints,
    }
    keys |= {"data": data_said} if data_said else {}
    answer(json, keys, [f"{run.id}: {run.state}", *([adapter] if adapter else [])])
    _fail_for(run)


def distill(
    model: Model = None,
    lora: Loras = None,
    data: Annotated[str | None, typer.Option(help="Pictures to learn from; blank: the teacher's own.")] = None,
    out: Annotated[Path | None, typer.Option(help="Copy the result into this folder.")] = None,
    name: Annotated[str | None, typer.Option(help="What the result is called.")] = None,
    form: Annotated[str | None, typer.Option(help="lora, or full: a whole model, told its guidance.")] = None,
    objective: Annotated[str | None, typer.Option(help="lcm, tcd, pcm or dmd.")] = None,
    epochs: Epochs = None,
    steps: Annotated[int | None, typer.Option(help="Steps in an epoch, 1 to 100000.")] = None,
    rank: Rank = None,
    rate: Rate = None,
    batch: Batch = None,
    latents: Annotated[int | None, typer.Option(help="How many pictures the teacher draws first, from 8.")] = None,
    w_min: Annotated[float | None, typer.Option(help="Least guidance that is learnt in, minus 1: 0 to 30.")] = None,
    w_max: Annotated[float | None, typer.Option(help="Most guidance that is learnt in, minus 1: 0 to 30.")] = None,
    measured: Annotated[
        int | None, typer.Option("--curve-pictures", help="Pictures per point of the curve, 0 to 2000.")
    ] = None,
    every: Annotated[int | None, typer.Option("--checkpoint-epochs", help="Save and measure after so many.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many measurements without a better one.")] = None,
    minutes: Limit = None,
    save: Often = None,
    seed: Seed = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the last run that all options agree with, if any.")
    ] = False,
    detach: Detach = False,
    json: Json = False,
) -> None:
    """Make a model fast: latent consistency distillation to four steps."""
    studio = open_studio()
    terminal.check_folder(out)
    given = only_said(
        model=model, loras=lora_refs(lora), data=data, name=name or (out.resolve().name if out else None), form=form,
        objective=objective, epochs=epochs, steps_per_epoch=steps, rank=rank, learning_rate=rate, batch_size=batch,
        latents=latents, w_min=w_min, w_max=w_max, curve_pictures=measured, checkpoint_epochs=every, patience=patience,
        time_limit_minutes=minutes, checkpoint_minutes=save, seed=seed,
    )  # fmt: skip
    defaults = presets.distill_defaults(model or studio.settings.model, form or "lora")
    data_said: dict[str, Any] = {}
    run = carry_out(studio, LcmSpec, defaults, given, resume, detach, data_said)
    adapter = copied(run, out)
    keys = {"run": run.id, "state": run.state, "adapter": adapter, "curve": run.extra.get("curve", [])}
    keys |= {"data": data_said} if data_said else {}
    answer(json, keys, [f"{run.id}: {run.state}", *([adapter] if adapter else [])])
    _fail_for(run)


def train_control(
    data: Annotated[str, typer.Option(help="Captioned pictures, a folder or ZIP; lines in NAME.control.png.")],
    out: Annotated[Path | None, typer.Option(help="Copy the finished ControlNet into this folder.")] = None,
    name: Annotated[str | None, typer.Option(help="What the ControlNet is called.")] = None,
    model: Model = None,
    init: Annotated[
        str | None, typer.Option(help="Go on from lines (default), canny, a folder, a file; none: a new one.")
    ] = None,
    epochs: Epochs = None,
    steps: Annotated[int | None, typer.Option(help="Steps in an epoch; blank: every picture once.")] = None,
    rate: Rate = None,
    batch: Batch = None,
    twice: Annotated[
        bool | None, typer.Option("--gradient-checkpointing", help="Save memory by computing twice.")
    ] = None,
    minutes: Limit = None,
    save: Often = None,
    seed: Seed = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the last run on this data that all options agree with, if any."),
    ] = False,
    detach: Detach = False,
    json: Json = False,
) -> None:
    """Teach a model to follow your kind of lines: a ControlNet."""
    studio = open_studio()
    terminal.check_folder(out)
    given = only_said(
        data=data, model=model, name=name or (out.resolve().name if out else None), epochs=epochs,
        steps_per_epoch=steps, learning_rate=rate, batch_size=batch, gradient_checkpointing=twice,
        time_limit_minutes=minutes, checkpoint_minutes=save, seed=seed,
    )  # fmt: skip
    if init is not None:
        given["init"] = None if init in ("", "none") else init
    data_said: dict[str, Any] = {}
    defaults = {"model": model or studio.settings.model}
    run = carry_out(studio, ControlRunSpec, defaults, given, resume, detach, data_said)
    adapter = copied(run, out)
    followed = {key: run.extra[key] for key in MEASURED if key in run.extra}
    keys = {"run": run.id, "state": run.state, "epoch": run.epoch, "loss": run.loss, "adapter": adapter, **followed}
    keys |= {"data": data_said} if data_said else {}
    answer(json, keys, [f"{run.id}: {run.state}", *([adapter] if adapter else [])])
    _fail_for(run)


def carry_out(
    studio: Studio,
    kind: type[LoraSpec] | type[LcmSpec] | type[ControlRunSpec],
    defaults: dict[str, Any],
    given: dict[str, Any],
    resume: bool,
    detach: bool,
    data_said: dict[str, Any] | None = None,
) -> RunView:
    """Start a run with the fields `given` over `defaults`, or go on with the newest one that agrees with `given`.

    What is in its data is said before a new one starts, and goes into `data_said`.
    """
    spec = terminal.spec(kind, defaults | given)
    run = unfinished(studio, spec, given) if resume else None
    if run is None:
        if resume:
            say("No unfinished run agrees with these options: a new one begins.")
        told = {} if data_said is None else data_said
        run = studio.start_run(spec, OWNER, lambda report: told.update(files.announced(report, given.get("repeats"))))
    elif not run.active:
        said = {name: getattr(spec, name) for name in _CHANGEABLE if name in given}
        run = studio.resume_run(run.id, **{name: v for name, v in said.items() if v != run.spec.get(name)})
    if detach:
        return run
    run = _follow(studio, run)
    for note in run.notes:
        say(note)
    return run


def unfinished(studio: Studio, spec: LoraSpec | LcmSpec | ControlRunSpec, given: dict[str, Any]) -> RunView | None:
    """The newest run that agrees with what was `given` of `spec`, if there is still something to do in it."""
    wanted = spec.model_dump(mode="json")
    fixed = [name for name in given if name not in _CHANGEABLE]
    for run in studio.runs():
        if run.spec and run.kind == spec.kind and all(_equal(run.spec.get(name), wanted[name]) for name in fixed):
            more = "epochs" in given and spec.epochs > run.spec["epochs"]
            return run if run.state != "done" or more else None
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
            run = studio.run(run.id)
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
            studio.stop_run(run.id)
    return studio.run(run.id)


def _fail_for(run: RunView) -> None:
    """Raise what a run ended with, if it failed."""
    if run.state in ("failed", "crashed"):
        sentence = run.error or f"Run {run.id} ended without a word; `runs show {run.id}` has its log."
        if not run.checkpoints:
            raise Failed(f"{sentence} `runs resume {run.id}` starts it again.")
        ways = f" `runs resume {run.id}` goes on from the last checkpoint"
        ways += f", `runs export {run.id}` makes its result of it." if run.kind != "control" else "."
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
    found = open_studio().runs()
    lines = [f"{run.id}  {run.state}  epoch {run.epoch}/{run.epochs}  step {run.step}/{run.steps}" for run in found]
    answer(
        json,
        {"runs": [run.model_dump(mode="json", exclude={"metrics", "log"}) for run in found]},
        lines or ["No runs yet."],
    )


@runs_app.command("show")
def runs_show(id: str, json: Json = False) -> None:
    """How a run stands."""
    run = open_studio().run(id)
    _answer_run(run, json)
    if not json and run.state in ("failed", "crashed"):
        say("\n".join(run.log.strip().splitlines()[-LOG_LINES:]))


@runs_app.command("stop")
def runs_stop(id: str, json: Json = False) -> None:
    """Save and end a run after the step it is in."""
    _answer_run(open_studio().stop_run(id), json)


@runs_app.command("resume")
def runs_resume(
    id: str,
    epochs: Annotated[int | None, typer.Option(help="How many in all, 1 to 1000.")] = None,
    rate: Annotated[float | None, typer.Option("--learning-rate", help="Another one, if the loss blew up.")] = None,
    json: Json = False,
) -> None:
    """Go on exactly where the last checkpoint is."""
    _answer_run(open_studio().resume_run(id, epochs=epochs, learning_rate=rate), json)


@runs_app.command("export")
def runs_export(id: str, out: Out = None, json: Json = False) -> None:
    """Make the LoRA of a run that failed or was cut off from its last good checkpoint."""
    studio = open_studio()
    terminal.check_folder(out)
    adapter = copied(studio.export_run(id), out)
    answer(json, {"run": id, "adapter": adapter}, [str(adapter)])


@runs_app.command("delete")
def runs_delete(id: str, json: Json = False) -> None:
    """Remove a run with its checkpoints."""
    open_studio().delete_run(id)
    answer(json, {"deleted": id}, [f"{id} is deleted."])
