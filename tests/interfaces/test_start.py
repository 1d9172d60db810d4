"""Where the app listens: STUDIO_HOST and STUDIO_PORT, through `python -m studio.interfaces.web.start`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support.browser import free_port

from studio.core.settings import REPOSITORY, Settings
from studio.interfaces.web.start import refusal, variables


def start(home: Path, **settings: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("STUDIO_", "STREAMLIT_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "studio.interfaces.web.start", "--server.headless=true"],
        cwd=REPOSITORY,
        env=clean | {"STUDIO_HOME": str(home)} | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_what_streamlit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STUDIO_HOST", "STUDIO_PORT"):
        monkeypatch.delenv(name, raising=False)
    port, address = "STREAMLIT_SERVER_PORT", "STREAMLIT_SERVER_ADDRESS"
    assert variables(Settings(_env_file=None), {}) == {port: "8501"}
    monkeypatch.setenv("STUDIO_HOST", "0.0.0.0")
    monkeypatch.setenv("STUDIO_PORT", "8600")
    assert variables(Settings(_env_file=None), {}) == {port: "8600", address: "0.0.0.0"}
    assert variables(Settings(_env_file=None), {address: "127.0.0.1"}) == {port: "8600"}


def test_the_app_listens_where_the_settings_say(tmp_path: Path) -> None:
    port = free_port()
    host = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
    with start(tmp_path, STUDIO_HOST=host, STUDIO_PORT=str(port)) as app:
        try:
            deadline = time.monotonic() + 90
            while True:
                try:
                    with urllib.request.urlopen(f"http://{host}:{port}/_stcore/health", timeout=5) as answer:
                        assert answer.status == 200
                    break
                except (urllib.error.URLError, OSError):
                    assert app.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
        finally:
            app.terminate()
            app.communicate(timeout=30)


def test_beyond_this_computer_it_still_asks_for_a_password(tmp_path: Path) -> None:
    with start(tmp_path, STUDIO_HOST="0.0.0.0", STUDIO_PORT=str(free_port())) as app:
        said, _ = app.communicate(timeout=90)
    assert app.returncode != 0
    assert "STUDIO_PASSWORD is not set" in said
    assert "URL" not in said  # before Streamlit says where it can be found


def test_a_port_that_is_taken_is_said_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refusal(Settings(_env_file=None), {"STREAMLIT_SERVER_PORT": port}) or ""
    assert port in said
    assert "STUDIO_PORT" in said
    assert refusal(Settings(_env_file=None), {"STREAMLIT_SERVER_PORT": str(free_port())}) is None


def test_a_port_that_is_none_is_said(tmp_path: Path) -> None:
    with start(tmp_path, STUDIO_PORT="many") as app:
        said, _ = app.communicate(timeout=90)
    assert app.returncode != 0
    assert "STUDIO_PORT" in said
    assert "Traceback" not in said
