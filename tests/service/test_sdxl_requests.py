"""What is worked out for a request of SDXL: its size, its model's own words for quality, a few-step adapter's steps."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from studio.core.errors import BadInput
from studio.core.settings import Settings
from studio.core.specs import GenerateSpec, LoraRef, Recipe
from studio.service import Studio
from studio.service.sizes import default_size

OWNER = "somebody"
NOOB = "Laxhar/noobai-XL-1.1"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    home = tmp_path_factory.mktemp("requests")
    (home / "models" / "loras").mkdir(parents=True)
    layer = {"lora_unet_x.lora_down.weight": np.zeros((1, 1), np.float32)}
    layer |= {name.replace("down", "up"): value for name, value in layer.items()}
    save_file(layer, home / "models" / "loras" / "dmd2_sdxl_4step_lora_fp16.safetensors")
    one = Studio(Settings(home=home, device="cpu", offline=True))
    yield one
    one.close()
    shutil.rmtree(home)


def resolved(studio: Studio, **fields: object) -> tuple[Recipe, list[str]]:
    notes: list[str] = []
    [recipe] = studio._resolver.recipes(GenerateSpec(**{"model": NOOB, "seed": 1, **fields}), OWNER, notes)
    return recipe, notes


def test_the_size_is_one_of_its_training(studio: Studio) -> None:
    assert (resolved(studio)[0].width, resolved(studio)[0].height) == (832, 1216)
    wide = studio.upload(_png(1600, 900), OWNER).id
    recipe, notes = resolved(studio, source=wide)
    assert (recipe.width, recipe.height) == (1344, 768)
    assert not [note for note in notes if "were made for" in note or "stand twice" in note]
    assert default_size(512, None) == (512, 512)


def _png(width: int, height: int) -> bytes:
    import io

    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


def test_a_model_has_its_own_words_for_quality(studio: Studio) -> None:
    prompt = resolved(studio)[0].prompt
    assert prompt.endswith("masterpiece, best quality, newest, absurdres, highres, safe")
    assert "nsfw" in resolved(studio)[0].negative
    assert "furry" not in resolved(studio, text="furry")[0].negative, "what somebody asks for isn't taken back"
    other = resolved(studio, model="stable-diffusion-v1-5/stable-diffusion-v1-5")[0]
    assert "safe" not in other.prompt
    assert (resolved(studio)[0].sampler, resolved(studio)[0].steps) == ("euler_a", 28)


def test_a_few_step_adapter_is_known_by_its_file(studio: Studio) -> None:
    recipe, notes = resolved(studio, loras=(LoraRef(path="dmd2_sdxl_4step_lora_fp16.safetensors"),))
    assert (recipe.steps, recipe.guidance, recipe.sampler) == (4, 1.0, "dmd2")
    assert any("CC BY-NC 4.0" in note for note in notes)


def test_what_the_smaller_text_encoder_has_no_layer_for_is_refused(studio: Studio) -> None:
    assert resolved(studio, clip_skip=2, guidance_rescale=0.7, prediction="v_zero_snr")[0].prediction == "v_zero_snr"
    with pytest.raises((BadInput, ValueError)):
        resolved(studio, guidance_rescale=1.5)
