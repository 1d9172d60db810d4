"""What strangers send to the HTTP API: names of other people's files, bodies that are too much, keys that are none."""

from __future__ import annotations

import base64
import io
import json
import os
import stat
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from PIL import Image
from support.asynchronous import run_async
from support.checkpoints import tiny_sd
from support.pictures import encoded, image

from studio.core.settings import Settings
from studio.interfaces.api import app as api
from studio.interfaces.api.middleware import MAX_ITEMS, items
from studio.interfaces.cli.main import app as verbs
from studio.runs import supervisor
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
    run_async(client.app(scope, receive, send))  # type: ignore[arg-type]
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


# --- names, bodies and headers on every route ------------------------------------------------------------------------

NAMES = (
    "..", "../../studio.db", "..%2f..%2fstudio.db", "%2e%2e%2fstudio.db", "....//studio.db", "%00", "a%00.png",
    "/etc/passwd", "%2fetc%2fpasswd", "x" * 5000, "a%0d%0aSet-Cookie:%20x=1", "%ff%fe", "%ed%a0%80", "studio.db",
    ".keys", "%3Cscript%3Ealert(1)%3C%2Fscript%3E", "' OR 1=1 --",
)  # fmt: skip


def test_no_id_and_no_name_leads_anywhere_else(client: TestClient) -> None:
    routes = [route for router in api.ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    asked_for = [(method, "/v1" + route.path) for route in routes for method in route.methods if "{" in route.path]
    assert len(asked_for) >= 15
    for method, path in asked_for:
        for name in NAMES:
            answer = client.request(method, path.replace("{id}", name).replace("{name}", name), follow_redirects=False)
            assert answer.status_code in (404, 405, 422), (method, path, name, answer.status_code)
            assert not any(word in answer.text for word in ("SQLite format", "root:", "Traceback"))
            assert "set-cookie" not in answer.headers


def test_headers_bring_nothing_into_the_answer(client: TestClient) -> None:
    for value in (b"a\xff", b"x" * 300, b"../../x", b"a\tb"):
        for name in (
            "X-Request-ID",
            "Idempotency-Key",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "Range",
            "If-None-Match",
        ):
            answer = client.get("/v1/jobs", headers={name: value})
            assert answer.status_code < 500, (name, value)
            assert value not in b"".join(one for pair in answer.headers.raw for one in pair)
    name = 'a"; filename="../../evil.html\r\nSet-Cookie: x=1'
    sent = client.post("/v1/images", files={"file": (name, encoded(image(size=(32, 32))))})
    assert sent.status_code == 201
    got = client.get(f"/v1/images/{sent.json()['id']}")
    assert (got.headers["content-type"], got.headers["x-content-type-options"]) == ("image/png", "nosniff")
    assert "set-cookie" not in sent.headers | got.headers


def test_scripts_stay_words(client: TestClient) -> None:
    evil = "<script>alert(1)</script>"
    sent = client.post("/v1/images", files={"file": (f"{evil}.png", encoded(image(size=(32, 32))))})
    for answer in (sent, client.get("/v1/images"), client.post("/v1/jobs", json={"emotion": evil}),
                   client.post("/v1/prompt", json={"text": evil, "offline": True})):  # fmt: skip
        assert answer.headers["content-type"].split(";")[0] in ("application/json", "application/problem+json")
    for data in (f"<html>{evil}".encode(), f"<svg xmlns='http://www.w3.org/2000/svg'>{evil}</svg>".encode()):
        assert client.post("/v1/images", files={"file": ("a.png", data)}).status_code == 422


def zipped(*entries: tuple[str, bytes], link: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, data in entries:
            bundle.writestr(name, data)
        if link:
            info = zipfile.ZipInfo("link.png")
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            bundle.writestr(info, link)
    return buffer.getvalue()


PICTURE = ("a.png", encoded(image(size=(64, 64))))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (zipped(PICTURE, ("../../evil.png", b"x")), "points outside"),
        (zipped(PICTURE, ("/etc/evil.png", b"x")), "points outside"),
        (zipped(PICTURE, ("C:\\evil.png", b"x")), "points outside"),
        (zipped(PICTURE, link="/etc/passwd"), "points outside"),
        (zipped(PICTURE, ("b.png", b"\0" * (30 * 2**20))), "unpacks to more than"),
        (zipped(*[(f"{n}.png", b"\0" * 2**20) for n in range(30)]), "unpacks to more than"),
        (zipped(PICTURE)[:-30], "can be read"),
    ],
)
def test_a_zip_of_a_stranger_is_taken_whole_or_not_at_all(
    client: TestClient, studio: Studio, data: bytes, said: str
) -> None:
    before = {path for path in studio.settings.datasets_dir.rglob("*") if path.is_file()}
    refused = client.post("/v1/datasets", files=[("files", ("a.zip", data))])
    assert (refused.status_code, said in refused.json()["error"]) == (422, True), refused.text
    after = {path for path in studio.settings.datasets_dir.rglob("*") if path.is_file()}
    assert after == before


def test_a_picture_that_is_a_bomb_is_refused_by_its_head(client: TestClient) -> None:
    bomb = encoded(Image.new("1", (30_000, 30_000)))
    assert len(bomb) < 2**20
    for url, body in (
        ("/sdapi/v1/img2img", {"init_images": [base64.b64encode(bomb).decode()], "prompt": "x"}),
        ("/sdapi/v1/extra-single-image", {"image": base64.b64encode(bomb).decode()}),
        ("/sdapi/v1/png-info", {"image": base64.b64encode(bomb).decode()}),
    ):
        started = time.monotonic()
        assert client.post(url, json=body).status_code in (200, 422), url  # 200: of png-info, which decodes nothing
        assert time.monotonic() - started < SECONDS
    assert client.post("/v1/images", files={"file": ("a.png", bomb)}).status_code == 422


def test_no_secret_is_in_a_picture_or_in_what_a_trainer_is_given(
    client: TestClient, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = client.post("/v1/jobs", json={"model": "tiny", "prompt": "secrets", "steps": 1, "seed": 1}).json()
    deadline = time.monotonic() + 60
    while (job := client.get(f"/v1/jobs/{job['id']}").json())["state"] != "done":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    data = client.get(f"/v1/images/{job['pictures'][0]}").content
    for secret in (KEY, str(studio.settings.home), "api-"):
        assert secret.encode() not in data
    started: list[Any] = []
    monkeypatch.setenv("STUDIO_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-of-somebody")
    monkeypatch.setenv("STUDIO_BACKEND_KEY", "of-another-server")
    monkeypatch.setattr(supervisor.subprocess, "Popen", lambda command, env, **given: started.append((command, env)))
    client.post("/v1/runs", json={"kind": "lcm", "model": "tiny"})
    [(command, environment)] = started
    assert not any(secret in str((command, environment)) for secret in (KEY, "sk-ant-of-somebody", "of-another-server"))
    assert environment["STUDIO_HOME"] == str(studio.settings.home.resolve())
    studio.runs._supervisor._children.clear()


def test_no_secret_can_be_given_where_a_list_of_processes_shows_it() -> None:
    """Secrets come from the environment alone: what stands behind a command, everybody on the machine can read."""
    secret = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert {"api_key", "password", "hf_token", "backend_key"} <= secret
    commands: list[Any] = [typer.main.get_command(verbs)]
    options: set[str] = set()
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        options |= {name.lstrip("-").replace("-", "_") for parameter in command.params for name in parameter.opts}
    assert "prompt" in options
    assert options & (secret | {"key", "token"}) == set()
