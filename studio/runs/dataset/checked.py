"""A data set's report, kept: the page, the service and the trainer read its pictures once between them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from studio.runs.dataset import layout
from studio.runs.dataset.archive import folder_of
from studio.runs.dataset.check import check
from studio.runs.dataset.views import Report

REPORTS = ".checked"  # below the folder of data sets
_VERSION = 3  # of the check: raised when it would say something else of the same files
_MOST = 50  # reports that are kept
_FRESH = 2.0  # seconds in which a file may change again without another time of change


def checked(data: Path, resolution: int, datasets: Path) -> Report:
    """The report on a data set, a folder or a ZIP, for training at `resolution` (the side in px).

    Reports are kept below `datasets`, where ZIPs are unpacked too, and found again while no file has another size or
    time of change. Raises as `folder_of` and `check`.
    """
    folder = folder_of(data, datasets)
    stamp, newest = _stamp(folder, resolution)
    file = datasets / REPORTS / f"{stamp}.json"
    with suppress(OSError, ValueError):  # none yet, or of another version
        return Report.model_validate_json(file.read_text(encoding="utf-8"))
    report = check(folder, resolution)
    if newest < time.time() - _FRESH:
        with suppress(OSError):  # it is only slower without
            _keep(file, report)
    return report


def _stamp(folder: Path, resolution: int) -> tuple[str, float]:
    """A name for the state of all files that the check looks at, and when the newest changed (seconds since 1970)."""
    listing = layout.listed(folder)
    states: list[object] = [listing.folders, [(problem.file, problem.message) for problem in listing.problems]]
    newest = 0.0
    for name in listing.names:
        with suppress(OSError):  # it went meanwhile: the check won't see it either
            state = (folder / name).stat()
            states.append((name, state.st_size, state.st_mtime_ns))
            newest = max(newest, state.st_mtime)
    sha = hashlib.sha256(json.dumps([_VERSION, str(folder), resolution, states]).encode())
    return sha.hexdigest()[:32], newest


def _keep(file: Path, report: Report) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(f".{os.getpid()}.tmp")
    fresh.write_text(report.model_dump_json(), encoding="utf-8")
    os.replace(fresh, file)
    old = sorted(file.parent.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in old[_MOST:]:
        path.unlink(missing_ok=True)
