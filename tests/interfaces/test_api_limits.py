"""Requests that are sent twice, too often, or for too many pictures; keys that are guessed."""

from __future__ import annotations

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
from support.training_sets import write_set

from studio.core.errors import BadInput, Busy
from studio.core.settings import Settings
from studio.core.specs import LcmSpec
from studio.interfaces.api import access
from studio.interfaces.api import app as api
from studio.runs.supervisor import Supervisor
from studio.service import Studio
from studio.service.once import STALE, StartedOnce, request_digest

KEY = "a-key-that-is-long-enough"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    home = tmp_path_factory.mktemp("home")
    tiny_sd(home / "models" / "tiny")
    write_set(home / "datasets" / "mine", 2)
    studio = Studio(Settings(home=home, api_key=KEY, named_only=True, _env_file=None))
    yield studio
    studio.close()


@pytest.fixture
def client(studio: Studio) -> Iterator[TestClient]:
    with TestClient(api.create(studio.settings, studio), raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        yield client


def picture(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": "red hair", "steps": 1} | fields


def named(client: TestClient, name: str, body: dict[str, Any], url: str = "/v1/jobs", **headers: str) -> Any:
    return client.post(url, json=body, headers={"Idempotency-Key": name} | headers)


def test_a_request_that_is_sent_again_is_the_same_job(client: TestClient, studio: Studio) -> None:
    body = picture(count=2)  # its seed is left to chance
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(named(client, "one", body).json()["id"])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1
    other = Studio(studio.settings)  # another process over the same store
    try:
        with TestClient(api.create(studio.settings, other)) as replica:
            again = named(replica, "one", body, Authorization=f"Bearer {KEY}")
            assert (again.status_code, again.json()["id"]) == (202, found[0])
    finally:
        other.close()
    view = client.get(f"/v1/jobs/{found[0]}").json()
    deadline = time.monotonic() + 60
    while view["state"] != "done":
        assert time.monotonic() < deadline
        time.sleep(0.05)
        view = client.get(f"/v1/jobs/{found[0]}").json()
    after = named(client, "one", body).json()
    assert (after["id"], after["state"], after["pictures"]) == (found[0], "done", view["pictures"])
    repeated = [named(client, "more", {}, f"/v1/jobs/{found[0]}/again").json()["id"] for _ in range(2)]
    assert repeated[0] == repeated[1] != found[0]
    assert named(client, "two", body).json()["id"] != found[0]
    wrong = named(client, "one", picture(count=3))
    assert (wrong.status_code, "another request" in wrong.json()["error"]) == (422, True)
    for name in ("", "x" * 256):
        assert named(client, name, body).status_code == 422
    ann = studio.keys.add("Ann")  # a name is its owner's
    assert named(client, "one", body, Authorization=f"Bearer {ann}").json()["id"] != found[0]


def test_pictures_of_other_programs_routes_are_not_drawn_twice(client: TestClient) -> None:
    body = {"prompt": "x", "model": "tiny", "n": 1, "response_format": "url"}
    first, second = (named(client, "o", body, "/v1/images/generations").json() for _ in range(2))
    assert first["data"] == second["data"]
    said = {"prompt": "x", "steps": 1, "override_settings": {"sd_model_checkpoint": "tiny"}}
    first, second = (named(client, "s", said, "/sdapi/v1/txt2img").json() for _ in range(2))
    assert first["images"] == second["images"]


def test_a_run_is_started_once(client: TestClient, studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supervisor, "_spawn", lambda self, run: None)
    body = {"kind": "lora", "data": "mine", "model": "tiny", "resolution": 64}
    first, second = (named(client, "run", body, "/v1/runs") for _ in range(2))
    assert (first.status_code, first.json()["id"]) == (second.status_code, second.json()["id"])
    assert named(client, "run", body | {"epochs": 3}, "/v1/runs").status_code == 422
    assert named(client, "wrong", body | {"data": "nothing"}, "/v1/runs").status_code == 404
    assert named(client, "wrong", body, "/v1/runs").status_code == 202  # what failed started nothing


def test_a_start_that_was_cut_off_is_begun_again(tmp_path: Path) -> None:
    started, spec = StartedOnce(tmp_path / "once"), LcmSpec()
    with pytest.raises(RuntimeError):
        started.start("a", spec, lambda: (_ for _ in ()).throw(RuntimeError))
    with pytest.raises(Busy):  # somebody asks while it is being started
        started.start("a", spec, lambda: started.start("a", spec, lambda: "never"))
    assert started.start("a", spec, lambda: "run") == started.start("a", spec, lambda: "another") == "run"
    file = tmp_path / "once" / "b.json"
    file.write_text("")
    os.utime(file, (time.time() - STALE - 1,) * 2)
    assert started.start("b", spec, lambda: "run") == "run"
    file.write_text(json.dumps({"digest": request_digest(spec), "id": ""}))
    os.utime(file, (time.time() - STALE - 1,) * 2)
    assert started.start("b", spec, lambda: "later") == "later"


def test_a_key_sends_and_draws_no_more_than_it_may(studio: Studio, client: TestClient) -> None:
    few = {"Authorization": f"Bearer {studio.keys.add('Few', per_minute=5)}"}
    answers = [client.get("/v1/jobs", headers=few) for _ in range(6)]
    assert [one.status_code for one in answers] == [200] * 5 + [429]
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60
    assert client.get("/v1/jobs").status_code == 200  # another key
    little = {"Authorization": f"Bearer {studio.keys.add('Little', per_day=3)}"}
    first = client.post("/v1/jobs", json=picture(seed=900, count=2), headers=little)
    assert first.status_code == 202
    refused = client.post("/v1/jobs", json=picture(seed=910, count=2), headers=little)
    assert (refused.status_code, "3 pictures" in refused.json()["error"]) == (429, True)
    assert client.post("/v1/jobs", json=picture(seed=920), headers=little).status_code == 202
    deadline = time.monotonic() + 60
    while any(job["state"] != "done" for job in client.get("/v1/jobs", headers=little).json()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.post("/v1/jobs", json=picture(seed=930), headers=little).status_code == 429
    there = client.post("/v1/jobs", json=picture(seed=900, count=2), headers=little)
    assert (there.status_code, there.json()["state"]) == (202, "done")  # nothing is drawn for it
    for wrong in ({"per_minute": -1}, {"per_day": 10**10}):
        with pytest.raises(BadInput):
            studio.keys.add("Wrong", **wrong)


def test_guesses_are_slowed_down_and_whoever_was_in_is_not(
    client: TestClient, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "GUESSES", 5)
    late = studio.keys.add("Late")
    assert client.get("/v1/jobs").status_code == 200
    guesses = [
        client.get("/v1/jobs", headers={"Authorization": f"Bearer studio_{n}", "X-Forwarded-For": f"10.0.0.{n}"})
        for n in range(8)
    ]
    assert [one.status_code for one in guesses] == [401] * 5 + [429] * 3  # wherever they say that they come from
    assert "retry-after" in guesses[-1].headers
    assert client.get("/v1/jobs").status_code == 200
    assert client.get("/v1/jobs", headers={"Authorization": f"Bearer {late}"}).status_code == 429
    later = time.monotonic() + 61
    monkeypatch.setattr(access.time, "monotonic", lambda: later)
    assert client.get("/v1/jobs", headers={"Authorization": f"Bearer {late}"}).status_code == 200
