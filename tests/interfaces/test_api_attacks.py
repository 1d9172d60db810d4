"""What strangers send to the HTTP API: names of other people's files, bodies that are too much, keys that are none."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from support.checkpoints import tiny_sd

from studio.core.settings import Settings
from studio.interfaces.api import app as api
from studio.interfaces.api.middleware import MAX_ITEMS, items
from studio.service import Studio

KEY = "a-key-that-is-long-enough"
SECONDS = 5.0  # that no refusal takes


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    home = tmp_path_factory.mktemp("home")
    tiny_sd(home / "models" / "tiny")
    (home / "models" / "loras").mkdir()
    for place in ("models/pipe.safetensors", "models/loras/pipe.safetensors", "models/loras/pipe.json"):
        os.mkfifo(home / place)
    studio = Studio(Settings(home=home, api_key=KEY, max_upload_mb=1, named_only=True, _env_file=None))
    yield studio
    studio.close()


@pytest.fixture
def client(studio: Studio) -> Iterator[TestClient]:
    with TestClient(api.create(studio.settings, studio), raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        yield client


def asked(client: TestClient, method: str, url: str, body: Any) -> tuple[int, str]:
    """Status and sentence; fails where the answer takes longer than a refusal may."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(client.request(method, url, json=body)), daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert found, f"{url} {body} hangs"
    return found[0].status_code, found[0].json().get("error", "")


def requests_with(path: str) -> list[tuple[str, dict[str, Any]]]:
    """Every request that names a file, with this one."""
    picture = {"model": "tiny", "prompt": "x", "steps": 1}
    return [
        ("/jobs", picture | {"model": path}),
        ("/jobs", picture | {"loras": [{"path": path}]}),
        ("/jobs", {"kind": "sheet", "base": picture | {"model": path}}),
        ("/jobs", {"kind": "caption", "data": "none", "captioner": path}),
        ("/jobs", {"kind": "caption", "data": path}),
        ("/runs", {"kind": "lcm", "model": path}),
        ("/runs", {"kind": "lcm", "model": "tiny", "loras": [{"path": path}]}),
        ("/runs", {"kind": "lora", "model": "tiny", "data": path}),
        ("/runs", {"kind": "control", "model": "tiny", "data": "none", "init": path}),
    ]


@pytest.mark.parametrize("path", ["/dev/ptmx", "/dev/stdin", "/etc/shadow", "/etc", "/proc/self/environ", "~/.ssh/id"])
def test_a_file_of_the_server_is_as_if_it_were_not_there(client: TestClient, path: str) -> None:
    for (url, body), (_, other) in zip(requests_with(path), requests_with("/none/there"), strict=True):
        status, said = asked(client, "POST", url, body)
        assert 400 <= status < 500, (url, body)
        assert (status, said.replace(path, "")) == ((answer := asked(client, "POST", url, other))[0],
                                                    answer[1].replace("/none/there", ""))  # fmt: skip


def test_a_working_model_elsewhere_is_not_taken(client: TestClient, studio: Studio, tmp_path: Path) -> None:
    elsewhere = tiny_sd(tmp_path / "own")
    inside = studio.settings.models_dir / "tiny"
    climbing = os.path.relpath(elsewhere, studio.settings.models_dir)
    for name in (str(elsewhere), climbing, f"{inside}/../../../{elsewhere.name}", f"../models/../../{elsewhere}"):
        assert asked(client, "POST", "/jobs", {"model": name, "prompt": "x"})[0] == 404, name
        assert asked(client, "GET", f"/words?model={name}", None)[0] == 200
    for name in ("tiny", str(inside), "../models/tiny"):
        assert asked(client, "POST", "/jobs", {"model": name, "prompt": "x", "steps": 1})[0] == 202, name


