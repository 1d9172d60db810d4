"""Damaged files over verbs and API: a sentence and no traceback, little time and memory, nothing outside of home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("what", "count"),
    [
        ("damaged", 40),
        ("damaged_loras", 12),
        pytest.param("damaged", 1500, marks=pytest.mark.slow),
        pytest.param("damaged_loras", 500, marks=pytest.mark.slow),
    ],
)
def test_damaged_files_are_a_sentence(tmp_path: Path, what: str, count: int) -> None:
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", f"support.{what}", str(count), str(count), str(tmp_path / "sandbox")],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == []
    assert found["outside"] == []
    assert found["slowest"] < 2
    assert found["memory"] < 500e6
