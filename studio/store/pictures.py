"""Pictures and the files they are in: save, find by recipe, search, favourite, delete and undo.

A file is named by its content key and shared by all owners who have it; a row says who. Doesn't know how pictures are
made, and shows nobody another owner's row.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from studio.core.errors import BadInput, DiskFull, NotFound, StudioError
from studio.core.owners import KEY, private
from studio.core.specs import DRAWN_LABELS, Recipe
from studio.core.views import EVERYTHING, GALLERY_KINDS, PARTS, GalleryFilter, Picture, PictureKind
from studio.store import metadata
from studio.store.database import FULL, Database

LOW = 100 * 2**20  # bytes free: below it deleting is final
TRASH_SECONDS = 24 * 3600  # how long a deleted picture can be brought back
# Whether `part` (a frame, the MP4 beside a GIF, a ZIP of sprites, a control image) belongs to `whole`: it is listed
# there, or the same job made both, or both come from the same drawing. One frame may belong to several animations.
_BELONGS = """
    whole.owner = part.owner AND (
        whole.kind IN ('animation', 'sheet') AND part.kind = 'frame' AND (
            part.job = whole.job
            OR part.id IN (SELECT value FROM json_each(whole.details, '$.frames'))
            OR part.id IN (SELECT value FROM json_each(whole.details, '$.spare'))
            OR part.id IN (SELECT value FROM json_each(whole.details, '$.tiles'))
        )
        OR part.kind = 'control' AND whole.kind = 'picture' AND (
            part.job = whole.job
            OR json_extract(part.details, '$.drawing') = json_extract(whole.recipe, '$.control.image')
        )
    )
