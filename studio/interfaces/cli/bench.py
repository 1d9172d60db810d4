"""Runs the modules in `benchmarks/` and writes down what they measured, and on which machine.

Each module has `run(quick: bool) -> dict`: plain data, figures with their unit in the name (`seconds`, `mb`). Knows
nothing of what they measure.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from studio.core.errors import BadInput, StudioError
from studio.core.settings import REPOSITORY

FOLDER = REPOSITORY / "benchmarks"
PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "pillow", "streamlit")


def machine() -> dict[str, Any]:
    """What a figure depends on: processor, cores that may be used, memory, versions, and how busy the machine was."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": versions,
    }


def run(quick: bool, only: Sequence[str], say: Callable[[str], None], folder: Path = FOLDER) -> dict[str, Any]:
    """Run all benchmarks, or those named in `only`; results also go to `benchmarks/results/`.

    One that fails is noted and the rest go on. Raises `BadInput` for a name that isn't there, `StudioError` when
    nothing could be measured.
    """
    modules = {path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}
    for name in only:
        if name not in modules:
            raise BadInput(f"There is no benchmark {name!r}; there are {', '.join(modules) or 'none'}.")
    result: dict[str, Any] = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "quick": quick,
        "machine": machine(),
        "figures": {},
        "failed": {},
    }
    for name in only or modules:
        say(f"{name} ...")
        started = time.monotonic()
        try:
            module = _load(name, modules[name])
            if not hasattr(module, "run"):
                say(f"{name} needs to be told more: python -m benchmarks.{name} --help")
                continue
            result["figures"][name] = module.run(quick=quick)
            say(f"{name}: {time.monotonic() - started:.1f} s")
        except Exception as error:  # a benchmark is a script of somebody's: the others' figures are kept
            result["failed"][name] = f"{type(error).__name__}: {error}"
            say(f"{name} failed: {error}")
    if not result["figures"]:
        raise StudioError(
            "Nothing could be measured: " + ("; ".join(result["failed"].values()) or f"{folder} is empty.")
        )
    results = folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    names = "-".join(only) if only else "all"
    path = results / f"{names}{'-quick' if quick else ''}.json"
    path.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    result["file"] = str(path)
    return result


def _load(name: str, path: Path) -> Any:
    if str(path.parent.parent) not in sys.path:
        sys.path.insert(0, str(path.parent.parent))  # for those that share code
    spec = importlib.util.spec_from_file_location(f"benchmarks.{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look a module up by its name
    spec.loader.exec_module(module)
    return module


def table(result: dict[str, Any]) -> list[str]:
    """The figures as aligned lines: benchmark, name of the figure, value."""
    rows = [(name, *row) for name, figures in result["figures"].items() for row in _flat(figures)]
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}" for row in rows]
    lines += [f"{name}  FAILED  {sentence}" for name, sentence in result["failed"].items()]
    return [*lines, f"Written to {result['file']}"]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, float):
        yield path, f"{value:.4g}"
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for number, item in enumerate(value):
            yield from _flat(item, f"{path}[{number}]")
    else:
        yield path, str(value)
