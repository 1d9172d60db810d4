"""How much disk pictures may take: the image cache is the store itself, and what is asked for again stays."""

from __future__ import annotations

from studio.core.views import PARTS
from studio.store.database import Database
from studio.store.pictures import Pictures

AT_ONCE = 16  # pictures that are looked up together


def keep_below(most: int, pictures: Pictures, database: Database) -> int:
    """Remove for good what was asked for the longest ago, until files take at most `most` bytes; how many that was.

    A picture that is found in the cache counts as asked for again. Favourites, and what people sent, stay.
    """
    count, held = 0, pictures.usage()[1]
    while held > most:
        oldest = database.rows(
            f"SELECT id, owner FROM pictures WHERE deleted IS NULL AND favourite = 0 AND kind NOT IN {PARTS} "
            "AND kind != 'upload' ORDER BY created LIMIT ?",
            AT_ONCE,
        )
        if not oldest:
            break
        for row in oldest:
            if held > most:
                count += pictures.expire(row["id"], row["owner"])
                held = pictures.usage()[1]
    if count:
        pictures.purge()
    return count
