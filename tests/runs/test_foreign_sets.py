"""Training sets as other tools and systems leave them: what is trained on, and a sentence for all that isn't."""

from __future__ import annotations

import io
import json
import os
import unicodedata
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from support.training_sets import picture

from studio.core.errors import BadInput
from studio.runs import dataset
from studio.runs.dataset import Report


def put(path: Path, seed: int, caption: bytes | None = None, suffix: str = ".txt") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path, "PNG")
    if caption is not None:
        path.with_suffix(suffix).write_bytes(caption)


def captions(report: Report) -> dict[str, str]:
    return {entry.file: entry.caption for entry in report.entries}


def plain_zip(names: list[str], encoding: str, path: Path) -> Path:
    """As Explorer packs: a name of as many bytes in ASCII first, then exchanged for the real one."""
    stream = io.BytesIO()
    placeholders = {}
    with zipfile.ZipFile(stream, "w") as bundle:
        for number, name in enumerate(names):
            raw = name.encode(encoding)
            placeholders[f"{number:02d}".ljust(len(raw), "x").encode()] = raw
            data = b"1girl, smile"
            if name.lower().endswith(".png"):
                buffer = io.BytesIO()
                picture(number).save(buffer, "PNG")
                data = buffer.getvalue()
            bundle.writestr(f"{number:02d}".ljust(len(raw), "x"), data)
    packed = stream.getvalue()
    for held, raw in placeholders.items():
        packed = packed.replace(held, raw)
    path.write_bytes(packed)
    return path


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "folder", "word"),
    [
        ("cp932", "10_青髪/表", "青髪"),
        ("utf-8", "10_青髪/表", "青髪"),
        ("gbk", "10_蓝色头发/微笑", "蓝色头发"),
        ("cp850", "10_Mädchen/grün", "Mädchen"),
        ("cp1252", "10_señorita/café", "señorita"),
    ],
)
def test_names_in_an_archive_of_another_system(tmp_path: Path, encoding: str, folder: str, word: str) -> None:
    """The second byte of 表 is a backslash: decoded before separators are changed."""
    archive = plain_zip([f"{folder}.png", f"{folder}.txt"], encoding, tmp_path / "set.zip")
    report = dataset.check(dataset.folder_of(archive, tmp_path / "datasets"), 64)
    assert captions(report) == {f"{folder}.png": "1girl, smile"}
    assert report.triggers == {word: 1}
    assert report.entries[0].repeats == 10


def test_names_that_can_not_be_told_are_refused_with_the_archives_name(tmp_path: Path) -> None:
    archive = plain_zip(["10_синие/а.png"], "koi8-r", tmp_path / "set.zip")
    with pytest.raises(BadInput, match=r"names in set\.zip are in an encoding that can't be told"):
        dataset.folder_of(archive, tmp_path / "datasets")
    assert list((tmp_path / "datasets").iterdir()) == []


def test_names_that_are_not_utf8_are_named_and_left_out(tmp_path: Path) -> None:
    put(tmp_path / "b.png", 1, b"1girl")
    put(tmp_path / "a.png", 2, b"1girl, hat")
    for suffix in (b".png", b".txt"):
        os.rename(
            os.fsencode(tmp_path) + b"/a" + suffix, os.fsencode(tmp_path) + b"/" + "青髪".encode("cp932") + suffix
        )
    report = dataset.check(tmp_path, 64)
    assert captions(report) == {"b.png": "1girl"}
    assert [problem.file for problem in report.problems] == ["青髪.png", "青髪.txt"]
    assert all("isn't UTF-8" in said for said in report.left_out)
    assert report.model_dump_json()
    os.remove(tmp_path / "b.png")
    with pytest.raises(BadInput, match=r"青髪\.png has a name that isn't UTF-8"):
        dataset.check(tmp_path, 64)


def test_a_set_whose_own_path_is_not_utf8_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "set" / "a.png", 1, b"1girl")
    folder = os.fsencode(tmp_path) + b"/\x90\xc2"
    os.rename(tmp_path / "set", folder)
    with pytest.raises(BadInput, match="isn't UTF-8"):
        dataset.folder_of(Path(os.fsdecode(folder)), tmp_path / "datasets")


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    archive = plain_zip(["a/b.png", "a/c.png"], "ascii", tmp_path / "set.zip")
    archive.write_bytes(archive.read_bytes().replace(b"a/c.png", b"a/b.png"))
    with pytest.raises(BadInput, match=r"set\.zip has more than one entry called 'a/b\.png'"):
        dataset.folder_of(tmp_path / "set.zip", tmp_path / "datasets")


