"""LoRAs that leave and come: the upload to a Hub (a local one that speaks its API), and files from elsewhere."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.checkpoints import tiny_sd
from support.training_sets import write_run

from studio.core.errors import BadInput, NotFound, Offline
from studio.core.settings import Settings
from studio.core.specs import LoraSpec
from studio.engine.models.catalogue import loras, resolve
from studio.runs.publish import publish
from studio.runs.supervisor import Supervisor
from studio.service.models import ModelLibrary
from studio.service.runs import TrainingRuns
from studio.training.export import adapter_files
from studio.training.lora.samples import card

TOKEN = "hf_write"


class Hub(ThreadingHTTPServer):
    """The part of the Hub's HTTP API that an upload uses; `files` is what was committed."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.private = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _answer(self, data: dict[str, Any], status: int = 200, **headers: str) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        message = "Invalid credentials in Authorization header"
        self._answer({"error": message}, 401, X_Error_Message=message)
        return False

    def do_GET(self) -> None:
        if not self._allowed():
            return
        self._answer({"id": "me/style", "sha": "0" * 40, "siblings": [], "private": self.server.private})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._allowed():
            return
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self._answer({"url": f"{self.server.url}/me/style", "name": "me/style", "id": "1"})
        elif self.path == "/api/validate-yaml":
            base = re.search(r'^base_model: "(.*)"$', json.loads(body)["content"], re.MULTILINE)
            if base and not re.fullmatch(r"[\w.-]+/[\w.-]+", base[1]):
                message = f'"base_model" with value "{base[1]}" is not valid. Use a model id from https://hf.co/models.'
                self._answer({"errors": [{"message": message}], "warnings": []}, 400)
            else:
                self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            wanted = json.loads(body)["files"]
            self._answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in wanted]}
            )
        elif "/commit/" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"{self.server.url}/me/style/commit/{'1' * 40}"
            self._answer({"success": True, "commitOid": "1" * 40, "commitUrl": url})
        else:
            self._answer({})


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A finished run's export."""
    run = write_run(tmp_path, "mine", LoraSpec(data="x"))
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    state = {f"{layer}.lora_A.weight": torch.ones(2, 16), f"{layer}.lora_B.weight": torch.ones(16, 2)}
    card = adapter_files.Card(title="style", base="tiny", trigger_words=("style_1",), license="CC0-1.0")
    trained = adapter_files.Adapter(state, 2, 1.0, ("to_q",))
    adapter_files.write(run.adapter, trained, card, {"epoch-0001": trained})
    return run.adapter


def test_an_upload_is_private_and_whole(hub: Hub, adapter: Path, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, hf_token=TOKEN, hf_endpoint=hub.url)
    url = publish(adapter, "me/style", settings)
    assert url.endswith("/me/style/commit/" + "1" * 40)
    assert hub.created[0]["visibility"] == "private"
    assert hub.created[0]["name"] == "style"
    expected = {"README.md", "studio.json", "style.safetensors", "diffusers/pytorch_lora_weights.safetensors",
                "peft/unet/adapter_config.json", "peft/unet/adapter_model.safetensors"}  # fmt: skip
    assert expected <= set(hub.files)
    assert not [name for name in hub.files if name.startswith("epochs/")]
    assert hub.files["style.safetensors"] == (adapter / "style.safetensors").read_bytes()
    hub.private = False
    publish(adapter, "me/style", settings, private=False)
    assert hub.created[1]["visibility"] == "public"


def test_nothing_is_shown_to_others_unasked(hub: Hub, adapter: Path, tmp_path: Path) -> None:
    hub.private = False  # it is there since long
    with pytest.raises(BadInput, match="Anybody can see me/style"):
        publish(adapter, "me/style", Settings(home=tmp_path, hf_token=TOKEN, hf_endpoint=hub.url))
    assert hub.files == {}


def test_a_base_model_of_this_machine_is_no_model_id(hub: Hub, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, hf_token=TOKEN, hf_endpoint=hub.url)
    run = write_run(tmp_path, "local", LoraSpec(data="x", model=str(tmp_path / "private" / "base.safetensors")))
    for reference in ("embedded", "someone/model"):
        info = resolve(reference, settings, with_hash=False)
        about = card(run, run.spec(), info, {}, None, 0, 0)
        adapter_files.write(run.adapter, adapter_files.Adapter({}, 2, 1.0, ("to_q",)), about)
        publish(run.adapter, "me/style", settings)
        text = hub.files["README.md"].decode()
        assert ('base_model: "someone/model"' in text) is (reference == "someone/model")
        assert str(tmp_path) not in text
    wrong = replace(about, hub_id="no model id")
    adapter_files.write(run.adapter, adapter_files.Adapter({}, 2, 1.0, ("to_q",)), wrong)
    with pytest.raises(BadInput, match="is not valid"):
        publish(run.adapter, "me/style", settings)


