"""A model as one file in the original layout, at small size; at full size in `test_engine.py`, marked slow."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from support.checkpoints import tiny_sd, to_single_file

from studio.core.settings import Settings
from studio.core.specs import Recipe
from studio.engine.engine import Engine
from studio.engine.models import loading


def test_one_file_draws_what_its_folder_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"factor": 8, "latent_channels": 4, "addition_embed_type": None}
    folder = tiny_sd(tmp_path / "models" / "folder", "epsilon", **options)
    # what ships describes the full size: for this test the small model's own configurations stand in its place
    shutil.copytree(
        folder, tmp_path / "assets" / "models" / "sd15-config", ignore=shutil.ignore_patterns("*.safetensors")
    )
    monkeypatch.setattr(loading, "ASSETS", tmp_path / "assets")
    models = tmp_path / "models"
    whole = load_file(to_single_file(folder, models / "file.safetensors"))
    parts = {"first_stage_model." in key: {} for key in whole}
    for key, value in whole.items():
        parts["first_stage_model." in key][key] = value
    save_file(parts[False], models / "without.safetensors")
    save_file(
        {key.removeprefix("first_stage_model."): value for key, value in parts[True].items()},
        models / "without.vae.safetensors",
    )
    save_file(parts[False], models / "other.safetensors")
    shutil.copy(folder / "vae" / "diffusion_pytorch_model.safetensors", models / "other.vae.safetensors")
    engine = Engine(Settings(home=tmp_path, device="cpu", offline=True, preview_every=0))
    drawn = []
    for name in ("folder", "file", "without", "other"):
        recipe = Recipe(
            model=name, model_hash="", prompt="1girl, (happy:1.2)", seed=1, steps=3, guidance=3.0, sampler="ddim",
            width=64, height=64,
        )  # fmt: skip
        drawn.append(np.asarray(dict(engine.draw([recipe]))[0]))
    assert drawn[0].std() > 1
    assert all(np.array_equal(drawn[0], one) for one in drawn[1:])
