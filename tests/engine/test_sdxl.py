"""SDXL: from both layouts the same picture, and that of diffusers' own pipeline."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from support.sdxl import ship, tiny_sdxl, to_sdxl_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from studio.core.samplers import SAMPLERS
from studio.core.settings import ASSETS, Settings
from studio.core.specs import Recipe
from studio.engine import optimizations
from studio.engine.diffusion import latents, sampling, schedulers
from studio.engine.engine import Engine
from studio.engine.models import catalogue, loading
from studio.engine.models.components import Components
from studio.engine.models.families import FAMILIES, SDXL

PROMPT, NEGATIVE = "1girl, red hair, blue eyes", "long dress"


@pytest.fixture(scope="module")
def engine(sdxl: Path) -> Engine:
    return Engine(Settings(home=sdxl.parent.parent, device="cpu", offline=True, preview_every=0))


@pytest.fixture(scope="module")
def components(engine: Engine) -> Components:
    return engine.components("sdxl")


@pytest.fixture(scope="module")
def pipeline(sdxl: Path) -> StableDiffusionXLPipeline:
    """diffusers' own, from the files alone."""
    made = StableDiffusionXLPipeline.from_pretrained(sdxl, add_watermarker=False, local_files_only=True)
    made.set_progress_bar_config(disable=True)
    for part in (made.unet, made.vae):  # as the studio lays them out: another layout rounds differently
        part.to(memory_format=torch.channels_last)
    projection = made.text_encoder_2.text_projection.weight
    projection.data = projection.data.clone()  # likewise another address, as in a file that is mapped
    return made


def recipe(model: str, **fields: object) -> Recipe:
    values = {"prompt": PROMPT, "negative": NEGATIVE, "seed": 1, "steps": 3, "guidance": 3.0, "sampler": "euler_a"}
    return Recipe(**{"model": model, "model_hash": "", "width": 64, "height": 96, **values, **fields})


def drawn(engine: Engine, one: Recipe) -> np.ndarray:
    return np.asarray(dict(engine.draw([one]))[0])


@pytest.mark.parametrize("sampler", ["euler_a", "ddim", "dpmpp_2m_karras"])
def test_equal_in_every_bit_to_the_diffusers_pipeline(
    pipeline: StableDiffusionXLPipeline, engine: Engine, sampler: str
) -> None:
    pipeline.scheduler = schedulers.make_scheduler(sampler, engine.components("sdxl").scheduler_config)
    theirs = pipeline(
        PROMPT, negative_prompt=NEGATIVE, width=64, height=96, num_inference_steps=3, guidance_scale=3.0,
        generator=sampling.generators([1]), output_type="np",
    ).images[0]  # fmt: skip
    mine = drawn(engine, recipe("sdxl", sampler=sampler))
    assert mine.shape == (96, 64, 3)
    assert mine.std() > 1
    assert np.array_equal(mine, (theirs * 255).round().astype(np.uint8))


V_ZERO = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@pytest.mark.parametrize("sampler", ["euler_a", "ddim", "dpmpp_2m_karras"])
def test_v_prediction_with_zero_terminal_snr(pipeline: StableDiffusionXLPipeline, engine: Engine, sampler: str) -> None:
    """Chosen for a model that doesn't say so: the pipeline's picture with such a scheduler; with guidance rescaled."""
    told = engine.components("sdxl").scheduler_config
    pipeline.scheduler = schedulers.make_scheduler(sampler, told | V_ZERO)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    theirs = pipeline(
        PROMPT, negative_prompt=NEGATIVE, width=64, height=96, num_inference_steps=3, guidance_scale=3.0,
        generator=sampling.generators([1]), output_type="np", guidance_rescale=0.7,
    ).images[0]  # fmt: skip
    one = recipe("sdxl", sampler=sampler, prediction="v_zero_snr", guidance_rescale=0.7)
    mine = drawn(engine, one)
    assert np.array_equal(mine, (theirs * 255).round().astype(np.uint8))
    assert engine.components("sdxl").scheduler_config == told
    plain = drawn(engine, recipe("sdxl", sampler=sampler))
    unscaled = drawn(engine, one.model_copy(update={"guidance_rescale": 0.0}))
    assert len({picture.tobytes() for picture in (mine, plain, unscaled)}) == 3


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_every_sampler_begins_at_zero_terminal_snr(engine: Engine, name: str) -> None:
    picture = drawn(engine, recipe("sdxl", sampler=name, prediction="v_zero_snr", steps=4, height=64))
    assert picture.std() > 1


