"""Morph, animate and sprites through the service, and their pages: frames one by one, a retry goes on, every format."""

from __future__ import annotations

import io
import json
import subprocess
import zipfile
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from support.checkpoints import tiny_sd
from support.pages import app
from support.watching import watch

from studio.core.errors import BadInput
from studio.core.settings import Settings, settings
from studio.core.specs import GenerateSpec
from studio.features import frames as frame_files
from studio.features.animate.spec import AnimateSpec, SpritesSpec
from studio.features.morph.spec import MorphSpec
from studio.interfaces.cli.main import main
from studio.interfaces.web.resources import studio as page_studio
from studio.service import Studio, parse_spec

BASE = GenerateSpec(model="tiny", steps=4, seed=3, text="red hair")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.mktemp("jobs")
    tiny_sd(home / "models" / "tiny")
    made = Studio(Settings(home=home, device="cpu", offline=True))
    yield made
    made.close()


def png(size: tuple[int, int] = (64, 64), mode: str = "RGB", form: str = "PNG", **options) -> bytes:
    picture = Image.new("RGB", size, (220, 200, 180))
    ImageDraw.Draw(picture).ellipse((size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2), fill=(90, 20, 30))
    stream = io.BytesIO()
    picture.convert(mode).save(stream, form, **options)
    return stream.getvalue()


def done(studio: Studio, spec):
    job = studio.wait(studio.submit(spec, "me").id, "me", 120)
    assert job.state == "done", job.error
    return job


def test_five_frames_of_a_morph_and_their_loop(studio: Studio) -> None:
    job = done(studio, MorphSpec(base=BASE, emotions=("happy", "sad")))
    frames = [studio.picture(id, "me") for id in job.result["frames"]]
    assert [frame.details["place"] for frame in frames] == [0, 0.25, 0.5, 0.75, 1]
    assert [frame.recipe.labels["emotion"] for frame in frames] == ["happy", "happy", "sad", "sad", "sad"]
    assert len({frame.id for frame in frames}) == 5
    with Image.open(io.BytesIO(studio.picture_bytes(job.result["animation"], "me"))) as loop:
        assert (loop.format, loop.n_frames, loop.info["loop"]) == ("GIF", 8, 0)
    assert [picture.kind for picture in studio.gallery("me", kind="animation")] == ["animation"]
    for form, beginning in (("mp4", b"ftyp"), ("webp", b"RIFF"), ("apng", b"PNG"), ("zip", b"PK")):
        assert beginning in studio.animation(job.result["animation"], "me", form)[:12]


def recipe_in(data: bytes) -> dict:
    with Image.open(io.BytesIO(data)) as picture:
        return json.loads(picture.info["studio"])


def test_files_carry_recipes_without_folders_and_every_frame_its_own(studio: Studio, tmp_path: Path) -> None:
    model = tiny_sd(tmp_path / "secret" / "model")
    base = BASE.model_copy(update={"model": str(model), "seed": 6})
    job = done(studio, MorphSpec(base=base, frames=3, format="zip"))
    made = job.result["animation"]
    for form in ("gif", "apng", "webp", "mp4", "zip"):
        assert b"secret" not in studio.animation(made, "me", form)
    frames = [studio.picture(id, "me") for id in job.result["frames"]]
    assert b"secret" not in frame_files.filmstrip([frame.path for frame in frames], frames[0].recipe)
    with zipfile.ZipFile(io.BytesIO(studio.picture_bytes(made, "me"))) as archive:
        inside = [recipe_in(archive.read(f"frame-{number:03d}.png")) for number in (1, 2, 3)]
        assert "secret" not in archive.read("recipe.json").decode()
    assert [json.loads(recipe["frame"])["place"] for recipe in inside] == [0, 0.5, 1]
    packed = done(studio, SpritesSpec(base=base, emotions=("sad",))).result["sprites"]
    with zipfile.ZipFile(io.BytesIO(studio.picture_bytes(packed, "me"))) as archive:
        assert not any(b"secret" in archive.read(name) for name in archive.namelist())


def test_a_gif_leaves_out_what_it_has_no_time_for_and_says_so(studio: Studio) -> None:
    spec = AnimateSpec(base=BASE, frames=2, fps=20, inbetweens=3)
    job = done(studio, spec)
    assert any("50 frames a second" in note for note in job.notes)

    def frames_in(form: str) -> int:
        with Image.open(io.BytesIO(studio.animation(job.result["animation"], "me", form))) as loop:
            return loop.n_frames

    assert (frames_in("gif"), frames_in("webp")) == (3, 5)
    slower = done(studio, spec.model_copy(update={"fps": 12}))
    assert not any("50 frames a second" in note for note in slower.notes)


def test_a_repeated_request_draws_nothing_and_half_a_one_goes_on(studio: Studio) -> None:
    spec = MorphSpec(base=BASE.model_copy(update={"seed": 4}), emotions=("calm", "angry"), format="mp4")
    first = done(studio, spec)
    assert studio.picture(first.result["animation"], "me").path.suffix == ".mp4"
    assert studio.picture(first.result["preview"], "me").path.suffix == ".gif"
    again = done(studio, spec)
    assert again.result["frames"] == first.result["frames"]
    assert set(again.cached) == set(first.result["frames"])
    before = studio.picture_bytes(first.result["frames"][3], "me")
    more = done(studio, spec.model_copy(update={"frames": 9}))
    assert len(more.cached) == 5  # every second of nine
    assert more.result["frames"][6] == first.result["frames"][3]
    assert studio.picture_bytes(more.result["frames"][6], "me") == before


