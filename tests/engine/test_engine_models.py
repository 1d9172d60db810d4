"""What can be loaded and what is refused: references, weight files, fingerprints, LoRA files, the hub's cache."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from support.checkpoints import tiny_sd

from studio.core.errors import BadInput, NotFound, Offline, StudioError
from studio.core.settings import ASSETS, Settings
from studio.engine.models import catalogue, hub, weights
from studio.engine.models.families import FAMILIES, SD15, SDXL, Family, family_of


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("models") / "tiny", controlnet=True)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return Settings(home=tmp_path / "home", offline=True)


def test_no_torch_is_loaded_to_know_what_there_is() -> None:
    code = (
        "import sys, studio.engine.models.catalogue, studio.engine.models.families, "
        "studio.engine.models.weights, studio.engine.models.hub, "
        "studio.engine.models.captioners, studio.engine.progress; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'streamlit')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_a_folder_says_what_it_is(tiny: Path, settings: Settings) -> None:
    info = catalogue.resolve(str(tiny), settings)
    assert (info.kind, info.state, info.title, info.family) == ("folder", "ready", "Tiny random model", SD15)
    assert (info.native_size, info.steps, info.guidance, info.sampler) == (64, 4, 3.0, "dpmpp_2m")
    assert info.controlnets["lines"] == str(tiny / "controlnet")
    assert info.size_bytes == sum(file.stat().st_size for file in tiny.rglob("*.safetensors"))
    assert len(info.hash) == 64


def test_a_model_is_found_by_its_name_in_the_models_folder(tiny: Path, settings: Settings) -> None:
    shutil.copytree(tiny, settings.models_dir / "mine")
    assert catalogue.resolve("mine", settings).path == settings.models_dir / "mine"
    listed = {info.reference: info for info in catalogue.catalogue(settings)}
    assert listed["mine"].state == "ready"
    assert listed[SD15.default_model].state == "download"


def test_the_hub_name_that_is_gone_is_mapped_and_said(settings: Settings) -> None:
    info = catalogue.resolve("runwayml/stable-diffusion-v1-5", settings)
    assert info.reference == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert "gone from the hub" in info.note
    assert info.state == "download"


@pytest.mark.parametrize(
    "reference", ["", "   ", "no-such-model", "/dead/path", "a/b/c", "../x", "x" * 5000, "~nobody/x"]
)
def test_a_dead_reference_is_one_sentence(settings: Settings, reference: str) -> None:
    with pytest.raises(StudioError) as caught:
        catalogue.resolve(reference, settings)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=60))
@example("~\x00")
def test_no_reference_crashes(text: str) -> None:
    with contextlib.suppress(StudioError):
        catalogue.resolve(text, Settings(home=Path("/nonexistent"), offline=True), with_hash=False)


def test_offline_is_said_in_one_sentence(settings: Settings) -> None:
    with pytest.raises(Offline, match="not on this machine"):
        hub.get("somebody/some-model", settings)


def test_a_hub_that_cannot_be_reached_is_said_too(settings: Settings) -> None:
    online = settings.model_copy(update={"offline": False, "hf_endpoint": "http://127.0.0.1:9"})
    with pytest.raises(Offline, match="can't be reached"):
        hub.get("somebody/some-model", online)


def test_a_complete_copy_in_the_hubs_cache_is_used(tiny: Path, settings: Settings, tmp_path: Path) -> None:
    place = tmp_path / "hub" / "models--somebody--tiny" / "snapshots" / "abc"
    shutil.copytree(tiny, place)
    info = catalogue.resolve("somebody/tiny", settings)
    assert (info.kind, info.path) == ("hub", place)
    assert hub.cached_models() == ["somebody/tiny"]
    (place / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert catalogue.resolve("somebody/tiny", settings).state == "download"


def test_which_files_of_a_repository_are_downloaded() -> None:
    sizes = {
        "model_index.json": 1, "README.md": 5, "v1-5-pruned.safetensors": 900, "unet/config.json": 1,
        "unet/diffusion_pytorch_model.safetensors": 40, "unet/diffusion_pytorch_model.fp16.safetensors": 20,
        "unet/diffusion_pytorch_model.non_ema.safetensors": 40, "unet/diffusion_pytorch_model.bin": 40,
        "vae/diffusion_pytorch_model.safetensors": 4, "text_encoder/model.fp16.safetensors": 3,
        "tokenizer/vocab.json": 1, "scheduler/scheduler_config.json": 1, "safety_checker/model.safetensors": 30,
    }  # fmt: skip
    full = hub.chosen_files(sizes, hub.MODEL, half=False)
    assert sum(full.values()) == 40 + 4 + 3 + 1 + 1 + 1 + 1
    half = hub.chosen_files(sizes, hub.MODEL, half=True)
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in half
    assert "unet/diffusion_pytorch_model.safetensors" not in half
    assert "vae/diffusion_pytorch_model.safetensors" in half
    pickles = {name: size for name, size in sizes.items() if not name.startswith("vae")} | {"vae/model.bin": 4}
    assert hub.chosen_files(pickles, hub.MODEL, half=False) == {}


def test_downloads_add_up_whatever_thread_reports_them() -> None:
    notes: list[str] = []
    bar = hub._Meter("a/b", 2_000_000, notes.append).bar()
    first, second, files = bar(total=1, unit="B"), bar(total=1, unit="B"), bar(total=2, unit="it")
    first.update(1_000_000)
    second.update(500_000)
    files.update(1)
    assert notes[-1] == "downloading a/b: 2 of 2 MB"
    assert len(notes) == 2


# --- weight files ----------------------------------------------------------------------------------------------------


def safetensors(path: Path, **tensors: np.ndarray) -> Path:
    save_file(tensors or {"a": np.zeros((2, 3), np.float32)}, path)
    return path


def test_a_header_is_read_without_the_tensors(tmp_path: Path) -> None:
    header = weights.read_header(safetensors(tmp_path / "x.safetensors"))
    assert header.tensors["a"] == weights.Tensor("F32", (2, 3))


@pytest.mark.parametrize("suffix", ["ckpt", "pt", "bin", "safetensors"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_pickles_are_refused_under_any_name(tmp_path: Path, settings: Settings, suffix: str, protocol: int) -> None:
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(pickle.dumps({"state_dict": {}}, protocol=protocol))
    for read in (lambda: weights.read_header(path), lambda: catalogue.find_lora(str(path), settings)):
        with pytest.raises(BadInput, match="pickle"):
            read()
    with pytest.raises(BadInput):
        catalogue.resolve(str(path), settings)


def test_a_torch_archive_renamed_is_refused(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "model.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    with pytest.raises(BadInput, match="pickle under another name"):
        weights.read_header(path)


@pytest.mark.parametrize("keep", [0, 4, 7, 8, 9, 40, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = safetensors(tmp_path / "x.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadInput, match="download it again"):
        weights.read_header(path)


@pytest.mark.parametrize(
    "head",
    [
        (2**63).to_bytes(8, "little") + b"{}",  # a header longer than memory
        (99_999_999).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"null",
        (9).to_bytes(8, "little") + b'{"a": 1}\x20',
        (50_000).to_bytes(8, "little") + b'{"a":' * 10_000,
        (55).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}  ' + b"\0" * 8,
        (55).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,-1]}} ',
        b"\xff" * 100,
    ],
)
def test_a_damaged_header_is_refused_at_once(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(head)
    with pytest.raises(BadInput):
        weights.read_header(path)


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_header_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.write_bytes(data)
    with pytest.raises(BadInput):
        weights.read_header(path)


def test_fingerprints_follow_what_decides_the_pixels(tiny: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny, tmp_path / "copy"))
    before = weights.fingerprint(tiny)
    assert weights.fingerprint(copy) == before
    (copy / "studio.json").write_text("{}")
    (copy / "judge").mkdir()
    (copy / "judge" / "config.json").write_text("{}")
    assert weights.fingerprint(copy) == before, "titles and the judge draw nothing"
    config = json.loads((copy / "scheduler" / "scheduler_config.json").read_text())
    (copy / "scheduler" / "scheduler_config.json").write_text(json.dumps(config | {"prediction_type": "epsilon"}))
    assert weights.fingerprint(copy) != before


def test_a_file_in_the_hubs_cache_is_named_by_its_digest(tmp_path: Path) -> None:
    blob = tmp_path / ("ab" * 32)
    blob.write_bytes(b"not read")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert weights.fingerprint(link) == "ab" * 32
    assert weights.remembered(link)


# --- models that can't be used ---------------------------------------------------------------------------------------


def test_folders_that_cannot_be_used_say_why(tiny: Path, tmp_path: Path, settings: Settings) -> None:
    copy = Path(shutil.copytree(tiny, settings.models_dir / "broken"))
    weight = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weight.rename(weight.with_suffix(".bin"))
    with pytest.raises(BadInput, match="pickle"):
        catalogue.resolve("broken", settings)
    listed = {info.reference: info for info in catalogue.catalogue(settings)}
    assert listed["broken"].state == "missing"
    assert "pickle" in listed["broken"].note
    weight.with_suffix(".bin").unlink()
    with pytest.raises(BadInput, match="no weights for its unet"):
        catalogue.resolve("broken", settings)
    (copy / "unet" / "config.json").write_text("{not json")
    with pytest.raises(BadInput, match="not readable JSON"):
        catalogue.resolve("broken", settings)
    (settings.models_dir / "empty").mkdir()
    with pytest.raises(BadInput, match=r"without model_index\.json"):
        catalogue.resolve("empty", settings)


def test_other_architectures_are_named(tmp_path: Path, settings: Settings) -> None:
    sizes = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256, "in_channels": 4, "out_channels": 4}
    whole = sizes | {"projection_class_embeddings_input_dim": 1280 + 6 * 256, "cross_attention_dim": 2048}
    assert family_of(whole) is SDXL
    with pytest.raises(BadInput, match=r"refiner.*choose an SDXL base model"):
        family_of(whole | {"projection_class_embeddings_input_dim": 1280 + 5 * 256, "cross_attention_dim": 1280})
    with pytest.raises(BadInput, match="extra input picture"):
        family_of({"in_channels": 5, "out_channels": 4})
    assert family_of({"in_channels": 9, "out_channels": 4}) is SD15  # it is told a mask
    small = np.zeros((1, 4, 1, 1), np.float16)
    files = {
        "is the refiner of SDXL; it goes over": {"conditioner.embedders.0.model.x": small},
        "has no text encoder: only a part": {
            SD15.single_file_key: small,
            "model.diffusion_model.label_emb.0.0.weight": small,
        },
        "is the UNet of an SDXL model in diffusers' layout": {"add_embedding.linear_1.weight": small},
        "is a LoRA": {"lora_unet_x.lora_down.weight": small},
        "another picture beside the words": {SD15.single_file_key: np.zeros((1, 5, 1, 1), np.float16)},
        "another text encoder": {SD15.single_file_key: small, "cond_stage_model.model.x": small},
        "not a model that the studio knows": {"x": small},
    }
    for number, (sentence, tensors) in enumerate(files.items()):
        path = tmp_path / f"{number}.safetensors"
        save_file(tensors, path)
        with pytest.raises(BadInput, match=sentence):
            catalogue.resolve(str(path), settings)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_the_configurations_that_ship_are_of_their_family(family: Family) -> None:
    folder = ASSETS / "models" / family.single_file_config
    assert family_of(json.loads((folder / "unet" / "config.json").read_text())) is family
    texts = [json.loads((folder / name / "config.json").read_text()) for name in family.text_encoders]
    assert family.text_layers == catalogue._text_layers(texts)
    assert family.text_width == sum(one["hidden_size"] for one in texts)


# --- LoRA files ------------------------------------------------------------------------------------------------------


def lora_file(path: Path, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = np.zeros((1, 1), np.float32)
    save_file({"lora_unet_x.lora_down.weight": half, "lora_unet_x.lora_up.weight": half}, path, metadata=metadata)
    return path


def test_loras_are_found_with_what_they_say_of_themselves(settings: Settings) -> None:
    lora_file(settings.models_dir / "loras" / "a.safetensors", **{"modelspec.title": "Ink", "ss_sd_model_name": "any"})
    exported = lora_file(settings.runs_dir / "run-1" / "adapter" / "pytorch_lora_weights.safetensors")
    (exported.parent / "studio.json").write_text(
        json.dumps({"title": "Mine", "trigger_words": ["mystyle"], "weight": 0.8, "base": "embedded"})
    )
    (settings.models_dir / "loras" / "broken.safetensors").write_bytes(b"x")
    found = catalogue.loras(settings)
    assert [(info.title, info.base) for info in found] == [("Ink", "any"), ("Mine", "embedded")]
    assert found[1].trigger_words == ("mystyle",)
    assert found[1].weight == 0.8
    for reference in ("a.safetensors", "a", "Ink", str(settings.models_dir / "loras" / "a.safetensors")):
        assert catalogue.find_lora(reference, settings).title == "Ink"
    assert catalogue.find_lora(str(exported.parent), settings).title == "Mine"


def test_what_is_no_lora_is_refused(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(NotFound, match="no LoRA"):
        catalogue.find_lora("nothing", settings)
    with pytest.raises(BadInput, match="not a LoRA"):
        catalogue.find_lora(str(safetensors(tmp_path / "x.safetensors")), settings)
