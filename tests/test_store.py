"""Pictures on disk: recipes inside files, search, undo, owners, uploads, several processes, a full disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sd_parsers import ParserManager
from sd_parsers.data import Generators

from studio.errors import BadInput, DiskFull, NotFound, StudioError
from studio.specs import EMOTIONS, MAX_SEED, GenerateSpec, LoraRef, Recipe
from studio.store import metadata, prompt_list, uploads
from studio.store.database import Database
from studio.store.layout import grid_picture
from studio.store.pictures import Pictures

RECIPE = Recipe(
    model="embedded",
    model_hash="a" * 64,
    prompt="1girl, (red hair:1.3), smile",
    negative="lowres, bad hands",
    seed=7,
    steps=20,
    guidance=3.5,
    sampler="dpmpp_2m_karras",
    width=256,
    height=320,
    labels={"emotion": "happy", "style": "casual"},
)
LORA = RECIPE.model_copy(
    update={
        "loras": (LoraRef(path="/home/someone/loras/ink style.safetensors", weight=0.8),),
        "lora_hashes": ("b" * 64,),
    }
)


def image(colour: str = "red", size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new("RGB", size, colour)


def encoded(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture
def pictures(tmp_path: Path):
    database = Database(tmp_path / "studio.db")
    yield Pictures(database, tmp_path / "images")
    database.close()


# --- recipes inside files -------------------------------------------------------------------------------------------


def test_sd_parsers_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(metadata.png(image(), LORA, "My model, 2nd"))
    found = ParserManager().parse(path)
    assert found is not None
    assert found.generator == Generators.AUTOMATIC1111
    [sampler] = found.samplers
    assert sampler.name == "DPM++ 2M"
    assert sampler.parameters["scheduler"] == "Karras"
    assert sampler.parameters["seed"] == "7"
    assert sampler.parameters["steps"] == "20"
    assert sampler.parameters["cfg_scale"] == "3.5"
    assert sampler.model is not None
    assert sampler.model.hash == "a" * 10
    assert found.metadata["Size"] == "256x320"
    assert [prompt.value for prompt in sampler.prompts] == [RECIPE.prompt + " <lora:ink style:0.8>"]
    assert [prompt.value for prompt in sampler.negative_prompts] == [RECIPE.negative]


def test_our_own_recipe_comes_back_exactly_but_for_folders() -> None:
    found = metadata.read(metadata.png(image(), LORA))
    assert found.origin == "studio"
    spec = found.spec
    assert (spec.prompt, spec.negative, spec.seed, spec.steps) == (RECIPE.prompt, RECIPE.negative, 7, 20)
    assert (spec.width, spec.height, spec.sampler, spec.guidance) == (256, 320, "dpmpp_2m_karras", 3.5)
    assert (spec.emotion, spec.style) == ("happy", "casual")
    assert spec.loras == (LoraRef(path="ink style.safetensors", weight=0.8),)


def test_no_folder_of_this_machine_is_in_the_file() -> None:
    recipe = LORA.model_copy(update={"model": "/home/someone/models/x.safetensors"})
    data = metadata.png(image(), recipe)
    assert b"/home/" not in data
    assert b"someone" not in data
    hub = RECIPE.model_copy(update={"model": "stable-diffusion-v1-5/stable-diffusion-v1-5"})
    assert metadata.portable(hub) == hub


A1111 = (
    "masterpiece, 1girl, <lora:ink:0.6> (smile:1.2),\nsecond line\nNegative prompt: lowres,\nbad hands\n"
    "Steps: 28, Sampler: {sampler}, CFG scale: 7.5, Seed: 123456, Size: 512x768, Model hash: 0123456789, "
    'Model: "some, model", Clip skip: 2, Lora hashes: "ink: 0a0b0c0d0e0f", Version: v1.10.1'
)


@pytest.mark.parametrize(
    ("sampler", "ours"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M, Schedule type: Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M, Schedule type: Automatic", "dpmpp_2m"),
        ("Euler a", "euler_a"),
        ("LCM", "lcm"),
        ("DPM++ SDE Karras", "auto"),
    ],
)
def test_a1111_text_is_read(sampler: str, ours: str) -> None:
    chunks = PngInfo()
    chunks.add_text("parameters", A1111.format(sampler=sampler))
    found = metadata.read(encoded(image(), pnginfo=chunks))
    assert found.origin == "a1111"
    assert found.spec.prompt == "masterpiece, 1girl,  (smile:1.2),\nsecond line"
    assert found.spec.negative == "lowres,\nbad hands"
    assert (found.spec.steps, found.spec.guidance, found.spec.seed) == (28, 7.5, 123456)
    assert (found.spec.width, found.spec.height, found.spec.model) == (512, 768, "some, model")
    assert found.spec.loras == (LoraRef(path="ink", weight=0.6),)
    assert found.spec.sampler == ours
    assert found.model_hash == "0123456789"
    assert any("Clip skip 2" in note for note in found.notes)
    assert any("sampler" in note for note in found.notes) == (ours == "auto")


def test_a1111_text_in_jpeg_and_pasted() -> None:
    text = A1111.format(sampler="DDIM")
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode("utf-16-be")
    for data in (encoded(image(), "JPEG", exif=exif), encoded(image(), "WEBP", exif=exif), text.encode()):
        assert metadata.read(data).spec.sampler == "ddim"


@pytest.mark.parametrize("data", [b"", b"nonsense", encoded(image()), b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"Steps"])
def test_files_without_a_recipe_get_one_sentence(data: bytes) -> None:
    with pytest.raises(BadInput):
        metadata.read(data)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_any_parameters_text_is_read_or_refused(text: str) -> None:
    chunks = PngInfo()
    chunks.add_itxt("parameters", text.replace("\0", "").encode("utf-8", "ignore").decode() or "x")
    found = metadata.read(encoded(image(), pnginfo=chunks))
    assert GenerateSpec.model_validate(found.spec.model_dump()) == found.spec


printable = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=80)


@settings(max_examples=60, deadline=None)
@given(
    prompt=printable,
    negative=printable,
    seed=st.integers(0, MAX_SEED),
    guidance=st.floats(0, 30),
    emotion=st.sampled_from(EMOTIONS),
)
def test_every_recipe_survives_its_own_file(
    prompt: str, negative: str, seed: int, guidance: float, emotion: str
) -> None:
    recipe = RECIPE.model_copy(
        update={
            "prompt": prompt,
            "negative": negative,
            "seed": seed,
            "guidance": guidance,
            "labels": {"emotion": emotion},
        }
    )
    spec = metadata.read(metadata.png(image(), recipe)).spec
    assert (spec.prompt, spec.negative, spec.seed, spec.guidance, spec.emotion) == (
        prompt,
        negative,
        seed,
        guidance,
        emotion,
    )


# --- rows -----------------------------------------------------------------------------------------------------------


def test_save_find_and_search(pictures: Pictures) -> None:
    saved = pictures.save(image(), RECIPE, "ann", title="First")
    assert saved.id == RECIPE.key
    assert (saved.width, saved.height) == (16, 16)
    assert saved.path.read_bytes() == pictures.read(saved.id, "ann")
    pictures.save(image("blue"), RECIPE.model_copy(update={"prompt": "1boy, naïve, 猫耳", "seed": 8}), "ann")
    pictures.save(image("green"), None, "ann", kind="upload", title="sketch")
    for query, count in {
        "": 2, "red": 1, "RED HA": 1, "hair red smi": 1, "naive": 1, "猫耳": 1, "purple": 0, "happy": 2, "first": 1,
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
    adopted = pictures.adopt(RECIPE, "bob")
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
    assert pictures.adopt(RECIPE, "ann") is None


def test_labels_do_not_make_another_picture(pictures: Pictures) -> None:
    pictures.save(image(), RECIPE, "ann")
    assert pictures.adopt(RECIPE.model_copy(update={"labels": {"emotion": "sad"}}), "ann") is not None
    assert pictures.adopt(RECIPE.model_copy(update={"seed": 8}), "ann") is None


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
    assert pictures.adopt(RECIPE, "ann") is None


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
sys.path.insert(0, {repository!r})
from pathlib import Path
from PIL import Image
from studio.errors import DiskFull
from studio.store.database import Database
from studio.store.pictures import Pictures
from tests.test_store import RECIPE
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
        script = FULL_DISK.format(repository=str(Path(__file__).resolve().parent.parent), home=str(home))
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        count, _, sentence = done.stdout.partition(" ")
        assert 20 < int(count) < 100
        assert sentence.startswith("The disk is full: nothing was written and nothing is lost")
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


# --- uploads --------------------------------------------------------------------------------------------------------

LIMIT = 20 * 2**20


MODES = {
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "JPEG": ("RGB", "L", "CMYK"),
    "WEBP": ("RGB", "RGBA", "L"),
    "GIF": ("RGB", "RGBA", "L", "P", "1"),
    "BMP": ("RGB", "RGBA", "L", "P", "1"),
}


@pytest.mark.parametrize(("form", "mode"), [(form, mode) for form, modes in MODES.items() for mode in modes])
def test_every_mode_of_every_format_becomes_rgb(form: str, mode: str) -> None:
    grey = Image.radial_gradient("L").resize((40, 30))
    colour = Image.merge("RGB", (grey, grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT), grey))
    if mode == "I;16":
        source = grey.convert("I").point(lambda value: value * 257).convert("I;16")
    elif mode == "LA":
        source = colour.convert("RGBA").convert("LA")
    else:
        source = colour.convert(mode)
    clean, _ = uploads.clean(encoded(source, form), LIMIT)
    assert clean.mode == "RGB"
    assert clean.size == (40, 30)
    low, high = clean.convert("L").getextrema()
    assert low < 120  # neither all white nor all black
    assert high > 120


def test_exif_turns_the_picture_and_is_dropped() -> None:
    source = Image.new("RGB", (40, 20), "black")
    source.paste("white", (0, 0, 20, 20))  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees
    exif[0x010E] = "at home"
    clean, _ = uploads.clean(encoded(source, "JPEG", exif=exif), LIMIT)
    assert clean.size == (20, 40)
    assert clean.getpixel((10, 5)) > (200, 200, 200)
    assert clean.getpixel((10, 35)) < (50, 50, 50)
    assert not clean.info
    assert b"at home" not in metadata.png(clean, None)


def test_transparent_becomes_paper_white() -> None:
    clean, _ = uploads.clean(encoded(Image.new("RGBA", (16, 16), (0, 0, 0, 0))), LIMIT)
    assert clean.getpixel((3, 3)) == (255, 255, 255)


def test_a_large_photo_is_made_smaller_and_said() -> None:
    clean, notes = uploads.clean(encoded(Image.new("RGB", (4000, 2000), "red"), "JPEG"), LIMIT)
    assert clean.size == (2048, 1024)
    assert "2048 x 1024 instead of 4000 x 2000" in notes[0]


def bomb() -> bytes:
    """A PNG whose header promises 60000 x 60000 pixels, in under 100 bytes."""
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "empty"),
        (b"GIF89a nothing more", "isn't a picture|damaged"),
        (b"PK\x03\x04" + b"\0" * 100, "isn't a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "isn't a picture"),
        (encoded(Image.effect_noise((64, 64), 90))[:-400], "damaged or cut off"),
        (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:700], "damaged or cut off"),
        (encoded(Image.effect_noise((64, 64), 90), "WEBP")[:300], "isn't a picture|damaged"),
        (encoded(Image.new("RGB", (4, 4))), "too thin"),
        (encoded(Image.new("RGB", (2000, 10))), "too thin"),
        (b"\xff" * (LIMIT + 1), "20 MB|21 MB"),
    ],
)
def test_what_is_no_sound_picture_is_refused(data: bytes, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        uploads.clean(data, LIMIT)


def test_a_decompression_bomb_is_refused_unopened() -> None:
    with pytest.raises(BadInput, match="64 million"):
        uploads.clean(bomb(), LIMIT)


NOISE = Image.effect_noise((24, 24), 60)
SOUND = {form: encoded(NOISE, form) for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP")}


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(sorted(SOUND)),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_a_damaged_picture_is_read_or_refused(form: str, changes: list[tuple[int, int]]) -> None:
    raw = bytearray(SOUND[form])
    for place, value in changes:
        raw[place % len(raw)] = value
    try:
        clean, _ = uploads.clean(bytes(raw), LIMIT)
    except BadInput:
        return
    assert clean.mode == "RGB"


# --- lists of prompts and sheets ------------------------------------------------------------------------------------


def test_prompt_lists() -> None:
    plain = prompt_list.parse("a cat, red\n\n# a remark\n  1girl, smile  \n")
    assert [row.prompt for row in plain] == ["a cat, red", "1girl, smile"]
    table = prompt_list.parse('\ufeffseed;prompt;emotion\n5;"a; cat";sad\n;dog;\n')
    assert [(row.seed, row.prompt, row.emotion) for row in table] == [(5, "a; cat", "sad"), (None, "dog", None)]
    quoted = prompt_list.parse('prompt,seed\n"1girl, smile\nsecond line",3\n')
    assert (quoted[0].prompt, quoted[0].seed) == ("1girl, smile\nsecond line", 3)
    assert prompt_list.parse("prompt\nonly one")[0].prompt == "only one"


def test_bad_lines_are_named() -> None:
    with pytest.raises(BadInput) as caught:
        prompt_list.parse("prompt,seed,emotion\ncat,nan,sad\ndog,1,grumpy\n,2,sad\na,b,c,d\nfine,3,sad")
    for part in ("line 2: the seed 'nan'", "line 3: the emotion 'grumpy'", "line 4: no prompt", "line 5: 4 columns"):
        assert part in str(caught.value)
    for empty in ("", "\n\n", "# only\n", "prompt,seed\n"):
        with pytest.raises(BadInput, match="no prompts"):
            prompt_list.parse(empty)
    with pytest.raises(BadInput, match="1001"):
        prompt_list.parse("x\n" * 1001)


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_a_list_or_refused(text: str) -> None:
    try:
        rows = prompt_list.parse(text)
    except BadInput:
        return
    assert rows


def test_a_sheet_has_its_tiles_in_place() -> None:
    tiles = [image(colour, (64, 48)) for colour in ("red", "lime", "blue", "yellow")]
    sheet = grid_picture(tiles, ["a", "a label that is far too long for its tile"], ["x", "y"])
    colours = [colour for count, colour in sheet.getcolors(100_000) if count == 64 * 48]
    assert set(colours) == {(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)}
    huge = grid_picture([image("red", (2048, 2048))] * 6, list("abcdef"))
    assert max(huge.size) <= 8192 + 200


def test_a_made_up_recipe_of_a_megabyte_takes_no_time() -> None:
    for text in ("<lora:" * 150_000, "a b" * 300_000 + "\nSteps: 1", "x" * 900_000 + ": 1, Steps: 2, Seed: 3"):
        started = time.monotonic()
        metadata._a1111(text)
        assert time.monotonic() - started < 5
