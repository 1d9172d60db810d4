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
import torch
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.torch import save_file
from support.asynchronous import run_async
from support.checkpoints import tiny_sd
from support.training_sets import write_set

from studio.core.errors import BadInput
from studio.core.settings import Settings
from studio.core.specs import LcmSpec
from studio.interfaces.api import app as api
from studio.interfaces.api.redaction import path_redactor
from studio.interfaces.api.routes import jobs
from studio.runs.supervisor import Supervisor
from studio.service import FEATURES, PromptRequest, Studio

PROBLEM = {"type", "title", "status", "detail", "error"}  # RFC 9457, and the sentence's first name
ANN, BOB = "ann-has-a-long-key-1234", "bob-has-a-long-key-5678"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    home = tmp_path_factory.mktemp("home")
    studio = Studio(Settings(home=home, api_key=f"{ANN}, {BOB}", max_upload_mb=1, named_only=True, _env_file=None))
    yield studio
    studio.close()


@pytest.fixture(scope="module")
def model(studio: Studio) -> str:
    """The name of a model in the studio's folder, as the catalogue names it."""
    tiny_sd(studio.settings.models_dir / "tiny")
    return "tiny"


@pytest.fixture
def client(studio: Studio) -> Iterator[TestClient]:
    with TestClient(api.create(studio.settings, studio), raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {ANN}"
        yield client


def own_routes() -> list[tuple[str, str]]:
    """Path and method of every route."""
    routes = [route for router in api.ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    return [(route.path, method) for route in routes for method in route.methods]


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
    for data, status in ((b"", 422), (b"nonsense", 422), (b"x" * (2 * 2**20), 422), (b"x" * (10 * 2**20), 413)):
        refused = client.post("/images", files={"file": ("x.png", data)})
        assert refused.status_code == status
        assert set(refused.json()) == PROBLEM


def test_a_body_that_never_ends_is_refused(client: TestClient) -> None:
    sent = []

    def endless() -> Iterator[bytes]:
        for _ in range(64):
            sent.append(1)
            yield b" " * 2**20

    answer = client.post("/jobs", content=endless(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert "8 MB" in answer.json()["error"]


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
    assert set(answer.json()) == PROBLEM
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
    assert set(answer.json()) == PROBLEM


def test_models_prompt_status(client: TestClient, studio: Studio) -> None:
    models = client.get("/models").json()
    assert {"models", "loras", "upscalers"} == set(models)
    assert str(studio.settings.home) not in json.dumps(models)
    written = client.post("/prompt", json={"emotion": "sad", "offline": True}).json()
    assert "sad" in written["positive_prompt"]
    assert client.get("/status").json()["queue_waiting"] >= 0
    assert client.get("/runs").json() == []
    assert client.get("/openapi.json").json()["info"]["title"] == "Anime Character Studio"


def test_without_a_valid_key_nothing_is_told(client: TestClient) -> None:
    routes = [(method, prefix + path) for prefix in ("", "/v1") for path, method in own_routes()]
    assert len(routes) > 40
    for header in (
        {"Authorization": ""},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {ANN}"},
        {"Authorization": f"Bearer {ANN},{BOB}"},
        {"Authorization": "Bearer é"},
    ):
        for method, path in routes:
            if path.removeprefix("/v1") in ("/health", "/ready"):
                continue
            headers = {name: value.encode() for name, value in header.items()}
            answer = client.request(method, path.replace("{id}", "x"), headers=headers, json={})
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/health", headers={"Authorization": ""}).json() == {"status": "ok"}


def test_routes_are_plain_functions_of_a_few_lines(client: TestClient) -> None:
    import inspect

    for route in (route for router in api.ROUTERS for route in router.routes):
        if isinstance(route, APIRoute):
            assert not inspect.iscoroutinefunction(route.endpoint), route.path
            body = inspect.getsource(route.endpoint).split('"""')[-1].strip().splitlines()
            assert len([line for line in body if line.strip()]) <= 18, route.path


@pytest.fixture(scope="module")
def open_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The API without a key."""
    app = api.create(Settings(home=tmp_path_factory.mktemp("open"), _env_file=None))
    yield app
    app.state.studio.close()


def test_on_loopback_without_a_key_other_names_are_refused(open_app: Any) -> None:
    for host in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000", "localhost"):
        with TestClient(open_app, base_url=f"http://{host}") as client:
            assert client.get("/status").status_code == 200
    for host in ("evil.example:8000", "testserver", "localhost.evil.example"):  # DNS rebinding
        with TestClient(open_app, base_url=f"http://{host}") as client:
            assert client.get("/status").status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:8001"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"X-Forwarded-For": "203.0.113.9"}, 403),
        ({"CF-Ray": "1"}, 403),
    ],
)
def test_without_a_key_no_page_from_elsewhere_and_no_tunnel_is_served(
    open_app: Any, headers: dict[str, str], status: int
) -> None:
    with TestClient(open_app, base_url="http://localhost:8000", headers=headers) as client:
        assert client.post("/images/undo").status_code == status
        form = client.post("/images", files={"file": ("x.png", png())})  # what a form of another site could send
        assert form.status_code == (201 if status == 200 else 403)


def test_data_sets_are_named_and_lie_in_one_folder_only(client: TestClient, studio: Studio, tmp_path: Path) -> None:
    inside = studio.settings.datasets_dir / "mine"
    inside.mkdir(parents=True)
    (inside / "a.png").write_bytes(png())
    outside = tmp_path / "others"
    outside.mkdir()
    (outside / "a.png").write_bytes(png())
    (outside / "a.txt").write_text("theirs")
    (studio.settings.datasets_dir / "link").symlink_to(outside)
    for data in (str(outside), "../datasets/../../others", "link", ".", "", "nothing", "x" * 4000, "~"):
        for url, body in (("/jobs", {"kind": "caption", "every": True}), ("/runs", {"kind": "lora"})):
            answer = client.post(url, json=body | {"data": data})
            assert answer.status_code in (404, 422), data
            assert str(tmp_path) not in answer.json()["error"].replace(data or "-", "")
    assert (outside / "a.txt").read_text() == "theirs"
    for data in ("mine", str(inside)):
        assert client.post("/runs", json={"kind": "lora", "data": data, "model": "/nowhere/x"}).status_code == 404
    job = client.post("/jobs", json={"kind": "caption", "data": "mine"}).json()
    assert job["result"]["folder"] == "mine"  # as a request names it
    client.post(f"/jobs/{job['id']}/cancel")


def test_answers_tell_no_folders_of_the_server(tmp_path: Path) -> None:
    tell = path_redactor(Settings(home=tmp_path, _env_file=None))
    said = tell(
        {
            "home": str(tmp_path),
            "recipe": {"model": "/srv/models/anything.safetensors", "prompt": "/srv/is a prompt", "steps": 4,
                       "loras": [{"path": f"{tmp_path}/models/loras/ink.safetensors", "weight": 1.0}]},
            "spec": {"data": f"{tmp_path}/datasets/mine", "model": f"{tmp_path}/models/own"},
            "samples": [f"{tmp_path}/runs/1/samples/a.png"],
            "model": "org/name",
            "log": f"reading {tmp_path}/datasets/mine",
        }
    )  # fmt: skip
    assert said == {
        "home": ".",
        "recipe": {"model": "anything.safetensors", "prompt": "/srv/is a prompt", "steps": 4,
                   "loras": [{"path": "ink.safetensors", "weight": 1.0}]},
        "spec": {"data": "mine", "model": "own"},
        "samples": ["runs/1/samples/a.png"],
        "model": "org/name",
        "log": "reading datasets/mine",
    }  # fmt: skip


def test_no_route_tells_where_the_server_keeps_its_files(client: TestClient, studio: Studio, model: str) -> None:
    job = finished(client, client.post("/jobs", json={"model": model, "prompt": "paths", "steps": 1}).json()["id"])
    for url in ("/status", "/runs", "/jobs", "/images", f"/images/{job['pictures'][0]}/info"):
        answer = client.get(url).text
        assert str(studio.settings.home) not in answer, url


def test_a_watcher_does_not_hold_up_the_others(client: TestClient, studio: Studio) -> None:

    class Waiting:
        def job(self, id: str, owner: str) -> Any:
            threads.append(threading.get_ident())
            raise BadInput("It is gone.")

    threads: list[int] = []

    async def watch() -> list[str]:
        return [event async for event in jobs._events(Waiting(), "1", "me", lambda value: value)]  # type: ignore[arg-type]

    assert "It is gone." in run_async(watch())[0]
    assert threads[0] != threading.get_ident()


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


def test_the_page_and_the_api_write_the_same_prompt_with_people_s_own_tags(
    client: TestClient, studio: Studio, model: str
) -> None:
    words = {"emotion": "sad", "style": "formal", "text": "pink twintails", "every_word": True}
    before = studio.prompts.write_prompt(PromptRequest(**words, offline=True)).positive_prompt
    assert "pink hair, twintails" in before
    studio.prompts.add_tags(b"pink_twintails,4,50,\n", "mine.csv")
    try:
        page = studio.prompts.write_prompt(PromptRequest(**words, offline=True))
        assert "pink twintails" in page.positive_prompt
        asked = client.post("/prompt", json=words | {"offline": True}).json()
        job = finished(client, client.post("/jobs", json=words | {"model": model, "steps": 1, "seed": 3}).json()["id"])
        drawn = client.get(f"/images/{job['pictures'][0]}/info").json()["recipe"]
        grid = {"kind": "sheet", "base": words | {"model": model, "steps": 1, "seed": 3}, "emotions": ["sad"]}
        sheet = finished(client, client.post("/jobs", json=grid).json()["id"])
        tile = client.get(f"/images/{sheet['result']['tiles'][0]}/info").json()["recipe"]
    finally:
        studio.prompts.drop_tags(studio.prompts.tag_lists()[0].name)
    decided = drawn["labels"]["decided"].split(", ")
    assert ", ".join(part for part in drawn["prompt"].split(", ") if part not in decided) == page.positive_prompt
    assert asked["positive_prompt"] == page.positive_prompt
    assert asked["negative_prompt"] == drawn["negative"] == page.negative_prompt
    assert "pink twintails" in tile["prompt"]


def test_a_key_sees_stops_and_deletes_its_own_runs_only(
    client: TestClient, studio: Studio, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Supervisor, "_spawn", lambda self, run: None)  # nothing is trained: folders are what counts
    write_set(studio.settings.datasets_dir / "mine", 2)
    started = client.post("/runs", json={"kind": "lora", "data": "mine", "model": model, "resolution": 64})
    assert started.status_code == 202, started.json()
    id = started.json()["id"]
    here = studio.runs.start(LcmSpec(model=model), "local").id  # on a page, or at the command line
    assert [run["id"] for run in client.get("/runs").json()] == [id]
    assert as_bob(client, "GET", "/runs").json() == []
    for method, url in (("GET", ""), ("POST", "/stop"), ("POST", "/resume"), ("DELETE", "")):
        for run in (id, "nothing"):
            refused = as_bob(client, method, f"/runs/{run}{url}")
            assert (refused.status_code, "owner" in refused.text) == (404, False)
        assert client.request(method, f"/runs/{here}{url}").status_code == 404
    assert client.get(f"/runs/{id}").status_code == 200
    assert client.post(f"/runs/{id}/stop").status_code == 200
    assert {run.id for run in studio.runs.list()} == {id, here}  # who sits before the studio sees all
    assert client.delete(f"/runs/{id}").json() == {"deleted": id}
    assert client.get("/runs").json() == []
    assert as_bob(client, "POST", "/runs/undo").status_code == 404
    assert client.post("/runs/undo").json()["id"] == id
    assert [run["id"] for run in client.get("/runs").json()] == [id]
    adapter = studio.settings.runs_dir / id / "adapter" / "mine.safetensors"
    adapter.parent.mkdir()
    save_file(
        {"lora_unet_x.lora_down.weight": torch.zeros(2, 4), "lora_unet_x.lora_up.weight": torch.zeros(4, 2)}, adapter
    )
    picture = {"model": model, "prompt": "x", "steps": 1, "loras": [{"path": "mine"}]}
    assert "mine" in str(client.get("/models").json()["loras"])
    assert "mine" not in str(as_bob(client, "GET", "/models").json()["loras"])
    assert client.post("/jobs", json=picture).status_code == 202
    for path in ("mine", f"runs/{id}/adapter/mine.safetensors"):
        assert as_bob(client, "POST", "/jobs", json=picture | {"loras": [{"path": path}]}).status_code == 404
    client.delete(f"/runs/{id}")
    assert client.get("/runs/" + "x" * 5000).status_code == 404
    studio.runs.delete(here)


def test_without_a_key_this_machine_sees_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setattr(Supervisor, "_spawn", lambda self, run: None)
    studio = Studio(Settings(home=tmp_path, named_only=True, _env_file=None))
    tiny_sd(studio.settings.models_dir / model)
    id = studio.runs.start(LcmSpec(model=model), "somebody's browser").id
    with TestClient(api.create(studio.settings, studio), base_url="http://127.0.0.1") as client:
        assert [run["id"] for run in client.get("/runs").json()] == [id]
        assert client.delete(f"/runs/{id}").status_code == 200
    studio.close()


def test_the_documentation_knows_every_kind_of_request(client: TestClient) -> None:
    body = client.get("/openapi.json").json()
    kinds = body["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    assert len(kinds) == len(FEATURES)
    schemas = body["components"]["schemas"]
    for kind in kinds:  # what doesn't say its kind is a picture
        name = kind["$ref"].rpartition("/")[2]
        assert ("kind" in schemas[name].get("required", [])) == (name != "GenerateSpec"), name
    for place in ("LcmSpec seed minimum", "PromptRequest seed maximum", "CaptionSpec data maxLength"):
        name, field, bound = place.split()
        assert bound in schemas[name]["properties"][field], place
    steps = body["components"]["schemas"]["GenerateSpec"]["properties"]["steps"]
    assert steps["title"] == "Steps"
    assert steps["description"]
