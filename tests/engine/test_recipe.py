"""What a recipe asks of a model is the same for a picture and for a frame."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.checkpoints import tiny_sd

from studio.core.errors import BadInput
from studio.core.settings import Settings
from studio.core.specs import Recipe
from studio.engine import recipe as requests
from studio.engine.engine import Engine

RECIPE = Recipe(
    model="plain", model_hash="", prompt="1girl", negative="", seed=5, steps=2, guidance=1.0, sampler="auto", width=72,
    height=64,
)  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    tiny_sd(tmp_path / "models" / "plain")
    return Settings(home=tmp_path, device="cpu", model="plain", preview_every=0, offline=True)


def test_a_missing_fast_path_is_refused_for_pictures_and_frames_alike(settings: Settings) -> None:
    engine = Engine(settings)
    components = engine.components("plain")
    fast = RECIPE.model_copy(update={"fast": True})
    weight = next(components.unet.parameters())
    before = weight.data_ptr()
    with pytest.raises(BadInput, match="no fast path"):  # a picture
        list(engine.draw([fast]))
    with pytest.raises(BadInput, match="no fast path"), requests.attached(components, fast, settings):  # frames
        pytest.fail("nothing may be drawn")
    with pytest.raises(BadInput, match="no fast path"):
        requests.sampler_of(components.info, fast)
    assert weight.data_ptr() == before
    with requests.attached(components, RECIPE, settings):
        assert weight.data_ptr() == before


def test_sampler_and_size_of_a_recipe(settings: Settings) -> None:
    components = Engine(settings).components("plain")
    assert requests.sampler_of(components.info, RECIPE) == components.info.sampler
    assert requests.sampler_of(components.info, RECIPE.model_copy(update={"sampler": "ddim"})) == "ddim"
    assert requests.latent_size(components, RECIPE) == (80, 64)
    positive, negative = requests.encode(components, RECIPE, ["1girl", "1boy"], ["hat"])
    assert (len(positive), len(negative)) == (2, 1)
    assert torch.isfinite(positive.embeddings).all()
