"""The HTTP API over a real studio: jobs to pictures, events, keys, what is refused."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from PIL import Image

from studio import api, serve
from studio.errors import BadInput
from studio.service import Studio
from studio.settings import Settings
from tests.checkpoints import tiny_sd

ANN, BOB = "ann-has-a-long-key-1234", "bob-has-a-long-key-5678"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_sd(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    studio = Studio(
        Settings(home=tmp_path_factory.mktemp("home"), api_key=f"{ANN}, {BOB}", max_upload_mb=1, _env_file=None)
    )
    yield studio
    studio.close()


@pytest.fixture
def client(studio: Studio) -> Iterator[TestClient]:
    with TestClient(api.create(studio.settings, studio), raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {ANN}"
        yield client


def as_bob(client: TestClient, method: str, url: str, **options: Any) -> Any:
    return client.request(method, url, headers={"Authorization": f"Bearer {BOB}"}, **options)


def finished(client: TestClient, id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while (view := client.get(f"/jobs/{id}").json())["state"] in ("queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert view["state"] == "done", view["error"]
    return view


def test_a_doubtful_prompt_is_refused_where_that_is_asked_for(client: TestClient, model: str) -> None:
    base = {"model": model, "text": "crying, frown, tears", "steps": 1, "on_low_confidence": "fail"}
    for request in (base, {"kind": "sheet", "base": base}):
        refused = client.post("/jobs", json=request)
        assert refused.status_code == 422
        assert "only 55% sure to show what was asked for: 'happy' and 'frown'" in refused.json()["error"]
    fixed = client.post("/jobs", json=base | {"on_low_confidence": "fixed"})
    view = finished(client, fixed.json()["id"])
    assert "solo" not in client.get(f"/images/{view['pictures'][0]}/info").json()["recipe"]["prompt"]
    wrong = client.post("/jobs", json=base | {"on_low_confidence": "hope"})
    assert wrong.status_code == 422
    assert "on_low_confidence should be 'retry'" in wrong.json()["error"]


def png(size: tuple[int, int] = (64, 64)) -> bytes:
    buffer = BytesIO()
    Image.linear_gradient("L").resize(size).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_over_http(client: TestClient, model: str) -> None:
    request = {"model": model, "prompt": "red hair", "steps": 2, "seed": 1, "count": 2}
    answer = client.post("/jobs", json=request)
    assert answer.status_code == 202
    view = finished(client, answer.json()["id"])
    assert len(view["pictures"]) == 2
    image = client.get(f"/images/{view['pictures'][0]}")
    assert image.headers["content-type"] == "image/png"
    with Image.open(BytesIO(image.content)) as picture:
        assert picture.size == (64, 64)
    info = client.get(f"/images/{view['pictures'][1]}/info").json()
    assert info["recipe"]["seed"] == 2
    assert "owner" not in info
    again = client.post("/jobs", json=request).json()
    assert (again["state"], again["cached"]) == ("done", view["pictures"])
    found = client.get("/images", params={"query": "red"}).json()
    assert {picture["id"] for picture in found} >= set(view["pictures"])
    recipe = client.post("/images/recipe", files={"file": ("x.png", image.content)}).json()
    assert recipe["spec"]["prompt"] == "red hair"
    sheet = client.post(
        "/jobs", json={"kind": "sheet", "base": {"model": model, "steps": 1}, "emotions": ["happy", "sad"]}
    )
    assert len(finished(client, sheet.json()["id"])["pictures"]) == 3
    assert sheet.json()["id"] in [job["id"] for job in client.get("/jobs").json()]


def test_events_tell_every_change_and_end(client: TestClient, model: str) -> None:
    id = client.post("/jobs", json={"model": model, "prompt": "events", "steps": 20}).json()["id"]
    events: list[dict[str, Any]] = []
    with client.stream("GET", f"/jobs/{id}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line[6:]))
    assert events[-1]["state"] == "done"
    assert len(events) > 1
    assert [event["done"] for event in events] == sorted(event["done"] for event in events)
    assert client.get("/jobs/nothing/events").status_code == 404


def test_one_key_does_not_see_what_is_another_s(client: TestClient, model: str) -> None:
    id = client.post("/jobs", json={"model": model, "prompt": "mine", "steps": 50, "count": 8}).json()["id"]
    for method, url in (
        ("GET", f"/jobs/{id}"),
        ("POST", f"/jobs/{id}/cancel"),
        ("GET", f"/jobs/{id}/events"),
        ("POST", f"/jobs/{id}/again"),
    ):
        assert as_bob(client, method, url).status_code == 404
    assert as_bob(client, "GET", "/jobs").json() == []
    assert as_bob(client, "GET", "/images").json() == []
    client.post(f"/jobs/{id}/cancel")
    deadline = time.monotonic() + 60
    while client.get(f"/jobs/{id}").json()["state"] != "cancelled":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    upload = client.post("/images", files={"file": ("d.png", png())}).json()
    for method, url in (("GET", ""), ("GET", "/info"), ("DELETE", ""), ("PUT", "/favourite")):
        assert as_bob(client, method, f"/images/{upload['id']}{url}").status_code == 404
    stolen = {"model": model, "steps": 1, "source": upload["id"]}
    assert as_bob(client, "POST", "/jobs", json=stolen).status_code == 404


def test_uploads_favourites_and_undo(client: TestClient) -> None:
    sent = client.post("/images", files={"file": ("drawing.png", png((100, 50)))})
    assert sent.status_code == 201
    id = sent.json()["id"]
    assert (sent.json()["width"], sent.json()["kind"]) == (100, "upload")
    assert client.put(f"/images/{id}/favourite").json()["favourite"] is True
    assert client.put(f"/images/{id}/favourite", params={"on": False}).json()["favourite"] is False
    assert client.delete(f"/images/{id}").json() == {"deleted": 1}
    assert client.get(f"/images/{id}").status_code == 404
    assert client.post("/images/undo").json() == {"restored": 1}
    assert client.get(f"/images/{id}").status_code == 200
    for data in (b"", b"nonsense", b"x" * (2 * 2**20)):
        refused = client.post("/images", files={"file": ("x.png", data)})
        assert refused.status_code == 422
        assert set(refused.json()) == {"error"}


@pytest.mark.parametrize(
    ("method", "url", "body", "status", "sentence"),
    [
        ("POST", "/jobs", {"steps": 10**9}, 422, "steps should be"),
        ("POST", "/jobs", {"kind": "magic"}, 422, "no job of kind"),
        ("POST", "/jobs", {"kind": []}, 422, "no job of kind"),
        ("POST", "/jobs", {"emotion": "grumpy"}, 422, "emotion should be"),
        ("POST", "/jobs", {"model": "/nowhere/x"}, 404, "There is no model"),
        ("POST", "/jobs", {"model": "runwayml/../../x"}, 404, "There is no model"),
        ("POST", "/jobs", [], 422, ""),
        ("POST", "/runs", {"kind": "lora", "data": "/nowhere"}, 404, ""),
        ("POST", "/runs", {"kind": "lora"}, 422, "data"),
        ("POST", "/prompt", {"emotion": "grumpy"}, 422, "emotion"),
        ("GET", "/jobs/x", None, 404, "no such job"),
        ("GET", "/images/x", None, 404, "no such picture"),
        ("GET", "/images/..%2f..%2fstudio.db", None, 404, ""),
        ("GET", "/images?limit=99999", None, 422, "limit"),
        ("GET", "/images?offset=-1", None, 422, "offset"),
        ("GET", "/images?kind=secret", None, 422, "kind"),
        ("GET", "/runs/..", None, 404, ""),
        ("GET", "/nowhere", None, 404, "Not Found"),
        ("PATCH", "/jobs", None, 405, ""),
    ],
)
def test_every_mistake_is_a_4xx_with_one_sentence(
    client: TestClient, method: str, url: str, body: Any, status: int, sentence: str
) -> None:
    answer = client.request(method, url, json=body)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert sentence in answer.json()["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"seed": NaN}',
        b'{"guidance": Infinity}',
        b"\xff\xfe",
        b'"\\ud800"',
        b'{"text": "\\ud800"}',
        b'{"model": "\\ud800"}',
        b"",
    ],
)
def test_a_body_that_is_not_proper_json_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert set(answer.json()) == {"error"}


def test_models_prompt_status(client: TestClient, studio: Studio) -> None:
    models = client.get("/models").json()
    assert {"models", "loras"} == set(models)
    assert str(studio.settings.home) not in json.dumps(models)
    written = client.post("/prompt", json={"emotion": "sad", "offline": True}).json()
    assert "sad" in written["positive_prompt"]
    assert client.get("/status").json()["queue_waiting"] >= 0
    assert client.get("/runs").json() == []
    assert client.get("/openapi.json").json()["info"]["title"] == "Anime Character Studio"


def test_without_a_valid_key_nothing_is_told(client: TestClient) -> None:
    routes = [route for route in client.app.routes if isinstance(route, APIRoute)]  # type: ignore[attr-defined]
    assert len(routes) > 20
    for header in (
        {"Authorization": ""},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {ANN}"},
        {"Authorization": f"Bearer {ANN},{BOB}"},
        {"Authorization": "Bearer é"},
    ):
        for route in routes:
            if route.path == "/health":
                continue
            for method in route.methods:
                url = route.path.replace("{id}", "x")
                headers = {name: value.encode() for name, value in header.items()}
                answer = client.request(method, url, headers=headers, json={})
                assert answer.status_code == 401, (method, url)
                assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/health", headers={"Authorization": ""}).json() == {"status": "ok"}


def test_routes_are_plain_functions_of_a_few_lines(client: TestClient) -> None:
    import inspect

    for route in client.app.routes:  # type: ignore[attr-defined]
        if isinstance(route, APIRoute):
            assert not inspect.iscoroutinefunction(route.endpoint), route.path
            body = inspect.getsource(route.endpoint).split('"""')[-1].strip().splitlines()
            assert len([line for line in body if line.strip()]) <= 18, route.path


