"""The machine: how it stands, and whether it lives."""

from __future__ import annotations

from fastapi import APIRouter

from studio.core.views import SystemStatus
from studio.interfaces.api.access import Owner, TheStudio

router = APIRouter(tags=["machine"])


@router.get("/status")
def status(owner: Owner, studio: TheStudio) -> SystemStatus:
    """The machine, the queue, what was chosen and why."""
    return studio.system()


@router.get("/health")
def health() -> dict[str, str]:
    """Alive; asks for no key and tells nothing."""
    return {"status": "ok"}
