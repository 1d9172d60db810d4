"""What the API writes about its work: every request once, by its id, and no secret."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from studio.core.settings import Settings
from studio.interfaces.api import app as api
from studio.interfaces.api import logs
from studio.service import Studio

KEY, PASSWORD, CLAUDE = "a-key-that-is-long-enough", "a long sentence", "sk-ant-api03-abcdefghijklmnop"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    home = tmp_path_factory.mktemp("home")
    app = api.create(settings(home))
    yield app
    app.state.studio.close()


def settings(home: Path, **fields: Any) -> Settings:
    return Settings(home=home, api_key=KEY, password=PASSWORD, anthropic_api_key=CLAUDE, _env_file=None, **fields)


@pytest.fixture
def written(tmp_path: Path) -> Iterator[io.StringIO]:
    """What a handler with the formatter of the server is given."""
    buffer, root = io.StringIO(), logging.getLogger()
    handler = logging.StreamHandler(buffer)
    handler.setFormatter(logs.Lines(logs.secrets_of(settings(tmp_path)), as_json=True))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield buffer
    root.removeHandler(handler)
    root.setLevel(level)


def lines(buffer: io.StringIO) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in buffer.getvalue().splitlines()]
    return [line for line in found if line["logger"].startswith("studio")]


def test_every_request_is_one_line_with_the_id_that_its_client_has(app: Any, written: io.StringIO) -> None:
    with TestClient(app, raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        first = client.get("/v1/jobs?limit=3")
        given = client.get("/v1/jobs/none", headers={"X-Request-ID": "from-the-proxy.1"})
        forged = client.get("/v1/jobs", headers={"X-Request-ID": 'a"} {"level": "x', "Authorization": "Bearer no"})
        client.get("/health")
    said = [line for line in lines(written) if "status" in line]
    assert [(line["path"], line["status"]) for line in said] == [
        ("/v1/jobs", 200), ("/v1/jobs/none", 404), ("/v1/jobs", 401), ("/health", 200),
    ]  # fmt: skip
    assert [line["request"] for line in said[:3]] == [one.headers["x-request-id"] for one in (first, given, forged)]
    assert given.headers["x-request-id"] == "from-the-proxy.1"
    assert logs.OURS.fullmatch(forged.headers["x-request-id"])
    assert said[0]["owner"].startswith("api-")
    assert said[0]["ms"] >= 0
    assert said[3]["level"] == "debug"
    assert "owner" not in said[2]


def test_a_bug_is_found_by_the_id_that_its_client_was_told(
    app: Any, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any) -> None:
        raise RuntimeError(f"the header was: Authorization: Bearer {KEY}, claude {CLAUDE}\nand\x1b[31m more")

    monkeypatch.setattr(Studio, "jobs", broken)
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/v1/jobs", headers={"Authorization": f"Bearer {KEY}"})
    assert (answer.status_code, "header" in answer.text) == (500, False)
    [bug] = [line for line in lines(written) if "traceback" in line]
    assert bug["request"] == answer.headers["x-request-id"]
    assert "RuntimeError: the header was: Authorization: Bearer [secret], claude [secret]" in bug["traceback"]


def test_no_secret_and_no_line_of_anybody_else_comes_into_the_log(app: Any, written: io.StringIO) -> None:
    basic = base64.b64encode(f"me:{KEY}".encode()).decode()
    named = app.state.studio.keys.add("Ann")
    with TestClient(app, raise_server_exceptions=False) as client:
        for header in (f"Bearer {KEY}", f"Basic {basic}", f"Bearer {named}", f"Bearer {named}x"):
            client.get("/sdapi/v1/progress", headers={"Authorization": header})
            client.get(f"/v1/images?query={KEY}", headers={"Authorization": header})
            client.post(
                "/v1/jobs", json={"prompt": "a private wish", "model": "nowhere"}, headers={"Authorization": header}
            )
        client.get("/v1/jobs/x%0a%7B%22level%22:%22error%22%7D%1b[2J", headers={"Authorization": f"Bearer {KEY}"})
        client.get(f"/v1/jobs/{KEY}", headers={"Authorization": f"Bearer {KEY}"})
    logging.getLogger("studio.test").warning("keys %s and %s, password %s", named, CLAUDE, PASSWORD)
    text = written.getvalue()
    for secret in (KEY, basic, named, PASSWORD, CLAUDE, "private wish"):
        assert secret not in text
    assert "\x1b" not in text
    assert all(json.loads(line) for line in text.splitlines())
    plain = logs.Lines([KEY], as_json=False).format(logging.makeLogRecord({"msg": f"a\nb\x1b[2J {KEY}", "name": "x"}))
    assert "\n" not in plain
    assert plain.endswith(r"a\nb\x1b[2J [secret]")


def test_what_the_server_says_goes_to_one_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, before = logging.getLogger(), list(logging.getLogger().handlers)
    level = root.level
    try:
        logs.begin(settings(tmp_path, log_format="json"))
        for name in ("uvicorn", "uvicorn.error"):  # a server of another test may have set up its own logging
            monkeypatch.setattr(logging.getLogger(name), "propagate", True)
            monkeypatch.setattr(logging.getLogger(name), "disabled", False)
            monkeypatch.setattr(logging.getLogger(name), "handlers", [])
            monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
            logging.getLogger(name)._cache.clear()  # type: ignore[attr-defined]
        logging.getLogger("uvicorn.error").info("Started with %s", KEY)
        assert json.loads(capsys.readouterr().err)["message"] == "Started with [secret]"
    finally:
        root.handlers, logging.getLogger("uvicorn.access").disabled = before, False
        root.setLevel(level)
