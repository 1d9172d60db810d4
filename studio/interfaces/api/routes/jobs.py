"""Jobs: start, follow, stop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from studio.core.errors import StudioError
from studio.core.views import JobView
from studio.interfaces.api.access import Once, Owner, TheStudio
from studio.interfaces.api.naming import with_data_sets
from studio.service import AnyRequest, Studio

POLL = 0.2  # seconds between looks at a job that somebody watches
HEARTBEAT = 15.0  # seconds after which a silent stream says that it lives
UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
router = APIRouter(tags=["jobs"])


@router.post("/jobs", status_code=202)
def submit(body: Annotated[AnyRequest, Body()], owner: Owner, studio: TheStudio, once: Once) -> JobView:
    """Start a job: any request of the studio as JSON, `kind` says which (default `generate`)."""
    return studio.submit(with_data_sets(body, owner, studio), owner, once)


@router.get("/jobs")
def jobs(owner: Owner, studio: TheStudio, limit: Annotated[int, Query(ge=1, le=200)] = 20) -> list[JobView]:
    """Your jobs, newest first."""
    return studio.jobs(owner, limit)


@router.get("/jobs/{id}")
def job(id: str, owner: Owner, studio: TheStudio) -> JobView:
    """How a job stands."""
    return studio.job(id, owner)


STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "One event a change."}
}
PREVIEW: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}},
    204: {"description": "There is none just now."},
}


@router.get("/jobs/{id}/events", response_class=StreamingResponse, responses=STREAM)
def events(id: str, owner: Owner, studio: TheStudio, request: Request) -> StreamingResponse:
    """Server-sent events: a `job` event at every change, the last one when it is over."""
    studio.job(id, owner)
    return StreamingResponse(
        _events(studio, id, owner, request.app.state.redact), media_type="text/event-stream", headers=UNBUFFERED
    )


@router.get("/jobs/{id}/preview", response_class=Response, responses=PREVIEW)
def preview(id: str, owner: Owner, studio: TheStudio) -> Response:
    """The picture that is being made, as JPEG; 204 when there is none."""
    data = studio.job(id, owner).preview
    return Response(data, 200 if data else 204, media_type="image/jpeg" if data else None)


@router.post("/jobs/{id}/cancel")
def cancel(id: str, owner: Owner, studio: TheStudio) -> JobView:
    """Stop a job within one sampling step."""
    return studio.cancel(id, owner)


@router.post("/jobs/{id}/again", status_code=202)
def again(id: str, owner: Owner, studio: TheStudio, once: Once) -> JobView:
    """The same request with the same seeds: resumes a batch that was interrupted."""
    return studio.again(id, owner, once)


async def _events(studio: Studio, id: str, owner: str, redact: Callable[[Any], Any]) -> AsyncIterator[str]:
    """The job at every change. Asks now and then, in a thread: a look may wait for the queue's lock or the disk."""
    last, silent = "", 0.0
    while True:
        try:
            view = await run_in_threadpool(studio.job, id, owner)
        except StudioError as error:
            yield f"event: error\ndata: {json.dumps({'error': str(error)})}\n\n"
            return
        text = json.dumps(redact(view.model_dump(mode="json")), ensure_ascii=False)
        if text != last:
            yield f"event: job\ndata: {text}\n\n"
            last, silent = text, 0.0
        elif silent >= HEARTBEAT:
            yield ": still here\n\n"
            silent = 0.0
        if not view.active:
            return
        await asyncio.sleep(POLL)
        silent += POLL
