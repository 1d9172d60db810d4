"""A model hub of our own: what is downloaded of a model, what is told before, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from support import captioner_models
from support.checkpoints import tiny_sd
from support.sdxl import to_sdxl_file

from studio.core.errors import BadInput, Cancelled, NotFound
from studio.core.settings import ASSETS, EMBEDDED_MODEL, Settings
from studio.engine import captioning
from studio.engine.models import captioners, catalogue, hub, weights
from studio.engine.models.families import FAMILIES, PUBLISHED, SD15, SDXL, accept


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("models") / "tiny", controlnet=True)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return Settings(home=tmp_path / "home", offline=True)


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
    save_file({"lora_unet_x.lora_down.weight": np.zeros((1, 1), np.float32)}, _Hub.folder / "ink.safetensors")
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
