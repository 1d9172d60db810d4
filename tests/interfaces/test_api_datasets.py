"""Data sets over HTTP: whose they are, what another key may do with them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from support.checkpoints import tiny_sd
from support.pictures import encoded, image
from support.training_sets import write_set

from studio.core.errors import BadInput
from studio.core.settings import Settings
from studio.interfaces.api import app as api
from studio.runs.dataset import kept
from studio.runs.supervisor import Supervisor
from studio.service import Studio

ANN, BOB = "ann-has-a-long-key-1234", "bob-has-a-long-key-5678"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    home = tmp_path_factory.mktemp("home")
    tiny_sd(home / "models" / "tiny")
    write_set(home / "datasets" / "shared", 2)
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


def packed(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, data in files.items():
            bundle.writestr(name.replace("__", "/") + (".png" if data[:4] == b"\x89PNG" else ".txt"), data)
    return buffer.getvalue()


ARCHIVE = packed(all__style_1__a=encoded(image("red", (64, 64))), all__style_1__b=b"words")


def sent(client: TestClient) -> str:
    answer = client.post("/v1/datasets", files=[("files", ("mine.zip", ARCHIVE))])
    assert answer.status_code == 201, answer.text
    return str(answer.json()["name"])


def test_a_set_is_its_key_s_own(client: TestClient, studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supervisor, "_spawn", lambda self, run: None)  # nothing is trained: folders are what counts
    name = sent(client)
    assert sent(client) == name  # the same files, the same set
    assert client.get("/v1/datasets").json() == [{"name": name, "own": True}, {"name": "shared", "own": False}]
    assert as_bob(client, "GET", "/v1/datasets").json() == [{"name": "shared", "own": False}]
    report = client.get(f"/v1/datasets/{name}", params={"resolution": 64}).json()
    assert ([entry["file"] for entry in report["entries"]], report["folder"]) == (["style_1/a.png"], name)
    folder = studio.datasets.named(name, next(path.name for path in (studio.settings.datasets_dir / ".keys").iterdir()))
    run = {"kind": "lora", "model": "tiny", "resolution": 64}
    for path in (
        name,
        f".keys/{folder.parent.name}/{name}",
        f"shared/../.keys/{folder.parent.name}/{name}",
        str(folder),
    ):
        assert as_bob(client, "POST", "/v1/runs", json=run | {"data": path}).status_code == 404, path
        assert as_bob(client, "POST", "/v1/jobs", json={"kind": "caption", "data": path}).status_code == 404, path
    assert as_bob(client, "GET", f"/v1/datasets/{name}").status_code == 404
    assert as_bob(client, "DELETE", f"/v1/datasets/{name}").status_code == 404
    started = client.post("/v1/runs", json=run | {"data": name})
    assert started.status_code == 202, started.text
    assert (started.json()["spec"]["data"], ".keys" in started.text) == (name, False)
    with studio.runs._supervisor.get(started.json()["id"]).lock():  # as its trainer does
        assert client.delete(f"/v1/datasets/{name}").status_code == 429
    studio.runs.delete(started.json()["id"])
    assert client.delete(f"/v1/datasets/{name}").json() == {"deleted": name}
    assert client.get(f"/v1/datasets/{name}").status_code == 404
    assert as_bob(client, "POST", "/v1/datasets/undo").status_code == 404
    assert client.post("/v1/datasets/undo").json() == {"name": name, "own": True}
    assert client.get(f"/v1/datasets/{name}", params={"resolution": 64}).status_code == 200


def test_the_same_files_of_two_keys_are_two_sets(client: TestClient, studio: Studio) -> None:
    files = [("files", ("a.png", encoded(image(size=(64, 64))))), ("files", ("a.txt", b"red hair"))]
    mine, theirs = client.post("/v1/datasets", files=files), as_bob(client, "POST", "/v1/datasets", files=files)
    assert mine.json() == theirs.json()  # not even the name says that another has it
    name = mine.json()["name"]
    assert as_bob(client, "DELETE", f"/v1/datasets/{name}").status_code == 200
    assert client.get(f"/v1/datasets/{name}", params={"resolution": 64}).status_code == 200


def test_what_is_everybody_s_is_nobody_s_to_overwrite(client: TestClient, studio: Studio) -> None:
    refused = client.post("/v1/jobs", json={"kind": "caption", "data": "shared", "every": True})
    assert (refused.status_code, "isn't yours" in refused.json()["error"]) == (422, True)
    assert client.delete("/v1/datasets/shared").status_code == 404
    job = client.post("/v1/jobs", json={"kind": "caption", "data": "shared"})  # those without one, nothing is lost
    assert job.status_code == 202
    client.post(f"/v1/jobs/{job.json()['id']}/cancel")
    assert studio.datasets.delete("shared", "local") is None  # who sits before the studio
    assert client.get("/v1/datasets/shared").status_code == 404
    assert studio.datasets.undo_delete("local").name == "shared"


@pytest.mark.parametrize(
    "files",
    [
        [("a.zip", b"PK nothing")],
        [("a.zip", b"")],
        [("..", b"x"), ("a.png", b"x")],
        [("x" * 300 + ".png", b"x")],
        [("a.txt", b"no picture")],
        [("a.png", b"x" * (2 * 2**20))],
    ],
)
def test_what_is_no_set_leaves_nothing(client: TestClient, studio: Studio, files: list[tuple[str, bytes]]) -> None:
    before = sorted(studio.settings.datasets_dir.rglob("*"))
    answer = client.post("/v1/datasets", files=[("files", file) for file in files])
    assert answer.status_code in (400, 413, 422), answer.text
    assert [path for path in sorted(studio.settings.datasets_dir.rglob("*")) if path.is_file()] == [
        path for path in before if path.is_file()
    ]


def test_names_that_no_file_should_have_are_refused(studio: Studio) -> None:
    for name in ("a\x00.png", "a\x1b[31m.png", "", "\ud800.png", "a/.."):
        with pytest.raises(BadInput, match="under the name"):
            studio.datasets.upload([(name, b"x"), ("a.png", b"x")], "api-ann")


def test_a_day_after_it_is_gone(tmp_path: Path) -> None:
    datasets = kept.OwnedDatasets(tmp_path, "local")
    write_set(tmp_path / "old", 1)
    datasets.delete("old")
    datasets.purge()
    assert list((tmp_path / ".deleted").iterdir())
    datasets.purge(older_than=-1)
    assert not list((tmp_path / ".deleted").iterdir())