def test_what_the_hub_refuses_is_one_sentence(hub: Hub, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="The Hub refused the upload to me/style: Invalid credentials"):
        publish(adapter, "me/style", Settings(home=tmp_path, hf_token="hf_wrong", hf_endpoint=hub.url))
    assert hub.files == {}


def test_uploads_that_cannot_be(adapter: Path, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, hf_token=TOKEN, hf_endpoint="http://127.0.0.1:1")
    with pytest.raises(BadInput, match="STUDIO_HF_TOKEN"):
        publish(adapter, "me/style", Settings(home=tmp_path))
    for name in ("style", "me/style/more", "../x", ""):
        with pytest.raises(BadInput, match="you/name"):
            publish(adapter, name, settings)
    with pytest.raises(BadInput, match="no finished LoRA"):
        publish(tmp_path / "nothing", "me/style", settings)
    with pytest.raises(Offline, match="stay offline"):
        publish(adapter, "me/style", Settings(home=tmp_path, hf_token=TOKEN, offline=True))
    with pytest.raises(Offline, match="can't be reached"):
        publish(adapter, "me/style", settings)


def test_a_lora_from_elsewhere_comes_into_the_list(adapter: Path, tmp_path: Path) -> None:
    library = ModelLibrary(Settings(home=tmp_path / "home"))
    data = (adapter / "style.safetensors").read_bytes()
    info = library.import_lora(data, "../Their style.safetensors", ("their word",), 0.7)
    assert info.path == tmp_path / "home" / "models" / "loras" / "Their style.safetensors"
    assert (info.trigger_words, info.weight) == (("their word",), 0.7)
    assert [found.path for found in loras(Settings(home=tmp_path / "home"))] == [info.path]
    plain = library.import_lora(data, "plain.safetensors")
    assert plain.trigger_words == ("style_1",)  # from the file's own metadata


def test_what_is_no_lora_is_refused_and_not_kept(tmp_path: Path) -> None:
    library = ModelLibrary(Settings(home=tmp_path))
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    for name, data in (
        ("model.safetensors", (tmp_path / "model.safetensors").read_bytes()),
        ("short.safetensors", b"\x10"),
        ("pickle.pt", b"\x80\x04."),
    ):
        with pytest.raises((BadInput, NotFound)):
            library.import_lora(data, name)
    assert not list((tmp_path / "models" / "loras").iterdir())


def test_a_run_is_measured_before_it_starts(tmp_path: Path) -> None:
    model = tiny_sd(tmp_path / "model")
    runs = TrainingRuns(Settings(home=tmp_path, device="cpu"))
    found = runs.measure(LoraSpec(data="x", model=str(model), rank=4, batch_size=2))
    assert 0 < found["seconds_per_step"] < found["seconds_to_load"] + 60
    assert 50e6 < found["memory"] < 8e9
    with pytest.raises(BadInput, match="There is no model"):
        runs.measure(LoraSpec(data="x", model="nothing-here"))
    with pytest.raises(BadInput, match="can't be measured: Half precision"):  # as the measuring process says
        runs.measure(LoraSpec(data="x", model=str(model), precision="fp16"))


@pytest.mark.parametrize(
    ("code", "stderr", "sentence"),
    [
        (-9, "100%|##########| 16/16", "not enough memory"),
        (1, "Traceback\nMemoryError", "not enough memory"),
        (1, "studio.core.errors.BadInput: Wrong.", "can't be measured: Wrong."),
        (1, "", "no reason given"),
    ],
)
def test_why_a_run_could_not_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, stderr: str, sentence: str
) -> None:
    ended = subprocess.CompletedProcess([], code, "", stderr)
    monkeypatch.setattr("studio.runs.supervisor.subprocess.run", lambda *_, **__: ended)
    with pytest.raises(BadInput, match=sentence):
        Supervisor(Settings(home=tmp_path)).measure(LoraSpec(data="x"))


def test_a_tilde_is_ones_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    monkeypatch.setattr(Supervisor, "_spawn", lambda self, run: None)
    supervisor = Supervisor(Settings(home=tmp_path / "studio"))
    found = supervisor.get(supervisor.start(LoraSpec(data="~/pictures", model="~/model"))).spec()
    assert (found.data, found.model) == (str(tmp_path / "pictures"), str(tmp_path / "model"))