"""


class Pictures:
    """All pictures of all owners under one folder. Safe for threads, and for several processes on one folder."""

    def __init__(self, database: Database, folder: Path, trash_bytes: int = 4096 * 2**20) -> None:
        self._database = database
        self._folder = folder
        self._trash_bytes = trash_bytes

    def save(
        self,
        image: Image.Image,
        recipe: Recipe | None,
        owner: str,
        *,
        id: str | None = None,
        kind: PictureKind = "picture",
        title: str = "",
        job: str | None = None,
        details: dict[str, Any] | None = None,
        model_title: str = "",
    ) -> Picture:
        """Write the picture as PNG with its recipe inside, and its row.

        `id`: the recipe's key where there is one, else a hash of the pixels. Raises `DiskFull`; then neither exists.
        """
        if id is None:
            id = recipe.key if recipe is not None else pixel_key(image)
        data = metadata.png(image, recipe, model_title, details if kind != "picture" else None)
        return self.save_file(
            data, ".png", owner, id=id, size=image.size, recipe=recipe, kind=kind, title=title, job=job, details=details
        )

    def save_file(
        self,
        data: bytes,
        suffix: str,
        owner: str,
        *,
        size: tuple[int, int],
        id: str | None = None,
        recipe: Recipe | None = None,
        kind: PictureKind = "animation",
        title: str = "",
        job: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> Picture:
        """Write any finished file (an animation, a ZIP) and its row. `size`: width, height in pixels."""
        id = id or hashlib.sha256(data).hexdigest()[:32]
        details = details or {}
        with self._database.transaction() as connection:
            write_file(self._own_path(id, suffix, owner), data)
            number = self._put(
                connection, id, owner, recipe, kind, title, job, details, suffix, size, len(data), time.time()
            )
        return self._picture(self._database.rows("SELECT * FROM pictures WHERE number = ?", number)[0])

    def claim_cached(self, recipe: Recipe, owner: str, *, title: str = "") -> Picture | None:
        """The image cache: the picture of this recipe if anybody has it, now also `owner`'s; else None.

        A key of the API has a cache of its own, and nobody else finds what is in it: that a picture is there already
        would say that another one had asked for it.

        The newest place in the gallery is its own again, and a deleted one comes back. A frame stays a frame, whoever
        had it drawn; title and job of another owner stay theirs.
        """
        rows = self._database.rows(
            "SELECT * FROM pictures WHERE id = ?1 AND (owner = ?2 OR NOT ?3 AND owner NOT LIKE ?4) "
            "ORDER BY owner = ?2 DESC, deleted IS NULL DESC LIMIT 1",
            recipe.key,
            owner,
            private(owner),
            f"{KEY}%",
        )
        if not rows or not self._path(rows[0]).is_file():
            return None
        known = rows[0]
        said = (json.loads(known["recipe"]) if known["recipe"] else {}).get("labels", {})
        drawn = {name: said[name] for name in DRAWN_LABELS if name in said}
        recipe = recipe.model_copy(update={"labels": recipe.labels | drawn})
        with self._database.transaction() as connection:
            # The file may have been purged by another process since; inside the transaction it can't be.
            if not self._path(known).is_file():
                return None
            own = known["owner"] == owner
            number = self._put(
                connection,
                recipe.key,
                owner,
                recipe,
                known["kind"],
                title or (known["title"] if own else ""),
                known["job"] if own else None,
                json.loads(known["details"]),
                known["suffix"],
                (known["width"], known["height"]),
                known["size_bytes"],
                time.time(),
            )
        picture = self._picture(self._database.rows("SELECT * FROM pictures WHERE number = ?", number)[0])
        return picture.model_copy(update={"cached": True})

    def get(self, id: str, owner: str) -> Picture:
        """Raises `NotFound` when this owner has no such picture."""
        rows = self._database.rows("SELECT * FROM pictures WHERE id = ? AND owner = ? AND deleted IS NULL", id, owner)
        if not rows:
            raise NotFound("There is no such picture here; it may have been deleted.")
        return self._picture(rows[0])

    def read(self, id: str, owner: str) -> bytes:
        """The file itself. Raises `NotFound`."""
        return self.file(id, owner).read_bytes()

    def file(self, id: str, owner: str) -> Path:
        """Where the file is. Raises `NotFound`, also when it is gone from the disk."""
        path = self.get(id, owner).path
        if not path.is_file():
            raise NotFound("The file of this picture is gone from the disk; draw it again from its recipe.")
        return path

    def gallery(
        self,
        owner: str,
        query: str = "",
        favourites: bool = False,
        kind: PictureKind | None = None,
        offset: int = 0,
        limit: int = 60,
        only: GalleryFilter = EVERYTHING,
    ) -> list[Picture]:
        """Newest first. `query`: phrases with commas between, all of which must be in prompt, labels, model or title.

        The last word of a phrase may be the beginning of one.
        """
        where, values = _filter(owner, query, favourites, kind, only)
        rows = self._database.rows(
            f"SELECT * FROM pictures WHERE {where} ORDER BY created DESC, number DESC LIMIT ? OFFSET ?",
            *values,
            max(0, min(limit, 1000)),
            max(0, min(offset, 2**62)),
        )
        return [self._picture(row) for row in rows]

    def count(
        self,
        owner: str,
        query: str = "",
        favourites: bool = False,
        kind: PictureKind | None = None,
        only: GalleryFilter = EVERYTHING,
    ) -> int:
        where, values = _filter(owner, query, favourites, kind, only)
        return int(self._database.rows(f"SELECT count(*) AS n FROM pictures WHERE {where}", *values)[0]["n"])

    def drawn_with(self, owner: str) -> tuple[list[str], list[str]]:
        """The models and the LoRAs of this owner's pictures, as their recipes name them."""
        mine = "FROM pictures WHERE owner = ? AND deleted IS NULL AND recipe IS NOT NULL"
        models = self._database.rows(f"SELECT DISTINCT json_extract(recipe, '$.model') AS name {mine}", owner)
        loras = self._database.rows(
            "SELECT DISTINCT json_extract(lora.value, '$.path') AS name "
            "FROM pictures, json_each(pictures.recipe, '$.loras') AS lora WHERE owner = ? AND deleted IS NULL",
            owner,
        )
        names = [sorted(str(row["name"]) for row in rows if row["name"]) for rows in (models, loras)]
        return names[0], names[1]

    def favourite(self, id: str, owner: str, on: bool = True) -> Picture:
        self.get(id, owner)
        with self._database.transaction() as connection:
            connection.execute("UPDATE pictures SET favourite = ? WHERE id = ? AND owner = ?", (int(on), id, owner))
        return self.get(id, owner)

    def delete(self, ids: Iterable[str], owner: str) -> int:
        """Hide these pictures; `undo_delete` brings the last lot back for a day. Returns how many of them there were.

        With the last animation, sheet or picture that a frame, another file or a control image belongs to, it goes too.
        On a disk that is nearly full they go at once and for good: who deletes there needs the room.
        """
        wanted = list(dict.fromkeys(ids))
        try:
            count = self._hide(wanted, owner)
        except DiskFull:
            self._database.release_reserve()
            count = self._hide(wanted, owner)
        nearly_full = shutil.disk_usage(self._database.path.parent).free < LOW
        self.purge(older_than=-1 if nearly_full else TRASH_SECONDS)
        self._database.set_reserve()
        return count

    def expire(self, id: str, owner: str) -> int:
        """Have `purge` remove this picture for good, with its parts. Returns how many of them there were."""
        return self._hide([id], owner, now=0.0)

    def _hide(self, wanted: list[str], owner: str, now: float | None = None) -> int:
        now = time.time() if now is None else now
        with self._database.transaction() as connection:
            count = 0
            for id in wanted:
                count += connection.execute(
                    "UPDATE pictures SET deleted = ? WHERE id = ? AND owner = ? AND deleted IS NULL", (now, id, owner)
                ).rowcount
            connection.execute(
                "UPDATE pictures AS part SET deleted = :now "
                f"WHERE owner = :owner AND deleted IS NULL AND kind IN {PARTS} "
                f"AND EXISTS (SELECT 1 FROM pictures AS whole WHERE whole.deleted = :now AND {_BELONGS}) "
                f"AND NOT EXISTS (SELECT 1 FROM pictures AS whole WHERE whole.deleted IS NULL AND {_BELONGS})",
                {"now": now, "owner": owner},
            )
        return count

    def undo_delete(self, owner: str) -> int:
        """Bring back what this owner deleted last. Returns how many pictures came back, their frames not counted."""
        with self._database.transaction() as connection:
            last = connection.execute("SELECT max(deleted) FROM pictures WHERE owner = ?", (owner,)).fetchone()[0]
            if last is None:
                return 0
            back = connection.execute(
                "UPDATE pictures SET deleted = NULL WHERE owner = ? AND deleted = ? RETURNING kind", (owner, last)
            ).fetchall()
        return sum(row["kind"] not in PARTS for row in back) or len(back)

    def purge(self, older_than: float = TRASH_SECONDS) -> int:
        """Really remove what was deleted more than `older_than` seconds ago, and the oldest beyond the trash's size.

        A file goes when its last row has gone. Returns the number of files removed.
        """
        removed = 0
        with self._database.transaction() as connection:
            room = self._trash_bytes
            doomed = []
            for row in connection.execute(
                "SELECT * FROM pictures WHERE deleted IS NOT NULL "
                f"ORDER BY deleted DESC, kind IN {PARTS}"  # an animation outlives its frames
            ):
                room -= row["size_bytes"]
                if row["deleted"] < time.time() - older_than or room < 0:
                    doomed.append(row)
            for row in doomed:
                connection.execute("DELETE FROM words WHERE rowid = ?", (row["number"],))
                connection.execute("DELETE FROM pictures WHERE number = ?", (row["number"],))
            for row in doomed:
                if private(row["owner"]):
                    self._own_path(row["id"], row["suffix"], row["owner"]).unlink(missing_ok=True)
                if connection.execute("SELECT 1 FROM pictures WHERE id = ?", (row["id"],)).fetchone() is None:
                    self._own_path(row["id"], row["suffix"], "").unlink(missing_ok=True)
                    removed += 1
        return removed

    def model_with(self, model_hash: str) -> str | None:
        """The reference under which pictures were last drawn here with weights of this hash (or its beginning)."""
        rows = self._database.rows(
            "SELECT json_extract(recipe, '$.model') AS model FROM pictures "
            "WHERE substr(json_extract(recipe, '$.model_hash'), 1, ?) = ? ORDER BY number DESC LIMIT 1",
            len(model_hash),
            model_hash,
        )
        return str(rows[0]["model"]) if rows and model_hash else None

    def others(self, owner: str) -> dict[str, int]:
        """How many pictures the gallery would show for each other owner; keys of the API aren't among them."""
        rows = self._database.rows(
            f"SELECT owner, count(*) AS n FROM pictures WHERE owner != ? AND owner NOT LIKE ? AND deleted IS NULL "
            f"AND kind IN ({', '.join('?' * len(GALLERY_KINDS))}) GROUP BY owner",
            owner,
            f"{KEY}%",
            *GALLERY_KINDS,
        )
        return {row["owner"]: int(row["n"]) for row in rows}

    def hand_over(self, owners: Iterable[str], owner: str) -> int:
        """Make all that these owners have `owner`'s; how many pictures that were, frames and the like not counted.

        What both have is one picture afterwards, a favourite if it was one of either.
        """
        total = 0
        with self._database.transaction() as connection:
            for old in set(owners) - {owner}:
                total += connection.execute(
                    f"SELECT count(*) FROM pictures WHERE owner = ? AND deleted IS NULL AND kind NOT IN {PARTS}", (old,)
                ).fetchone()[0]
                connection.execute(
                    "UPDATE pictures SET favourite = 1 WHERE owner = ? AND id IN "
                    "(SELECT id FROM pictures WHERE owner = ? AND favourite = 1)",
                    (owner, old),
                )
                connection.execute("UPDATE OR IGNORE pictures SET owner = ? WHERE owner = ?", (owner, old))
                connection.execute(
                    "DELETE FROM words WHERE rowid IN (SELECT number FROM pictures WHERE owner = ?)", (old,)
                )
                connection.execute("DELETE FROM pictures WHERE owner = ?", (old,))
                connection.execute("UPDATE jobs SET owner = ? WHERE owner = ?", (owner, old))
        return total

    def usage(self) -> tuple[int, int]:
        """Number of pictures that can be seen by anybody, and the bytes of all files."""
        row = self._database.rows(
            "SELECT count(*) AS n, coalesce(sum(size_bytes), 0) AS bytes FROM "
            "(SELECT id, size_bytes FROM pictures WHERE deleted IS NULL "
            "GROUP BY id, CASE WHEN owner LIKE ? THEN owner END)",  # keys have files of their own
            f"{KEY}%",
        )[0]
        return int(row["n"]), int(row["bytes"])

    def _own_path(self, id: str, suffix: str, owner: str) -> Path:
        """Where a picture of this owner is written: all people share a file, a key of the API has files of its own."""
        place = self._folder / owner if private(owner) else self._folder
        return place / id[:2] / f"{id}{suffix}"

    def _path(self, row: sqlite3.Row) -> Path:
        """Where a picture is: those of keys were among the others before they had files of their own."""
        path = self._own_path(row["id"], row["suffix"], row["owner"])
        return path if not private(row["owner"]) or path.is_file() else self._own_path(row["id"], row["suffix"], "")

    def _put(
        self,
        connection: sqlite3.Connection,
        id: str,
        owner: str,
        recipe: Recipe | None,
        kind: str,
        title: str,
        job: str | None,
        details: dict[str, Any],
        suffix: str,
        size: tuple[int, int],
        size_bytes: int,
        created: float,
    ) -> int:
        number = connection.execute(
            "INSERT INTO pictures "
            "(id, owner, kind, title, recipe, details, job, suffix, width, height, size_bytes, created) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id, owner) DO UPDATE SET "
            "kind = excluded.kind, title = excluded.title, recipe = excluded.recipe, details = excluded.details, "
            "job = excluded.job, suffix = excluded.suffix, width = excluded.width, height = excluded.height, "
            "size_bytes = excluded.size_bytes, created = excluded.created, deleted = NULL RETURNING number",
            (
                id,
                owner,
                kind,
                title,
                recipe.model_dump_json() if recipe else None,
                json.dumps(details, ensure_ascii=False),
                job,
                suffix,
                *size,
                size_bytes,
                created,
            ),
        ).fetchone()[0]
        connection.execute("DELETE FROM words WHERE rowid = ?", (number,))
        connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (number, _words(kind, title, recipe)))
        return int(number)

    def _picture(self, row: sqlite3.Row) -> Picture:
        return Picture(
            id=row["id"],
            owner=row["owner"],
            recipe=Recipe.model_validate_json(row["recipe"]) if row["recipe"] else None,
            path=self._path(row),
            kind=row["kind"],
            title=row["title"],
            created=row["created"],
            favourite=bool(row["favourite"]),
            job=row["job"],
            width=row["width"],
            height=row["height"],
            size_bytes=row["size_bytes"],
            details=json.loads(row["details"]),
        )


