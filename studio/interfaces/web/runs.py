"""A training run on a page: its state, loss, samples, log, and what can be done with it. For every kind of run.

Asks the service and draws; nothing of a run lives here, so that any browser finds it again after any restart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from studio.core.errors import StudioError
from studio.core.i18n import texts
from studio.core.specs import makes_lora
from studio.core.views import RunView
from studio.interfaces.web import text
from studio.interfaces.web.resources import studio

POLL = 2.0  # seconds between two looks at a run
POINTS = 600  # of a loss curve that are drawn
TEXT = {
    "run": "Run",
    "new": "New run",
    "gone": "This run is not here any more.",
    "queued": "Waiting for another run to finish",
    "starting": "Getting ready",
    "running": "Training",
    "done": "Finished",
    "stopped": "Stopped and saved",
    "stopped_unsaved": "Stopped before it learnt anything",
    "failed": "Failed",
    "crashed": "Cut off: its process was ended from outside",
    "unreadable": "Can't be read",
    "epoch": "epoch {epoch} of {epochs}, step {step} of {steps}",
    "left": "about {time} left",
    "stop": "Stop and save",
    "stopping": "Stopping: saves first",
    "resume": "Resume",
    "resume_help": "Goes on exactly where the last checkpoint is.",
    "over_help": "It is finished: ask for more epochs to go on.",
    "more": "Epochs in all",
    "export": "Use the last good checkpoint",
    "export_help": "Makes the LoRA of what was learnt until then. The run can still be resumed.",
    "exporting": "Reading the checkpoint",
    "exported": "It is in the LoRA list now.",
    "delete": "Delete",
    "delete_sure": "Delete this run with its checkpoints and its result?",
    "delete_yes": "Yes, delete it",
    "deleted": "{name} is deleted. It can be brought back for a day.",
    "undo": "Undo",
    "back": "{name} is back.",
    "loss": "Loss",
    "smoothed": "smoothed",
    "raw": "each step",
    "rate": "Learning rate",
    "rate_unit": "1e{power}",
    "rate_hint": "Auto",
    "matched": "From then on its pictures are compared with the teacher's: another loss, which needn't fall",
    "critic": "critic",
    "compare": "Compare with",
    "samples": "Samples",
    "samples_empty": "The first samples come before the first step.",
    "step": "step {step}",
    "axis": "step",
    "loss_alt": "Loss by step: each step, and smoothed",
    "compare_alt": "Smoothed loss of several runs by step",
    "matched_alt": "Losses of student and critic by step",
    "rate_alt": "Learning rate by step",
    "sample_alt": "Sample after {step} steps: {prompt}",
    "log": "Log",
    "checkpoint": "Last saved: {name}",
}
TEXT = texts(TEXT)
ICONS = {
    "queued": ":material/hourglass_empty:",
    "starting": ":material/autorenew:",
    "running": ":material/autorenew:",
    "done": ":material/check_circle:",
    "stopped": ":material/pause_circle:",
    "failed": ":material/error:",
    "crashed": ":material/power_off:",
    "unreadable": ":material/broken_image:",
}


def state_name(run: RunView) -> str:
    """The run's state in words."""
    return TEXT["stopped_unsaved" if run.state == "stopped" and not run.checkpoints else run.state]


def choose(kinds: Sequence[str], page: str) -> str | None:
    """Which run of these kinds the page shows; None for a new one.

    It is in the address, so that a reload or a link finds it again.
    """
    _offer_undo(page)
    runs = {run.id: run for run in studio().runs.list() if run.kind in kinds}
    key, first = f"{page}_run", f"run:{page}" not in st.session_state
    wanted = st.query_params.get("run") or st.session_state.get(f"run:{page}")
    if wanted and wanted not in runs:
        st.info(TEXT["gone"], icon=":material/search_off:")
        wanted = None
    if first and wanted is None:  # a new browser, or one whose server was away: what trains is what one comes for
        wanted = next((run.id for run in runs.values() if run.active), None)
    if first or st.session_state.pop(f"run_follow:{page}", False) or st.session_state.get(key) not in [None, *runs]:
        st.session_state[key] = wanted
    if not runs:
        follow(None, page)
        return None

    def named(run_id: str | None) -> str:
        # Not its state: a browser keeps the words that it first saw of an option
        return TEXT["new"] if run_id is None else f"{runs[run_id].name} · {run_id}"

    chosen: str | None = st.selectbox(TEXT["run"], [None, *runs], format_func=named, key=key)
    st.session_state[f"run:{page}"] = chosen
    if chosen:
        st.query_params["run"] = chosen
    else:
        st.query_params.pop("run", None)
    return chosen


