"""Pictures on disk: search, undo, owners, several processes, a full disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.pictures import RECIPE, encoded, image

from studio.core.errors import DiskFull, NotFound, StudioError
from studio.store.bounds import keep_below
from studio.store.database import Database
from studio.store.pictures import Pictures


@pytest.fixture
def pictures(tmp_path: Path):
    database = Database(tmp_path / "studio.db")
    yield Pictures(database, tmp_path / "images")
    database.close()


# --- rows -----------------------------------------------------------------------------------------------------------


def test_save_find_and_search(pictures: Pictures) -> None:
    saved = pictures.save(image(), RECIPE, "ann", title="First")
    assert saved.id == RECIPE.key
    assert (saved.width, saved.height) == (16, 16)
    assert saved.path.read_bytes() == pictures.read(saved.id, "ann")
    pictures.save(image("blue"), RECIPE.model_copy(update={"prompt": "1boy, naïve, 猫耳", "seed": 8}), "ann")
    pictures.save(image("green"), None, "ann", kind="upload", title="sketch")
    for query, count in {
        "": 2, "red": 1, "RED HA": 1, "hair, red, smi": 1, "naive": 1, "猫耳": 1, "purple": 0, "happy": 2, "first": 1,
        "embedded": 2, '"': 0, "red OR 1boy": 0, "NEAR(red": 0, "* - ^": 0, "7": 1,
    }.items():  # fmt: skip
        assert len(pictures.gallery("ann", query)) == pictures.count("ann", query) == count, query
    assert [p.title for p in pictures.gallery("ann", kind="upload")] == ["sketch"]
    assert [p.recipe.seed for p in pictures.gallery("ann") if p.recipe] == [8, 7]  # newest first
    assert len(pictures.gallery("ann", offset=1, limit=1)) == 1


def test_owners_share_files_and_nothing_else(pictures: Pictures) -> None:
    saved = pictures.save(image(), RECIPE, "ann", title="mine")
    for act in (pictures.get, pictures.read, pictures.favourite):
        with pytest.raises(NotFound):
            act(saved.id, "bob")
    assert pictures.gallery("bob") == []
    assert pictures.delete([saved.id], "bob") == 0
    adopted = pictures.claim_cached(RECIPE, "bob")
    assert adopted is not None
    assert adopted.cached
    assert adopted.title == ""
    assert adopted.path == saved.path
    pictures.delete([saved.id], "ann")
    pictures.purge(older_than=-1)
    assert pictures.read(saved.id, "bob")  # the file stays while anybody has it
    pictures.delete([saved.id], "bob")
    assert pictures.purge(older_than=-1) == 1
    assert not saved.path.exists()
    assert pictures.claim_cached(RECIPE, "ann") is None


def test_a_frame_of_another_owner_stays_a_frame(pictures: Pictures) -> None:
    pictures.save(image(), RECIPE, "ann", kind="frame", title="Ann's", job="1", details={"place": 0.5})
    adopted = pictures.claim_cached(RECIPE, "bob", title="Bob's")
    assert adopted is not None
    assert (adopted.kind, adopted.details) == ("frame", {"place": 0.5})
    assert (adopted.title, adopted.job) == ("Bob's", None)
    assert pictures.gallery("bob") == []


def test_labels_do_not_make_another_picture(pictures: Pictures) -> None:
    pictures.save(image(), RECIPE, "ann")
    assert pictures.claim_cached(RECIPE.model_copy(update={"labels": {"emotion": "sad"}}), "ann") is not None
    assert pictures.claim_cached(RECIPE.model_copy(update={"seed": 8}), "ann") is None


def test_delete_and_undo(pictures: Pictures) -> None:
    ids = [pictures.save(image(), RECIPE.model_copy(update={"seed": n}), "ann").id for n in range(4)]
    pictures.favourite(ids[1], "ann")
    assert pictures.delete(ids[:1], "ann") == 1
    assert pictures.delete([ids[1], ids[2], ids[2], "nothing"], "ann") == 2
    assert pictures.count("ann") == 1
    assert pictures.undo_delete("bob") == 0
    assert pictures.undo_delete("ann") == 2  # the last lot
    assert pictures.undo_delete("ann") == 1  # and the one before
    assert pictures.undo_delete("ann") == 0
    assert pictures.count("ann") == 4
    assert [p.id for p in pictures.gallery("ann", favourites=True)] == [ids[1]]
    assert pictures.count("ann", "red") == 4  # still found by words


def frame(pictures: Pictures, seed: int, job: str, owner: str = "ann") -> str:
    recipe = RECIPE.model_copy(update={"seed": seed, "frame": "{}"})
    return pictures.save(image(), recipe, owner, kind="frame", job=job).id


def there(pictures: Pictures, ids: list[str], owner: str = "ann") -> list[bool]:
    found = []
    for id in ids:
        try:
            found.append(bool(pictures.get(id, owner)))
        except NotFound:
            found.append(False)
    return found


def test_frames_go_with_the_last_animation_they_belong_to(pictures: Pictures) -> None:
    source = pictures.save(image(), RECIPE, "ann", job="1").id  # drawn for the animation, and a picture of its own
    own, shared, moved = (frame(pictures, seed, "1") for seed in (1, 2, 3))  # the last one was timed away
    theirs = frame(pictures, 1, "9", "bob")
    size = (16, 16)
    first = pictures.save_file(b"gif", ".gif", "ann", size=size, job="1", details={"frames": [own, shared]}).id
    video = pictures.save_file(b"mp4", ".mp4", "ann", size=size, kind="frame", job="1").id
    second = pictures.save_file(b"gif 2", ".gif", "ann", size=size, job="2", details={"frames": [shared]}).id
    files = [own, moved, video]
    assert pictures.delete([first], "ann") == 1
    assert there(pictures, files) == [False] * 3
    assert there(pictures, [source, shared, second]) == [True] * 3
    assert pictures.get(theirs, "bob")
    assert pictures.delete([second], "ann") == 1
    assert there(pictures, [shared, source]) == [False, True]
    assert pictures.undo_delete("ann") == 1  # with its frame, which isn't counted
    assert there(pictures, [second, shared, own]) == [True, True, False]
    assert pictures.undo_delete("ann") == 1
    assert there(pictures, [first, shared, *files]) == [True] * 5
    pictures.delete([first, second], "ann")
    assert pictures.purge(older_than=-1) == 5  # `own` is a file of Bob's too
    assert there(pictures, [source]) == [True]


def test_a_sheet_of_sprites_takes_its_files_along(pictures: Pictures) -> None:
    tiles = [frame(pictures, seed, "1") for seed in (1, 2)]
    packed = pictures.save_file(b"zip", ".zip", "ann", size=(16, 16), kind="frame", job="1").id
    sheet = pictures.save(image("blue"), RECIPE, "ann", id="s" * 32, kind="sheet", job="1", details={"tiles": tiles})
    pictures.delete([sheet.id], "ann")
    assert there(pictures, [*tiles, packed]) == [False] * 3
    assert pictures.undo_delete("ann") == 1
    assert there(pictures, [*tiles, packed]) == [True] * 3
    assert pictures.delete([packed], "ann") == 1  # one file alone
    assert pictures.undo_delete("ann") == 1


def test_the_trash_is_bounded(tmp_path: Path) -> None:
    database = Database(tmp_path / "studio.db")
    pictures = Pictures(database, tmp_path / "images", trash_bytes=700)
    saved = [pictures.save(image(), RECIPE.model_copy(update={"seed": n}), "ann") for n in range(4)]
    assert saved[0].size_bytes > 200
    for picture in saved:
        pictures.delete([picture.id], "ann")
    assert not saved[0].path.exists()
    database.close()


def test_a_file_that_was_removed_by_hand_is_one_sentence(pictures: Pictures) -> None:
    saved = pictures.save(image(), RECIPE, "ann")
    saved.path.unlink()
    with pytest.raises(NotFound, match="draw it again"):
        pictures.read(saved.id, "ann")
    assert pictures.claim_cached(RECIPE, "ann") is None


def test_what_sqlite_says_becomes_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studio.store.database.WAIT", 0.05)
    database, other = Database(tmp_path / "studio.db"), Database(tmp_path / "studio.db")
    with other.transaction(), pytest.raises(StudioError, match="in use by another program"), database.transaction():
        pass
    with pytest.raises(StudioError, match="couldn't be used"):
        database.rows("SELECT nothing FROM nowhere")
    with database.transaction() as connection:  # and it goes on
        connection.execute("SELECT 1")
    other.close()
    database.close()
    with pytest.raises(StudioError, match="couldn't be used"):
        database.rows("SELECT 1")


def test_nothing_is_written_ahead_on_a_drive_behind_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def journal(database: Database) -> str:
        return str(database.rows("PRAGMA journal_mode")[0][0])

    here = Database(tmp_path / "studio.db")
    assert journal(here) == "wal"
    Pictures(here, tmp_path / "images").save(image(), RECIPE, "ann")
    here.close()
    monkeypatch.setattr("studio.store.database.on_a_local_disk", lambda folder: False)  # it was copied there
    there = Database(tmp_path / "studio.db")
    assert journal(there) == "delete"
    assert Pictures(there, tmp_path / "images").count("ann") == 1
    assert not list(tmp_path.glob("studio.db-wal"))
    there.close()


def test_threads_and_handles_on_one_folder(tmp_path: Path) -> None:
    def fill(owner: str) -> None:
        database = Database(tmp_path / "studio.db")  # as another process has: creation races too
        pictures = Pictures(database, tmp_path / "images")
        for seed in range(10):
            pictures.save(image(), RECIPE.model_copy(update={"seed": seed}), owner)
        database.close()

    threads = [threading.Thread(target=fill, args=(f"owner{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    database = Database(tmp_path / "studio.db")
    pictures = Pictures(database, tmp_path / "images")
    assert [pictures.count(f"owner{n}") for n in range(4)] == [10] * 4
    assert len(list((tmp_path / "images").rglob("*"))) == len(list((tmp_path / "images").rglob("*.png"))) + len(
        list((tmp_path / "images").iterdir())
    )  # no temporary file was left
    database.close()


# --- bad days -------------------------------------------------------------------------------------------------------

FULL_DISK = """
import sys
sys.path[:0] = [{repository!r}, {repository!r} + "/tests"]
from pathlib import Path
from PIL import Image
from studio.core.errors import DiskFull
from studio.store.bounds import keep_below
from studio.store.database import Database
from studio.store.pictures import Pictures
from support.pictures import RECIPE
import os
home = Path({home!r})
database = Database(home / "studio.db")
pictures = Pictures(database, home / "images")
count, sentences = 0, set()
for seed in range(100):
    noise = Image.frombytes("RGB", (128, 128), os.urandom(128 * 128 * 3))
    try:
        pictures.save(noise, RECIPE.model_copy(update={{"seed": seed}}), "ann")
        count += 1
    except DiskFull as error:
        sentences.add(str(error))