def test_a_pipe_where_models_lie_makes_nobody_wait(client: TestClient) -> None:
    assert asked(client, "GET", "/models", None)[0] == 200
    for name in ("pipe.safetensors", "pipe"):
        assert asked(client, "POST", "/jobs", {"model": name})[0] in (404, 422)
        assert asked(client, "POST", "/jobs", {"model": "tiny", "loras": [{"path": name}]})[0] in (404, 422)
        assert asked(client, "POST", "/jobs", {"model": "tiny", "prompt": f"1girl <lora:{name}:1>"})[0] < 500
    assert asked(client, "POST", "/jobs", {"model": "tiny", "prompt": "1girl <lora:/dev/ptmx:1>", "steps": 1})[0] < 500
    text = "1girl\\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Model: /dev/ptmx"
    assert client.post("/images/recipe", files={"file": ("a.png", text.encode())}).status_code < 500
    assert client.get("/health").json() == {"status": "ok"}


def test_a_model_s_own_notes_lead_nowhere_else(client: TestClient, studio: Studio) -> None:
    folder = tiny_sd(studio.settings.models_dir / "sly")
    for facts in (
        {"fast": {"adapter": "/etc/shadow", "steps": 4, "guidance": 1, "sampler": "lcm"}},
        {"controlnet": {"lines": "../../../elsewhere"}},
        {"judge": "/etc"},
    ):
        (folder / "studio.json").write_text(json.dumps(facts))
        status, said = asked(client, "POST", "/jobs", {"model": "sly", "prompt": "x"})
        assert status == 422
        assert "lies outside of the model" in said


@pytest.mark.parametrize("header", [b"", b"Bearer wrong", b"Basic d3Jvbmc6d3Jvbmc="])
@pytest.mark.parametrize("path", ["/jobs", "/v1/runs", "/prompt", "/images", "/sdapi/v1/txt2img", "/nowhere"])
def test_nothing_is_read_before_the_key_is_known(client: TestClient, path: str, header: bytes) -> None:
    async def receive() -> Any:
        raise AssertionError("the body was asked for")

    async def send(message: Any) -> None:
        sent.append(message)

    sent: list[Any] = []
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": path, "raw_path": path.encode(),
             "query_string": b"", "root_path": "", "scheme": "http", "server": ("localhost", 80),
             "headers": [(b"authorization", header), (b"content-length", b"27000000")]}  # fmt: skip
    asyncio.run(client.app(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 401


def test_a_body_is_measured_and_counted_before_it_is_parsed(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    too_long = client.post("/jobs", content=b" " * (9 * 2**20), headers=headers)
    assert (too_long.status_code, "8 MB" in too_long.json()["error"]) == (413, True)
    for body in (b"[" + b"[]," * MAX_ITEMS + b"[]]", b'{"x":' + b"[" * (MAX_ITEMS + 1), b"[1" + b",1" * MAX_ITEMS):
        started = time.monotonic()
        refused = client.post("/jobs", content=body, headers=headers)
        assert (refused.status_code, "100,000 values" in refused.json()["error"]) == (413, True)
        assert time.monotonic() - started < 2
    deep = client.post("/jobs", content=b"[" * 50_000, headers=headers)
    assert deep.status_code in (400, 422)


def test_signs_inside_of_strings_are_no_values() -> None:
    rows = {"kind": "batch", "rows": [{"prompt": "a, [b], {c} \\" * 40} for _ in range(1000)]}
    assert items(json.dumps(rows).encode()) <= 2003
    assert items(b'"' + b"," * 500) == 500  # not closed: counted, never parsed as a string


def test_no_answer_repeats_a_foreign_host_or_loads_anything_from_elsewhere(client: TestClient) -> None:
    for url in ("/jobs/", "/v1/images/", "/docs/"):
        answer = client.get(url, headers={"Host": "evil.example"}, follow_redirects=False)
        assert answer.status_code == 404
        assert "evil.example" not in str(answer.headers) + answer.text
    for url in ("/docs", "/redoc"):
        page = client.get(url).text
        assert "https://" not in page.replace("https://fastapi.tiangolo.com", ""), page
        assert client.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200
