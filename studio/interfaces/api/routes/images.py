"""Pictures: search, get, send, mark, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, UploadFile
from fastapi.responses import FileResponse, Response

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
    """Your pictures, newest first. `query`: tags and other words of the prompt, model, labels or title."""
    return studio.gallery(owner, query, favourites, kind, offset, limit)


_ANY = {media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA.values()}
FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": _ANY, "description": "The file."},
    206: {"content": _ANY, "description": "The bytes that `Range` asked for."},
    304: {"description": "It is what `If-None-Match` says."},
}


@router.get("/images/{id}", responses=FILE, response_class=FileResponse)
def image(id: str, owner: Owner, studio: TheStudio, request: Request) -> Response:
    """The file: a PNG with its recipe inside, or an animation. Knows `If-None-Match` and `Range`."""
    path = studio.picture_path(id, owner)
    there = path.stat()
    headers = PRIVATE | {"ETag": f'"{id[:40]}-{there.st_mtime_ns:x}-{there.st_size:x}"'}
    if _known(request.headers.get("if-none-match", ""), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return FileResponse(path, media_type=MEDIA.get(path.suffix, "application/octet-stream"), headers=headers)


def _known(said: str, tag: str) -> bool:
    """Whether one of the tags that a client has is this one (RFC 9110, 13.1.2: compared weakly)."""
    return said.strip() == "*" or tag in [one.strip().removeprefix("W/") for one in said.split(",")]


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