def test_on_loopback_without_a_key_other_names_are_refused(tmp_path: Path) -> None:
    app = api.create(Settings(home=tmp_path, _env_file=None))
    with TestClient(app, base_url="http://localhost:8000") as client:
        assert client.get("/status").status_code == 200
    with TestClient(app, base_url="http://evil.example:8000") as client:  # DNS rebinding
        assert client.get("/status").status_code == 400
    app.state.studio.close()


def test_keys_and_addresses(tmp_path: Path) -> None:
    def with_key(key: str | None) -> Settings:
        return Settings(home=tmp_path, api_key=key, _env_file=None)

    for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9"):
        api.check_address(with_key(None), host)
    for host in ("0.0.0.0", "::", "192.168.1.4", "studio.example"):
        with pytest.raises(BadInput, match="needs a key"):
            api.check_address(with_key(None), host)
        api.check_address(with_key("k" * 24), host)
    for weak in ("", "   ", ",", "short", f"{'k' * 24},weak"):
        with pytest.raises(BadInput, match="16 characters"):
            api.check_address(with_key(weak), "0.0.0.0")
        with pytest.raises(BadInput, match="16 characters"):
            api.create(with_key(weak))  # misconfigured is closed, not open


def test_a_server_that_really_listens(tmp_path: Path) -> None:
    import socket

    import httpx
    import uvicorn

    settings = Settings(home=tmp_path, api_key=ANN, _env_file=None)
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
            answer = client.get("/status", headers={"Authorization": f"Bearer {ANN}"})
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
            serve.build(Settings(home=tmp_path, api_key=ANN, _env_file=None))
    else:
        with pytest.raises(BadInput, match="needs a key"):
            serve.build(Settings(home=tmp_path, _env_file=None))
