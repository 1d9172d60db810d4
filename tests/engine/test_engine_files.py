"""Files of models and LoRAs: what a complete copy is, how large it is, what it is made of, and hashes that are kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from safetensors.numpy import load_file, save_file
from support.checkpoints import tiny_sd

from studio.core.errors import BadInput, Cancelled, DiskFull, Offline
from studio.core.settings import Settings
from studio.core.specs import ControlSpec
from studio.engine.models import catalogue, hub, lora_keys, weights
from studio.engine.models.families import SD15
from studio.features.drawing import with_models
from studio.service.prompts import PromptService
from studio.service.resolving import Resolver


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("files") / "tiny", controlnet=True)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "home").mkdir()
    return Settings(home=tmp_path / "home", offline=True)


# --- copies of the hub -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "missing",
    ["tokenizer", "scheduler", "tokenizer/tokenizer.json", "scheduler/scheduler_config.json", "unet/config.json"],
)
def test_a_download_that_was_cut_off_is_not_complete(
    tiny: Path, settings: Settings, tmp_path: Path, missing: str
) -> None:
    place = Path(shutil.copytree(tiny, tmp_path / "hub" / "models--somebody--tiny" / "snapshots" / "abc"))
    assert hub.get("somebody/tiny", settings) == place
    shutil.rmtree(place / missing) if (place / missing).is_dir() else (place / missing).unlink()
    assert catalogue.resolve("somebody/tiny", settings).state == "download"
    with pytest.raises(Offline):
        hub.get("somebody/tiny", settings)


def test_a_tokenizer_in_its_older_form_is_complete_too(tiny: Path, settings: Settings, tmp_path: Path) -> None:
    place = Path(shutil.copytree(tiny, tmp_path / "hub" / "models--somebody--tiny" / "snapshots" / "abc"))
    (place / "tokenizer" / "tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt"):
        (place / "tokenizer" / name).write_text("{}")
    assert catalogue.resolve("somebody/tiny", settings).state == "ready"


def test_no_download_begins_that_the_disk_has_no_room_for(settings: Settings, tmp_path: Path, monkeypatch) -> None:
    sizes = {f"{part}/x.safetensors": 1_500_000_000 for part in hub.WEIGHTED} | {"tokenizer/vocab.json": 10}
    siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in sizes.items()]
    answer = SimpleNamespace(siblings=siblings, sha="abc", config=None)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *arguments, **options: answer)
    fetched: list[object] = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *arguments, **options: fetched.append(options) or str(tmp_path)
    )
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda place: SimpleNamespace(free=4_000_000_000))
    online = settings.model_copy(update={"offline": False})
    with pytest.raises(DiskFull, match=r"somebody/big needs 4\.5 GB and the disk has 4\.0 GB free"):
        hub.get("somebody/big", online)
    assert not fetched
    there = tmp_path / "hub" / "models--somebody--big" / "snapshots" / "abc" / "unet"
    there.mkdir(parents=True)
    (there / "x.safetensors").write_bytes(b"")  # a third is here from before
    hub.get("somebody/big", online)
    assert len(fetched) == 1


def test_the_size_of_the_default_model_is_told_before_it_is_downloaded(settings: Settings) -> None:
    info = catalogue.resolve(SD15.default_model, settings)
    assert (info.state, info.size_bytes) == ("download", SD15.download_bytes)
    assert catalogue.resolve("somebody/unknown", settings).size_bytes == 0


# --- what is in the files --------------------------------------------------------------------------------------------


def numbers(folder: Path, *parts: str) -> int:
    return sum(value.size for part in parts for file in (folder / part).glob("*") if file.suffix == ".safetensors"
               for value in load_file(file).values())  # fmt: skip


def test_what_is_loaded_is_counted_and_nothing_beside_it(tiny: Path, settings: Settings, tmp_path: Path) -> None:
    wanted = numbers(tiny, "unet", "vae", "text_encoder")
    assert catalogue.resolve(str(tiny), settings).parameters == wanted
    copy = Path(shutil.copytree(tiny, tmp_path / "copy"))
    shutil.copy(
        copy / "unet/diffusion_pytorch_model.safetensors", copy / "unet/diffusion_pytorch_model.fp16.safetensors"
    )
    shutil.copytree(copy / "vae", copy / "safety_checker")
    assert catalogue.resolve(str(copy), settings).parameters == wanted


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_single_file_is_counted_by_its_numbers_not_its_bytes(tmp_path: Path, settings: Settings, dtype) -> None:
    tensors = {
        SD15.single_file_key: np.zeros((8, 4, 3, 3), dtype),
        "first_stage_model.x": np.zeros(10, dtype),
        "cond_stage_model.transformer.x": np.zeros(5, dtype),
        "model_ema.diffusion_model": np.zeros(1000, dtype),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert catalogue.resolve(str(tmp_path / "model.safetensors"), settings).parameters == 8 * 4 * 9 + 15


@pytest.mark.parametrize("end", lora_keys.PAIRS)
def test_every_form_of_lora_is_found(settings: Settings, end: str) -> None:
    file = settings.models_dir / "loras" / "mine.safetensors"
    file.parent.mkdir(parents=True)
    save_file({f"unet.x{end}": np.zeros((1, 1), np.float32)}, file)
    assert catalogue.find_lora("mine", settings).path == file
    assert [info.path for info in catalogue.loras(settings)] == [file]


@pytest.mark.parametrize(
    ("key", "kind"), [("oft_blocks", "OFT"), ("on_input", "IA3"), ("a1.weight", "GLoRA"), ("ia3_l.weight", "IA3")]
)
def test_adapters_that_are_no_loras_are_named_and_listed(settings: Settings, key: str, kind: str) -> None:
    file = settings.models_dir / "loras" / "other.safetensors"
    file.parent.mkdir(parents=True)
    save_file({f"lora_unet_x.{key}": np.zeros((1, 1), np.float32)}, file)
    for read in (lambda: catalogue.find_lora(str(file), settings), lambda: catalogue.resolve(str(file), settings)):
        with pytest.raises(BadInput, match=f"{kind} isn't supported yet"):
            read()
    assert catalogue.loras(settings) == []
    assert catalogue.refused_loras(settings) == [
        (
            "other.safetensors",
            f"other.safetensors is an adapter of the kind {kind}, and {kind} isn't supported yet; use a plain LoRA.",
        )
    ]


def test_a_title_is_one_line_and_no_essay(settings: Settings) -> None:
    file = settings.models_dir / "loras" / "ink.safetensors"
    file.parent.mkdir(parents=True)
    for said, title in (("Ink\n lines ", "Ink lines"), ("word " * 60, "word " * 19 + "word…"), (" \n", "ink")):
        save_file({"lora_unet_x.diff": np.zeros((1, 1), np.float32)}, file, {"modelspec.title": said})
        assert catalogue.find_lora("ink", settings).title == title


def test_a_file_with_bytes_behind_its_end_is_not_called_incomplete(settings: Settings) -> None:
    file = settings.home / "long.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"lora_unet_x.diff": np.zeros((1, 1), np.float32)}, file)
    file.write_bytes(file.read_bytes() + b"xx")
    with pytest.raises(BadInput, match="longer than it says itself"):
        catalogue.find_lora(str(file), settings)


def test_loras_in_capitals_behind_links_and_with_names_in_bytes(settings: Settings, tmp_path: Path) -> None:
    loras, half = settings.models_dir / "loras", np.zeros((1, 1), np.float32)
    (tmp_path / "elsewhere" / "style").mkdir(parents=True)
    loras.mkdir(parents=True)
    (loras / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(loras)
    places = {"Ink": loras / "Ink.SafeTensors", "soft": loras / "linked" / "style" / "soft.safetensors"}
    for number, place in enumerate(places.values()):
        save_file({"lora_unet_x.lora_down.weight": half + number}, place)
    os.link(places["Ink"], os.fsencode(loras) + b"/\x90\xc2.safetensors")  # as Japanese Windows wrote it
    assert {info.title: info.path for info in catalogue.loras(settings)} == places
    for title, place in places.items():
        assert catalogue.find_lora(title, settings).path == place
    [(name, reason)] = catalogue.refused_loras(settings)
    assert name.isascii()
    assert "isn't UTF-8" in reason


def test_a_model_in_capitals_is_found_by_its_name(settings: Settings) -> None:
    one = np.zeros((1, 4, 1, 1), np.float16)
    settings.models_dir.mkdir(parents=True)
    tensors = {SD15.single_file_key: one, "cond_stage_model.transformer.x": one, "first_stage_model.x": one}
    save_file(tensors, settings.models_dir / "Mix.SAFETENSORS")
    assert catalogue.resolve("Mix", settings).path == settings.models_dir / "Mix.SAFETENSORS"


# --- hashes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def restart(monkeypatch: pytest.MonkeyPatch):
    """Forget what this process knows, as a new one would."""

    def forget() -> None:
        monkeypatch.setattr(weights, "_known", {})
        monkeypatch.setattr(weights, "_kept", None)

    forget()
    return forget


def large(path: Path, value: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = np.full((200, 200), value, np.float32)
    save_file({"lora_unet_x.lora_down.weight": half, "lora_unet_x.lora_up.weight": half}, path)
    return path


def test_a_file_is_read_once_and_not_again_after_a_restart(settings: Settings, restart, monkeypatch) -> None:
    file = large(settings.models_dir / "loras" / "a.safetensors")
    first = catalogue.loras(settings)[0].hash
    assert first == hashlib.sha256(file.read_bytes()).hexdigest()
    restart()
    real = hashlib.file_digest
    monkeypatch.setattr(weights.hashlib, "file_digest", lambda *arguments: pytest.fail("read again"))
    assert catalogue.loras(settings)[0].hash == first
    monkeypatch.setattr(weights.hashlib, "file_digest", real)
    restart()
    large(file, 1)
    assert catalogue.loras(settings)[0].hash == hashlib.sha256(file.read_bytes()).hexdigest() != first
    rows = json.loads(settings.hashes.read_text())
    assert [row[3] for row in rows] == [catalogue.loras(settings)[0].hash], "what changed is forgotten"


@pytest.mark.parametrize("content", [b"", b"{}", b"[[1]]", b"\xff", b'[["x", 1, 2, "../.."]]'])
def test_a_damaged_list_of_hashes_is_made_anew(settings: Settings, restart, content: bytes) -> None:
    settings.hashes.write_bytes(content)
    large(settings.models_dir / "loras" / "a.safetensors")
    assert len(catalogue.loras(settings)[0].hash) == 64
    assert len(json.loads(settings.hashes.read_text())) == 1


def test_a_model_is_found_by_its_hash_under_another_name(tiny: Path, settings: Settings, restart) -> None:
    shutil.copytree(tiny, settings.models_dir / "renamed")
    digest = weights.fingerprint(tiny)
    restart()
    resolver = Resolver(settings, lambda id, owner: pytest.fail("no picture"), PromptService(settings))
    assert next(resolver._models_like("somebody-elses-name", digest[:10], lambda digest: None)) == "renamed"
    listed = {info.reference: info.hash for info in catalogue.catalogue(settings)}
    assert listed["renamed"] == digest, "known by now"


# --- downloads beside other work -------------------------------------------------------------------------------------


@pytest.fixture
def slow_hub(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A hub whose download goes on until `finish` is set; `seen` is how it ended."""
    from studio.engine import engine as pipelines

    state = SimpleNamespace(finish=threading.Event(), over=threading.Event(), seen=None, fault=None, asked=None)

    def get(reference: str, settings: Settings, on_note, components=(), half=False, **options: object) -> None:
        state.asked = (reference, components, half)
        try:
            while not state.finish.wait(0.02):
                on_note("downloading 1 of 2 MB")
            if state.fault is not None:
                raise state.fault
        except BaseException as error:
            state.seen = error
            raise
        finally:
            state.over.set()

    monkeypatch.setattr(hub, "get", get)
    state.engine = pipelines.Engine(settings.model_copy(update={"device": "cpu"}))
    return state


