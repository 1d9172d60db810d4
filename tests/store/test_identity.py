"""A database that is replaced under a running studio: noticed, said, and not written to."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from studio.core.errors import StudioError
from studio.store import identity
from studio.store.database import Database


def used(path: Path) -> Database:
    database = Database(path)
    with database.transaction() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS things (name TEXT)")
        connection.execute("INSERT INTO things VALUES (?)", (path.parent.name,))
    return database


def moved_over(other: Path, path: Path) -> None:
    other.replace(path)


def copied_over(other: Path, path: Path) -> None:
    shutil.copyfile(other, path)


def rubbish(other: Path, path: Path) -> None:
    path.write_bytes(b"0" * 4096)


def removed(other: Path, path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("how", [moved_over, copied_over, rubbish, removed])
def test_another_file_in_its_place_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Callable[[Path, Path], None]
) -> None:
    monkeypatch.setattr(identity, "SECONDS", 0.0)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    used(tmp_path / "b" / "studio.db").close()
    database = used(tmp_path / "a" / "studio.db")
    second = Database(tmp_path / "a" / "studio.db")  # as another thread's or process's
    assert [row["name"] for row in database.rows("SELECT name FROM things")] == ["a"]
    how(tmp_path / "b" / "studio.db", tmp_path / "a" / "studio.db")
    for one in (database, second):
        with pytest.raises(StudioError, match="was replaced or removed while the studio was running"):
            one.rows("SELECT name FROM things")
        with pytest.raises(StudioError, match="start the studio again"), one.transaction():
            pytest.fail("written to a stranger's file")
        one.close()


def test_one_s_own_writing_and_closing_is_no_replacement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "SECONDS", 0.0)
    path = tmp_path / "studio.db"
    first, second = used(path), used(path)
    for _ in range(300):
        with second.transaction() as connection:
            connection.execute("INSERT INTO things VALUES (?)", ("x" * 4000,))
    second.close()
    assert len(first.rows("SELECT name FROM things")) == 302
    first.close()
    assert identity._key(path) not in identity._open  # other databases may be open in this process