def _offer_undo(page: str) -> None:
    """What was deleted just now, and a button that brings it back."""
    name = st.session_state.get("deleted_run")
    if name is None:
        return
    with st.container(horizontal=True, vertical_alignment="center", border=True):
        st.markdown(TEXT["deleted"].format(name=name))
        if st.button(TEXT["undo"], key=f"{page}_undo", icon=":material/undo:"):
            del st.session_state["deleted_run"]
            run = studio().runs.undo_delete()
            st.toast(TEXT["back"].format(name=run.name))
            follow(run.id, page)
            st.rerun()


def follow(run_id: str | None, page: str) -> None:
    """Make a run the one that the page shows from its next run on."""
    st.session_state[f"run:{page}"] = run_id
    st.session_state[f"run_follow:{page}"] = True
    if run_id:
        st.query_params["run"] = run_id
    else:
        st.query_params.pop("run", None)


def panel(run_id: str, page: str) -> RunView:
    """A run, live while it trains. Polls by itself and reruns the page when it is over; then gives its last view.

    That it is over is said by the frame, on every page.
    """
    run = studio().runs.get(run_id)
    if run.active:
        st.fragment(_live, run_every=POLL)(run_id, page)
    else:
        draw(run, page)
    return run


def _live(run_id: str, page: str) -> None:
    try:
        run = studio().runs.get(run_id)
    except StudioError:
        st.rerun()
    if not run.active:
        st.rerun()
    draw(run, page)


def draw(run: RunView, page: str) -> None:
    """State, controls, curves, samples and log."""
    with st.container(horizontal=True, vertical_alignment="center", key="run_line"):
        st.badge(state_name(run), icon=ICONS[run.state], color="green" if run.state == "done" else "violet")
        if run.steps:
            st.caption(TEXT["epoch"].format(epoch=run.epoch, epochs=run.epochs, step=run.step, steps=run.steps))
        _controls(run, page)
    if run.active:
        words = [text.say(run.stage)] if run.stage else []
        if run.seconds_left is not None and run.state == "running":
            words.append(TEXT["left"].format(time=text.duration(run.seconds_left)))
        st.progress(run.step / run.steps if run.steps else 0.0, text=" · ".join(words) or TEXT[run.state])
    if run.error:
        st.error(text.say(run.error), icon=":material/error:")
    for note in run.notes:
        st.caption(text.say(note))
    if run.state == "unreadable":
        return
    left, right = st.columns([3, 2], gap="medium")
    with left:
        _curves(run, page)
    with right:
        _samples(run)
    with st.expander(TEXT["log"], icon=":material/terminal:", key=f"{page}_log"):
        with st.container(height=220, autoscroll=True):
            st.code(run.log or " ", language=None, wrap_lines=True)


def _controls(run: RunView, page: str) -> None:
    if run.active:
        asked = st.session_state.get(f"run_stop:{run.id}", False)
        label = TEXT["stopping" if asked else "stop"]
        if st.button(label, key=f"{page}_stop", icon=":material/stop_circle:", disabled=asked):
            studio().runs.stop(run.id)
            st.session_state[f"run_stop:{run.id}"] = True
            st.rerun(scope="fragment")
        return
    st.session_state.pop(f"run_stop:{run.id}", None)
    if run.state != "unreadable":
        _resume(run, page)
        _export(run, page)
    with st.popover(TEXT["delete"], icon=":material/delete:", key=f"{page}_delete"):
        st.write(TEXT["delete_sure"])
        if st.button(TEXT["delete_yes"], key=f"{page}_delete_yes", type="primary"):
            studio().runs.delete(run.id)
            st.session_state["deleted_run"] = run.name
            follow(None, page)
            st.rerun()


def _resume(run: RunView, page: str) -> None:
    # More epochs for any run; another rate too, which is what one that diverged needs. Keys are this run's own.
    asked = int(run.spec.get("epochs", run.epochs))
    low = asked if run.state == "done" else max(1, min(run.epoch, asked))
    epochs = int(st.number_input(TEXT["more"], low, 1000, asked, key=f"{page}_more:{run.id}", width=140))
    changes: dict[str, Any] = {"epochs": epochs} if epochs != asked else {}
    if run.spec.get("optimizer") != "prodigy":  # which finds its rate by itself
        before = run.spec.get("learning_rate")
        rate = st.number_input(
            TEXT["rate"], min(1e-7, before or 1.0), 1.0, before, step=1e-5, format="%.7f",
            key=f"{page}_rate:{run.id}", width=160, placeholder=TEXT["rate_hint"],
        )  # fmt: skip
        if rate is not None and rate != before:
            changes["learning_rate"] = rate
    over = run.state == "done" and "epochs" not in changes
    if st.button(
        TEXT["resume"], key=f"{page}_resume", icon=":material/play_arrow:", disabled=over,
        help=TEXT["over_help" if over else "resume_help"],
    ):  # fmt: skip
        studio().runs.resume(run.id, **changes)
        follow(run.id, page)
        st.rerun()


