"""The HTTP API: the same service, as routes of three lines each: parse, call, map.

Bearer keys (`STUDIO_API_KEY`, several separated by commas) say who an owner is; beyond this machine there is no serving
without one. Clients name data sets by their names in `datasets/`, and where files lie on the server is not told. Routes
are plain `def`: nothing here may block the event loop. Knows no torch and no page.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, TypeVar

from fastapi import Body, Depends, FastAPI, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from studio import __version__
from studio.core.errors import BadInput, Busy, DiskFull, NotFound, Offline, OutOfMemory, StudioError, sentence
from studio.core.fields import fields
from studio.core.net import is_loopback
from studio.core.settings import Settings
from studio.core.specs import AnyRun, Spec
from studio.core.views import FoundRecipe, JobView, Picture, PictureKind, RunView, SystemStatus
from studio.interfaces.api.middleware import BodySizeLimit, LocalOnly
from studio.interfaces.api.redaction import path_redactor
from studio.service import AnyRequest, PromptRequest, PromptResult, Studio

log = logging.getLogger(__name__)
SpecT = TypeVar("SpecT", bound=Spec)

STATUS = (  # the first that fits
    (NotFound, 404),
    (BadInput, 422),
    (Busy, 429),
    (DiskFull, 507),
    (OutOfMemory, 503),
    (Offline, 503),
    (StudioError, 500),
)
MEDIA = {
    ".png": "image/png",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".mp4": "video/mp4",
    ".zip": "application/zip",
    ".json": "application/json",
}
POLL = 0.2  # seconds between looks at a job that somebody watches
HEARTBEAT = 15.0  # seconds after which a silent stream says that it lives
BODY_ROOM = 8 * 2**20  # bytes that a request may have beside a file: the largest batch of prompts fits
bearer = HTTPBearer(auto_error=False)


class ResumeChanges(BaseModel):
    """What may be another when a run goes on; what is left out stays. The run's own bounds hold."""

    model_config = ConfigDict(extra="forbid")
    epochs: int | None = None  # in all
    learning_rate: float | None = None


def create(settings: Settings, studio: Studio | None = None) -> FastAPI:
    """The app. Without a key it answers this machine only, and no web page from elsewhere: see `LocalOnly`."""
    keys = api_keys(settings)
    redact = path_redactor(settings)

    class PortableJSON(JSONResponse):
        def render(self, content: Any) -> bytes:
            return super().render(redact(content))

    app = FastAPI(
        title="Anime Character Studio",
        version=__version__,
        default_response_class=PortableJSON,
        description="Jobs, pictures, models, runs, prompts. Send the key as `Authorization: Bearer KEY`.",
    )
    app.state.studio = studio or Studio(settings)
    app.state.keys = keys
    app.state.redact = redact
    app.add_middleware(BodySizeLimit, limit=settings.max_upload_mb * 2**20 + BODY_ROOM)
    if not keys:
        app.add_middleware(LocalOnly)
    for error_class, status in STATUS:
        app.add_exception_handler(error_class, _sentence(status))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)
    for routes in (_job_routes, _image_routes, _model_routes, _run_routes, _machine_routes):
        routes(app)
    return app


def api_keys(settings: Settings) -> tuple[str, ...]:
    """The keys that are accepted; none: this machine only. Raises `BadInput` for keys that can be guessed."""
    if settings.api_key is None:
        return ()
    keys = tuple(key.strip() for key in settings.api_key.get_secret_value().split(",") if key.strip())
    if not keys or any(len(key) < 16 for key in keys):
        raise BadInput("STUDIO_API_KEY needs at least 16 characters for each key; `openssl rand -hex 24` makes one.")
    return keys


