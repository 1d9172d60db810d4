"""Files of frames, checked by programs that didn't write them: ffprobe, and Pillow's readers."""

from __future__ import annotations

import json
import subprocess
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from studio.core.errors import BadInput
from studio.core.specs import EMOTIONS
from studio.engine.media import output
from studio.engine.media.flow import between, fill

RECIPE = json.dumps({"prompt": "1girl, smile 笑顔", "seed": 7})


def frames(count: int = 5, size: tuple[int, int] = (96, 64)) -> list[Image.Image]:
    """A red ball on a smooth sky that moves to the right: many colours, few of them often."""
    found = []
    for k in range(count):
        y = np.linspace(90, 230, size[1])[:, None]
        x = np.linspace(0, 40, size[0])[None]
        sky = np.stack([y - x, y + 0 * x, 255 - x + 0 * y], -1).clip(0, 255).astype(np.uint8)
        picture = Image.fromarray(sky)
        ImageDraw.Draw(picture).ellipse((8 * k, 20, 8 * k + 12, 32), fill=(230, 10, 30))
        found.append(picture)
    return found


def probe(path: Path) -> dict:
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-show_format", "-of", "json", str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize("form", ["gif", "apng", "webp"])
def test_animated_picture_has_every_frame_its_time_and_an_endless_loop(tmp_path: Path, form) -> None:
    made = frames()
    path = output.write(made, tmp_path / f"a{output.SUFFIXES[form]}", form, fps=8, holds=[1, 1, 3, 1, 1], recipe=RECIPE)
    with Image.open(path) as opened:
        assert opened.size == (96, 64)
        assert opened.n_frames == 5
        assert opened.info["loop"] == 0
        times = []
        for k in range(5):
            opened.seek(k)
            error = np.abs(np.asarray(opened.convert("RGB")).astype(int) - np.asarray(made[k]))
            times.append(opened.info["duration"])
            assert error.mean() < (1 if form == "apng" else 6)
    assert sum(times) == pytest.approx(7 * 125, abs=10)
    assert times[2] == pytest.approx(375, abs=10)
    if form != "webp":  # Debian's ffprobe doesn't decode animated WebP
        stream = probe(path)["streams"][0]
        assert (stream["width"], stream["height"], int(stream["nb_read_frames"])) == (96, 64, 5)
    assert list(tmp_path.iterdir()) == [path]


def test_recipe_is_inside_every_format(tmp_path: Path) -> None:
    made = frames(3)
    with Image.open(output.write(made, tmp_path / "a.gif", "gif", recipe=RECIPE)) as opened:
        assert json.loads(opened.info["comment"]) == json.loads(RECIPE)
    with Image.open(output.write(made, tmp_path / "a.png", "apng", recipe=RECIPE)) as opened:
        assert json.loads(opened.text["studio"]) == json.loads(RECIPE)
    with Image.open(output.write(made, tmp_path / "a.webp", "webp", recipe=RECIPE)) as opened:
        assert json.loads(opened.getexif()[0x010E]) == json.loads(RECIPE)
    webp = (tmp_path / "a.webp").read_bytes()
    assert webp[webp.index(b"EXIF") + 8 :][:4] in (b"II*\0", b"MM\0*")  # ffprobe wants the TIFF header at once
    tags = probe(output.write(made, tmp_path / "a.mp4", "mp4", recipe=RECIPE))["format"]["tags"]
    assert json.loads(tags["comment"]) == json.loads(RECIPE)


@pytest.mark.parametrize("size", [(96, 64), (97, 63)])
def test_mp4_plays_where_h264_does(tmp_path: Path, size: tuple[int, int]) -> None:
    made = frames(9, size)
    path = output.write(made, tmp_path / "a.mp4", "mp4", fps=12, holds=[2] + [1] * 8)
    found = probe(path)
    stream = found["streams"][0]
    assert stream["codec_name"] == "h264"
    assert stream["pix_fmt"] == "yuv420p"
    assert (stream["width"] % 2, stream["height"] % 2) == (0, 0)
    assert stream["color_space"] == "bt709"
    assert int(stream["nb_read_frames"]) == 10
    assert float(found["format"]["duration"]) == pytest.approx(10 / 12, abs=0.01)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # the index comes first: playback starts before the end is loaded
    raw = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    shown = np.frombuffer(raw, np.uint8).reshape(10, stream["height"], stream["width"], 3)
    wanted = np.asarray(made[-1]).astype(int)
    assert np.abs(shown[-1, : size[1], : size[0]] - wanted).mean() < 4


def test_gif_palette_keeps_a_small_bright_mark() -> None:
    made = frames()
    colours = output.palette(made)
    shown = np.asarray(output.to_palette(made[0], colours).convert("RGB")).astype(int)
    assert np.abs(shown[26, 6] - (230, 10, 30)).max() < 16
    # nothing crawls: what stays the same in two frames has the same pixels in both
    other = np.asarray(output.to_palette(made[1], colours).convert("RGB")).astype(int)
    assert np.array_equal(shown[:16], other[:16])


