"""The HTTP API: the same service, as routes of three lines each: parse, call, map.

Bearer keys say who an owner is; beyond this machine there is no serving without one. Clients name data sets, models and
LoRAs by their names here, and where files lie on the server is not told. Routes are plain `def`: nothing here may block
the event loop. Knows no torch and no page.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline

from studio import __version__
from studio.core.errors import BadInput
from studio.core.net import is_loopback
from studio.core.settings import Settings
from studio.interfaces.api import logs, problems
from studio.interfaces.api.access import Access, api_keys
from studio.interfaces.api.middleware import BodyLimit, KeyFirst, LocalOnly
from studio.interfaces.api.redaction import path_redactor
from studio.interfaces.api.routes import datasets, images, jobs, machine, models, openai, runs, sdapi
from studio.service import Studio

DESCRIPTION = "Jobs, pictures, models, runs, prompts. Send the key as `Authorization: Bearer KEY`."
ROUTERS = (jobs.router, images.router, models.router, datasets.router, runs.router, machine.router)


def create(settings: Settings, studio: Studio | None = None) -> FastAPI:
    """The app. Without a key it answers this machine only, and no web page from elsewhere: see `LocalOnly`.

    Raises ValueError for a studio that opens whatever path a request names (see `Settings.named_only`).
    """
    api_keys(settings)  # raises for weak ones before anything is opened
    redact = path_redactor(settings)
    studio = studio or Studio(settings.model_copy(update={"named_only": True}))
    if not studio.settings.named_only:
        raise ValueError("the studio behind the API has to be one with `named_only`")
    access = Access(settings, studio)

    class PortableJSON(JSONResponse):
        def render(self, content: Any) -> bytes:
            return super().render(redact(content))

    app = FastAPIOffline(
        title="Anime Character Studio",
        version=__version__,
        default_response_class=PortableJSON,
        description=DESCRIPTION,
        redirect_slashes=False,  # a redirect would repeat whatever host was asked for
        responses={"4XX": problems.DOCUMENTED},
    )
    studio.take_over()
    app.state.studio = studio
    app.state.access = access
    app.state.redact = redact
    app.state.sd_options = {}  # what each owner has set, as A1111's web UI keeps it
    app.add_middleware(BodyLimit, upload=settings.max_upload_mb * 2**20)  # the last one that is added goes first
    app.add_middleware(KeyFirst, access=access)
    app.add_middleware(LocalOnly, access=access)
    app.add_middleware(logs.Requests)
    problems.handle(app)
    for router in ROUTERS:
        app.include_router(router, prefix="/v1")
        app.include_router(router, include_in_schema=False)  # as they were called before there was a version
    app.include_router(openai.router, prefix="/v1")
    app.include_router(sdapi.router)
    app.include_router(sdapi.queue, include_in_schema=False)
    return app


def check_address(settings: Settings, host: str, keys: bool = False) -> None:
    """Raises `BadInput` when `host` is reachable from elsewhere and there is no key. `keys`: there are named ones."""
    if not is_loopback(host) and not api_keys(settings) and not keys:
        raise BadInput(
            f"Serving on {host} needs a key: `python -m studio keys add NAME` makes one (or set STUDIO_API_KEY); "
            "or serve on 127.0.0.1."
        )


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until interrupted. Raises `BadInput` for an address without its key, or a port that is taken."""
    import socket

    import uvicorn

    if not is_loopback(host) and not api_keys(settings):
        studio = Studio(settings)
        try:
            check_address(settings, host, studio.keys.any())
        finally:
            studio.close()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise BadInput(f"{host}:{port} can't be used ({error}); choose another --port.") from error
    app = create(settings)
    try:
        logs.begin(settings)
        uvicorn.run(app, host=host, port=port, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    finally:
        app.state.studio.close()