rows = pictures.gallery("ann", limit=1000)
assert len(rows) == count, (len(rows), count)
for row in rows:
    Image.open(row.path).load()
assert not list((home / "images").rglob("*.tmp"))
left = {{p.stem for p in (home / "images").rglob("*.png")}}
assert left == {{row.id for row in rows}}, len(left - {{row.id for row in rows}})
assert pictures.delete([row.id for row in rows[:10]], "ann") == 10
pictures.save(Image.new("RGB", (64, 64)), RECIPE.model_copy(update={{"seed": 5000}}), "ann")
print(count, *sentences)
"""


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_real_full_disk_loses_nothing(tmp_path: Path) -> None:
    home = tmp_path / "small"
    home.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(home)], capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        script = FULL_DISK.format(repository=str(Path(__file__).resolve().parents[2]), home=str(home))
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        count, _, sentence = done.stdout.partition(" ")
        assert 20 < int(count) < 100
        assert sentence.startswith("The disk is full: this couldn't be written, and nothing that was there is lost")
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)


@pytest.mark.parametrize("place", ["write", "fsync", "replace"])
def test_a_write_that_fails_leaves_neither_file_nor_row(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch, place: str, tmp_path: Path
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    kept = pictures.save(image(), RECIPE, "ann")
    with monkeypatch.context() as patch:
        patch.setattr(os, {"write": "fdopen", "fsync": "fsync", "replace": "replace"}[place], full)
        with pytest.raises(DiskFull):
            pictures.save(image(), RECIPE.model_copy(update={"seed": 8}), "ann")
    assert [p.id for p in pictures.gallery("ann")] == [kept.id]
    assert [path.name for path in (tmp_path / "images").rglob("*") if path.is_file()] == [kept.path.name]


@pytest.mark.parametrize("content", [b"this is not a database, whatever its name says " * 30, None])
def test_a_home_that_can_not_be_used_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "studio.db"
    if content is None:
        path = tmp_path / "file" / "studio.db"
        (tmp_path / "file").write_text("a file where a folder should be")
    else:
        path.write_bytes(content)
    with pytest.raises(StudioError, match=r"move it away|STUDIO_HOME"):
        Database(path)


def test_what_was_asked_for_the_longest_ago_goes_when_pictures_take_too_much(tmp_path: Path) -> None:
    database = Database(tmp_path / "studio.db")
    store = Pictures(database, tmp_path / "images")
    recipes = [RECIPE.model_copy(update={"seed": seed}) for seed in range(6)]
    saved = [store.save(image(size=(64, 64)), recipe, "ann") for recipe in recipes]
    sent = store.save_file(encoded(image("blue")), ".png", "ann", id="f" * 32, size=(16, 16), kind="upload")
    store.favourite(saved[0].id, "ann")
    store.claim_cached(recipes[1], "bob")  # somebody asks for it again: for Ann it is as old as it was
    store.claim_cached(recipes[2], "ann")
    one = saved[0].size_bytes
    assert keep_below(100 * one, store, database) == 0
    assert keep_below(4 * one + sent.size_bytes, store, database) == 3
    left = {picture.recipe.seed for picture in store.gallery("ann") if picture.recipe}
    assert (left, len(store.gallery("bob"))) == ({0, 2, 5}, 1)
    assert not saved[3].path.exists()
    assert saved[1].path.exists()  # Bob has it
    assert store.undo_delete("ann") == 0
    keep_below(0, store, database)
    assert [picture.recipe.seed for picture in store.gallery("ann") if picture.recipe] == [0]  # the favourite
    assert store.get(sent.id, "ann")
    database.close()
