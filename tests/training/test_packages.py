"""Packages beside the studio that are too old or were built for another torch."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.training_sets import write_run

from studio.core.specs import LoraSpec
from studio.engine import packages
from studio.runs.rundir import TRAINERS
from studio.training.runtime.session import run_trainer

REPOSITORY = Path(__file__).resolve().parents[2]


def install(folder: Path, name: str, number: str, **modules: str) -> None:
    """A package in `folder`, as pip leaves it: its modules and its metadata."""
    (folder / name).mkdir()
    for module, text in {"__init__": "", **modules}.items():
        (folder / name / f"{module}.py").write_text(text)
    (folder / f"{name}-{number}.dist-info").mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n"
    (folder / f"{name}-{number}.dist-info" / "METADATA").write_text(metadata)


@pytest.mark.parametrize(("number", "old"), [("0.10.0", True), ("0.15.1", True), ("0.16.0", False), ("0.17.0", False)])
def test_an_old_torchao_is_named_exactly_where_peft_refuses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, old: bool
) -> None:
    from peft.import_utils import is_torchao_available

    install(tmp_path, "torchao", number)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    is_torchao_available.cache_clear()
    try:
        if old:
            with pytest.raises(ImportError, match="torchao"):
                is_torchao_available()
        else:
            assert is_torchao_available()
    finally:
        is_torchao_available.cache_clear()
    trouble = packages.torchao()
    assert (trouble is not None) == old
    if trouble is None:
        return
    assert number in trouble.what
    assert trouble.command.endswith("-m pip uninstall -y torchao")
    run = write_run(tmp_path, "run", LoraSpec(data=str(tmp_path), model="embedded"))
    with pytest.raises(SystemExit):
        run_trainer(run.path, LoraSpec, lambda session, spec: pytest.fail("it was to be refused"))
    assert run.status()["state"] == "failed"
    assert run.status()["error"] == str(trouble)


def test_no_torchao_is_no_trouble() -> None:
    assert packages.torchao() is None


@pytest.mark.slow
def test_an_xformers_for_another_torch_keeps_no_trainer_from_being_imported(tmp_path: Path) -> None:
    install(tmp_path, "xformers", "0.0.29", ops="raise OSError('libcudart.so.11: cannot open')")
    modules = [*TRAINERS.values(), "studio.training.lora.estimate", "studio.training.distill.memory"]
    modules.append("studio.training.export_checkpoint")
    for module in modules:  # each in a process that imports it first
        assert (REPOSITORY / f"{module.replace('.', '/')}.py").exists()
    code = "import importlib, os, sys\nfor module in sys.argv[1:]:\n    if os.fork() == 0:\n"
    code += "        importlib.import_module(module)\n        os._exit(0)\n    if os.wait()[1]: sys.exit(module)\n"
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    done = subprocess.run(
        [sys.executable, "-c", code, *modules], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
        timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
