"""Training runs: start, follow, stop, resume, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict

from studio.core.specs import AnyRun
from studio.core.views import RunView
from studio.interfaces.api.access import Once, Owner, RunOwner, TheStudio
from studio.interfaces.api.naming import with_data_sets

router = APIRouter(tags=["runs"])


class ResumeChanges(BaseModel):
    """What may be another when a run goes on; what is left out stays. The run's own bounds hold."""

    model_config = ConfigDict(extra="forbid")
    epochs: int | None = None  # in all
    learning_rate: float | None = None


@router.get("/runs")
def runs(owner: RunOwner, studio: TheStudio) -> list[RunView]:
    """Your training runs, newest first; without a key all of this machine."""
    return studio.runs.list(owner)


@router.post("/runs", status_code=202)
def start_run(body: Annotated[AnyRun, Body()], owner: Owner, studio: TheStudio, once: Once) -> RunView:
    """Start a training run: a LoRA (`"kind": "lora"`), a distillation (`"lcm"`) or a ControlNet (`"control"`)."""
    return studio.runs.start(with_data_sets(body, owner, studio), owner, once=once)


@router.get("/runs/{id}")
def run(id: str, owner: RunOwner, studio: TheStudio) -> RunView:
    """How a training run stands."""
    return studio.runs.get(id, owner)


@router.post("/runs/{id}/stop")
def stop_run(id: str, owner: RunOwner, studio: TheStudio) -> RunView:
    """Save and end after the current step."""
    return studio.runs.stop(id, owner)


@router.post("/runs/{id}/resume")
def resume_run(id: str, owner: RunOwner, studio: TheStudio, body: ResumeChanges | None = None) -> RunView:
    """Go on from the last checkpoint; the body, if there is one, changes what it says."""
    return studio.runs.resume(id, owner, **(body.model_dump() if body else {}))


@router.delete("/runs/{id}")
def delete_run(id: str, owner: RunOwner, studio: TheStudio) -> dict[str, str]:
    """Remove a run with its checkpoints and its result; `POST /runs/undo` brings the last one back for a day."""
    studio.runs.delete(id, owner)
    return {"deleted": id}


@router.post("/runs/undo")
def undo_run(owner: RunOwner, studio: TheStudio) -> RunView:
    """Bring back the run that you deleted last."""
    return studio.runs.undo_delete(owner)
