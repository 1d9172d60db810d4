"""The model that ships: it opens without the studio, draws what is asked, and stays small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from studio.core.settings import ASSETS, EMBEDDED_MODEL, Settings
from studio.core.specs import EMOTIONS, STYLES, Recipe
from studio.engine.engine import Engine
from studio.engine.models.catalogue import resolve
from studio.evaluation.judge import Judge
from studio.prompting.writers import OfflineWriter, PromptRequest

ASKED = [(emotion, STYLES[(n + k) % len(STYLES)]) for n, emotion in enumerate(EMOTIONS) for k in (0, 2)]
PLAIN = """
import sys
import numpy as np
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1])
pipeline.set_progress_bar_config(disable=True)
image = pipeline("1girl, happy, pink hair, blue eyes", num_inference_steps=4, guidance_scale=3).images[0]
assert image.size == (256, 256), image.size
assert np.asarray(image).std() > 20
assert "studio" not in sys.modules
"""


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Settings(preview_every=0))


def recipes(engine: Engine, fast: bool) -> list[Recipe]:
    """Every emotion in two styles, every style at least twice, as the studio writes them."""
    info = resolve("embedded", engine.settings)
    path = info.fast if fast and info.fast is not None else info
    found = []
    for seed, (emotion, style) in enumerate(ASKED):
        words = f"1girl, {('red', 'blue')[seed % 2]} hair"
        said = OfflineWriter().write(PromptRequest(emotion=emotion, style=style, text=words))
        found.append(
            Recipe(
                model="embedded", model_hash=info.hash, prompt=said.positive_prompt, negative=said.negative_prompt,
                seed=seed, steps=path.steps if fast else 10, guidance=path.guidance, sampler=path.sampler,
                width=256, height=256, fast=fast,
            )
        )  # fmt: skip
    return found


def shown(pictures: list[Image.Image], factor: str) -> list[str]:
    return Judge.load(EMBEDDED_MODEL / "judge")(pictures).labels[factor]


def test_plain_diffusers_opens_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PLAIN, str(EMBEDDED_MODEL)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("fast", [False, True])
def test_it_draws_what_is_asked(engine: Engine, fast: bool) -> None:
    if fast and resolve("embedded", engine.settings).fast is None:
        pytest.skip("no few-step adapter ships: in four steps DPM++ 2M drew better than the distilled ones")
    pictures = [picture for _, picture in sorted(engine.draw(recipes(engine, fast)), key=lambda drawn: drawn[0])]
    # far below what is measured on many pictures, far above chance: a fifth, a quarter, a thirteenth
    assert sum(a == e for a, (e, _) in zip(shown(pictures, "emotion"), ASKED, strict=True)) >= 7
    assert sum(a == s for a, (_, s) in zip(shown(pictures, "style"), ASKED, strict=True)) >= 7
    assert sum(a == ("red", "blue")[k % 2] for k, a in enumerate(shown(pictures, "hair_color"))) >= 7


def test_all_weights_together_are_small() -> None:
    assert sum(path.stat().st_size for path in (ASSETS / "models").rglob("*") if path.is_file()) < 60e6
    assert not [path for path in ASSETS.rglob("*") if path.suffix in (".bin", ".pt", ".ckpt", ".pkl", ".pth")]


def test_nothing_says_where_it_was_made() -> None:
    described = list((ASSETS / "models").rglob("*.json"))
    assert described
    for path in described:
        assert "_name_or_path" not in path.read_text(encoding="utf-8"), path
