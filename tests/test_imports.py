"""What an import may load, and how long a file may be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def modules() -> Iterator[Path]:
    yield from sorted((REPOSITORY / "studio").rglob("*.py"))
    yield from [*sorted((REPOSITORY / "pages").glob("*.py")), REPOSITORY / "streamlit_app.py"]


@pytest.mark.parametrize(
    "module",
    ["studio.service", "studio.engine.models.catalogue", "studio.engine.models.families", "studio.runs.launch"],
)
def test_what_a_page_needs_loads_neither_torch_nor_streamlit(module: str) -> None:
    script = (
        f"import sys, {module}; print([n for n in ('torch', 'streamlit', 'diffusers', 'fastapi') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_is_over_500_lines() -> None:
    long = {str(path): lines for path in modules() if (lines := path.read_text().count("\n")) > 500}
    assert not long
