"""What can be loaded and what is refused: references, weight files, fingerprints, LoRA files, the hub's cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file
from support import captioner_models
from support.checkpoints import tiny_sd
from support.sdxl import to_sdxl_file

from studio.core.errors import BadInput, Cancelled, NotFound, Offline, StudioError
from studio.core.settings import ASSETS, EMBEDDED_MODEL, Settings
from studio.engine import captioning
from studio.engine.models import captioners, catalogue, hub, weights
from studio.engine.models.families import FAMILIES, PUBLISHED, SD15, SDXL, Family, accept, family_of


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


@pytest.mark.parametrize("family", FAMILIES.values(), ids=str)
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


# --- a hub of our own ------------------------------------------------------------------------------------------------


class _Hub(BaseHTTPRequestHandler):
    """As much of the Hub's interface as a download needs, over a folder of files."""

    folder: Path
    requested: list[str]
    COMMIT = "c" * 40

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        path = self.path.split("?")[0]
        files = {file.relative_to(self.folder).as_posix(): file for file in self.folder.rglob("*") if file.is_file()}
        headers = {"X-Repo-Commit": self.COMMIT}
        if path.startswith("/api/models/somebody/tiny/tree/"):
            tree = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": "0" * 40}
                for name, file in files.items()
            ]
            data = json.dumps(tree).encode()
        elif path.startswith("/api/models/somebody/tiny"):
            listing = [{"rfilename": name, "size": file.stat().st_size} for name, file in files.items()]
            answer = {"id": "somebody/tiny", "sha": self.COMMIT, "siblings": listing}
            if "config.json" in files:
                answer["config"] = json.loads(files["config.json"].read_text())
            data = json.dumps(answer).encode()
        elif (name := re.sub(rf"^/somebody/tiny/resolve/(main|{self.COMMIT})/", "", path)) in files:
            data = files[name].read_bytes()
            headers["ETag"] = f'"{hashlib.sha256(data).hexdigest()}"'
            if body:
                self.requested.append(name)
        else:
            headers["X-Error-Code"], data = "RepoNotFound", b""
        self.send_response(200 if data else 404)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def own_hub(tiny: Path, settings: Settings) -> Iterator[Settings]:
    _Hub.folder, _Hub.requested = tiny, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield settings.model_copy(update={"offline": False, "hf_endpoint": f"http://127.0.0.1:{server.server_port}"})
    server.shutdown()
    server.server_close()


