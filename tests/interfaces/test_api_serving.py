"""The HTTP API behind a real server, and as a deployment of Ray Serve."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from studio.core.errors import BadInput
from studio.core.settings import Settings
from studio.interfaces.api import app as api
from studio.interfaces.api import serve

KEY = "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk"


def test_a_server_that_really_listens(tmp_path: Path) -> None:
    import socket

    import httpx
    import uvicorn

    settings = Settings(home=tmp_path, api_key=KEY, _env_file=None)
    app = api.create(settings)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.listen()
        with pytest.raises(BadInput, match="can't be used"):
            api.serve(settings, "127.0.0.1", port)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert client.get("/status").status_code == 401
            answer = client.get("/status", headers={"Authorization": f"Bearer {KEY}"})
            assert answer.json()["loaded"] is False
    finally:
        server.should_exit = True
        thread.join(20)
        app.state.studio.close()


def test_ray_is_optional_and_needs_a_key(tmp_path: Path) -> None:
    try:
        import ray  # noqa: F401
    except ImportError:
        with pytest.raises(BadInput, match="needs Ray"):
            serve.build(Settings(home=tmp_path, api_key=KEY, _env_file=None))
    else:
        with pytest.raises(BadInput, match="needs a key"):
            serve.build(Settings(home=tmp_path, _env_file=None))