def test_others_may_draw_while_a_model_is_downloaded(slow_hub: SimpleNamespace, tiny: Path) -> None:
    notes: list[str] = []
    turns = slow_hub.engine.fetched("somebody/model", notes.append)
    next(turns)
    next(turns)
    assert notes[-1] == "downloading 1 of 2 MB"
    assert not slow_hub.over.is_set()
    slow_hub.finish.set()
    list(turns)
    assert slow_hub.seen is None
    assert list(slow_hub.engine.fetched(str(tiny), notes.append)) == [], "nothing to wait for"


def test_a_download_that_fails_or_is_left_ends_with_its_job(slow_hub: SimpleNamespace) -> None:
    turns = slow_hub.engine.fetched("somebody/model", lambda note: None)
    next(turns)
    turns.close()
    assert slow_hub.over.wait(5)
    assert isinstance(slow_hub.seen, Cancelled)
    slow_hub.finish.set()
    slow_hub.fault = Offline("The hub can't be reached.")
    with pytest.raises(Offline):
        list(slow_hub.engine.fetched("somebody/model", lambda note: None))


def test_every_kind_of_job_waits_for_its_models_in_turns(settings: Settings) -> None:
    engine = SimpleNamespace(settings=settings, fetched=lambda reference, say: iter([None, None]))
    job = SimpleNamespace(recipes=[SimpleNamespace(model="somebody/model", control=None, loras=())] * 3, say=print)
    worked: list[str] = []

    def work(engine: object, job: object, spec: object) -> None:
        worked.append("work")

    turns = with_models(work)(engine, job, None)
    next(turns)
    next(turns)
    assert worked == []
    assert list(turns) == []
    assert worked == ["work"]


