"""The Train page: what it says about pictures, what it starts, and a run that outlives the server."""

from __future__ import annotations

import io
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from streamlit.testing.v1 import AppTest
from support import captioner_models
from support.browser import PATIENCE, open_page, settle, studio_server
from support.pages import app, to
from support.training_sets import write_set

from studio.core.settings import Settings
from studio.core.views import JobView
from studio.interfaces.web import captions, text, train_form
from studio.interfaces.web.resources import studio
from studio.runs.rundir import RunDir
from studio.runs.supervisor import Supervisor


def packed(folder: Path) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        for path in sorted(folder.rglob("*")):
            bundle.write(path, path.relative_to(folder))
    return stream.getvalue()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 3 * PATIENCE / 1000
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def train_page(page_home: Path) -> AppTest:
    return app("train_lora", owner=None)


def texts(at: AppTest) -> str:
    return " ".join(str(e.value) for kind in ("success", "error", "caption", "markdown", "info") for e in at.get(kind))


def test_pictures_are_checked_and_captioned_before_anything_starts(train_page: AppTest, tmp_path: Path) -> None:
    at = train_page
    assert not at.exception
    assert at.button(key="lora_start").disabled
    at.text_input(key="lora_folder").set_value(str(tmp_path / "nothing")).run()
    assert "There is no data set at" in texts(at)
    folder = write_set(tmp_path / "data", 3)
    (folder / "style_1" / "notes.pdf").write_bytes(b"%PDF")
    (folder / "style_1" / "broken.png").write_bytes(b"\x89PNG broken")
    at.text_input(key="lora_folder").set_value(str(folder)).run()
    assert not at.exception
    said = texts(at)
    assert "3 pictures, 300 in an epoch (each shown 100 times)" in said
    assert "style\\_1 \\(3\\)" in said
    assert "neither a picture" in said
    assert "is not a picture that can be read" in said
    assert "1,500 steps in all, 75 an epoch." in said
    assert not at.button(key="lora_start").disabled
    at.text_input(key="lora_bulk_tags").set_value("blue eyes").run()
    at.button(key="lora_bulk_go").click().run()
    assert not at.exception
    assert (folder / "style_1" / "0.txt").read_text() == "1girl, sad, red hair, long hair, 0, blue eyes\n"


def test_presets_fill_the_form_and_bad_values_are_sentences(train_page: AppTest, tmp_path: Path) -> None:
    at = train_page
    at.segmented_control(key="lora_preset").set_value("T4, style").run()
    assert at.number_input(key="lora_batch_size").value == 4
    assert at.toggle(key="lora_gradient_checkpointing").value is True
    assert at.number_input(key="lora_resolution").value == 512
    at.text_input(key="lora_folder").set_value(str(write_set(tmp_path / "data", 2, (512, 512)))).run()
    at.text_input(key="lora_name").set_value("../x").run()
    assert not at.exception
    assert "Name: letters, digits, _ and" in texts(at).replace("\\", "")
    assert at.button(key="lora_start").disabled


