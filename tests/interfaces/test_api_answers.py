"""What the HTTP API answers with beside pictures: headers, documentation, and nothing of anybody else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from support.checkpoints import tiny_sd
from support.pictures import encoded, image

from studio.core.settings import Settings
from studio.interfaces.api import app as api
from studio.service import Studio

ANN, BOB = "ann-has-a-long-key-1234", "bob-has-a-long-key-5678"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    home = tmp_path_factory.mktemp("home")
    tiny_sd(home / "models" / "tiny")
    studio = Studio(Settings(home=home, api_key=f"{ANN}, {BOB}", max_upload_mb=1, named_only=True, _env_file=None))
    yield studio
    studio.close()


@pytest.fixture
def client(studio: Studio) -> Iterator[TestClient]:
    with TestClient(api.create(studio.settings, studio), raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {ANN}"
        yield client


def as_bob(client: TestClient, method: str, url: str, **options: Any) -> Any:
    return client.request(method, url, headers={"Authorization": f"Bearer {BOB}"}, **options)


def finished(client: TestClient, id: str, ask: Any = None) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while (view := (ask or client.request)("GET", f"/jobs/{id}").json())["state"] in ("queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert view["state"] == "done", view["error"]
    return dict(view)


def test_a_picture_that_is_known_is_not_sent_again_and_parts_can_be_asked_for(client: TestClient) -> None:
    id = client.post("/images", files={"file": ("a.png", encoded(image(size=(48, 48))))}).json()["id"]
    whole = client.get(f"/v1/images/{id}")
    tag = whole.headers["etag"]
    for said in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        known = client.get(f"/v1/images/{id}", headers={"If-None-Match": said})
        assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tag)
    assert client.get(f"/v1/images/{id}", headers={"If-None-Match": '"other"'}).status_code == 200
    part = client.get(f"/v1/images/{id}", headers={"Range": "bytes=0-7"})
    assert (part.status_code, part.content) == (206, whole.content[:8])
    assert as_bob(client, "GET", f"/v1/images/{id}", params={}).status_code == 404


def test_two_keys_learn_nothing_of_each_other(client: TestClient, studio: Studio) -> None:
    request = {"model": "tiny", "prompt": "the same wish", "text": "", "steps": 1, "seed": 77}
    first = finished(client, client.post("/jobs", json=request).json()["id"])
    asked = as_bob(client, "POST", "/jobs", json=request).json()
    assert asked["state"] == "queued"
    view = finished(client, asked["id"], lambda method, url: as_bob(client, method, url))
    assert (view["cached"], view["pictures"]) == ([], first["pictures"])
    assert not [note for note in view["notes"] if "already" in note]
    [id] = first["pictures"]
    assert client.post("/jobs", json=request).json()["cached"] == [id]  # one's own is found
    client.delete(f"/images/{id}")
    studio._pictures.purge(older_than=0)
    assert client.get(f"/images/{id}").status_code == 404
    assert as_bob(client, "GET", f"/images/{id}").status_code == 200


def test_readiness_is_apart_from_health_and_figures_need_a_key(client: TestClient, studio: Studio) -> None:
    finished(
        client, client.post("/jobs", json={"model": "tiny", "prompt": "counted", "steps": 1, "seed": 5}).json()["id"]
    )
    client.post("/jobs", json={"model": "tiny", "prompt": "counted", "steps": 1, "seed": 5})
    said = client.get("/v1/metrics")
    figures = {family.name: family for family in text_string_to_metric_families(said.text)}
    done = [one.value for one in figures["studio_jobs"].samples if one.labels == {"kind": "generate", "state": "done"}]
    assert done[0] >= 2
    assert figures["studio_pictures_cached"].samples[0].value >= 1
    assert figures["studio_job_seconds"].samples[0].value > 0
    assert figures["studio_memory_bytes"].samples[0].value > 2**20
    assert client.get("/v1/metrics", headers={"Authorization": ""}).status_code == 401
    ready = client.get("/ready", headers={"Authorization": ""})
    assert (ready.status_code, set(ready.json().values())) == (200, {True})
    worker, studio._jobs._closing = studio._jobs._closing, True
    try:
        assert client.get("/ready").status_code == 503
        assert client.get("/ready").json()["worker"] is False
        assert client.get("/health").status_code == 200
    finally:
        studio._jobs._closing = worker


def test_the_documentation_says_what_is_really_sent(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert all(path.startswith(("/v1/", "/sdapi/v1/")) for path in paths)
    for path, methods in paths.items():
        for method, route in methods.items():
            assert "422" not in route["responses"], path  # FastAPI's own shape, which is never sent
            good = next(answer for code, answer in route["responses"].items() if code[0] == "2")
            assert route["responses"]["4XX"]["content"] == {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}
            }, (method, path)
            for media, content in good.get("content", {}).items():
                if media == "application/json":
                    assert content["schema"] not in ({}, {"type": "object"}), path