def test_others_may_draw_while_a_controlnet_is_downloaded(
    slow_hub: SimpleNamespace, tiny: Path, tmp_path: Path, settings: Settings
) -> None:
    drawing = tmp_path / "drawing.png"
    sketch = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(sketch).line((5, 5, 60, 50), fill="black", width=2)
    sketch.save(drawing)

    def job_of(**control: object) -> SimpleNamespace:
        asked = ControlSpec(image="one", **control)
        recipe = SimpleNamespace(model=str(tiny), control=asked, width=64, height=64, mask=None, loras=())
        return SimpleNamespace(recipes=[recipe], say=lambda note: None, files=lambda id: drawing)

    def turns_of(**control: object) -> Iterator[None]:
        return with_models(lambda *_: None)(slow_hub.engine, job_of(**control), None)

    turns = turns_of(model="somebody/controlnet")
    next(turns)
    assert not slow_hub.over.is_set()
    slow_hub.finish.set()
    list(turns)
    assert slow_hub.asked == ("somebody/controlnet", ("",), False)
    slow_hub.asked = None
    list(turns_of(model="somebody/controlnet", weight=0.0))  # which nobody will ask for
    assert slow_hub.asked is None
    sketch.paste("white", (0, 0, 64, 64))
    sketch.save(drawing)
    with pytest.raises(BadInput, match="empty"):
        list(turns_of())