def test_a_model_is_downloaded_with_progress_and_only_once(own_hub: Settings, tiny: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    place = hub.get("somebody/tiny", own_hub, notes.append)
    for part in ("unet", "vae", "text_encoder"):
        copies = [weights.fingerprint(folder / part) for folder in (place, tiny)]
        assert copies[0] == copies[1]
    assert not any(name.startswith(("controlnet", "lcm_lora")) for name in _Hub.requested), (
        "what isn't needed stays there"
    )
    assert notes
    assert notes[-1].startswith("downloading somebody/tiny: ")
    counted = len(_Hub.requested)
    assert hub.get("somebody/tiny", own_hub, notes.append) == place
    assert len(_Hub.requested) == counted
    assert catalogue.resolve("somebody/tiny", own_hub).state == "ready"


def test_a_captioner_is_downloaded_and_another_kind_of_model_is_not(own_hub: Settings, tmp_path: Path) -> None:
    folder = captioner_models.tagger(tmp_path / "tagger", ["a_tag", "b"], [3.0, -3.0], "multi_label_classification")
    _Hub.folder = folder
    config = folder / "config.json"
    whole = config.read_text()
    config.write_text(json.dumps(json.loads(whole) | {"architectures": ["LlamaForCausalLM"]}))
    info = captioners.find("somebody/tiny", own_hub)
    assert info.path is None
    with pytest.raises(BadInput, match="somebody/tiny can't caption pictures"):
        captioning.load(info, own_hub)
    assert _Hub.requested == []
    config.write_text(whole)
    notes: list[str] = []
    tagger = captioning.load(info, own_hub, on_note=notes.append)
    assert tagger([Image.new("RGB", (40, 40))]) == ["a tag"]
    assert notes[-1] == "loading somebody/tiny"
    assert captioners.find("somebody/tiny", own_hub).kind == "tagger"
    _Hub.requested.clear()
    captioning.load(info, own_hub)
    assert _Hub.requested == []


def test_a_model_of_another_family_is_refused_before_its_weights_are_downloaded(
    own_hub: Settings, tiny: Path, tmp_path: Path
) -> None:
    from studio.engine import engine

    _Hub.folder = Path(shutil.copytree(tiny, tmp_path / "other"))
    index, unet = _Hub.folder / "model_index.json", _Hub.folder / "unet" / "config.json"
    whole = {path: path.read_text() for path in (index, unet)}
    two = {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
    one = two | {"text_encoder": [None, None]}
    refiner = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "cross_attention_dim": 32}
    for path, change, sentence in (
        (index, {"_class_name": "StableDiffusionXLImg2ImgPipeline"} | one, "SDXL's refiner"),
        (index, {"_class_name": "FluxPipeline", "unet": [None, None]} | two, "not of the Stable Diffusion family"),
        (index, {"text_encoder": ["transformers", "T5EncoderModel"]}, "not of the Stable Diffusion family"),
        (unet, refiner | {"projection_class_embeddings_input_dim": 32 + 5 * 4}, "SDXL's refiner"),
        (unet, {"in_channels": 5}, "extra input picture"),
    ):
        path.write_text(json.dumps(json.loads(whole[path]) | change))
        _Hub.requested.clear()
        shutil.rmtree(tmp_path / "hub", ignore_errors=True)
        info = catalogue.resolve("somebody/tiny", own_hub)
        assert info.state == "download"
        with pytest.raises(BadInput, match=sentence):
            engine.load(info, own_hub)
        assert _Hub.requested
        assert not [name for name in _Hub.requested if name not in ("model_index.json", "unet/config.json")]
        path.write_text(whole[path])
    index.write_text("[]")
    shutil.rmtree(tmp_path / "hub")
    with pytest.raises(BadInput, match="not readable JSON"):
        engine.load(catalogue.resolve("somebody/tiny", own_hub), own_hub)
    index.write_text(whole[index])
    shutil.rmtree(tmp_path / "hub")
    assert engine.load(catalogue.resolve("somebody/tiny", own_hub), own_hub).family is SD15


def test_what_ships_would_be_accepted() -> None:
    for folder in (*(ASSETS / "models" / family.single_file_config for family in FAMILIES.values()), EMBEDDED_MODEL):
        for name in ("model_index.json", "unet/config.json"):
            accept(json.loads((folder / name).read_text()))


def test_sdxl_is_downloaded_in_folders_and_in_one_file(
    own_hub: Settings, sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from studio.engine import engine

    _Hub.folder = sdxl
    hub.tell("somebody/tiny", own_hub)
    assert _Hub.requested == ["unet/config.json"], "a request is completed before the model is here"
    info = catalogue.resolve("somebody/tiny", own_hub)
    assert (info.state, info.family, info.sizes) == ("download", SDXL, SDXL.sizes)
    loaded = engine.load(info, own_hub)
    assert (loaded.family, loaded.text_encoder_2 is None) == (SDXL, False)
    assert hub.cached_models() == ["somebody/tiny"]
    shutil.rmtree(tmp_path / "hub")
    monkeypatch.setattr(_Hub, "COMMIT", "b" * 40)  # the client remembers what a commit has in it
    _Hub.folder = tmp_path / "single"
    _Hub.folder.mkdir()
    to_sdxl_file(sdxl, _Hub.folder / "model.safetensors")
    assert catalogue.resolve("somebody/tiny", own_hub).state == "download"
    engine.fetch("somebody/tiny", own_hub)
    info = catalogue.resolve("somebody/tiny", own_hub)
    assert (info.kind, info.state, info.family, info.title) == ("hub", "ready", SDXL, "tiny")
    shutil.rmtree(tmp_path / "hub")
    (_Hub.folder / "model.safetensors").unlink()
    safetensors(_Hub.folder / "ink.safetensors", **{"lora_unet_x.lora_down.weight": np.zeros((1, 1), np.float32)})
    with pytest.raises(BadInput, match="is a LoRA, not a model"):
        engine.fetch("somebody/tiny", own_hub)
    assert not list((tmp_path / "hub").rglob("*.safetensors")), "seen from its header"


def test_the_list_offers_models_by_reference(settings: Settings) -> None:
    listed = {info.reference: info for info in catalogue.catalogue(settings)}
    for reference, (family, published) in PUBLISHED.items():
        info = listed[reference]
        assert (info.state, info.family, info.size_bytes) == ("download", family, published.download_bytes)
        assert info.license == published.license
    assert listed["OnomaAIResearch/Illustrious-XL-v1.0"].sizes[0] == (832, 1216)


def test_a_name_that_the_hub_does_not_know_is_a_sentence(own_hub: Settings) -> None:
    with pytest.raises(NotFound, match="no model nobody/nothing on the hub"):
        hub.get("nobody/nothing", own_hub)


def test_a_download_can_be_cancelled(own_hub: Settings) -> None:
    def cancel(note: str) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        hub.get("somebody/tiny", own_hub, cancel)
    assert catalogue.resolve("somebody/tiny", own_hub).state == "download"