def test_every_file_is_used_or_named_and_none_is_both(tmp_path: Path) -> None:
    put(tmp_path / "a.png", 1, b"1girl, hat")
    picture(2).save(tmp_path / "a.jpg")  # a picture of its own with the same caption
    picture(3).save(tmp_path / "b.gif")
    os.mkfifo(tmp_path / "c.png")
    (tmp_path / "notes.md").write_text("x")
    report = dataset.check(tmp_path, 64)
    assert captions(report) == {"a.jpg": "1girl, hat", "a.png": "1girl, hat"}
    assert sorted(problem.file for problem in report.problems) == ["b.gif", "c.png", "notes.md"]
    assert not any(problem.used for problem in report.problems)


def test_what_systems_leave_beside_files_is_no_picture(tmp_path: Path) -> None:
    names = ("__MACOSX/set/._a.png", "._a.png", "@eaDir/a.png/SYNOPHOTO_THUMB_M.png", "$RECYCLE.BIN/x.png",
             "System Volume Information/y.png", ".thumbnails/z.png", "#recycle/v.png")  # fmt: skip
    put(tmp_path / "set" / "a.png", 1, b"1girl")
    for seed, name in enumerate(names, 2):
        put(tmp_path / "set" / name, seed)
    for name in ("thumbs.db", "Thumbs.db", "DESKTOP.INI", ".DS_Store"):
        (tmp_path / "set" / name).write_bytes(b"x")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as bundle:
        for path in (tmp_path / "set").rglob("*"):
            if path.is_file():
                bundle.write(path, path.relative_to(tmp_path / "set"))
    for data in (tmp_path / "set", tmp_path / "set.zip"):
        report = dataset.check(dataset.folder_of(data, tmp_path / "datasets"), 64)
        assert (captions(report), report.problems) == ({"a.png": "1girl"}, ())


def test_capitals_and_accents_of_macos_are_the_same_name(tmp_path: Path) -> None:
    put(tmp_path / "A.PNG", 1)
    (tmp_path / "A.TXT").write_text("1girl, hat")
    put(tmp_path / "b.JPeG", 2)
    (tmp_path / "B.txt").write_text("1girl, scarf")
    put(tmp_path / unicodedata.normalize("NFD", "é.png"), 3)
    (tmp_path / unicodedata.normalize("NFC", "é.txt")).write_text("1girl, café")
    put(tmp_path / "c.png", 4)
    (tmp_path / "c.png.txt").write_text("1girl, bow")
    put(tmp_path / "d.png", 5, b"exact")
    (tmp_path / "D.TXT").write_text("other")
    report = dataset.check(tmp_path, 64)
    assert sorted(captions(report).values()) == ["1girl, bow", "1girl, café", "1girl, hat", "1girl, scarf", "exact"]
    assert [problem.file for problem in report.problems if not problem.used] == ["D.TXT"]


def test_links_are_followed_and_a_circle_ends(tmp_path: Path) -> None:
    store, made = tmp_path / "store", tmp_path / "set"
    for number in range(3):
        put(store / f"{number}.png", number, b"1girl")
    put(store / "more" / "x.png", 9, b"1boy")
    made.mkdir()
    for number in range(3):
        for suffix in (".png", ".txt"):
            (made / f"{number}{suffix}").symlink_to(store / f"{number}{suffix}")
    (made / "style").symlink_to(store / "more")
    (made / "again").symlink_to(made)
    (made / "gone.png").symlink_to(store / "nothing.png")
    report = dataset.check(made, 64)
    assert captions(report) == {"0.png": "1girl", "1.png": "1girl", "2.png": "1girl", "style/x.png": "1boy"}
    assert {problem.file for problem in report.problems} == {"again", "gone.png"}
    dataset.write_captions(made, {"0.png": "1girl, hat"})
    assert captions(dataset.check(made, 64))["0.png"] == "1girl, hat"
    assert (store / "0.txt").read_bytes() == b"1girl"  # beside the link, never behind it
    with pytest.raises(BadInput):
        dataset.write_captions(made, {"style/x.png": "no"})


