"""Pictures: search, get, send, mark, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, UploadFile
from fastapi.responses import FileResponse

from studio.core.views import ImportedRecipe, Picture, PictureKind
from studio.interfaces.api.access import Owner, TheStudio

MEDIA = {
    ".png": "image/png",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".mp4": "video/mp4",
    ".zip": "application/zip",
    ".json": "application/json",
}
PRIVATE = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
router = APIRouter(tags=["images"])


@router.get("/images")
def images(
    owner: Owner,
    studio: TheStudio,
    query: Annotated[str, Query(max_length=500)] = "",
    favourites: bool = False,
    kind: PictureKind | None = None,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 60,
) -> list[Picture]:
    """Your pictures, newest first. `query`: beginnings of words of the prompt, model or labels."""
    return studio.gallery(owner, query, favourites, kind, offset, limit)


@router.get("/images/{id}", responses={200: {"content": {"image/png": {}}}})
def image(id: str, owner: Owner, studio: TheStudio) -> FileResponse:
    """The file: a PNG with its recipe inside, or an animation."""
    path = studio.picture_path(id, owner)
    return FileResponse(path, media_type=MEDIA.get(path.suffix, "application/octet-stream"), headers=PRIVATE)


@router.get("/images/{id}/info")
def info(id: str, owner: Owner, studio: TheStudio) -> Picture:
    """A picture's recipe, size, date."""
    return studio.picture(id, owner)


@router.post("/images", status_code=201)
def upload(file: UploadFile, owner: Owner, studio: TheStudio) -> Picture:
    """Send a picture; its id can be a `source`, a drawing, a first frame."""
    data = file.file.read(studio.settings.max_upload_mb * 2**20 + 1)
    return studio.upload(data, owner, file.filename or "")


@router.post("/images/recipe")
def recipe(file: UploadFile, owner: Owner, studio: TheStudio) -> ImportedRecipe:
    """The recipe inside a picture file, ours or A1111's, as a request."""
    return studio.read_recipe(file.file.read(studio.settings.max_upload_mb * 2**20 + 1))


@router.put("/images/{id}/favourite")
def favourite(id: str, owner: Owner, studio: TheStudio, on: bool = True) -> Picture:
    return studio.favourite(id, owner, on)


@router.delete("/images/{id}")
def delete(id: str, owner: Owner, studio: TheStudio) -> dict[str, int]:
    """Delete a picture; `POST /images/undo` brings the last one back for a day."""
    studio.picture(id, owner)
    return {"deleted": studio.delete([id], owner)}


@router.post("/images/undo")
def undo(owner: Owner, studio: TheStudio) -> dict[str, int]:
    return {"restored": studio.undo_delete(owner)}
