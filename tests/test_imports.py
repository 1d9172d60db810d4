"""The room table of docs/architecture.md: who may import whom, read from the code; and what an import may load."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
BASE = {"specs", "views", "presets", "errors", "settings", "network", "flat", "__init__"}
DOOR = {"characters", "service", "job", "jobs", "work", "work_motion", "recipes", "training_runs"}
VERBS = {"api", "serve", "__main__", "terminal", "training_verbs", "bench"}
SERVICE_FACE = {"service"}
PARTIES = {
    "torch",
    "diffusers",
    "peft",
    "transformers",
    "accelerate",
    "streamlit",
    "fastapi",
    "starlette",
    "uvicorn",
    "ray",
}
MODELS = {"torch", "diffusers", "peft", "transformers", "accelerate"}
WEB = {"fastapi", "starlette", "uvicorn", "ray"}

# room -> (rooms of `studio` that it may import, third parties of PARTIES that it may import)
TABLE: dict[str, tuple[set[str], set[str]]] = {
    "base": (set(), set()),
    "prompting": ({"base"}, set()),
    "runs": ({"base"}, set()),
    "store": ({"base"}, set()),
    "engine": ({"base", "evaluation"}, MODELS),
    "evaluation": ({"base"}, MODELS),
    "training": ({"base", "engine", "evaluation", "runs.rundir", "runs.dataset"}, MODELS),
    "pretraining": ({"base", "engine", "evaluation", "runs.rundir", "training"}, MODELS),
    "service": ({"base", "prompting", "runs", "store", "engine"}, set()),
    "verbs": ({"base", "service"}, WEB),
    "ui": ({"base", "service"}, {"streamlit", "starlette"}),
}


def room(parts: tuple[str, ...]) -> str:
    """The room of a module below `studio`, from its dotted path without `studio`."""
    head = parts[0] if parts else "__init__"
    if head in BASE:
        return "base"
    if head in DOOR:
        return "service"
    if head in VERBS:
        return "verbs"
    return head


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted((REPOSITORY / "studio").rglob("*.py")):
        yield room(path.relative_to(REPOSITORY / "studio").with_suffix("").parts), path
    for path in [*sorted((REPOSITORY / "pages").glob("*.py")), REPOSITORY / "streamlit_app.py"]:
        yield "ui", path


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, anywhere in it, but under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                home = path.relative_to(REPOSITORY).parts[: -node.level]
                module = ".".join([*home, module]).rstrip(".")
            for alias in node.names:
                # `from studio.store import uploads` names a module, `from studio.errors import BadInput` a thing
                deeper = REPOSITORY.joinpath(*module.split("."), alias.name)
                is_module = deeper.with_suffix(".py").is_file() or deeper.is_dir()
                yield f"{module}.{alias.name}" if is_module else module


def breaches(home: str, imported: str) -> str | None:
    """Why a module of room `home` may not import `imported`, or None."""
    rooms, parties = TABLE[home]
    parts = imported.split(".")
    if parts[0] in PARTIES:
        return None if parts[0] in parties else f"{home} may not import {parts[0]}"
    if parts[0] != "studio":
        return None
    target = room(tuple(parts[1:]))
    allowed = target == home or target in rooms or ".".join(parts[1:3]) in rooms
    return None if allowed else f"{home} may not import {imported}"


def test_no_room_imports_what_it_may_not() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}: {breach}"
        for home, path in modules()
        for imported in imports(path)
        if (breach := breaches(home, imported)) is not None
    ]
    assert not found, "\n".join(found)


def test_every_room_is_in_the_table() -> None:
    assert {home for home, _ in modules()} <= set(TABLE)


def test_the_table_of_the_document_is_this_one() -> None:
    groups = {"torch": MODELS, "fastapi": WEB, "streamlit": {"streamlit", "starlette"}}
    names = {"base": BASE - {"__init__"}, "service": DOOR, "verbs": VERBS, "ui": {"ui", "pages"}}
    document = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in document.splitlines() if re.match(r"\| (base|`)", line)]
    rows = [row for row in rows if len(row) == 4]
    seen = set()
    for first, _, may, never in rows:
        listed = set(re.findall(r"`(\w+)`", first))
        home = next(home for home in TABLE if names.get(home, {home}) & listed)
        assert listed == names.get(home, {home}), home
        allowed = {word.strip("` ") for word in may.split(",")} - {"standard library", "pydantic"}
        parties = set().union(*(groups[word] for word in allowed if word in groups))
        assert (allowed - set(groups), parties) == TABLE[home], home
        refused = {word.strip("` ") for word in never.split(",")} - {"any other room"}
        assert not refused & allowed, home
        assert refused <= {*TABLE, *VERBS, *groups}, home
        seen.add(home)
    assert seen == set(TABLE)


@pytest.mark.parametrize(
    ("home", "imported"),
    [("base", "studio.jobs"), ("store", "studio.runs.rundir"), ("ui", "torch"), ("service", "studio.training.lora")],
)
def test_the_check_itself_finds_a_breach(home: str, imported: str) -> None:
    assert breaches(home, imported) is not None


@pytest.mark.parametrize(
    "module", ["studio.service", "studio.engine.models", "studio.engine.families", "studio.runs.launch"]
)
def test_what_a_page_needs_loads_neither_torch_nor_streamlit(module: str) -> None:
    script = (
        f"import sys, {module}; print([n for n in ('torch', 'streamlit', 'diffusers', 'fastapi') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_is_over_500_lines() -> None:
    long = {str(path): lines for _, path in modules() if (lines := path.read_text().count("\n")) > 500}
    assert not long
