"""Data sets on disk: archives that can't be trusted, what the check finds, captions of three conventions, uploads."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from support.training_sets import picture, write_set

from studio.core.errors import BadInput, DiskFull, NotFound, StudioError
from studio.core.settings import Settings
from studio.runs import dataset as files
from studio.runs.dataset import archive as zips
from studio.service.datasets import DataSets


def archive(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, data in entries.items():
            bundle.writestr(name, data)
    return path


def png(seed: int = 0, size: tuple[int, int] = (64, 64)) -> bytes:
    stream = io.BytesIO()
    picture(seed, size).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    "name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "..\\evil.png", "C:\\evil.png", "."]
)
def test_an_archive_that_points_outside_is_refused_whole(tmp_path: Path, name: str) -> None:
    bad = archive(tmp_path / "bad.zip", {"fine.png": png(), name: png(1)})
    with pytest.raises(BadInput, match="points outside"):
        files.folder_of(bad, tmp_path / "datasets")
    assert list((tmp_path / "datasets").iterdir()) == []
    assert not list(tmp_path.rglob("evil.png"))


def test_a_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as bundle:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        bundle.writestr(link, "/etc/passwd")
    with pytest.raises(BadInput, match="points outside"):
        files.folder_of(tmp_path / "link.zip", tmp_path / "datasets")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    bomb = archive(tmp_path / "bomb.zip", {"a.png": b"\0" * 3_000_000})
    assert bomb.stat().st_size < 10_000
    with pytest.raises(BadInput, match="unpacks to more than 1 MB"):
        files.folder_of(bomb, tmp_path / "datasets", max_bytes=2**20)
    assert list((tmp_path / "datasets").iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 not really", b"hello" * 1000])
def test_what_is_not_an_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(BadInput, match=r"x\.zip is not a ZIP"):
        files.folder_of(tmp_path / "x.zip", tmp_path / "datasets")


def test_a_damaged_stream_in_an_archive_is_refused(tmp_path: Path) -> None:
    bad = archive(tmp_path / "bad.zip", {"a.txt": b"red hair, long hair, " * 200})
    data = bytearray(bad.read_bytes())
    begin = 30 + len("a.txt")  # behind the entry's header: a block of deflate's reserved type
    data[begin] = 0b111
    bad.write_bytes(data)
    with pytest.raises(BadInput, match=r"bad\.zip is not a ZIP that can be read"):
        files.folder_of(bad, tmp_path / "datasets")


def test_only_a_full_disk_asks_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = archive(tmp_path / "good.zip", {"a.png": png()})
    long = archive(tmp_path / "long.zip", {f"{'a' * 300}.png": png()})
    with pytest.raises(BadInput, match=r"long\.zip can't be unpacked"):
        files.folder_of(long, tmp_path / "datasets")
    with pytest.raises(NotFound):
        files.folder_of(Path("x" * 300), tmp_path / "datasets")

    def failing(code: int) -> StudioError:
        def fail(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("studio.runs.dataset.archive._unpack", fail)
        with pytest.raises(StudioError) as caught:
            files.folder_of(good, tmp_path / "datasets")
        return caught.value

    assert isinstance(failing(errno.ENOSPC), DiskFull)
    assert "make room" in str(failing(errno.EDQUOT))
    refused = failing(errno.EACCES)
    assert type(refused) is StudioError
    assert "make room" not in str(refused)


def test_two_processes_that_unpack_the_same_archive_get_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, into = archive(tmp_path / "good.zip", {"style_1/1.png": png(1)}), tmp_path / "datasets"
    unpack, first = zips._unpack, []

    def slowly(*given: Any) -> None:
        monkeypatch.setattr(zips, "_unpack", unpack)
        first.append(files.folder_of(good, into))  # the other process, meanwhile
        unpack(*given)

    monkeypatch.setattr(zips, "_unpack", slowly)
    assert files.folder_of(good, into) == first[0]
    assert len(list(into.iterdir())) == 1  # nothing half unpacked stays
    assert [path.read_bytes() for path in first[0].rglob("*.png")] == [png(1)]


def test_an_archive_is_unpacked_once_without_its_outer_folder(tmp_path: Path) -> None:
    entries = {f"mine/style_{k}/{k}.png": png(k) for k in (1, 2)} | {"__MACOSX/x": b"", "mine/.DS_Store": b""}
    good = archive(tmp_path / "Mine.zip", entries)
    folder = files.folder_of(good, tmp_path / "datasets")
    assert sorted(p.name for p in folder.iterdir()) == ["style_1", "style_2"]
    assert files.folder_of(good, tmp_path / "datasets") == folder
    assert files.check(folder, 64).triggers == {"style_1": 1, "style_2": 1}


def test_every_kind_of_problem_is_found_and_named(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 3)
    place = folder / "style_1"
    (place / "broken.png").write_bytes(png(7)[:200])
    (place / "text.png").write_text("not a picture")
    picture(8, (20, 20)).save(place / "tiny.png")
    picture(9, (40, 40)).save(place / "small.png")
    with Image.open(place / "0.png") as original:
        original.resize((90, 90)).save(place / "again.jpg", quality=85)
    picture(10).save(place / "liar.png", "JPEG")
    (place / "lost.txt").write_text("no picture")
    (place / "film.gif").write_bytes(b"GIF89a")
    (folder / ".DS_Store").touch()
    report = files.check(folder, 64)
    found = {(p.file.removeprefix("style_1/"), p.kind, p.used) for p in report.problems}
    assert found == {
        ("broken.png", "unreadable", False), ("text.png", "unreadable", False), ("tiny.png", "tiny", False),
        ("small.png", "tiny", True), ("small.png", "caption", True), ("liar.png", "name", True),
        ("liar.png", "caption", True), ("lost.txt", "name", False), ("film.gif", "name", False),
        ("again.jpg", "duplicate", False),  # of two that look the same the first by name stays
    }  # fmt: skip
    assert all(p.message.startswith(p.file) for p in report.problems)
    assert {e.file for e in report.entries} == {
        "style_1/0.png", "style_1/1.png", "style_1/2.png", "style_1/liar.png", "style_1/small.png",
    }  # fmt: skip


def test_drawings_of_one_composition_are_not_duplicates(tmp_path: Path) -> None:
    base = picture(1, (128, 128)).resize((256, 256))
    for k, colour in enumerate(("red", "blue")):
        other = base.copy()
        other.paste(colour, (80, 80, 180, 180))
        other.save(tmp_path / f"{k}.png")
    assert len(files.check(tmp_path, 128).entries) == 2


def test_captions_of_three_conventions(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        picture(ord(name)).save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("\ufeffred hair,  smile ,\nred hair", encoding="utf-8")
    (tmp_path / "b.caption").write_text("blue hair")
    lines = [
        {"file_name": "c.png", "text": "green hair"},
        {"file_name": "a.png", "text": "loses"},
        {"file_name": "x.png", "text": ""},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n")
    report = files.check(tmp_path, 64)
    assert {e.file: e.caption for e in report.entries} == {
        "a.png": "red hair, smile", "b.png": "blue hair", "c.png": "green hair", "d.png": "",
    }  # fmt: skip
    said = " ".join(p.message for p in report.problems)
    assert "metadata.jsonl, line 4, is not" in said
    assert "names 'x.png', which isn't there" in said
    assert "d.png has no caption" in said


def test_captions_in_other_encodings_are_read_and_what_is_no_text_is_named(tmp_path: Path) -> None:
    said = {"a": "赤い髪".encode("utf-16"), "b": "赤い髪".encode("cp932"), "c": b"\xff\xfe\x00\x00\x01", "d": b" \n"}
    for seed, (name, data) in enumerate(said.items()):
        (tmp_path / f"{name}.png").write_bytes(png(seed, (300, 300)))
        (tmp_path / f"{name}.txt").write_bytes(data)
    report = files.check(tmp_path, 256)
    assert {entry.file: entry.caption for entry in report.entries} == {
        "a.png": "赤い髪", "b.png": "赤い髪", "c.png": "", "d.png": "",
    }  # fmt: skip
    assert {problem.file for problem in report.problems if problem.kind == "caption"} == {"c.png", "d.png"}


def test_trigger_words(tmp_path: Path) -> None:
    for folder, captions in {
        "style_1": ["1girl, a", "1girl, b"], "10_My, style": ["x", "y"], "plain": ["neon, 1girl", "neon, 1boy"],
    }.items():  # fmt: skip
        (tmp_path / folder).mkdir()
        for k, caption in enumerate(captions):
            picture(len(folder) * 10 + k).save(tmp_path / folder / f"{k}.png")
            (tmp_path / folder / f"{k}.txt").write_text(caption)
    report = files.check(tmp_path, 64)
    assert report.triggers == {"My style": 2, "neon": 2, "style_1": 2}
    prompts = {entry.file: entry.prompt for entry in report.entries}
    assert prompts["style_1/0.png"] == "style_1, 1girl, a"
    assert prompts["plain/1.png"] == "neon, 1boy"
    assert {e.repeats for e in report.entries if e.trigger == "My style"} == {10}
    assert report.per_epoch == 20 + 4 * report.repeats


def test_captions_that_a_machine_made_lose_no_trigger_word(tmp_path: Path) -> None:
    sets = {
        "style_1": ["", "", ""],  # without captions, called by its folder's name
        "mixed": ["neon, 1girl, a", "neon, 1boy", ""],  # its captions begin with a word of its own
        "plain_set": ["1girl, a", "", ""],
    }
    for folder, captions in sets.items():
        (tmp_path / folder).mkdir()
        for k, caption in enumerate(captions):
            picture(len(folder) * 10 + k).save(tmp_path / folder / f"{k}.png")
            if caption:
                (tmp_path / folder / f"{k}.txt").write_text(caption)
    picture(99).save(tmp_path / "root.png")
    report = files.check(tmp_path, 64)
    made = {
        "style_1/0.png": "hill, tree", "style_1/1.png": "hill", "style_1/2.png": "style_1, hill",
        "mixed/2.png": "1girl", "plain_set/1.png": "1girl, hat", "plain_set/2.png": "", "root.png": "hill",
    }  # fmt: skip
    placed = files.behind_triggers(report.entries, made)
    assert placed == {
        "style_1/0.png": "style_1, hill, tree", "style_1/1.png": "style_1, hill", "style_1/2.png": "style_1, hill",
        "mixed/2.png": "neon, 1girl", "plain_set/1.png": "1girl, hat", "plain_set/2.png": "", "root.png": "hill",
    }  # fmt: skip
    files.write_captions(tmp_path, placed)
    assert files.check(tmp_path, 64).triggers == {"style_1": 3, "neon": 3, "plain_set": 3}
    everything = {entry.file: "1girl" for entry in report.entries}
    assert files.behind_triggers(files.check(tmp_path, 64).entries, everything)["mixed/0.png"] == "neon, 1girl"


@given(st.integers(1, 400))
def test_an_epoch_has_200_to_400_pictures(pictures: int) -> None:
    assert 200 <= pictures * files.automatic_repeats(pictures) <= 400


def test_the_digest_follows_what_is_trained_on(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 2)
    before = files.check(folder, 64).digest
    (folder / "notes.md").write_text("no picture, no caption")
    assert files.check(folder, 64).digest == before
    files.write_captions(folder, {"style_1/0.png": "changed"})
    after = files.check(folder, 64)
    assert after.digest != before
    assert after.entries[0].caption == "changed"


def test_transparent_parts_become_white_and_photos_stand_upright(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert files.upright(clear).getpixel((0, 0)) == (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as turned:
        assert files.upright(turned).size == (10, 20)


def test_a_photo_with_damaged_notes_of_the_camera_is_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    data = bytearray(exif.tobytes())
    data[17] = 1  # the kind of an entry
    Image.new("RGB", (80, 60)).save(tmp_path / "a.jpg", exif=bytes(data))
    with Image.open(tmp_path / "a.jpg") as opened, pytest.raises(struct.error):
        ImageOps.exif_transpose(opened)
    assert [entry.file for entry in files.check(tmp_path, 64).entries] == ["a.jpg"]


def test_captions_that_cannot_be_written_are_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")

    def refuses(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("studio.runs.dataset.captions.os.replace", refuses)
    with pytest.raises(StudioError, match=r"captions can't be written.*Permission denied"):
        files.write_captions(tmp_path, {"a.png": "1girl"})


def test_editing_captions() -> None:
    assert files.add_tags("a, b", "b, c") == "a, b, c"
    assert files.add_tags("a, b", "c, a", first=True) == "c, a, b"
    assert files.remove_tags("Red Hair, red hair band, b", "red hair") == "red hair band, b"
    assert files.replace_tag("red hair, red hair band", "red hair", "blue hair, long hair") == (
        "blue hair, long hair, red hair band"
    )
    assert files.tag_counts(["a, b", "b"]) == {"b": 2, "a": 1}


@pytest.mark.parametrize("name", ["../outside.png", "nothing.png", "/etc/hostname"])
def test_captions_are_written_only_beside_pictures_of_the_set(tmp_path: Path, name: str) -> None:
    folder = write_set(tmp_path / "set", 1)
    picture(5).save(tmp_path / "outside.png")
    with pytest.raises(NotFound):
        files.write_captions(folder, {"style_1/0.png": "fine", name: "x"})
    assert (folder / "style_1" / "0.txt").read_text() != "fine\n"
    assert not (tmp_path / "outside.txt").exists()


def test_a_folder_without_a_picture_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no picture to train on\. The folder is empty"):
        files.check(tmp_path, 64)
    for name in ("a.pdf", "b.gif", "c.mp4", "d.doc"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        BadInput, match=r"a\.pdf is neither.* b\.gif is neither.* c\.mp4 is .* And so on: 4 remarks in all\."
    ) as said:
        files.check(tmp_path, 64)
    assert tmp_path.name not in str(said.value)  # an upload's folder is nobody's business
    with pytest.raises(NotFound):
        files.check(tmp_path / "nothing", 64)


def test_uploads_become_data_sets(tmp_path: Path) -> None:
    sets = DataSets(Settings(home=tmp_path))
    loose = [("../../a.png", png(1)), ("a.txt", b"one"), ("b.png", png(2))]
    folder = sets.upload(loose)
    assert sorted(p.name for p in folder.iterdir()) == ["a.png", "a.txt", "b.png"]
    assert folder == sets.upload(loose)
    packed = archive(tmp_path / "x.zip", {"style_1/a.png": png(1)})
    unpacked = sets.upload([("x.zip", packed.read_bytes())])
    assert unpacked.is_relative_to((tmp_path / "datasets").resolve())
    with pytest.raises(BadInput):
        sets.upload([("x.zip", b"PK nothing")])
    assert not [p for p in (tmp_path / "datasets").iterdir() if p.name.startswith(".")]


def test_what_was_drawn_for_a_picture_is_no_picture_of_the_set(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 2)
    picture(5).save(folder / "style_1" / "0.control.png")
    found = files.check(folder, 64)
    assert [entry.file for entry in found.entries] == ["style_1/0.png", "style_1/1.png"]
    assert not found.problems


def test_an_upload_without_a_picture_leaves_nothing(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with pytest.raises(BadInput, match=r"no picture among what was uploaded \(a\.txt, b\.pdf\)"):
        DataSets(settings).upload([("a.txt", b"girl"), ("b.pdf", b"%PDF")])
    with pytest.raises(BadInput, match="ZIP alone"):
        DataSets(settings).upload([("a.zip", b"PK"), ("b.zip", b"PK")])
    assert not any(settings.datasets_dir.iterdir())


def test_pictures_are_read_once_until_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the page, the service and the trainer together; and once by each check."""
    folder, datasets = write_set(tmp_path / "data", 3), tmp_path / "datasets"
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9))  # nobody is writing there just now
    read: list[str] = []
    opened = Image.open
    monkeypatch.setattr(Image, "open", lambda file, *given: read.append(Path(file).name) or opened(file, *given))
    first = files.checked(folder, 64, datasets)
    assert sorted(read) == ["0.png", "1.png", "2.png"]
    read.clear()
    assert files.checked(folder, 64, datasets) == first
    assert DataSets(Settings(home=tmp_path)).checked(str(folder), 64) == first
    assert read == []
    assert files.checked(folder, 128, datasets) != first  # at another resolution other things are wrong
    (folder / "style_1" / "0.txt").write_text("1girl, surprised")
    changed = files.checked(folder, 64, datasets)
    assert (changed.entries[0].caption, changed.digest) != (first.entries[0].caption, first.digest)
    (folder / "style_1" / "0.txt").write_text("1girl, surprises")  # at once, and as long: the clock may not tell
    assert files.checked(folder, 64, datasets).entries[0].caption == "1girl, surprises"
    for kept in (datasets / ".checked").iterdir():
        kept.write_text("{")
    assert files.checked(folder, 128, datasets).entries  # a damaged report is made anew


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_what_is_behind_a_link_is_looked_at_for_changes(tmp_path: Path) -> None:
    behind, folder, datasets = write_set(tmp_path / "behind", 3), tmp_path / "data", tmp_path / "datasets"
    folder.mkdir()
    (folder / "style_1").symlink_to(behind / "style_1", target_is_directory=True)
    for path in [*behind.rglob("*"), behind, folder]:
        os.utime(path, (1e9, 1e9))
    first = files.checked(folder, 64, datasets)
    assert len(first.entries) == 3
    (behind / "style_1" / "0.txt").write_text("1girl, surprised")
    assert files.checked(folder, 64, datasets).entries[0].caption == "1girl, surprised"
