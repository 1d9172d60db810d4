"""Files that other programs read to run the studio: they parse, and name only settings and verbs that there are."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from studio.core.settings import REPOSITORY, Settings

FILES = [path for path in sorted((REPOSITORY / "deploy").rglob("*")) if path.is_file()] + [
    REPOSITORY / name for name in ("heroku.yml", "railway.json", "Dockerfile", ".github/workflows/release.yml")
]
OURS = {"STUDIO_REPLICAS", "STUDIO_REPLICA_GPUS", "STUDIO_DOMAIN"}  # of `interfaces.api.serve`, of the Caddyfile


def documents(path: Path) -> list[object]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return [json.loads(text)]
    return list(yaml.safe_load_all(text)) if path.suffix in (".yml", ".yaml") else []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_deployment_names_what_there_is(path: Path) -> None:
    assert all(isinstance(document, dict) for document in documents(path))
    known = {f"STUDIO_{name.upper()}" for name in Settings.model_fields} | OURS
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"STUDIO_[A-Z_]+[A-Z]", text)) <= known
    for module in re.findall(r"-m (studio[\w.]*)", text):
        place = REPOSITORY / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
    for module in re.findall(r"import_path: ([\w.]+):app", text):
        assert (REPOSITORY / module.replace(".", "/")).with_suffix(".py").is_file()


def test_compose_gives_pages_and_api_one_store_and_asks_for_secrets() -> None:
    [compose] = documents(REPOSITORY / "deploy" / "docker-compose.yml")
    assert isinstance(compose, dict)
    services = compose["services"]
    assert services["pages"]["volumes"] == services["api"]["volumes"] == ["studio:/data"]
    assert all("ports" not in services[name] for name in ("pages", "api"))  # only the proxy is reached
    for name, secret in (("pages", "STUDIO_PASSWORD"), ("api", "STUDIO_API_KEY")):
        assert services[name]["environment"][secret].startswith("${" + secret + ":?")


def test_what_a_tag_releases_has_a_part_in_the_changelog() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert re.search(
        rf"^## (Unreleased|.*{re.escape(version)})", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE
    )
