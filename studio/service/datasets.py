"""Data sets of training: checked, kept when they are uploaded, captioned, deleted. Trains nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from studio.core.errors import BadInput, Busy
from studio.core.files import is_text
from studio.core.settings import Settings
from studio.core.views import DataSetView
from studio.engine.models.catalogue import resolve
from studio.runs import dataset
from studio.runs.rundir import write_failure

UNPACKED = 20  # times the largest upload that a ZIP may have in it: pictures are packed already


class DataSets:
    """Folders and ZIPs of pictures with their captions; uploaded ones are kept in `settings.datasets_dir`.

    Whose a set is: see `runs.dataset.kept`.
    """

    suffixes = tuple(suffix.lstrip(".") for suffix in (*dataset.PICTURES, *dataset.CAPTIONS, *dataset.LISTS))

    def __init__(self, settings: Settings, trained_on: Callable[[Path], bool] = lambda path: False) -> None:
        """`trained_on`: whether a run reads a set just now."""
        self._settings = settings
        self._trained_on = trained_on
        self._unpacked: dict[tuple[str, int, int], Path] = {}  # by the ZIP's path, time of change (ns) and bytes

    def check(self, path: str, model: str = "embedded", resolution: int | None = None) -> dataset.Report:
        """What is in a set (a folder or a ZIP, which is unpacked), and what is wrong with it. Reads every picture.

        `resolution`: side in pixels that it is to be trained at; None: the model's own.
        """
        side = resolution or resolve(model, self._settings, with_hash=False).native_size
        return self.checked(path, side)

    def checked(self, path: str, side: int) -> dataset.Report:
        """As `check`, at a known resolution."""
        return dataset.checked(self.folder(path), side, self._settings.datasets_dir)

    def folder(self, path: str) -> Path:
        """The folder of a set given as one or as a ZIP, which is unpacked. Raises NotFound, BadInput, DiskFull."""
        if "\x00" in path:
            raise BadInput("A path can't contain NUL characters.")
        data = Path(path).expanduser()
        if not data.is_file():
            return dataset.folder_of(data, self._settings.datasets_dir)
        state = data.stat()
        key = (str(data), state.st_mtime_ns, state.st_size)  # hashing a large ZIP takes seconds, and a page asks often
        if key not in self._unpacked or not self._unpacked[key].is_dir():
            self._unpacked[key] = dataset.folder_of(data, self._settings.datasets_dir)
        return self._unpacked[key]

    def upload(self, files: Sequence[tuple[str, bytes]], owner: str = "") -> Path:
        """A set of this owner's from uploaded files (name, content): one ZIP, or pictures and captions. Its folder.

        The same files give the same folder. Raises BadInput for a ZIP that can't be trusted, DiskFull.
        """
        digest = hashlib.sha256()
        for name, data in files:
            if not is_text(Path(name)) or not Path(name).name.isprintable() or Path(name).name in ("", ".."):
                raise BadInput(f"A file can't be kept under the name {name[:80]!a}; give it another one.")
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
        folder = self._owned_by(owner).own
        first = Path(files[0][0]) if files else Path("empty")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".upload-", dir=folder) as fresh:
                if len(files) == 1 and first.suffix.lower() == ".zip":
                    archive = Path(fresh) / first.name
                    archive.write_bytes(files[0][1])
                    return dataset.folder_of(archive, folder, self._settings.max_upload_mb * 2**20 * UNPACKED)
                if any(Path(name).suffix.lower() == ".zip" for name, _ in files):
                    raise BadInput("Upload a ZIP alone: one at a time, and nothing beside it.")
                if not any(Path(name).suffix.lower() in dataset.PICTURES for name, _ in files):
                    given = ", ".join(name for name, _ in files[:3])
                    raise BadInput(f"There is no picture among what was uploaded ({given}).")
                target = folder / f"pictures-{digest.hexdigest()[:12]}"
                if not target.exists():
                    inside = Path(fresh) / "data"
                    inside.mkdir()
                    for name, data in files:
                        (inside / Path(name).name).write_bytes(data)
                    os.rename(inside, target)
                return target
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise BadInput("The name of a file is too long; give it a shorter one.") from error
            raise write_failure("The upload can't be kept", folder, error) from error

    def write_captions(self, folder: str, captions: dict[str, str]) -> None:
        """Write captions (picture -> text) beside the pictures of a set. Raises `NotFound` before any is."""
        dataset.write_captions(Path(folder), captions)

    # --- for owners -------------------------------------------------------------------------------------------------

    def list(self, owner: str) -> Sequence[DataSetView]:
        """Every set that this owner may use: their own first, then those that are everybody's."""
        return [DataSetView(name=name, own=own) for name, own in self._owned_by(owner).names()]

    def named(self, name: str, owner: str, change: bool = False) -> Path:
        """The folder or ZIP of a set by its name. Raises `NotFound`, also for another key's.

        `change`: captions in it are going to be replaced; raises `BadInput` where it isn't this owner's.
        """
        datasets = self._owned_by(owner)
        path = datasets.named(name)
        if change and not datasets.owns(path):
            raise BadInput(f"{name[:80]} isn't yours, so its captions can't be replaced; send a set of your own.")
        return path

    def delete(self, name: str, owner: str) -> None:
        """Remove a set of this owner's; `undo_delete` brings the last one back for a day. Raises `Busy` in a run."""
        datasets = self._owned_by(owner)
        if self._trained_on(datasets.named(name)):
            raise Busy(f"{name[:80]} is being trained on; stop the run first.")
        datasets.delete(name)

    def undo_delete(self, owner: str) -> DataSetView:
        """Bring back the set that this owner deleted last. Raises `NotFound` where there is none."""
        return DataSetView(name=self._owned_by(owner).bring_back(), own=True)

    def _owned_by(self, owner: str) -> dataset.OwnedDatasets:
        return dataset.OwnedDatasets(self._settings.datasets_dir, owner)
