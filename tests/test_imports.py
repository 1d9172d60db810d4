"""Who may import whom (the contracts of pyproject.toml), what an import may load, and how long a file may be."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"

# For each contract of pyproject.toml, by its id: a module, and what it must not import.
BREACHES = {
    "layers": ("studio/core/breach.py", "studio.jobs"),
    "door": ("pages/breach.py", "studio.store"),
    "interfaces": ("studio/interfaces/web/breach.py", "studio.interfaces.api"),
    "engine": ("studio/engine/breach.py", "studio.store"),
    "training": ("studio/training/breach.py", "studio.runs.supervisor"),
    "processes": ("studio/service/breach.py", "studio.training"),
    "light": ("studio/store/breach.py", "torch"),
    "torch": ("studio/interfaces/web/breach.py", "torch"),
    "streamlit": ("studio/service/breach.py", "streamlit"),
    "http": ("studio/engine/breach.py", "fastapi"),
    "cycles": ("studio/prompting/glyphs.py", "studio.prompting.harden"),
}


def modules() -> Iterator[Path]:
    yield from sorted((REPOSITORY / "studio").rglob("*.py"))
    yield from [*sorted((REPOSITORY / "pages").glob("*.py")), REPOSITORY / "streamlit_app.py"]


def lint(root: Path) -> tuple[int, str]:
    """What `lint-imports` says in `root`: exit code and report."""
    done = subprocess.run([sys.executable, "-c", LINT], cwd=root, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_every_room_imports_only_what_it_may() -> None:
    code, report = lint(REPOSITORY)
    assert code == 0, report


def test_every_contract_finds_a_breach(tmp_path: Path) -> None:
    configuration = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(configuration, encoding="utf-8")
    for package in ("studio", "pages"):
        shutil.copytree(
            REPOSITORY / package, tmp_path / package, ignore=lambda at, names: {n for n in names if not _is_code(at, n)}
        )
    for file, imported in BREACHES.values():
        with (tmp_path / file).open("a", encoding="utf-8") as code:
            code.write(f"\n\ndef breach() -> None:\n    import {imported}\n")

    code, report = lint(tmp_path)

    names = dict(re.findall(r'^id = "(\w+)"\nname = "(.+)"$', configuration, re.MULTILINE))
    assert set(names) == set(BREACHES)
    verdicts = " ".join(report.split())  # names are wrapped to the width of a terminal
    assert [key for key, name in names.items() if f"{name} BROKEN" not in verdicts] == []
    assert code == 1


def _is_code(folder: str, name: str) -> bool:
    return name != "__pycache__" and (name.endswith(".py") or Path(folder, name).is_dir())


def test_what_a_page_needs_loads_neither_torch_nor_streamlit() -> None:
    script = (
        "import sys, studio.service, studio.engine.models.catalogue, studio.engine.models.families; "
        "import studio.runs.launch; "
        "print([n for n in ('torch', 'streamlit', 'diffusers', 'fastapi') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_is_over_500_lines() -> None:
    files = [*modules(), *(REPOSITORY / "tests").rglob("*.py"), *(REPOSITORY / "benchmarks").rglob("*.py")]
    long = {str(path): lines for path in files if (lines := path.read_text(encoding="utf-8").count("\n")) > 500}
    assert not long