def test_the_embedded_model_comes_with_its_own_settings(page_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_MODEL", "embedded")
    at = app("train_lora", owner=None)
    assert at.segmented_control(key="lora_preset").value == "Laptop, embedded model"
    assert at.number_input(key="lora_learning_rate").value == pytest.approx(5e-4)


def test_a_controlnet_is_started_found_again_and_used(
    train_page: AppTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[RunDir] = []
    monkeypatch.setattr(Supervisor, "_spawn", lambda self, run: started.append(run))
    at = train_page
    at.segmented_control(key="lora_what").set_value("control").run()
    assert not at.exception
    assert at.button(key="cn_start").disabled
    folder = write_set(tmp_path / "data", 20)
    at.text_input(key="lora_folder").set_value(str(folder)).run()
    assert "20 pictures, 0 drawings for them." in texts(at)
    assert "20 steps in all, 2 an epoch. 4 of the pictures are kept back" in texts(at)  # 16, 8 at a time
    at.text_input(key="cn_name").set_value("../x").run()
    assert "Name: letters, digits, _ and" in texts(at).replace("\\", "")
    assert at.button(key="cn_start").disabled
    at.text_input(key="cn_name").set_value("mine").run()
    at.text_input(key="cn_init").set_value(str(tmp_path / "nothing.safetensors")).run()
    at.button(key="cn_start").click().run()
    assert not started
    assert "There is no ControlNet" in texts(at)
    at.text_input(key="cn_init").set_value("").run()
    at.button(key="cn_start").click().run()
    assert not at.exception
    [run] = started
    spec = run.spec()
    assert (spec.kind, spec.name, spec.init, spec.data) == ("control", "mine", None, str(folder))
    assert at.selectbox(key="train_lora_run").value == run.id
    net = run.adapter / "controlnet"
    net.mkdir(parents=True)
    (net / "config.json").write_text("{}")
    run.update(state="done", step=20, steps=20, held_out=0.5, held_out_before=0.54, held_out_without=0.56)
    run.samples.mkdir(exist_ok=True)
    Image.new("RGB", (64, 32)).save(run.samples / "step-000020.png")
    at.run()
    assert not at.exception
    assert "0.500 with their lines (before training 0.540), without any 0.560" in texts(at)
    assert "step 20" in [caption.value for caption in at.caption]  # above the sheet
    assert [code.value for code in at.code if "controlnet" in code.value] == [str(net)]
    at.button(key="cn_use").click().run()
    assert at.session_state["sk_net"] == str(net)


def pressed(at: AppTest, key: str = "lora_caption_go") -> JobView:
    """Press a button that starts a job of the page, wait for its end, and draw the page again."""
    at.button(key=key).click().run()
    assert not at.exception
    job = studio().wait(at.session_state["job:train_lora"], at.session_state["owner"], PATIENCE / 1000)
    at.run()
    assert not at.exception
    return job


def test_first_captions_are_written_and_can_be_edited(train_page: AppTest, tmp_path: Path) -> None:
    at = train_page
    folder = write_set(tmp_path / "data", 3)
    texts_of = [folder / "style_1" / f"{k}.txt" for k in range(3)]
    kept = texts_of[0].read_text()
    for file in texts_of[1:]:
        file.unlink()
    (folder / "style_1" / "broken.png").write_bytes(b"\x89PNG broken")
    mine = tmp_path / "home" / "models" / "captioners" / "mine"
    captioner_models.tagger(mine, ["red_hair", "hat"], [3.0, 0.0], "multi_label_classification")
    at.session_state["lora_captioner"] = "nobody/tagger"  # as if it was typed
    at.text_input(key="lora_folder").set_value(str(folder)).run()
    assert "lora_caption_style" not in [toggle.key for toggle in at.toggle]
    at.button(key="lora_caption_go").click().run()
    assert "nobody/tagger is not on this machine and STUDIO_OFFLINE is on" in texts(at).replace("\\", "")
    at.selectbox(key="lora_captioner").set_value("judge").run()
    assert at.toggle(key="lora_caption_style").value is False
    assert at.button(key="lora_caption_go").label == "Caption 2 pictures"
    at.selectbox(key="lora_captioner").set_value(str(mine))
    job = pressed(at.run())
    assert job.state == "done", job.error
    assert [file.read_text() for file in texts_of] == [kept, *["style_1, red hair, hat\n"] * 2]
    assert "2 captions written, 1 kept." in texts(at)
    assert "broken\\.png is not a picture that can be read" in texts(at)
    assert list(at.dataframe[0].value["caption"]) == [kept.strip(), *["style_1, red hair, hat"] * 2]
    assert at.button(key="lora_caption_go").disabled
    at.toggle(key="lora_caption_every").set_value(True)
    at.number_input(key="lora_caption_threshold").set_value(0.9).run()
    assert at.button(key="lora_caption_go").label == "Caption 3 pictures"
    assert pressed(at).result["kept"] == 0
    assert {file.read_text() for file in texts_of} == {"style_1, red hair\n"}
    at.text_input(key="lora_bulk_tags").set_value("blue eyes").run()
    at.button(key="lora_bulk_go").click().run()
    assert texts_of[0].read_text() == "style_1, red hair, blue eyes\n"


def test_captions_that_were_not_saved_are_trained_with(
    train_page: AppTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = train_page
    folder = write_set(tmp_path / "data", 2)
    monkeypatch.setattr(Supervisor, "_spawn", lambda self, run: None)
    at.text_input(key="lora_folder").set_value(str(folder)).run()
    before = (folder / "style_1" / "1.txt").read_text()
    # what the table gives back when somebody typed into a cell: AppTest has no data editor
    monkeypatch.setattr(captions, "_edited", lambda report: {
        entry.file: "typed" if entry.file.endswith("0.png") else entry.caption for entry in report.entries
    })  # fmt: skip
    at.button(key="lora_start").click().run()
    assert not at.exception
    assert len(studio().runs.list()) == 1
    assert (folder / "style_1" / "0.txt").read_text() == "typed\n"
    assert (folder / "style_1" / "1.txt").read_text() == before


def test_captions_of_a_zip_are_edited_where_it_was_unpacked(train_page: AppTest, tmp_path: Path) -> None:
    at = train_page
    (tmp_path / "mine.zip").write_bytes(packed(write_set(tmp_path / "data", 2)))
    at.text_input(key="lora_folder").set_value(str(tmp_path / "mine.zip")).run()
    for tag in ("blue eyes", "hat"):
        at.text_input(key="lora_bulk_tags").set_value(tag).run()
        at.button(key="lora_bulk_go").click().run()
        assert not at.exception
    assert all(caption.endswith(", blue eyes, hat") for caption in at.dataframe[0].value["caption"])


def test_the_example_set_is_a_copy_and_wins_over_earlier_uploads(train_page: AppTest) -> None:
    before = [element.proto.id for element in train_page.get("file_uploader")]
    train_page.button(key="lora_example").click().run()
    assert not train_page.exception
    folder = Path(train_page.text_input(key="lora_folder").value)
    assert folder.is_relative_to(studio().settings.datasets_dir)
    assert len(list(folder.glob("*.jpg"))) == len(list(train_form.EXAMPLE.glob("*.jpg"))) > 20
    assert [element.proto.id for element in train_page.get("file_uploader")] != before  # a fresh, empty one


def test_whatever_a_set_may_consist_of_can_be_uploaded(train_page: AppTest) -> None:
    taken = {kind for element in train_page.get("file_uploader") for kind in element.proto.type}
    assert {".zip", ".jfif", ".caption", ".csv", ".json", ".jsonl"} <= taken


def test_an_upload_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def upload(files: list[tuple[str, bytes]]) -> str:
        written.append(files)
        (tmp_path / str(len(written))).mkdir()
        return str(tmp_path / str(len(written)))

    monkeypatch.setattr(train_form, "studio", lambda: SimpleNamespace(datasets=SimpleNamespace(upload=upload)))
    monkeypatch.setattr(train_form, "st", SimpleNamespace(session_state={}))
    first = [SimpleNamespace(name="a.png", file_id="1", getvalue=lambda: b"a")]
    second = [*first, SimpleNamespace(name="b.png", file_id="2", getvalue=lambda: b"b")]
    assert [train_form._uploaded(files)[-1] for files in (first, first, second)] == ["1", "1", "2"]
    (tmp_path / "2").rmdir()
    assert train_form._uploaded(second)[-1] == "3"
    assert len(written) == 3


def test_captions_in_the_making_are_shown_and_found_again_after_a_reload(train_page: AppTest, tmp_path: Path) -> None:
    at = train_page
    folder = write_set(tmp_path / "data", 40)
    for file in folder.rglob("*.txt"):
        file.unlink()
    at.session_state["lora_captioner"] = str(captioner_models.blip(tmp_path / "blip"))
    at.text_input(key="lora_folder").set_value(str(folder)).run()
    at.button(key="lora_caption_go").click().run()
    job, owner = at.session_state["job:train_lora"], at.session_state["owner"]
    until(lambda: len(studio().job(job, owner).result.get("captions", {})) > 1)
    reloaded = app(owner=owner)
    elsewhere = [line.proto.label for line in reloaded.sidebar.get("page_link")]
    assert any(line.startswith("Writing: captions for data") for line in elsewhere)
    reloaded.session_state["job:train_lora"] = job
    to(reloaded, "train_lora")
    assert reloaded.text_input(key="lora_folder").value == str(folder)
    assert "lora_caption_go" not in [button.key for button in reloaded.button]
    assert set(reloaded.dataframe[0].value["Caption"]) <= set(studio().job(job, owner).result["captions"].values())
    reloaded.button(key=f"cancel_{job}").click().run()
    assert studio().wait(job, owner, PATIENCE / 1000).state == "cancelled"
    reloaded.run()
    assert "Cancelled. What was finished is kept." in texts(reloaded)
    left = 40 - len(studio().job(job, owner).result["captions"])
    assert 0 < left < 40
    assert reloaded.button(key="lora_caption_go").label == f"Caption {text.plural(left, 'picture')}"


@pytest.mark.browser
def test_a_run_outlives_the_server(tmp_path: Path, tiny_model: Path, visitor: Callable[..., Page]) -> None:
    """Upload, start, see the loss move, end the server, start it again, see the run, stop, resume, grid, use."""
    data = packed(write_set(tmp_path / "data", 4))
    home = tmp_path / "home"
    supervisor = Supervisor(Settings(home=home))
    with studio_server(home, tiny_model, DEVICE="cpu") as server:
        page = visitor()
        open_page(page, f"{server.url}/train_lora")
        uploader = page.get_by_test_id("stFileUploader").filter(has_text="A ZIP, or pictures")
        uploader.locator('input[type="file"]').set_input_files(
            {"name": "mine.zip", "mimeType": "application/zip", "buffer": data}
        )
        expect(page.get_by_text("4 pictures, 300 in an epoch")).to_be_visible(timeout=PATIENCE)
        for label, value in (("Repeats", "1"), ("Epochs", "1000")):
            page.get_by_label(label, exact=True).fill(value)
            page.get_by_label(label, exact=True).press("Enter")
            settle(page)
        expect(page.get_by_text("1,000 steps in all, 1 an epoch.")).to_be_visible(timeout=PATIENCE)
        page.get_by_role("button", name="Start training").click()
        expect(page.get_by_text(re.compile(r"step [1-9]\d* of 1000"))).to_be_visible(timeout=3 * PATIENCE)
        expect(page.get_by_text("Loss", exact=True)).to_be_visible()
        expect(page.get_by_alt_text(re.compile("Sample after 0 steps")).first).to_be_visible(timeout=PATIENCE)
        assert "?run=" in page.url
    [run] = supervisor.list()
    seen = run.status()["step"]
    assert run.alive(), run.tail()
    # beyond the first checkpoint, with nobody watching
    until(lambda: run.status()["step"] >= max(seen + 2, 6))
    with studio_server(home, tiny_model, DEVICE="cpu") as server:
        page = visitor()
        open_page(page, f"{server.url}/train_lora")
        expect(page.get_by_text(re.compile(r"step \d+ of 1000"))).to_be_visible(timeout=3 * PATIENCE)
        page.get_by_role("button", name="Stop and save").click()
        expect(page.get_by_text("Stopped and saved").first).to_be_visible(timeout=PATIENCE)
        stopped = run.status()["step"]
        page.get_by_role("button", name="Resume").click()
        expect(page.get_by_role("button", name="Stop and save")).to_be_visible(timeout=3 * PATIENCE)
        until(lambda: run.status()["step"] > stopped)
        page.get_by_role("button", name="Stop and save").click()
        expect(page.get_by_role("button", name="Resume")).to_be_visible(timeout=PATIENCE)
        assert f"step {stopped + 1} of 1000 is next" in " ".join(run.status()["notes"])
        assert [line["step"] for line in run.metrics()] == list(range(1, run.status()["step"] + 1))
        page.get_by_role("button", name="Epoch by weight").click()
        expect(page.get_by_role("button", name="Favourite").first).to_be_visible(timeout=2 * PATIENCE)
        page.get_by_role("button", name="Use in Generate").click()
        expect(page.get_by_role("heading", name="Generate")).to_be_visible(timeout=PATIENCE)
        settle(page)
        page.get_by_text("More settings", exact=True).click()
        chosen = page.get_by_test_id("stMultiSelect").filter(has_text="LoRA").first
        expect(chosen.get_by_text("my-style")).to_be_visible(timeout=PATIENCE)  # the run's name, and its LoRA's