def check_address(settings: Settings, host: str) -> None:
    """Raises `BadInput` when `host` is reachable from elsewhere and there is no key."""
    if not is_loopback(host) and not api_keys(settings):
        raise BadInput(f"Serving on {host} needs a key: set STUDIO_API_KEY, or serve on 127.0.0.1.")


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until interrupted. Raises `BadInput` for an address without its key, or a port that is taken."""
    import socket

    import uvicorn

    check_address(settings, host)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise BadInput(f"{host}:{port} can't be used ({error}); choose another --port.") from error
    app = create(settings)
    try:
        uvicorn.run(app, host=host, port=port, log_level="info", timeout_graceful_shutdown=5)
    finally:
        app.state.studio.close()


# --- who asks -------------------------------------------------------------------------------------------------------


def _owner(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> str:
    """The owner that the key stands for. Every key is compared, each in constant time."""
    keys: tuple[str, ...] = request.app.state.keys
    if not keys:
        return "local"
    offered = (given.credentials if given else "").encode()
    found = [key for key in keys if hmac.compare_digest(key.encode(), offered)]
    if not found:
        raise HTTPException(401, "A valid key is needed: Authorization: Bearer KEY.", {"WWW-Authenticate": "Bearer"})
    return "api-" + hashlib.sha256(found[0].encode()).hexdigest()[:24]


def _studio(request: Request) -> Studio:
    studio: Studio = request.app.state.studio
    return studio


def _run_owner(request: Request, owner: Annotated[str, Depends(_owner)]) -> str | None:
    """Whose training runs are meant: the key's, or all where there is no key, and so nobody but this machine."""
    return owner if request.app.state.keys else None


Owner = Annotated[str, Depends(_owner)]
RunOwner = Annotated[str | None, Depends(_run_owner)]
TheStudio = Annotated[Studio, Depends(_studio)]


# --- errors ---------------------------------------------------------------------------------------------------------


