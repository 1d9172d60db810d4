"""Data sets of training: send, look into, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, UploadFile

from studio.core.errors import BadInput
from studio.core.views import DataSetView
from studio.interfaces.api.access import Owner, TheStudio
from studio.service import Report

router = APIRouter(tags=["data sets"])


@router.get("/datasets")
def datasets(owner: Owner, studio: TheStudio) -> list[DataSetView]:
    """Data sets that a run or a `caption` job may name: your own, and those that are everybody's."""
    return list(studio.datasets.list(owner))


@router.post("/datasets", status_code=201)
def send(files: list[UploadFile], owner: Owner, studio: TheStudio) -> DataSetView:
    """Send one ZIP, or pictures and captions. The same files are the same set."""
    most = studio.settings.max_upload_mb * 2**20
    sent = [(file.filename or "", file.file.read(most + 1)) for file in files]
    if any(len(data) > most for _, data in sent):
        raise BadInput(f"A file is larger than the {studio.settings.max_upload_mb} MB that are accepted.")
    return DataSetView(name=studio.datasets.upload(sent, owner).name, own=True)


@router.get("/datasets/{name}")
def dataset(
    name: str,
    owner: Owner,
    studio: TheStudio,
    resolution: Annotated[int | None, Query(ge=64, le=2048)] = None,
) -> Report:
    """What is in a set and what is wrong with it. `resolution`: side in pixels that it is to be trained at."""
    return studio.datasets.check(str(studio.datasets.named(name, owner)), resolution=resolution)


@router.delete("/datasets/{name}")
def delete(name: str, owner: Owner, studio: TheStudio) -> dict[str, str]:
    """Remove a set of yours; `POST /datasets/undo` brings the last one back for a day."""
    studio.datasets.delete(name, owner)
    return {"deleted": name}


@router.post("/datasets/undo")
def undo(owner: Owner, studio: TheStudio) -> DataSetView:
    """Bring back the set that you deleted last."""
    return studio.datasets.undo_delete(owner)
