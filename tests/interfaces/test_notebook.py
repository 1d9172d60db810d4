"""The notebook: "Run all" works from top to bottom on the embedded model; the tunnel is a program that only says so."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

import nbformat
import pytest
import typer
from nbclient import NotebookClient

from studio.core.settings import REPOSITORY
from studio.interfaces.cli import main as verbs_module

NOTEBOOK = REPOSITORY / "notebooks" / "colab.ipynb"
SMALL = "--rank 2 --repeats 1 --batch 4 --no-samples"
TUNNEL = """#!/bin/sh
echo "INF Requesting new quick Tunnel on trycloudflare.com..."
echo "INF |  https://four-plain-words-here.trycloudflare.com  |"
exec sleep 600
"""
LOOK = """
import urllib.error
try:
    print('PAGE', urllib.request.urlopen(f'http://127.0.0.1:{PORT}/', timeout=20).status)
except urllib.error.HTTPError as error:
    print('PAGE', error.code)
print('TUNNEL', tunnel.poll(), 'STRONG', len(password) >= 16)
tunnel.terminate(); server.terminate(); server.wait(30)
"""


def outputs(notebook: nbformat.NotebookNode) -> str:
    texts = [out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", [])]
    return "".join(texts)


def test_its_cells_ask_for_options_that_there_are() -> None:
    """A training cell that goes on after Colab ended it has to say both `--resume` and a limit below Colab's."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    [cell] = [cell.source for cell in notebook.cells if "studio('train-lora'" in cell.source]
    options = set(re.findall(r"--[a-z-]+", cell))
    verbs = typer.main.get_command(verbs_module.app).commands  # type: ignore[attr-defined]
    assert {"--resume", "--time-limit"} <= options
    assert options <= {option for parameter in verbs["train-lora"].params for option in parameter.opts}


def test_without_the_studio_it_stops_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_FOLDER", str(tmp_path / "nothing"))
    source = next(cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code")
    with pytest.raises(SystemExit, match="write the address of your copy of the repository into REPOSITORY"):
        exec(source, {})


@pytest.mark.skipif(sys.platform == "win32", reason="the tunnel of this test is a shell script")
def test_run_all_works_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "cloudflared").write_text(TUNNEL)
    (programs / "cloudflared").chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "STUDIO_FOLDER": str(REPOSITORY), "STUDIO_HOME": str(tmp_path / "home"), "STUDIO_DEVICE": "cpu",
        "STUDIO_OFFLINE": "true", "STUDIO_TRAINING": SMALL, "STUDIO_PAGES": "tunnel", "STUDIO_PORT": str(port),
        "STUDIO_WARM_UP": "false", "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("STUDIO_PASSWORD", raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if "EPOCHS = 5" in cell.source:
            cell.source = cell.source.replace("EPOCHS = 5", "EPOCHS = 1")
            again = nbformat.v4.new_code_cell(cell.source.replace("print(", "print('AGAIN', "))
    notebook.cells.insert(next(i for i, cell in enumerate(notebook.cells) if "EPOCHS = 1" in cell.source) + 1, again)
    notebook.cells.append(nbformat.v4.new_code_cell(LOOK))
    NotebookClient(
        notebook, timeout=1500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    text = outputs(notebook)
    images = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(images) == 1
    done, again_done = (re.search(rf"^{start}done (\S+)$", text, re.MULTILINE) for start in ("", "AGAIN "))
    assert done is not None, text[-2000:]
    assert again_done is not None
    assert done[1] == again_done[1], "a cell that is run twice gives the result again"
    assert Path(done[1]).is_file()
    assert len(list((tmp_path / "home" / "runs").glob("2*"))) == 1, "it doesn't train twice"
    assert "Open https://four-plain-words-here.trycloudflare.com" in text
    assert "Password: " in text
    assert re.search(r"PAGE (200|401|403)", text), text[-500:]
    assert "TUNNEL None STRONG True" in text