def _export(run: RunView, page: str) -> None:
    # A run that ended as it should has made its LoRA itself; a whole model can't be made from a checkpoint.
    ended_well = run.state in ("done", "stopped") and run.adapter is not None
    if ended_well or not run.checkpoints or not makes_lora(run.kind, run.spec):
        return
    if st.button(TEXT["export"], key=f"{page}_export", icon=":material/save:", help=TEXT["export_help"]):
        with st.spinner(TEXT["exporting"]):
            studio().runs.export(run.id)
        st.toast(TEXT["exported"], icon=":material/check:")
        st.rerun()


def _curves(run: RunView, page: str) -> None:
    st.markdown(f"##### {TEXT['loss']}")
    if not run.metrics:
        st.skeleton(height=220)
        return
    chosen: list[str] = []
    others: dict[str, str] = {}
    if not run.active:
        others = {
            other.id: other.name for other in studio().runs.list() if other.kind == run.kind and other.id != run.id
        }
    if others:
        chosen = st.multiselect(
            TEXT["compare"], list(others), format_func=lambda id: f"{others[id]} · {id}", key=f"{page}_compare"
        )
    if chosen:
        curves = {f"{run.name} · {run.id}": _series(run.metrics, "smoothed")}
        curves |= {f"{others[id]} · {id}": _series(studio().runs.get(id).metrics, "smoothed") for id in chosen}
        st.line_chart(pd.DataFrame(curves), height=260, alt=TEXT["compare_alt"])
    else:
        matched = [line for line in run.metrics if "critic" in line]  # another loss, of another size
        before = run.metrics[: len(run.metrics) - len(matched)]
        if before:
            table = pd.DataFrame({TEXT["raw"]: _series(before, "loss"), TEXT["smoothed"]: _series(before, "smoothed")})
            st.line_chart(table, height=260, x_label=TEXT["axis"], alt=TEXT["loss_alt"])
        if matched:
            st.caption(TEXT["matched"])
            learnt = [line for line in matched if line["rate"]]  # at first the critic learns alone
            table = pd.DataFrame(
                {TEXT["smoothed"]: _series(learnt, "smoothed"), TEXT["critic"]: _series(matched, "critic")}
            )
            st.line_chart(table, height=180, x_label=TEXT["axis"], alt=TEXT["matched_alt"])
    st.caption(f"{TEXT['rate']}: {run.metrics[-1]['rate']:.2e}")
    rates = _series(run.metrics, "rate")
    power = math.floor(math.log10(max(rates.max(), 1e-12)))  # an axis shows four decimals
    st.line_chart(pd.DataFrame({TEXT["rate"]: rates / 10**power}), height=110, x_label=TEXT["axis"],
                  y_label=TEXT["rate_unit"].format(power=power), alt=TEXT["rate_alt"])  # fmt: skip


def _series(metrics: Sequence[dict[str, Any]], name: str) -> pd.Series[Any]:
    metrics = metrics[:: max(1, len(metrics) // POINTS)]
    return pd.Series([line[name] for line in metrics], index=[line["step"] for line in metrics], dtype="float64")


def _samples(run: RunView) -> None:
    st.markdown(f"##### {TEXT['samples']}")
    if not run.samples:
        st.caption(TEXT["samples_empty"])
        return
    prompts = run.extra.get("sample_prompts") or []
    width: Any = "stretch" if run.kind == "control" else 120  # a ControlNet's is a sheet, its lines above
    steps: dict[int, list[Any]] = {}
    for path in run.samples:
        parts = path.stem.split("-")
        if len(parts) in (2, 3) and parts[0] == "step" and parts[1].isdigit():
            steps.setdefault(int(parts[1]), []).append(path)
    with st.container(height=420, border=False):
        for step in sorted(steps, reverse=True):
            st.caption(TEXT["step"].format(step=step))
            with st.container(horizontal=True, gap="small"):
                for index, path in enumerate(steps[step]):
                    said = prompts[index] if index < len(prompts) else ""
                    st.image(path.read_bytes(), width=width, alt=TEXT["sample_alt"].format(step=step, prompt=said))