def test_dithering_only_where_the_palette_is_too_small() -> None:
    flat = Image.new("RGB", (64, 64), (10, 200, 30))
    flat.paste((250, 250, 250), (0, 0, 32, 64))
    assert len(output.to_palette(flat, output.palette([flat])).getcolors()) == 2
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (64, 1, 3)))
    few = output.palette([ramp], colours=8)
    plain = np.asarray(ramp.quantize(palette=few, dither=Image.Dither.NONE).convert("L")).astype(float)
    dithered = np.asarray(output.to_palette(ramp, few).convert("L")).astype(float)
    wanted = np.asarray(ramp.convert("L")).astype(float)

    def blurred(x: np.ndarray) -> np.ndarray:
        return x.reshape(8, 8, 32, 8).mean((1, 3))

    assert np.abs(blurred(dithered) - blurred(wanted)).mean() < 0.6 * np.abs(blurred(plain) - blurred(wanted)).mean()


def test_zip_holds_pngs_with_their_recipe_and_is_the_same_every_time(tmp_path: Path) -> None:
    made = frames(3)
    files = [tmp_path / f"{k}.png" for k in range(3)]
    for k, (path, frame) in enumerate(zip(files, made, strict=True)):
        path.write_bytes(output.png(frame, json.dumps({"frame": k})))
    first = output.write(files, tmp_path / "a.zip", "zip", fps=10, recipe=RECIPE)
    second = output.write(files, tmp_path / "b.zip", "zip", fps=10, recipe=RECIPE)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert archive.namelist() == ["frame-001.png", "frame-002.png", "frame-003.png", "recipe.json"]
        about = json.loads(archive.read("recipe.json"))
        assert about == {"fps": 10, "holds": [1, 1, 1], "recipe": json.loads(RECIPE)}
        with Image.open(BytesIO(archive.read("frame-002.png"))) as opened:
            assert np.array_equal(np.asarray(opened), np.asarray(made[1]))
            assert json.loads(opened.text["studio"]) == {"frame": 1}, "its own, not that of the first frame"


def test_sprite_set_has_the_names_that_front_ends_look_for(tmp_path: Path) -> None:
    assert len(output.GOEMOTIONS) == 28
    assert set(filter(None, output.GOEMOTIONS.values())) == set(EMOTIONS)
    pictures = dict(zip(EMOTIONS, frames(5), strict=True))
    files = {emotion: tmp_path / f"{emotion}.png" for emotion in EMOTIONS}
    for emotion, file in files.items():
        file.write_bytes(output.png(pictures[emotion], json.dumps({"emotion": emotion})))
    path = output.sprites(files, tmp_path / "s.zip")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        about = json.loads(archive.read("sprites.json"))
        with Image.open(BytesIO(archive.read("grief.png"))) as opened:
            assert np.array_equal(np.asarray(opened), np.asarray(pictures["sad"]))
            assert json.loads(opened.text["studio"]) == {"emotion": "sad"}
    assert {"joy.png", "anger.png", "sadness.png", "surprise.png", "neutral.png"} <= set(names)
    assert sorted(about["without_a_picture"]) == [
        "confusion", "curiosity", "desire", "embarrassment", "fear", "nervousness",
    ]  # fmt: skip
    assert len(names) == 28 - 6 + 1
    only = output.sprites({"happy": frames(1)[0]}, tmp_path / "h.zip")
    with zipfile.ZipFile(only) as archive:
        assert "anger.png" not in archive.namelist()


def test_bad_requests_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no frames"):
        output.write([], tmp_path / "a.gif", "gif")
    with pytest.raises(BadInput, match="one size"):
        output.write([*frames(1), *frames(1, (64, 64))], tmp_path / "a.gif", "gif")
    with pytest.raises(BadInput, match="emotion"):
        output.sprites({}, tmp_path / "s.zip")
    assert not list(tmp_path.iterdir())


def test_arranging_keeps_the_time_of_holds_and_doubles_no_end() -> None:
    made = frames(3)
    shown, times = output.arrange(made, [1, 2, 1], loop_back=True)
    assert [made.index(frame) for frame in shown] == [0, 1, 2, 1]
    assert times == [1, 2, 1, 2]
    shown, times = output.arrange(made, [1, 2, 1], inbetweens=2)
    assert len(shown) == 7
    assert times == [1, 1, 1, 4, 1, 1, 1]
    assert shown[::3] == made  # as they were, so that files keep their recipes


def test_filmstrip_lines_frames_up() -> None:
    strip = output.filmstrip(frames(4), height=32, gap=2)
    assert strip.size == (4 * 48 + 3 * 2, 32)


def test_flow_moves_instead_of_fading() -> None:
    a, b = frames(2, (128, 96))
    (middle,) = between(a, b, 1)
    reds = np.argwhere((np.asarray(middle).astype(int) - (230, 10, 30)).__abs__().sum(-1) < 90)
    assert reds[:, 1].mean() == pytest.approx(4 + 6, abs=2)  # half of the 8 px
    blend = np.asarray(Image.blend(a, b, 0.5)).astype(int)
    assert len(reds) > np.sum(np.abs(blend - (230, 10, 30)).sum(-1) < 90)
    assert np.array_equal(np.asarray(between(a, a, 1)[0]), np.asarray(a))
    assert len(list(fill([a, b, a], 2))) == 7
    assert next(iter(fill([a], 3))) is a


def test_a_gif_is_no_faster_than_browsers_show_it(tmp_path: Path) -> None:
    with Image.open(output.write(frames(6), tmp_path / "a.gif", "gif", fps=120)) as opened:
        times = []
        for k in range(opened.n_frames):
            opened.seek(k)
            times.append(opened.info["duration"])
    assert min(times) >= 20
