"""The HTTP API as a Ray Serve deployment: `serve run studio.interfaces.api.serve:app`.

Every replica is a whole studio with its own worker and engine; they share one `STUDIO_HOME`, which the store allows: a
job is known to all, worked on by one, and can be cancelled through any. Knows nothing that `api` doesn't; Ray is
optional (`pip install "ray[serve]"`).
"""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI

from studio.core.errors import BadInput
from studio.core.settings import Settings, settings
from studio.interfaces.api import access, app


def replica_app() -> FastAPI:
    """What each replica serves. Built in the replica: a studio holds files and threads and doesn't travel."""
    return app.create(settings())


def build(chosen: Settings, replicas: int = 1, gpus: float = 0.0) -> Any:
    """The Ray Serve application. Raises `BadInput` without Ray, and without a key: a cluster is reachable by others."""
    try:
        from ray import serve
    except ImportError as error:
        raise BadInput('Serving on a cluster needs Ray: pip install "ray[serve]".') from error
    if not access.api_keys(chosen):
        raise BadInput("Serving on a cluster needs a key: set STUDIO_API_KEY.")

    @serve.deployment(
        name="studio",
        num_replicas=replicas,
        ray_actor_options={"num_gpus": gpus},
        max_ongoing_requests=100,  # they wait for events most of the time
    )
    @serve.ingress(replica_app)
    class StudioReplica:
        """Holds the app; Ray routes every request to it."""

    return StudioReplica.bind()  # type: ignore[attr-defined]


def __getattr__(name: str) -> Any:
    # `serve run studio.interfaces.api.serve:app` looks for this name; importing the module must not need Ray.
    if name == "app":
        return build(
            settings(),
            replicas=int(os.environ.get("STUDIO_REPLICAS", "1")),
            gpus=float(os.environ.get("STUDIO_REPLICA_GPUS", "0")),
        )
    raise AttributeError(name)