def test_cancel_keeps_the_frames_that_are_done_and_a_retry_takes_them_over(studio: Studio) -> None:
    spec = AnimateSpec(base=BASE.model_copy(update={"steps": 40, "seed": 9}), frames=12, emotions=("happy", "sad"))
    job = studio.submit(spec, "me")
    for view in watch(studio, job.id):
        if len(view.pictures) >= 3:
            studio.cancel(job.id, "me")
            break
    view = studio.wait(job.id, "me", 120)
    assert view.state == "cancelled"
    kept = [id for id in view.pictures if studio.picture(id, "me").kind == "frame"]
    assert 1 < len(kept) < 12, "frames are there before all of them are drawn"
    again = studio.again(job.id, "me")
    for view in watch(studio, again.id):
        if set(kept) <= set(view.pictures):
            break
    studio.cancel(again.id, "me")
    assert set(kept) <= set(studio.wait(again.id, "me", 120).cached)


def test_an_animation_draws_its_source_first(studio: Studio) -> None:
    base = BASE.model_copy(update={"seed": 11})  # frames that differ: WebP joins equal ones
    job = done(studio, AnimateSpec(base=base, frames=5, emotions=("happy", "sad"), inbetweens=1, format="webp"))
    source = studio.picture(job.result["source"], "me")
    assert source.kind == "picture"
    assert source.recipe.labels["emotion"] == "happy"
    frames = [studio.picture(id, "me") for id in job.result["frames"]]
    assert [frame.recipe.strength for frame in frames] == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7])
    with Image.open(io.BytesIO(studio.picture_bytes(job.result["animation"], "me"))) as loop:
        assert loop.n_frames == 9


def test_an_uploaded_picture_is_changed_in_place(studio: Studio) -> None:
    upload = studio.upload(png((128, 64)), "me", "her.png")
    job = done(studio, MorphSpec(base=BASE, image=upload.id, frames=3, method="prompt"))
    assert any("changed in place" in note for note in job.notes)
    frame = studio.picture(job.result["frames"][2], "me")
    assert frame.recipe.source == upload.id
    assert (frame.width, frame.height) == (96, 64)


def test_a_picture_drawn_here_keeps_its_seed_and_words(studio: Studio) -> None:
    drawn = done(
        studio, GenerateSpec(model="tiny", steps=4, seed=77, prompt="1girl, happy, blue hair", emotion="happy")
    )
    base = GenerateSpec(model="tiny")
    job = done(
        studio, MorphSpec(base=base, image=drawn.pictures[0], emotions=("happy", "angry"), frames=3, method="prompt")
    )
    recipe = studio.picture(job.result["frames"][2], "me").recipe
    assert (recipe.seed, recipe.steps, recipe.model) == (77, 4, "tiny")
    assert "blue hair" in recipe.prompt
    assert "angry" in recipe.prompt
    assert "happy" not in recipe.prompt


def test_equal_steps_and_a_chain(studio: Studio) -> None:
    job = done(studio, MorphSpec(base=BASE, emotions=("happy", "sad", "calm"), frames=5, retime=True, pingpong=False))
    assert len(job.result["frames"]) == 5
    assert len(job.pictures) == 6


def test_the_sprite_set_has_a_file_for_every_label_it_can_show(studio: Studio) -> None:
    for image in (None, studio.upload(png(), "me").id):
        job = done(studio, SpritesSpec(base=BASE, image=image))
        assert len(set(job.result["frames"])) == 5
        with zipfile.ZipFile(io.BytesIO(studio.picture_bytes(job.result["sprites"], "me"))) as archive:
            names = set(archive.namelist())
            assert {"joy.png", "anger.png", "sadness.png", "surprise.png", "neutral.png"} <= names
            assert "fear" in json.loads(archive.read("sprites.json"))["without_a_picture"]
            for name, emotion in (("joy.png", "happy"), ("anger.png", "angry"), ("grief.png", "sad")):
                assert recipe_in(archive.read(name))["labels"]["emotion"] == emotion
    one = done(studio, SpritesSpec(base=BASE, emotions=("sad",)))
    assert len(one.result["frames"]) == 1


@pytest.mark.parametrize("mode", ["RGBA", "CMYK", "P", "L"])
def test_other_kinds_of_pictures_are_read(studio: Studio, mode: str) -> None:
    data = png(mode=mode, form="JPEG" if mode == "CMYK" else "PNG")
    upload = studio.upload(data, "me")
    job = done(studio, AnimateSpec(base=BASE, image=upload.id, frames=2))
    assert len(job.result["frames"]) == 2


