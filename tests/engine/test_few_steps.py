"""The few-step adapter that is published for a family: offered, downloaded when it is asked for, known by content."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from support.checkpoints import tiny_sd

from studio.core.errors import NotFound, Offline
from studio.core.settings import Settings
from studio.core.specs import GenerateSpec, LcmSpec, LoraRef
from studio.engine.models import catalogue, families, hub
from studio.engine.models.families import SD15, SDXL
from studio.engine.models.infos import FastPath
from studio.service import Studio

REFERENCE = "latent-consistency/lcm-lora-sdv1-5"
WAIT = 300


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("few") / "tiny")


@pytest.fixture(scope="module")
def adapter(tiny: Path) -> bytes:
    """A LoRA of one layer, as the published one names its layers."""
    [file] = (tiny / "unet").glob("*.safetensors")
    with safe_open(file, "pt") as weights:
        name = next(key for key in weights.keys() if key.endswith("attn1.to_q.weight"))  # noqa: SIM118
        shape = weights.get_slice(name).get_shape()
    layer = f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}"
    generator = torch.Generator().manual_seed(0)
    return save(
        {
            f"{layer}.lora_down.weight": torch.randn(2, shape[1], generator=generator),
            f"{layer}.lora_up.weight": torch.randn(shape[0], 2, generator=generator),
        }
    )


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path, adapter: bytes) -> Settings:
    """A home with a model that the published adapter fits: it is this small one here."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    width = catalogue._json(tiny / "unet" / "config.json")["cross_attention_dim"]
    small = replace(SD15.fast[0], sha256=hashlib.sha256(adapter).hexdigest(), download_bytes=len(adapter))
    family = replace(SD15, fast=(small,), text_width=width, controlnets={})
    monkeypatch.setattr(families, "SD15", family)
    monkeypatch.setitem(families.FAMILIES, "sd15", family)
    home = tmp_path / "home"
    shutil.copytree(tiny, home / "models" / "tiny")
    return Settings(home=home, device="cpu", warm_up=False)


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], list[str]]:
    """A hub that has this file; the references that were downloaded from it."""

    def made(content: bytes) -> list[str]:
        asked: list[str] = []

        def download(reference: str, allow_patterns: list[str], tqdm_class: type, **_: object) -> str:
            asked.append(reference)
            folder = tmp_path / "hub" / f"models--{reference.replace('/', '--')}" / "snapshots" / "abc"
            folder.mkdir(parents=True)
            bar = tqdm_class(unit="B", total=len(content))
            (folder / allow_patterns[0]).write_bytes(content)
            bar.update(len(content))
            return str(folder)

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        return asked

    return made


def request(**fields: object) -> GenerateSpec:
    return GenerateSpec.model_validate(
        {"model": "tiny", "prompt": "1girl", "seed": 3, "width": 64, "height": 64, **fields}
    )


def test_a_real_model_is_offered_it_with_size_and_licence() -> None:
    fast = catalogue.resolve(SD15.default_model, Settings(offline=True)).fast_published
    assert fast is not None
    assert fast.said == f"LCM-LoRA ({REFERENCE}, 135 MB, licence openrail++)"
    fast = catalogue.resolve(SDXL.default_model, Settings(offline=True)).fast_published
    assert fast is not None
    assert "394 MB" in fast.said
    info = catalogue.resolve("embedded", Settings())
    assert info.fast_published is None, "it has its own, and this one doesn't fit it"
    assert SD15.fast_for({"cross_attention_dim": 1024}) == ()
    assert SD15.fast_for({"cross_attention_dim": 768, "time_cond_proj_dim": 256}) == (), "few steps already"


def test_it_is_downloaded_with_the_first_picture_that_asks_for_it(
    settings: Settings, adapter: bytes, publish: Callable[[bytes], list[str]]
) -> None:
    asked = publish(adapter)
    studio = Studio(settings)
    assert studio.models.lora(REFERENCE).state == "download"
    job = studio.submit(request(loras=[LoraRef(path=REFERENCE)]), "ann")
    assert any("licence openrail++" in note and "downloaded" in note for note in job.notes)
    job = studio.wait(job.id, "ann", WAIT)
    assert (job.state, asked) == ("done", [REFERENCE]), job.error
    recipe = studio.picture(job.pictures[0], "ann").recipe
    assert recipe is not None
    assert (recipe.steps, recipe.guidance, recipe.sampler, recipe.fast) == (4, 1.0, "lcm", False)
    assert recipe.lora_hashes == (hashlib.sha256(adapter).hexdigest(),)

    assert studio.models.lora(REFERENCE).state == "ready"
    again = studio.submit(request(loras=[LoraRef(path=REFERENCE)]), "ann")
    assert (again.state, again.pictures) == ("done", job.pictures), "the same recipe, wherever the file lies"
    by_itself = studio.wait(studio.submit(request(), "ann").id, "ann", WAIT)
    recipe = studio.picture(by_itself.pictures[0], "ann").recipe
    assert recipe is not None
    assert (recipe.steps, recipe.fast, asked) == (4, True, [REFERENCE])
    studio.close()


def test_another_file_under_its_name_is_not_used(
    settings: Settings, adapter: bytes, publish: Callable[[bytes], list[str]]
) -> None:
    publish(adapter[:-4] + b"\0\0\0\0")
    studio = Studio(settings)
    job = studio.wait(studio.submit(request(loras=[LoraRef(path=REFERENCE)]), "ann").id, "ann", WAIT)
    assert job.state == "failed"
    assert "isn't the file any more that the studio knows" in str(job.error)
    assert hub.cached_file(REFERENCE, "pytorch_lora_weights.safetensors") is None
    assert catalogue.resolve("tiny", settings).fast is None
    studio.close()


def test_it_is_known_by_its_content_under_any_name(settings: Settings, adapter: bytes) -> None:
    (settings.models_dir / "loras").mkdir()
    (settings.models_dir / "loras" / "speed.safetensors").write_bytes(adapter)
    info = catalogue.find_lora("speed", settings)
    assert (info.title, info.state) == ("LCM-LoRA", "ready")
    assert info.fast == FastPath(info.path, 4, 1.0, "lcm")


def test_without_a_hub_it_is_said_and_nobody_is_taught_with_it(settings: Settings) -> None:
    offline = settings.model_copy(update={"offline": True})
    with pytest.raises(Offline):
        hub.get_file(REFERENCE, "x.safetensors", 1, offline)
    with pytest.raises(NotFound, match="leave it out"):
        Studio(offline).runs.start(LcmSpec(model="tiny", loras=(LoraRef(path=REFERENCE, weight=1.0),)), "ann")
