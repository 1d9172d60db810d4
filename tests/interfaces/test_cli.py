"""The command line as scripts use it: JSON on the last line, exit codes, one sentence for every mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from sd_parsers import ParserManager
from support import captioner_models
from support.training_sets import write_set
from support.verbs import Done, one_sentence

from studio.interfaces.cli import bench, terminal

REPOSITORY = Path(__file__).resolve().parents[2]


def test_generate(run: Callable[..., Done], tmp_path: Path, model: str) -> None:
    options = ["--text", "red hair", "--emotion", "sad", "--seed", 5, "--count", 2, "--steps", 2, "--offline", "--json"]
    done = run("generate", *options, "--out", tmp_path / "new" / "folder")
    assert done.code == 0, done.err
    assert set(done.json) == {"images", "prompt", "negative", "model", "steps", "seconds", "unknown_words", "left_out"}
    assert done.json["unknown_words"] == []
    assert (done.json["model"], done.json["steps"]) == (model, 2)
    assert "red hair" in done.json["prompt"]
    assert [(image["seed"], image["cached"]) for image in done.json["images"]] == [(5, False), (6, False)]
    for image in done.json["images"]:
        found = ParserManager().parse(image["path"])
        assert found is not None
        assert found.samplers[0].parameters["seed"] == str(image["seed"])
    again = run("generate", *options, "--out", tmp_path / "new" / "folder")
    assert [image["cached"] for image in again.json["images"]] == [True, True]
    assert [i["path"] for i in again.json["images"]] == [i["path"] for i in done.json["images"]]
    other = run(
        "generate", "--prompt", "cat", "--seed", 5, "--steps", 1, "--json", "--out", tmp_path / "new" / "folder"
    )
    assert other.json["images"][0]["path"] not in [i["path"] for i in done.json["images"]]  # nothing was overwritten


def test_generate_from_a_list_of_prompts(run: Callable[..., Done], tmp_path: Path) -> None:
    rows = tmp_path / "prompts.csv"
    rows.write_text('prompt,seed,emotion\n"cat, red",3,\ndog,,sad\n', encoding="utf-8")
    done = run("generate", "--prompts", rows, "--steps", 1, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert done.json["prompt"] == "cat, red"
    assert done.json["images"][0]["seed"] == 3
    assert [Path(image["path"]).name[:5] for image in done.json["images"]] == ["0001-", "0002-"]
    rows.write_text("prompt,seed\ncat,nan\n", encoding="utf-8")
    wrong = run("generate", "--prompts", rows, "--json")
    assert wrong.code == 2
    assert "line 2: the seed 'nan'" in one_sentence(wrong)


def test_prompt_and_harden(run: Callable[..., Done]) -> None:
    done = run("prompt", "--emotion", "angry", "--text", "猫耳 red hair", "--offline", "--json")
    assert done.code == 0
    assert {"layers", "positive_prompt", "negative_prompt", "confidence", "notes", "writer", "cached"} <= set(done.json)
    assert done.json["writer"] == "offline"
    assert done.out.isascii()  # any pipe takes it
    plain = run("prompt", "--offline")
    assert "Confidence: " in plain.out
    hard = run("harden", "reb hair, smlie", "--json")
    assert hard.code == 0, hard.err
    assert set(hard.json) == {"text", "changes"}
    assert "smile" in hard.json["text"]
    assert {"from", "to", "kind", "confidence"} == set(hard.json["changes"][0])
    assert run("harden", "red hair, smile", "--json").json == {"text": "red hair, smile", "changes": []}


UNSURE = "crying, frown, tears"  # contradicts "happy", and nothing else


@pytest.mark.parametrize("writer", [["--offline"], []])
def test_a_doubtful_prompt(run: Callable[..., Done], writer: list[str]) -> None:
    options = ["generate", "--text", UNSURE, "--seed", 9, "--steps", 1, "--json", *writer]
    plain = run(*options)
    assert plain.code == 0, plain.err
    assert "'happy' and 'frown' don't go together" in plain.err
    assert run(*options, "--on-low-confidence", "run").json["prompt"] == plain.json["prompt"]
    for policy in ("fixed", "retry"):
        done = run(*options, "--on-low-confidence", policy)
        assert done.code == 0, done.err
        assert done.json["prompt"] == (
            f"1girl, anime character, detailed face, happy, casual style, {UNSURE}, masterpiece, best quality"
        )
        assert "fixed template" in done.err
        assert "only 55% sure to show what was asked for: 'happy' and 'frown'" in done.err
        sure = run(*options, "--on-low-confidence", policy, "--emotion", "sad")
        assert "solo" in sure.json["prompt"]
    failed = run(*options, "--on-low-confidence", "fail")
    assert failed.code == 2
    assert "55% sure to show what was asked for: 'happy' and 'frown' don't go together" in one_sentence(failed)
    assert run(*options, "--on-low-confidence", "fail", "--emotion", "sad").code == 0


def test_a_doubtful_prompt_of_a_list_a_sketch_and_a_set_of_sprites(run: Callable[..., Done], tmp_path: Path) -> None:
    rows = tmp_path / "prompts.csv"
    rows.write_text(f'prompt,emotion\nred hair,happy\n"{UNSURE}",happy\n', encoding="utf-8")
    Image.linear_gradient("L").resize((64, 64)).save(tmp_path / "drawing.png")
    for verb in (
        ["generate", "--prompts", rows],
        ["sketch", "--image", tmp_path / "drawing.png", "--text", UNSURE],
        ["sprites", "--text", UNSURE],
    ):
        failed = run(*verb, "--steps", 1, "--on-low-confidence", "fail", "--json")
        assert failed.code == 2
        said = one_sentence(failed)
        assert f"The prompt for happy, casual with '{UNSURE}" in said  # sprites show what was decided, too
        assert "is only 55% sure" in said
    done = run("sprites", "--text", UNSURE, "--steps", 1, "--seed", 1, "--on-low-confidence", "fixed", "--json")
    assert done.code == 0, done.err
    with Image.open(done.json["frames"][2]) as sad:
        assert "sad, casual style, crying" in sad.info["parameters"]
        assert "sorrowful" not in sad.info["parameters"]


def test_the_default_for_doubtful_prompts_is_said(run: Callable[..., Done]) -> None:
    said = " ".join(run("generate", "--help").out.replace("│", " ").split())
    assert "run: draw it, as without this option" in said
    assert "Default: run." in said


def test_image_to_image(run: Callable[..., Done], tmp_path: Path) -> None:
    Image.linear_gradient("L").resize((64, 64)).save(tmp_path / "from.png")
    done = run(
        "generate", "--prompt", "x", "--source", tmp_path / "from.png", "--strength", 0.5, "--steps", 2, "--json"
    )
    assert done.code == 0, done.err
    assert len(done.json["images"]) == 1


WRONG = [
    (["generate", "--seed", "nan"], "--seed"),
    (["generate", "--seed", "-1"], "seed"),
    (["generate", "--steps", "1000000000"], "steps should be less than or equal to 50"),
    (["generate", "--size", "7"], "width"),
    (["generate", "--size", "64x-3"], "size"),
    (["generate", "--size", "999999x64"], "width"),
    (["generate", "--guidance", "nan"], "guidance should be a finite number"),
    (["generate", "--emotion", "grumpy"], "emotion should be 'happy'"),
    (["generate", "--style", ""], "style should be"),
    (["generate", "--on-low-confidence", "hope"], "on_low_confidence should be 'retry', 'fixed', 'run' or 'fail'"),
    (["generate", "--count", "0"], "count"),
    (["generate", "--sampler", "heun"], "sampler"),
    (["generate", "--model", "/nowhere/x.safetensors"], "There is no model"),
    (["generate", "--model", "weights.ckpt"], "pickle"),
    (["generate", "--model", "renamed.safetensors"], "renamed.safetensors"),
    (["generate", "--lora", "/nowhere.safetensors:0.5"], "no LoRA"),
    (["generate", "--lora", "x:nan"], "weight"),
    (["generate", "--source", "/nowhere.png"], "can't be read"),
    (["generate", "--source", "."], "can't be read"),
    (["generate", "--source", "renamed.safetensors"], "isn't a picture"),
    (["generate", "--prompts", "/nowhere.txt"], "can't be read"),
    (["generate", "--prompts", "renamed.safetensors"], "UTF-8"),
    (["generate", "--out", "/proc/nowhere"], "can't be a folder"),
    (["generate", "--out", "weights.ckpt"], "can't be a folder"),
    (["generate", "--out", "girl.png"], "the name of a picture"),
    (["generate", "--frobnicate"], "No such option"),
    (["prompt", "--text", "x" * 5000, "--offline"], "4000"),
    (["prompt", "--emotion", "grumpy"], "emotion"),
    (["morph", "--frames", "1"], "frames"),
    (["morph", "--to", "grumpy"], "emotions"),
    (["animate", "--emotions", ","], "emotions"),
    (["animate", "--strength-from", "2"], "strength_from"),
    (["sketch", "--image", "/nowhere.png"], "can't be read"),
    (["caption", "--data", "/nowhere"], "no data set"),
    (["caption", "--data", "x" * 5000], "at most 4096"),
    (["caption", "--data", "renamed.safetensors"], "no picture to train on"),
    (["caption", "--data", ".", "--captioner", "/nowhere"], "no captioner"),
    (["caption", "--data", ".", "--captioner", "weights.ckpt"], "is a file"),
    (["caption", "--data", ".", "--threshold", "2"], "threshold should be less than or equal to 1"),
    (["train-lora", "--data", "/nowhere"], "no data set"),
    (["train-lora", "--data", ".", "--epochs", "0"], "epochs"),
    (["distill", "--epochs", "-1"], "epochs"),
    (["runs", "show", "../.."], "no training run"),
    (["runs", "stop", "x"], "no training run"),
    (["runs", "frob"], "No such command"),
    (["bench", "--only", "nothing"], "no benchmark"),
    (["serve", "--host", "0.0.0.0"], "needs a key"),
    (["serve", "--port", "99999999"], "can't be used"),
    (["frobnicate"], "No such command"),
]


@pytest.mark.parametrize(
    ("arguments", "sentence"), WRONG, ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else ""
)
def test_every_mistake_is_one_sentence_and_exit_code_2(
    run: Callable[..., Done], home: Path, arguments: list[str], sentence: str
) -> None:
    torch.save({"a": torch.zeros(2)}, home / "renamed.safetensors")
    torch.save({"a": torch.zeros(2)}, home / "weights.ckpt")
    before = sorted(path.name for path in (home / "images").rglob("*"))
    done = run(*arguments)
    assert done.code == 2
    assert sentence in one_sentence(done)
    assert sorted(path.name for path in (home / "images").rglob("*")) == before  # nothing was written


def test_caption(run: Callable[..., Done], tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 3)
    (folder / "style_1" / "1.txt").unlink()
    tagger = captioner_models.tagger(tmp_path / "tagger", ["red_hair", "hat"], [3.0, 1.0], "multi_label_classification")
    done = run("caption", "--data", folder, "--captioner", tagger, "--threshold", 0.9, "--json")
    assert done.code == 0, done.err
    made = [{"file": "style_1/1.png", "caption": "style_1, red hair"}]
    assert done.json == {"folder": str(folder), "captions": made, "kept": 2, "without": []}
    assert (folder / "style_1" / "1.txt").read_text() == "style_1, red hair\n"
    every = run("caption", "--data", folder, "--captioner", tagger, "--all")
    assert every.out.splitlines()[0] == "style_1/0.png: style_1, red hair, hat"
    assert every.out.splitlines()[-1] == "3 captions written, 0 kept."
    style = run("caption", "--data", folder, "--all", "--threshold", 0, "--name-style", "--json")
    assert style.code == 2
    judged = run("caption", "--data", folder, "--all", "--threshold", 0.01, "--name-style", "--json")
    assert all(" style" in row["caption"] for row in judged.json["captions"])
    assert run("caption", "--data", folder, "--all", "--captioner", "nobody/tagger").code == 1  # no network here


def test_runs_are_listed(run: Callable[..., Done]) -> None:
    done = run("runs", "list", "--json")
    assert done.code == 0
    assert done.json == {"runs": []}
    assert run("runs", "list").out == "No runs yet.\n"


def test_bench_collects_runs_and_writes(tmp_path: Path) -> None:
    (tmp_path / "alpha.py").write_text(
        "def run(quick):\n    return {'seconds': 0.123456, 'deep': {'mb': 3}, 'quick': quick}\n"
    )
    (tmp_path / "beta.py").write_text("def run(quick):\n    raise RuntimeError('no such device')\n")
    said: list[str] = []
    result = bench.run(True, [], said.append, tmp_path)
    assert result["figures"] == {"alpha": {"seconds": 0.123456, "deep": {"mb": 3}, "quick": True}}
    assert result["failed"] == {"beta": "RuntimeError: no such device"}
    written = json.loads(Path(result["file"]).read_text())
    assert written["figures"] == result["figures"]
    assert {"processor", "cores", "memory_gb", "versions"} <= set(written["machine"])
    table = bench.table(result)
    assert any("alpha" in line and "seconds" in line and "0.1235" in line for line in table)
    assert any("beta" in line and "no such device" in line for line in table)


def test_lora_options() -> None:
    assert terminal.lora_refs(["a.safetensors", "b:0.5", "C:\\x.safetensors", "c:-1", "d:x"]) == [
        {"path": "a.safetensors"}, {"path": "b", "weight": "0.5"}, {"path": "C:\\x.safetensors"},
        {"path": "c", "weight": "-1"}, {"path": "d:x"},
    ]  # fmt: skip


def test_as_a_process(home: Path, model: str) -> None:
    """From another folder, without a terminal, with bytes that aren't text, and without loading torch for nothing."""
    environment = os.environ | {
        "STUDIO_HOME": str(home),
        "STUDIO_MODEL": model,
        "PYTHONPATH": str(REPOSITORY),
        "LC_ALL": "C",
    }
    command = [sys.executable, "-X", "importtime", "-m", "studio"]

    def call(*arguments: str | bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*command, *arguments], cwd=home, env=environment, capture_output=True)

    done = call("prompt", "--text", "猫耳", "--offline", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout.splitlines()[-1])["writer"] == "offline"
    assert b" torch\n" not in done.stderr
    bad = call("harden", b"\xff\xfe")
    assert bad.returncode == 2
    assert b"UTF-8" in bad.stderr
    assert b"Traceback" not in bad.stderr