def test_one_file_draws_what_its_folder_draws(sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = tmp_path / "models"
    shutil.copytree(sdxl, models / "folder")
    monkeypatch.setattr(loading, "ASSETS", ship(sdxl, tmp_path / "assets"))
    to_sdxl_file(sdxl, models / "file.safetensors")
    empty = torch.zeros(0)
    to_sdxl_file(sdxl, models / "v.safetensors", {"v_pred": empty, "ztsnr": empty})
    engine = Engine(Settings(home=tmp_path, device="cpu", offline=True, preview_every=0))
    prompts = ["1girl, (happy:1.2)", "1girl, red hair BREAK blue eyes"]
    both = [[drawn(engine, recipe(name, prompt=prompt)) for prompt in prompts] for name in ("folder", "file")]
    assert all(np.array_equal(a, b) for a, b in zip(*both, strict=True))
    assert not np.array_equal(*both[0])
    said, chosen = recipe("v"), recipe("file", prediction="v_zero_snr")
    assert np.array_equal(drawn(engine, said), drawn(engine, chosen))
    info = catalogue.resolve("file", engine.settings)
    assert (info.family, info.native_size, info.sizes[0]) == (SDXL, 1024, (832, 1216))
    assert info.parameters == catalogue.resolve("folder", engine.settings).parameters + 1  # OpenCLIP's logit_scale


@pytest.mark.parametrize("half", [False, True])
def test_a_vae_that_overflows_decodes_in_full_precision(tmp_path: Path, half: bool) -> None:
    """Once, not twice; a mended one (`force_upcast` false) stays in half precision."""
    folder = tiny_sdxl(tmp_path / "models" / "half", dtype=torch.float16)
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"force_upcast": not half}))
    settings = Settings(home=tmp_path, device="cpu", offline=True, precision="fp16", preview_every=0)
    components = Engine(settings).components("half")
    assert components.dtype == components.vae.dtype == torch.float16
    seen = []
    decode = components.vae.decode
    components.vae.decode = lambda latents, **options: seen.append(latents.dtype) or decode(latents, **options)
    with torch.no_grad():
        latents.decode_pixels(components, torch.zeros(1, 4, 8, 8, dtype=torch.float16))
    assert seen == [torch.float16 if half else torch.float32]
    assert components.vae.dtype == torch.float16


def test_parts_that_take_turns_draw_the_same(sdxl: Path, engine: Engine) -> None:
    """Also where the blocks of the UNet come one by one; here from main memory to main memory."""
    whole = drawn(engine, recipe("sdxl", height=64))
    for streamed in (False, True):
        other = Engine(engine.settings)
        info = catalogue.resolve("sdxl", engine.settings)
        decided = optimizations.plan(engine.settings, 4 * info.parameters, unet_bytes=4 * info.unet_parameters)
        made = Components(
            info=info, family=info.family, device=decided.device, dtype=decided.dtype,
            **loading.load_parts(info, torch.float32),
        )  # fmt: skip
        optimizations.apply(made, replace(decided, offload=True, streamed=streamed))
        assert made.offload_hook is not None
        assert made.streamed == streamed
        other._components = made
        assert np.array_equal(drawn(other, recipe("sdxl", height=64)), whole)


@pytest.mark.parametrize(
    ("gigabytes", "offload", "streamed"), [(4, True, True), (6, True, True), (8, True, False), (12, False, False)]
)
def test_what_a_card_of_each_size_does_with_it(gigabytes: int, offload: bool, streamed: bool) -> None:
    there = optimizations.Machine("cuda", gigabytes * 2**30 - 800_000_000, gigabytes * 2**30, "a card", (8, 6))
    plan = optimizations.plan(
        Settings(device="cuda"), 4 * SDXL.parameters, on=there, unet_bytes=4 * SDXL.unet_parameters
    )
    assert (plan.offload, plan.streamed) == (offload, streamed)
    reason = next(choice.reason for choice in plan.choices if choice.name == "CPU offload")
    assert ("blocks come one by one" in reason) == streamed


def test_how_large_each_family_is() -> None:
    """The numbers that plans are made of are those of the configurations that ship."""
    for family in FAMILIES.values():
        config = ASSETS / "models" / family.single_file_config
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(config / "unet"))
            others = [AutoencoderKL.from_config(AutoencoderKL.load_config(config / "vae"))]
            for name, cls in zip(family.text_encoders, (CLIPTextModel, CLIPTextModelWithProjection), strict=False):
                others.append(cls(CLIPTextConfig.from_pretrained(config / name)))
        counted = [sum(p.numel() for p in module.parameters()) for module in (unet, *others)]
        assert counted[0] == family.unet_parameters
        assert sum(counted) == family.parameters