def _sentence(status: int) -> Any:
    def handler(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(request.app.state.redact({"error": _sendable(str(error))}), status)

    return handler


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = () if first["type"] == "json_invalid" else first["loc"][1:]  # without "body" or "query"
    return JSONResponse({"error": _sendable(sentence(first, place))}, 422)


def _sendable(sentence: str) -> str:
    """The sentence with what isn't valid Unicode spelled out: it may quote what was sent."""
    return sentence.encode(errors="backslashreplace").decode()


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


def _bug(request: Request, error: Exception) -> JSONResponse:
    log.error("a request failed", exc_info=error)
    return JSONResponse({"error": "Something went wrong inside the studio; its log says more."}, 500)


# --- data sets -------------------------------------------------------------------------------------------------------


def _data_set(settings: Settings, name: str) -> str:
    """The folder or ZIP of a data set by its name in `datasets/`. Raises `NotFound` for everything that lies elsewhere.

    A key may read pictures and write captions there, and nowhere else on the server.
    """
    folder = settings.datasets_dir.resolve()
    try:
        found = (folder / name).resolve()
        if found != folder and found.is_relative_to(folder) and found.exists():
            return str(found)
    except (OSError, ValueError):  # too long, a NUL in it
        pass
    raise NotFound(f"There is no data set {name[:80]!r} in the studio's folder datasets/; give the name of one there.")


def _with_data_sets(spec: SpecT, settings: Settings) -> SpecT:
    """The request with the data sets that its fields name as their folders. Raises `NotFound`."""
    named = {name: getattr(spec, name) for name, field in fields(type(spec)).items() if field.about.file == "dataset"}
    found = {name: _data_set(settings, value) for name, value in named.items() if value is not None}
    return spec.model_copy(update=found)


# --- routes ---------------------------------------------------------------------------------------------------------


def _job_routes(app: FastAPI) -> None:
    @app.post("/jobs", status_code=202)
    def submit(body: Annotated[AnyRequest, Body()], owner: Owner, studio: TheStudio) -> JobView:
        """Start a job: any request of the studio as JSON, `kind` says which (default `generate`)."""
        return studio.submit(_with_data_sets(body, studio.settings), owner)

    @app.get("/jobs")
    def jobs(owner: Owner, studio: TheStudio, limit: Annotated[int, Query(ge=1, le=200)] = 20) -> list[JobView]:
        """Your jobs, newest first."""
        return studio.jobs(owner, limit)

    @app.get("/jobs/{id}")
    def job(id: str, owner: Owner, studio: TheStudio) -> JobView:
        """How a job stands."""
        return studio.job(id, owner)

    @app.get("/jobs/{id}/events")
    def events(id: str, owner: Owner, studio: TheStudio) -> StreamingResponse:
        """Server-sent events: a `job` event at every change, the last one when it is over."""
        studio.job(id, owner)
        return StreamingResponse(
            _events(studio, id, owner, app.state.redact), media_type="text/event-stream", headers=_UNBUFFERED
        )

    @app.get("/jobs/{id}/preview", responses={200: {"content": {"image/jpeg": {}}}})
    def preview(id: str, owner: Owner, studio: TheStudio) -> Response:
        """The picture that is being made, as JPEG; 204 when there is none."""
        data = studio.job(id, owner).preview
        return Response(data, 200 if data else 204, media_type="image/jpeg" if data else None)

    @app.post("/jobs/{id}/cancel")
    def cancel(id: str, owner: Owner, studio: TheStudio) -> JobView:
        """Stop a job within one sampling step."""
        return studio.cancel(id, owner)

    @app.post("/jobs/{id}/again", status_code=202)
    def again(id: str, owner: Owner, studio: TheStudio) -> JobView:
        """The same request with the same seeds: resumes a batch that was interrupted."""
        return studio.again(id, owner)


def _image_routes(app: FastAPI) -> None:
    @app.get("/images")
    def images(
        owner: Owner,
        studio: TheStudio,
        query: Annotated[str, Query(max_length=500)] = "",
        favourites: bool = False,
        kind: PictureKind | None = None,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
        limit: Annotated[int, Query(ge=1, le=200)] = 60,
    ) -> list[Picture]:
        """Your pictures, newest first. `query`: beginnings of words of the prompt, model or labels."""
        return studio.gallery(owner, query, favourites, kind, offset, limit)

    @app.get("/images/{id}", responses={200: {"content": {"image/png": {}}}})
    def image(id: str, owner: Owner, studio: TheStudio) -> FileResponse:
        """The file: a PNG with its recipe inside, or an animation."""
        path = studio.picture_path(id, owner)
        return FileResponse(path, media_type=MEDIA.get(path.suffix, "application/octet-stream"), headers=_PRIVATE)

    @app.get("/images/{id}/info")
    def info(id: str, owner: Owner, studio: TheStudio) -> Picture:
        """A picture's recipe, size, date."""
        return studio.picture(id, owner)

    @app.post("/images", status_code=201)
    def upload(file: UploadFile, owner: Owner, studio: TheStudio) -> Picture:
        """Send a picture; its id can be a `source`, a drawing, a first frame."""
        data = file.file.read(studio.settings.max_upload_mb * 2**20 + 1)
        return studio.upload(data, owner, file.filename or "")

    @app.post("/images/recipe")
    def recipe(file: UploadFile, owner: Owner, studio: TheStudio) -> FoundRecipe:
        """The recipe inside a picture file, ours or A1111's, as a request."""
        return studio.read_recipe(file.file.read(studio.settings.max_upload_mb * 2**20 + 1))

    @app.put("/images/{id}/favourite")
    def favourite(id: str, owner: Owner, studio: TheStudio, on: bool = True) -> Picture:
        return studio.favourite(id, owner, on)

    @app.delete("/images/{id}")
    def delete(id: str, owner: Owner, studio: TheStudio) -> dict[str, int]:
        """Delete a picture; `POST /images/undo` brings the last one back for a day."""
        studio.picture(id, owner)
        return {"deleted": studio.delete([id], owner)}

    @app.post("/images/undo")
    def undo(owner: Owner, studio: TheStudio) -> dict[str, int]:
        return {"restored": studio.undo_delete(owner)}


def _model_routes(app: FastAPI) -> None:
    @app.get("/models")
    def models(owner: Owner, studio: TheStudio) -> dict[str, list[dict[str, Any]]]:
        """What can be loaded."""
        return {
            "models": [_model(info) for info in studio.models.list()],
            "loras": [_lora(info) for info in studio.models.loras()],
        }

    @app.post("/prompt")
    def prompt(request: PromptRequest, owner: Owner, studio: TheStudio) -> PromptResult:
        """Write a prompt and draw nothing. `unknown_words` are those that do little with `model`."""
        return studio.prompts.write_prompt(request)

    @app.get("/words")
    def words(
        owner: Owner,
        studio: TheStudio,
        model: Annotated[str, Query(max_length=1024)] = "",
        prompt: Annotated[str | None, Query(max_length=4000)] = None,
    ) -> dict[str, Any]:
        """What a model was taught to draw, by category; with a prompt also its words that do little, and why."""
        found: dict[str, Any] = {"known": studio.prompts.known_words(model)}
        if prompt is not None:
            found["unknown_words"] = [one.model_dump() for one in studio.prompts.unknown_words(prompt, model)]
        return found


def _run_routes(app: FastAPI) -> None:
    @app.get("/runs")
    def runs(owner: RunOwner, studio: TheStudio) -> list[RunView]:
        """Your training runs, newest first; without a key all of this machine."""
        return studio.runs.list(owner)

    @app.post("/runs", status_code=202)
    def start_run(body: Annotated[AnyRun, Body()], owner: Owner, studio: TheStudio) -> RunView:
        """Start a training run: a LoRA (`"kind": "lora"`), a distillation (`"lcm"`) or a ControlNet (`"control"`)."""
        return studio.runs.start(_with_data_sets(body, studio.settings), owner)

    @app.get("/runs/{id}")
    def run(id: str, owner: RunOwner, studio: TheStudio) -> RunView:
        """How a training run stands."""
        return studio.runs.get(id, owner)

    @app.post("/runs/{id}/stop")
    def stop_run(id: str, owner: RunOwner, studio: TheStudio) -> RunView:
        """Save and end after the current step."""
        return studio.runs.stop(id, owner)

    @app.post("/runs/{id}/resume")
    def resume_run(id: str, owner: RunOwner, studio: TheStudio, body: ResumeChanges | None = None) -> RunView:
        """Go on from the last checkpoint; the body, if there is one, changes what it says."""
        return studio.runs.resume(id, owner, **(body.model_dump() if body else {}))

    @app.delete("/runs/{id}")
    def delete_run(id: str, owner: RunOwner, studio: TheStudio) -> dict[str, str]:
        """Remove a run with its checkpoints and its result."""
        studio.runs.delete(id, owner)
        return {"deleted": id}


def _machine_routes(app: FastAPI) -> None:
    @app.get("/status")
    def status(owner: Owner, studio: TheStudio) -> SystemStatus:
        """The machine, the queue, what was chosen and why."""
        return studio.system()

    @app.get("/health")
    def health() -> dict[str, str]:
        """Alive; asks for no key and tells nothing."""
        return {"status": "ok"}


_UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_PRIVATE = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}


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


def _model(info: Any) -> dict[str, Any]:
    # Where files lie on the server is nobody's business.
    names = ("reference", "title", "kind", "size_bytes", "state", "note", "native_size", "steps", "guidance", "sampler")
    fast = (
        {"steps": info.fast.steps, "guidance": info.fast.guidance, "sampler": info.fast.sampler} if info.fast else None
    )
    return {name: getattr(info, name) for name in names} | {
        "family": info.family.name,
        "fast": fast,
        "controls": list(info.controlnets),
        "license": info.license,
        "hash": info.hash,
    }


def _lora(info: Any) -> dict[str, Any]:
    return {
        "name": info.path.stem,
        "title": info.title,
        "hash": info.hash,
        "trigger_words": info.trigger_words,
        "weight": info.weight,
        "base": info.base,
    }
