"""The painted corpus, and the example data that ships with the studio."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studio.pretraining import corpus, examples
from studio.pretraining.painter import paint, tags, vocabulary
from studio.runs import dataset

SHIPPED = examples.ROOT


def test_shards_are_what_the_model_was_trained_on() -> None:
    words = [
        tags(spec) for shard, variety in ((0, "small"), (100, "full")) for spec in corpus.specs(shard, 200, variety)
    ]
    assert (
        hashlib.sha256(json.dumps(words).encode()).hexdigest()
        == "b26e042aa454008a3d767085bbec3ed6d98a48b25228e1ebd4abcbb8c3f4a6cb"
    )


def test_a_shard_is_balanced_and_the_small_variety_keeps_still() -> None:
    small, full = corpus.specs(3, 200, "small"), corpus.specs(103, 200, "full")
    for drawn in (small, full):
        assert set(Counter((spec.emotion, spec.style) for spec in drawn).values()) == {10}
    assert {(spec.tilt, spec.turn, spec.scale, spec.gaze, spec.tip_color) for spec in small} == {
        (0, 0, 1, "viewer", "")
    }
    assert {spec.background for spec in small} == {"plain", "gradient"}
    assert sum(bool(spec.accessories) for spec in small) < 0.15 * len(small)
    assert len({spec.background for spec in full}) > 8
    assert len({spec.tilt for spec in full}) > 50
    assert corpus.specs(3, 20, "small") == small[:20]


def test_a_shard_holds_its_pictures_and_labels_and_is_painted_once(tmp_path: Path) -> None:
    assert corpus.paint_shard(tmp_path, 104, 5, "full")
    pixels, rows = np.load(tmp_path / "p104.npy"), json.loads((tmp_path / "m104.json").read_text())
    assert pixels.shape == (5, 256, 256, 3)
    assert pixels.dtype == np.uint8
    specs = corpus.specs(104, 5, "full")
    for i in (0, 4):
        assert (pixels[i] == np.asarray(paint(specs[i], 256, 10_400_000 + i))).all()
        assert rows[i]["tags"] == tags(specs[i])
        assert (rows[i]["paint_seed"], rows[i]["hair_color"]) == (10_400_000 + i, specs[i].hair_color)
    assert not corpus.paint_shard(tmp_path, 104, 5, "full")
    assert {path.name for path in tmp_path.iterdir()} == {"p104.npy", "m104.json"}


def test_a_shard_that_was_cut_off_is_painted_again(tmp_path: Path) -> None:
    corpus.paint_shard(tmp_path, 1, 3, "small")
    before = (tmp_path / "p001.npy").read_bytes()
    (tmp_path / "m001.json").unlink()
    (tmp_path / "p001.npy").write_bytes(before[:1000])
    assert corpus.paint_shard(tmp_path, 1, 3, "small")
    assert (tmp_path / "p001.npy").read_bytes() == before


def test_the_command_paints_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--out", str(tmp_path / "new"), "--variety", "small", "--shards", "2", "--size", "2", "--first", "7"]
    corpus.main(command)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "m007.json",
        "m008.json",
        "p007.npy",
        "p008.npy",
    ]
    assert capsys.readouterr().out.count("painted in") == 2
    corpus.main([*command, "--processes", "1"])
    assert capsys.readouterr().out.count("complete already") == 2
    with pytest.raises(SystemExit):
        corpus.main([*command, "--shards", "0"])


# ---- assets/examples


def test_the_example_data_set_is_whole() -> None:
    pictures = sorted((SHIPPED / "style_1").glob("*.jpg"))
    assert len(pictures) == examples.COUNT == 32
    assert sum(path.stat().st_size for path in (SHIPPED / "style_1").iterdir()) < 3_000_000
    known, emotions, hair = set(vocabulary()), Counter[str](), set()
    for path, spec in zip(pictures, examples.data_set(), strict=True):
        with Image.open(path) as picture:
            assert (picture.size, picture.mode) == ((256, 256), "RGB")
        caption = path.with_suffix(".txt").read_text().strip()
        assert caption == examples.caption(spec)
        trigger, *rest = caption.split(", ")
        assert trigger == examples.TRIGGER
        assert set(rest) <= known
        assert not any(tag.endswith(("style", "background")) for tag in rest)
        emotions[spec.emotion] += 1
        hair.add((spec.hair_color, spec.hair_style))
    assert min(emotions.values()) >= 6
    assert len(emotions) == 5
    assert len(hair) == 32


def test_the_trainer_has_nothing_to_say_against_the_data_set() -> None:
    report = dataset.check(SHIPPED / "style_1", 256)
    assert len(report.entries) == examples.COUNT
    assert report.problems == ()


def test_the_shipped_pictures_are_what_the_code_makes() -> None:
    for i in (0, 17):
        shipped = np.asarray(Image.open(SHIPPED / "style_1" / f"{i + 1:02d}.jpg"), np.float32)
        made = np.asarray(examples.neonwave(examples.data_set()[i], i), np.float32)
        assert np.abs(shipped - made).mean() < 4  # JPEG


def test_the_look_is_consistent_and_not_the_painters() -> None:
    specs = examples.data_set()
    shipped = [np.asarray(Image.open(path), np.float32) for path in sorted((SHIPPED / "style_1").glob("*.jpg"))]
    corners = np.array([picture[:12, :12].mean((0, 1)) for picture in shipped])
    assert corners.std(0).max() < 12  # the same night sky
    for i in range(0, 32, 8):
        painted = np.asarray(paint(specs[i], 256, i), np.float32)
        assert np.abs(painted - shipped[i]).mean() > 40


@pytest.mark.parametrize("name", sorted(examples.SKETCHES))
def test_sketches_are_dark_lines_on_white(name: str) -> None:
    path = SHIPPED / "sketches" / f"{name}.png"
    grey = np.asarray(Image.open(path).convert("L"))
    assert grey.shape == (512, 512)
    assert path.stat().st_size < 100_000
    assert 0.02 < (grey < 128).mean() < 0.15
    assert (grey > 240).mean() > 0.75
    assert np.abs(grey.astype(int) - np.asarray(examples.sketch(name)).astype(int)).mean() < 3
    assert set(path.with_suffix(".txt").read_text().strip().split(", ")) <= set(vocabulary())


def test_the_examples_say_their_licence_and_how_they_were_made(tmp_path: Path) -> None:
    text = (SHIPPED / "README.md").read_text()
    assert "CC0 1.0" in text
    assert "python -m studio.pretraining.examples" in text
    assert text == examples.README
