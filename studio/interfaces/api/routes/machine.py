"""The machine: how it stands, and whether it lives."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from studio.core.views import SystemStatus
from studio.interfaces.api.access import Owner, TheStudio
from studio.interfaces.api.metrics import CONTENT_TYPE, exposition

router = APIRouter(tags=["machine"])


class Readiness(BaseModel):
    database: bool
    disk: bool  # room for pictures
    worker: bool
    model: bool  # the one that requests begin with is on this machine


@router.get("/status")
def status(owner: Owner, studio: TheStudio) -> SystemStatus:
    """The machine, the queue, what was chosen and why."""
    return studio.system()


@router.get("/health")
def health() -> dict[str, str]:
    """Alive; asks for no key and tells nothing."""
    return {"status": "ok"}


@router.get("/ready", responses={503: {"model": Readiness, "description": "What isn't ready is false."}})
def ready(studio: TheStudio, response: Response) -> Readiness:
    """Whether work can be taken; asks for no key. For load balancers: alive and not ready is no reason to restart."""
    found = Readiness(**studio.readiness())
    response.status_code = 200 if found.database and found.disk and found.worker and found.model else 503
    return found


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(owner: Owner, studio: TheStudio) -> Response:
    """Figures of this process for Prometheus."""
    return Response(exposition(studio), media_type=CONTENT_TYPE)
