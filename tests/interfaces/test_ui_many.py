"""More than one picture from one request, in `AppTest`: batches, grids, lists in files, and what a rerun reads."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from streamlit.testing.v1 import AppTest
from support.pages import STEPS, app, sentences

from studio.core.errors import BadInput
from studio.core.specs import BatchRow, GenerateSpec
from studio.engine.models import catalogue
from studio.features.sheets.spec import BatchSpec
from studio.interfaces.web import results
from studio.interfaces.web.resources import studio


def test_a_batch_is_shown_a_page_at_a_time_and_downloaded_as_one_file(
    page_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "PAGE_SIZE", 3)
    kept: dict[str, Any] = {}
    download = results.st.download_button

    def button(label: str, **options: Any) -> bool:
        if label == results.TEXT["all"]:
            kept.update(options)
        return bool(download(label, **options))

    monkeypatch.setattr(results.st, "download_button", button)
    rows = tuple(BatchRow(prompt=f"number {n}", seed=n) for n in range(8))
    job = studio().submit(BatchSpec(base=GenerateSpec(model=studio().settings.model, steps=STEPS), rows=rows), "me")
    ids = studio().wait(job.id, "me", 60).pictures
    at = app(**{"job:generate": job.id})
    cards = [b.key for b in at.button if b.key and b.key.startswith(f"open_{job.id}")]
    assert cards == [f"open_{job.id}_{n}" for n in range(3)]
    at.session_state[f"page_{job.id}"] = 3
    at.run()
    assert [b.key for b in at.button if b.key and b.key.startswith(f"open_{job.id}")] == [
        f"open_{job.id}_{n}" for n in (6, 7)
    ]
    studio().delete([ids[1]], "me")
    with zipfile.ZipFile(io.BytesIO(kept["data"]())) as bundle:
        assert bundle.namelist() == [f"{n}.png" for n in (1, 3, 4, 5, 6, 7, 8)]
        assert bundle.read("3.png") == studio().picture_bytes(ids[2], "me")
    assert zipfile.ZipFile(io.BytesIO(studio().archive(ids, "somebody else"))).namelist() == []


def test_values_beyond_what_a_grid_takes_are_said_to_be_left_out(page_home: Path) -> None:
    script = AppTest.from_function(_grid_axis, default_timeout=60).run()
    assert not script.warning
    script.text_input(key="x_seed").set_value(", ".join(str(n) for n in range(18))).run()
    assert "Only the first 16 values are drawn: 2 values left out." in script.warning[0].value


@pytest.mark.parametrize(
    ("name", "typed", "said"),
    [("guidance", "abc, 3", "Guidance can't be 'abc': it is a number from 0 to 30."),
     ("guidance", "1, nan", "Guidance can't be 'nan'"), ("steps", "4, 99", "a whole number from 1 to 50"),
     ("emotion", "happy, glad", "Emotion can't be 'glad': it is one of happy, angry")],
)  # fmt: skip
def test_a_grid_s_values_are_checked_while_they_are_typed(name: str, typed: str, said: str) -> None:
    def script() -> None:
        import streamlit as st

        from studio.interfaces.web import many

        found = many.axis("Across", (st.session_state["name"],), st.session_state["name"], "x")
        st.text(",".join(found.values) if found else "none")

    at = AppTest.from_function(script, default_timeout=60)
    at.session_state["name"] = name
    at.session_state[f"x_{name}"] = typed
    at.run()
    assert not at.exception
    assert said in sentences(at)
    assert at.text[0].value == "none"  # so that Draw is not to be pressed
    at.session_state["name"] = "guidance"
    at.session_state["x_guidance"] = "3, 1, 3, 1.0"
    at.run()
    assert not at.error
    assert at.text[0].value == "3,1"  # each once


def _grid_axis() -> None:
    from studio.interfaces.web import many

    many.axis("Across", ("seed",), "seed", "x")


def test_a_list_in_shift_jis_is_read_and_one_in_another_encoding_refused(page_home: Path) -> None:
    wanted = "1girl, 赤い髪, 笑顔"
    for encoding in ("utf-8", "utf-8-sig", "cp932"):
        assert [row.prompt for row in studio().parse_rows(f"{wanted}\n".encode(encoding))] == [wanted], encoding
    unreadable = wanted.encode("euc-jp") + b"\xff"
    for data in (unreadable, b"\x80\x00"):
        with pytest.raises(BadInput):
            studio().parse_rows(data)
    at = AppTest.from_function(_batch_dialog, default_timeout=60).run()
    at.file_uploader(key="gen_batch_file").set_value(("list.txt", wanted.encode("cp932"), "text/plain")).run()
    assert not at.exception
    assert wanted in sentences(at)
    at.file_uploader(key="gen_batch_file").set_value(("list.txt", unreadable, "text/plain")).run()
    assert "save it as UTF-8" in sentences(at)


def _batch_dialog() -> None:
    from studio.core.specs import GenerateSpec
    from studio.interfaces.web import many

    many.batch_dialog(GenerateSpec())


def test_a_rerun_of_the_form_reads_models_and_loras_once(page_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = studio().settings.models_dir / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    weights = {f"{layer}.lora_down.weight": torch.ones(2, 32), f"{layer}.lora_up.weight": torch.ones(32, 2)}
    save_file(weights, folder / "one.safetensors")
    at, read = app(), {"loras": 0, "models": 0}

    def counted(name: str, function: Any) -> Any:
        def count(*arguments: Any, **options: Any) -> Any:
            read[name] += 1
            return function(*arguments, **options)

        return count

    monkeypatch.setattr(catalogue, "loras", counted("loras", catalogue.loras))
    monkeypatch.setattr(catalogue, "catalogue", counted("models", catalogue.catalogue))
    at.text_input(key="gen_text").set_value("red hair").run()
    assert read == {"loras": 0, "models": 1}
    assert [lora.path.stem for lora in studio().models.loras()] == ["one"]
    save_file(weights, folder / "two.safetensors")
    assert [lora.path.stem for lora in studio().models.loras()] == ["one", "two"]
    (folder / "two.json").write_text('{"title": "Another"}')
    assert [lora.title for lora in studio().models.loras()] == ["Another", "one"]
    (folder / "one.safetensors").unlink()
    assert [lora.title for lora in studio().models.loras()] == ["Another"]
    assert read["loras"] == 3