@pytest.mark.parametrize("name", ["0.txt", "metadata.jsonl", "0.caption"])
def test_a_link_to_a_text_of_somebody_else_is_not_read(tmp_path: Path, name: str) -> None:
    made, secret = tmp_path / "set", tmp_path / "home" / "secret"
    put(made / "0.png", 0)
    put(made / "1.png", 1, b"1girl")
    secret.parent.mkdir()
    for path in (secret, secret.with_suffix(".txt")):
        path.write_text('{"file_name": "0.png", "text": "a password"}')
        (made / name).unlink(missing_ok=True)
        (made / name).symlink_to(path)
        report = dataset.check(made, 64)
        assert captions(report) == {"0.png": "", "1.png": "1girl"}
        assert "isn't beside a picture of the set" in str(report.problems)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_of_kohya_s_project_only_img_is_trained_on(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / "img" / "10_mychar girl" / f"{number}.png", number, b"1girl, standing")
        put(tmp_path / "reg" / "1_girl" / f"{number}.png", 50 + number, b"1girl")
    put(tmp_path / "model" / "sample" / "s.png", 90)
    for name in ("log", "model"):
        (tmp_path / name).mkdir(exist_ok=True)
    report = dataset.check(tmp_path, 64)
    assert [entry.file for entry in report.entries] == [f"img/10_mychar girl/{number}.png" for number in range(3)]
    assert report.triggers == {"mychar girl": 3}
    assert {entry.repeats for entry in report.entries} == {10}
    assert report.per_epoch == 30
    said = " ".join(report.left_out)
    assert "reg/ (3 pictures) is left out: regularisation" in said
    assert "model/ (1 picture) is left out: not below img/" in said
    assert "log/ is empty" not in said


def test_numbered_folders_wherever_they_are(tmp_path: Path) -> None:
    put(tmp_path / "5_one" / "a.png", 1, b"x")
    put(tmp_path / "reg" / "1_girl" / "b.png", 2, b"y")
    put(tmp_path / "plain" / "c.png", 3, b"z")
    (tmp_path / "2_empty").mkdir()
    report = dataset.check(tmp_path, 64)
    assert {entry.file: (entry.trigger, entry.repeats) for entry in report.entries} == {
        "5_one/a.png": ("one", 5),
        "plain/c.png": ("plain", None),
    }
    assert "2_empty/ is empty." in report.left_out
    alone = dataset.check(tmp_path / "5_one", 64)
    assert (alone.entries[0].trigger, alone.entries[0].repeats) == ("one", 5)
    zero = tmp_path / "zero"
    put(zero / "0_two" / "a.png", 4)
    assert dataset.check(zero, 64).entries[0].repeats is None


@pytest.mark.parametrize(
    ("name", "word"),
    [("train/a.png", ""), ("Images/a.png", ""), ("train/ink/a.png", "ink"), ("ink/train/a.png", "ink"),
     ("dataset/images/a.png", ""), ("train/5_ink/a.png", "ink")],
)  # fmt: skip
def test_a_folder_that_only_holds_the_set_is_no_trigger_word(tmp_path: Path, name: str, word: str) -> None:
    put(tmp_path / name, 1, b"1girl")
    (tmp_path / "metadata.jsonl").touch()
    assert dataset.check(tmp_path, 64).triggers == ({word: 1} if word else {})


def test_onetrainer_s_concepts_and_masks(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2), ("off", 3)):
        put(tmp_path / name / "red_hat.png", seed, b"from the file")
        put(tmp_path / name / "red_hat-masklabel.png", 20 + seed)
    concepts = [
        {"name": "a", "path": "C:\\sets\\one", "balancing": 4.0, "balancing_strategy": "REPEATS"},
        {"name": "b", "path": "/home/x/two", "text": {"prompt_source": "filename"}},
        {"name": "c", "path": "off", "enabled": False},
    ]
    (tmp_path / "concepts.json").write_text(json.dumps(concepts))
    report = dataset.check(tmp_path, 64)
    assert {entry.file: (entry.caption, entry.repeats) for entry in report.entries} == {
        "one/red_hat.png": ("from the file", 4),
        "two/red_hat.png": ("red hat", None),
    }
    said = " ".join(report.left_out)
    assert "3 masks" in said
    assert "off is left out: concepts.json has it turned off" in said


# --- captions ---------------------------------------------------------------------------------------------------------

TAGS = {
    "utf-8": ("青い髪", "señorita", "蓝色头发", "синие волосы"),
    "utf-8-sig": ("青い髪", "señorita"),
    "utf-16": ("青い髪", "café"),
    "utf-16-le": ("青い髪", "the girl’s scarf"),
    "utf-16-be": ("青い髪", "café"),
    "cp932": ("青い髪", "セーラー服", "笑顔"),
    "cp1252": ("the girl’s red scarf", "señorita", "café", "naïve look", "long hair – twintails"),
    "gbk": ("蓝色头发", "校服", "双马尾"),
    "koi8-r": ("синие волосы", "улыбка"),
    "euc-kr": ("파란 머리", "미소"),
    "big5": ("藍色頭髮",),
    "cp1251": ("улыбка",),
    "mac-roman": ("señorita", "café"),
}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_right_words_or_a_true_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    encoding = data.draw(st.sampled_from(sorted(TAGS)))
    tags = data.draw(st.lists(st.sampled_from(TAGS[encoding]), min_size=1, max_size=3, unique=True))
    place = data.draw(st.sampled_from([".txt", ".caption", ".TXT", "metadata.jsonl", "metadata.csv"]))
    folder = tmp_path_factory.mktemp("words")
    put(folder / "a.png", 1)
    caption = ", ".join(["1girl", *tags])
    if place.startswith("metadata"):
        row = json.dumps({"file_name": "a.png", "text": caption}, ensure_ascii=False)
        text = row if place.endswith("jsonl") else f'file_name,text\na.png,"{caption}"\n'
        (folder / place).write_bytes(text.encode(encoding))
    else:
        (folder / f"a{place}").write_bytes(caption.encode(encoding))
    report = dataset.check(folder, 64)
    found = report.entries[0].caption
    if found != caption:
        assert found == ""
        assert not encoding.startswith("utf")
        said = " ".join(problem.message for problem in report.problems)
        assert "in an encoding that can't be told" in said
        assert (place if place.startswith("metadata") else f"a{place}") in said