def test_turned_and_moving_pictures_are_read_rightly(studio: Studio) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned = studio.upload(png((96, 64), form="JPEG", exif=exif), "me")
    assert (turned.width, turned.height) == (64, 96)
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    moving = studio.upload(stream.getvalue(), "me")
    assert any("first frame" in note for note in moving.details["notes"])


@pytest.mark.parametrize(
    ("data", "sentence"),
    [(png((1, 1)), "1 x 1"), (png((12_000, 12)), "too thin"), (png()[:-60], "damaged"), (b"", "empty")],
)
def test_unusable_pictures_get_a_sentence(studio: Studio, data: bytes, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        studio.upload(data, "me")


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"kind": "morph", "emotions": ["sad"]}, "emotions"),
        ({"kind": "morph", "emotions": ["sad", "sad"]}, "two different"),
        ({"kind": "morph", "frames": 0}, "frames"),
        ({"kind": "morph", "frames": 3, "emotions": ["sad", "calm", "sad", "calm"]}, "at least as many"),
        ({"kind": "animate", "frames": 0}, "frames"),
        ({"kind": "animate", "strength_to": 0}, "strength_to"),
        ({"kind": "animate", "keyframes": [{"emotion": "sad", "frame": 99}]}, "frame"),
        ({"kind": "animate", "keyframes": [{"emotion": "sad", "frame": 1}] * 2}, "stand on frame 2"),
        ({"kind": "animate", "frames": 4, "keyframes": [{"emotion": "sad", "frame": 5}]}, "past the end"),
    ],
)
def test_impossible_requests_get_a_sentence_and_no_job(studio: Studio, request_: dict, sentence: str) -> None:
    before = len(studio.jobs("me", 1000))
    with pytest.raises(BadInput, match=sentence) as caught:
        studio.submit(parse_spec(request_ | {"base": {"model": "tiny"}}), "me")
    assert "\n" not in str(caught.value)
    assert len(studio.jobs("me", 1000)) == before


def test_the_command_line_writes_frames_and_files(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STUDIO_MODEL", str(tiny_model))
    settings.cache_clear()
    (tmp_path / "her.png").write_bytes(png())

    def answer(*arguments: object) -> dict:
        capsys.readouterr()
        code = main([*map(str, arguments), "--steps", "4", "--out", str(tmp_path / "out"), "--json"])
        found = capsys.readouterr()
        assert code == 0, found.err
        return json.loads(found.out.strip().splitlines()[-1])

    try:
        morph = answer("morph", "--from", "calm", "--to", "angry", "--seed", 3, "--format", "mp4", "--once", "--fps", 5)
        assert (len(morph["frames"]), morph["seed"]) == (5, 3)
        command = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-of", "json", morph["animation"]]
        stream = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["streams"][0]
        assert (stream["codec_name"], stream["nb_read_frames"], stream["duration"]) == ("h264", "5", "1.000000")
        moved = answer(
            "animate", "--image", tmp_path / "her.png", "--emotions", "sad", "--frames", 2, "--inbetweens", 1
        )
        with Image.open(moved["animation"]) as loop:
            assert (len(moved["frames"]), loop.n_frames) == (2, 3)
        packed = answer("sprites", "--text", "red hair", "--seed", 3)
        assert len(packed["emotions"]) == 5
        assert zipfile.is_zipfile(packed["sprites"])
    finally:
        settings.cache_clear()


# --- pages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "button", "fields"),
    [
        ("emotion_morph", "morph_draw", {"morph_frames": 4, "morph_steps": 3}),
        ("img2img_animation", "anim_draw", {"anim_frames": 4, "anim_steps": 3}),
    ],
)
def test_a_page_draws_its_loop_and_offers_every_format(page_home: Path, page: str, button: str, fields: dict) -> None:
    at = app(page, **fields)
    at.button(key=button).click().run()
    assert not at.exception
    job = page_studio().wait(at.session_state[f"job:{page}"], "me", 120)
    assert job.state == "done", job.error
    at.run()
    assert not at.exception
    assert len(job.result["frames"]) == 4
    assert [b.label for b in at.get("download_button")][:5] == ["GIF", "APNG", "WebP", "MP4", "ZIP of PNGs"]


def test_a_picture_sent_from_elsewhere_is_the_character(page_home: Path) -> None:
    model = page_studio().settings.model
    made = page_studio().submit(GenerateSpec(model=model, steps=2, seed=5), "me")
    picture = page_studio().wait(made.id, "me", 60).pictures[0]
    at = app("emotion_morph", send={"page": "emotion_morph", "picture": picture}, morph_frames=3)
    assert at.session_state["morph_picture"] == picture
    at.segmented_control(key="morph_method").set_value("picture").run()
    at.button(key="morph_draw").click().run()
    job = page_studio().wait(at.session_state["job:emotion_morph"], "me", 120)
    assert job.state == "done", job.error
    spec = page_studio().job_spec(job.id, "me")
    assert isinstance(spec, MorphSpec)
    assert (spec.image, spec.method) == (picture, "picture")


def test_one_emotion_is_not_a_morph(page_home: Path) -> None:
    at = app("emotion_morph")
    at.pills(key="morph_chain").set_value(["sad"]).run()
    assert at.button(key="morph_draw").disabled
