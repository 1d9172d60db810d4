"""The studio as people meet it: a server of its own with a small real model, a Chromium before it, pages in `AppTest`.

`conftest.py` makes the fixtures known to every test. Chromium is Debian's; where it is missing the browser tests are
skipped on a developer's machine and fail in CI.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from support.checkpoints import tiny_sd

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 180_000  # milliseconds: generous, because tests share two cores with whatever else runs
SETTLED = '[data-testid="stApp"][data-test-script-state="notRunning"]'


@dataclass(frozen=True)
class Server:
    """A running studio."""

    url: str
    home: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def studio_server(home: Path, model: Path, **settings: str) -> Iterator[Server]:
    """`streamlit run streamlit_app.py` on a free port until the block ends. `settings`: more STUDIO_ variables."""
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("STUDIO_", "ANTHROPIC_"))}
    own = {"HOME": str(home), "MODEL": str(model), "OFFLINE": "true"} | settings
    command = [sys.executable, "-m", "streamlit", "run", "streamlit_app.py"]
    command += ["--server.port", str(port), "--server.headless", "true"]
    home.mkdir(parents=True, exist_ok=True)
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=clean | {f"STUDIO_{name}": value for name, value in own.items()} | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + PATIENCE / 1000
            while not _answers(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"The server did not start: {(home / 'server.log').read_text()[-2000:]}")
                time.sleep(0.2)
            yield Server(url, home)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_stcore/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete small checkpoint with random weights."""
    return tiny_sd(tmp_path_factory.mktemp("model") / "tiny", controlnet=True)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Server]:
    """One studio without a password for all browser tests; each browser has its own pictures."""
    with studio_server(tmp_path_factory.mktemp("server"), tiny_model, ONE_GALLERY="false") as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        missing = "No Chromium is installed (apt-get install chromium)."
        pytest.fail(missing) if os.environ.get("CI", "").lower() in ("1", "true") else pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visitor(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """A function that gives a page in a fresh browser profile: `visitor(dark=True, width=390)`."""
    contexts: list[BrowserContext] = []

    def visit(dark: bool = False, width: int = 1360, height: int = 900) -> Page:
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        return context.new_page()

    yield visit
    for context in contexts:
        context.close()


def settle(page: Page) -> None:
    """Wait until the page's script has run to its end."""
    page.locator(SETTLED).wait_for(state="attached", timeout=PATIENCE)


def open_page(page: Page, address: str) -> None:
    """Go to an address and wait until its heading stands there and the script is done."""
    page.goto(address, timeout=PATIENCE)
    page.locator("h1").first.wait_for(timeout=PATIENCE)
    settle(page)


@pytest.fixture
def page_home(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh studio for `AppTest`: its own home, the small model, nothing remembered from the test before."""
    import streamlit as st

    from studio.core.settings import settings
    from studio.interfaces.web.resources import studio

    for name in [name for name in os.environ if name.startswith(("STUDIO_", "ANTHROPIC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STUDIO_MODEL", str(tiny_model))
    monkeypatch.setenv("STUDIO_OFFLINE", "true")
    monkeypatch.setenv("STUDIO_WARM_UP", "false")  # the worker would load torch and the model beside the page
    monkeypatch.chdir(tmp_path)  # no .env file of the developer
    settings.cache_clear()
    st.cache_resource.clear()
    st.cache_data.clear()
    yield tmp_path / "home"
    studio().close()
    settings.cache_clear()
    st.cache_resource.clear()
    st.cache_data.clear()