def test_captions_of_european_windows(tmp_path: Path) -> None:
    said = (
        "1girl, the girl’s red scarf",
        "1girl, señorita, red dress",
        "1girl, café, naïve look",
        "1girl, long hair – twintails",
    )
    for number, text in enumerate(said):
        put(tmp_path / f"{number}.png", number, text.encode("cp1252"))
    report = dataset.check(tmp_path, 64)
    assert tuple(entry.caption for entry in report.entries) == said
    assert not report.problems


def test_a_caption_that_can_not_be_read_is_no_words(tmp_path: Path) -> None:
    put(tmp_path / "10_neon" / "a.png", 1, "синие волосы".encode("koi8-r"))
    report = dataset.check(tmp_path, 64)
    assert report.entries[0].prompt == "neon"
    assert report.problems[0].message == (
        "10_neon/a.png has a caption in an encoding that can't be told (10_neon/a.txt): it is trained with only its "
        "trigger word, neon. Save the caption as UTF-8."
    )


def test_lists_of_kohya_and_diffusers(tmp_path: Path) -> None:
    for number in range(4):
        put(tmp_path / f"{number}.png", number)
    kohya = {
        "/some/where/0": {"caption": "a girl", "tags": "1girl, hat"},
        "1.png": {"tags": "1boy"},
        "nothing": {"tags": "x"},
    }
    (tmp_path / "meta_lat.json").write_text(json.dumps(kohya))
    (tmp_path / "metadata.csv").write_bytes('\ufefffile_name,text\n2.PNG,"1girl, 青い髪"\n'.encode())
    (tmp_path / "metadata.jsonl").write_text('{"image": "3.png", "caption": "1girl, bow"}\n["no"]\n')
    report = dataset.check(tmp_path, 64)
    assert list(captions(report).values()) == ["a girl, 1girl, hat", "1boy", "1girl, 青い髪", "1girl, bow"]
    assert [problem.message for problem in report.problems] == [
        'metadata.jsonl, line 2, is not {"file_name": ..., "text": ...}: it is left out.'
    ]


def face(mouth: int) -> Image.Image:
    drawn = Image.new("RGB", (256, 256), "white")
    pen = ImageDraw.Draw(drawn)
    pen.ellipse((40, 30, 216, 226), fill="bisque", outline="black", width=4)
    pen.rectangle((40, 20, 216, 80), fill="navy")
    pen.arc((110, 160, 146, 180), mouth, mouth + 180, fill="red", width=3)
    return drawn


def test_five_faces_of_one_drawing_are_no_duplicates_where_captions_differ(tmp_path: Path) -> None:
    for number, mood in enumerate(("angry", "happy", "neutral", "sad", "surprised")):
        face(36 * number).save(tmp_path / f"{mood}.png")
        (tmp_path / f"{mood}.txt").write_text(f"1girl, {mood}")
    face(0).save(tmp_path / "twice.png")
    (tmp_path / "twice.txt").write_text("1girl, angry")
    report = dataset.check(tmp_path, 256)
    assert len(report.entries) == 5
    assert report.left_out == ("twice.png looks the same as angry.png and has the same caption: it is left out.",)


def test_the_summary_says_all_of_it(tmp_path: Path) -> None:
    put(tmp_path / "10_neon" / "a.png", 1, b"1girl")
    put(tmp_path / "10_neon" / "b.png", 2)
    (tmp_path / "notes.pdf").write_bytes(b"x")
    lines = dataset.check(tmp_path, 64).summary()
    assert lines[0] == (
        "2 pictures, 20 in an epoch (repeats: 10). Trigger words: neon (2). Without a caption: 1. Left out: 1."
    )
    assert any(line.startswith("notes.pdf is neither") for line in lines)
    assert any("10_neon/b.png has no caption" in line for line in lines)