def pixel_key(image: Image.Image) -> str:
    """Content key of a picture without a recipe: its pixels and nothing else, 32 hex digits."""
    head = f"{image.mode} {image.width} {image.height} ".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()[:32]


def _words(kind: str, title: str, recipe: Recipe | None) -> str:
    parts = [kind, title]
    if recipe is not None:
        parts += [recipe.prompt, recipe.model, str(recipe.seed), recipe.sampler]
        parts += [said for label, said in recipe.labels.items() if label != "left_out"]  # not in the picture
        parts += [Path(lora.path).stem for lora in recipe.loras]
    return "\n".join(parts)


def _filter(
    owner: str, query: str, favourites: bool, kind: PictureKind | None, only: GalleryFilter
) -> tuple[str, list[Any]]:
    where = ["owner = ?", "deleted IS NULL"]
    values: list[Any] = [owner]
    if kind is None:
        where.append(f"kind IN ({', '.join('?' * len(GALLERY_KINDS))})")
        values += GALLERY_KINDS
    else:
        where.append("kind = ?")
        values.append(kind)
    if favourites:
        where.append("favourite = 1")
    if query.strip():
        query = re.sub(r"\bseed[\s:=,]*(?=\d)", "", query, flags=re.IGNORECASE)  # only its number is a word there
        # Words alone, and quoted, so that nothing in them is FTS5 syntax.
        phrases = [" ".join(re.findall(r"\w+", part.replace("_", " "))[:16]) for part in query.split(",")[:32]]
        wanted = " ".join(f'"{phrase}"*' for phrase in phrases if phrase)
        where.append("number IN (SELECT rowid FROM words WHERE words MATCH ?)" if wanted else "0")
        if wanted:
            values.append(wanted)
    for condition, value in (
        ("json_extract(recipe, '$.labels.emotion') = ?", only.emotion),
        ("json_extract(recipe, '$.labels.style') = ?", only.style),
        ("json_extract(recipe, '$.model') = ?", only.model),
        ("EXISTS (SELECT 1 FROM json_each(recipe, '$.loras') WHERE json_extract(value, '$.path') = ?)", only.lora),
        ("created >= ?", only.since),
        ("created < ?", only.until),
    ):
        if value is not None:
            where.append(condition)
            values.append(value)
    return " AND ".join(where), values


def write_file(path: Path, data: bytes) -> None:
    """Appear whole or not at all: temporary file of this call's own, fsync, rename. Raises `StudioError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise write_error(error, path.parent) from error


def write_error(error: OSError, folder: Path) -> StudioError:
    """The sentence for an operating system's refusal to write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(FULL)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return BadInput(f"The studio may not write to {folder}; choose another folder.")
    return StudioError(f"Nothing could be written to {folder} ({error.strerror}); check that disk and try again.")
