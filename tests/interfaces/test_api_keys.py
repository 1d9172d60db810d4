"""Keys by name: made, kept as digests, over when they are over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from studio.core.errors import BadInput, NotFound
from studio.core.settings import Settings, settings
from studio.interfaces.api import app as api
from studio.interfaces.cli.main import main
from studio.service import Studio


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    studio = Studio(Settings(home=tmp_path, named_only=True, _env_file=None))
    yield studio
    studio.close()


def status(client: TestClient, key: str) -> int:
    return client.get("/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code


def test_a_key_opens_until_it_is_revoked_or_over(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    with TestClient(api.create(studio.settings, studio), base_url="http://127.0.0.1") as client:
        assert client.get("/v1/jobs").status_code == 200  # no key yet: this machine
        ann, again, bob = studio.keys.add("Ann"), studio.keys.add(" Ann "), studio.keys.add("Bob", days=1)
        assert client.get("/v1/jobs").status_code == 401  # at once
        assert [status(client, key) for key in (ann, again, bob, ann[:-1], ann + "x", "studio_")] == [200] * 3 + [
            401
        ] * 3
        sent = client.post(
            "/v1/prompt", json={"emotion": "sad", "offline": True}, headers={"Authorization": f"Bearer {ann}"}
        )
        assert sent.status_code == 200
        assert {key.name: key.state for key in studio.keys.list()} == {"Ann": "valid", "Bob": "valid"}
        from studio.store import keys

        later = keys.time.time() + 2 * 86400
        monkeypatch.setattr(keys.time, "time", lambda: later)
        assert [status(client, key) for key in (ann, again, bob)] == [200, 200, 401]
        assert {key.name: key.state for key in studio.keys.list()} == {"Ann": "valid", "Bob": "expired"}
        assert studio.keys.revoke("Ann") == 2
        assert [status(client, key) for key in (ann, again)] == [401, 401]
        assert client.get("/v1/jobs").status_code == 401  # without keys it doesn't open again
        with pytest.raises(NotFound):
            studio.keys.revoke("Ann")


def test_keys_of_one_name_are_one_owner_and_none_is_kept(studio: Studio, tmp_path: Path) -> None:
    ann, again, bob = studio.keys.add("Ann"), studio.keys.add("Ann"), studio.keys.add("Bob")
    assert studio.keys.owner(ann) == studio.keys.owner(again) != studio.keys.owner(bob)
    studio.keys.revoke(next(key.id for key in studio.keys.list() if key.name == "Bob"))
    assert studio.keys.owner(bob) is None
    studio.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for key in (ann, again, bob):
        assert key.encode() not in kept
        assert key.removeprefix("studio_").encode() not in kept
    for name in ("", "  ", "x" * 65, "a\x1bb"):
        with pytest.raises(BadInput):
            Studio(Settings(home=tmp_path, _env_file=None)).keys.add(name)


def test_the_verbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path))
    settings.cache_clear()
    try:
        assert main(["keys", "add", "Ann", "--days", "30", "--json"]) == 0
        key = json.loads(capsys.readouterr().out)["key"]
        assert main(["keys", "list"]) == 0
        listed = capsys.readouterr().out
        assert "valid" in listed
        assert "Ann" in listed
        assert key not in listed
        assert main(["keys", "revoke", "Ann"]) == 0
        assert main(["keys", "revoke", "Ann"]) == 2
    finally:
        settings.cache_clear()
