"""LoRA training and distillation of a tiny SDXL: what is learnt, resumed to the same bytes, and opened elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from support.distillations import run_of
from support.sdxl import tiny_sdxl
from support.training_sets import kill_at_step, outputs, train, write_run, write_set

from studio.core.settings import Settings, settings
from studio.core.specs import LoraSpec
from studio.engine.diffusion import text
from studio.engine.diffusion.pixels import fit
from studio.engine.engine import Engine
from studio.engine.models import adapters
from studio.runs.rundir import RunDir
from studio.training.distill import train as distill
from studio.training.lora.dataset import region
from studio.training.lora.texts import TextEncoders


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("sdxl-training")
    tiny_sdxl(home / "model")
    write_set(home / "data", 3, size=(80, 64))
    return home


def spec(home: Path, **changes: object) -> LoraSpec:
    return LoraSpec(
        data=str(home / "data"), model=str(home / "model"), epochs=4, rank=2, alpha=1.0, batch_size=2, repeats=1,
        checkpoint_epochs=1, text_encoder_lr=1e-3, gradient_checkpointing=True, caption_dropout=0.2,
        sample_prompts=("1girl",),
    ).model_copy(update=changes)  # fmt: skip


@pytest.fixture(scope="module")
def straight(home: Path) -> RunDir:
    run = write_run(home, "straight", spec(home))
    assert train(run) == 0, run.tail()
    return run


def test_killed_and_resumed_it_ends_in_the_same_bytes(home: Path, straight: RunDir) -> None:
    run = write_run(home, "killed", spec(home))
    kill_at_step(run, 3)
    assert train(run) == 0, run.tail()
    mine, theirs = outputs(run), outputs(straight)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []


def test_what_it_leaves_opens_in_diffusers_and_here(home: Path, straight: RunDir) -> None:
    """UNet and both text encoders have learnt; every format gives the same conditioning and the same prediction."""
    kohya = Path(straight.status()["adapter"])
    with safe_open(kohya, "pt") as file:
        keys, metadata = set(file.keys()), file.metadata()
    for prefix in ("lora_unet_", "lora_te1_text_model_", "lora_te2_text_model_"):
        assert any(key.startswith(prefix) for key in keys)
    assert all(key.startswith(("lora_unet_", "lora_te1_", "lora_te2_")) for key in keys)
    assert metadata["ss_network_dim"] == "2"
    components = Engine(Settings(home=home, device="cpu", offline=True)).components(str(home / "model"))
    prompt, x, t = "1girl, happy, red hair", torch.randn(1, 4, 8, 8), torch.tensor(500)

    def ours(path: Path | None) -> list[torch.Tensor]:
        with torch.no_grad(), adapters.attached(components, [] if path is None else [(path, 1.0)]):
            row = text.encode_prompts(components, [prompt], (64, 64))
            noise = components.unet(x, t, row.embeddings, added_cond_kwargs=row.added_cond_kwargs).sample
        return [row.embeddings, row.pooled, noise]

    plain, here = ours(None), ours(kohya)
    assert all(not torch.equal(a, b) for a, b in zip(plain, here, strict=True))
    files = [straight.adapter / "diffusers" / "pytorch_lora_weights.safetensors", kohya]
    for one in (ours(files[0]), *(theirs(home, file, prompt, x, t) for file in files)):
        for mine, other in zip(here, one, strict=True):
            assert float((mine - other).abs().max()) <= 1e-5
    assert load_file(straight.adapter / "peft" / "text_encoder_2" / "adapter_model.safetensors")


def theirs(home: Path, file: Path, prompt: str, x: torch.Tensor, t: torch.Tensor) -> list[torch.Tensor]:
    pipeline = StableDiffusionXLPipeline.from_pretrained(home / "model", add_watermarker=False, local_files_only=True)
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    with torch.no_grad():
        embeddings, _, pooled, _ = pipeline.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
        told = {"text_embeds": pooled, "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]])}
        return [embeddings, pooled, pipeline.unet(x, t, embeddings, added_cond_kwargs=told).sample]


def test_captions_are_encoded_as_prompts_are(home: Path) -> None:
    components = Engine(Settings(home=home, device="cpu", offline=True)).components(str(home / "model"))
    with torch.no_grad():
        rows = TextEncoders.of(components)(["1girl, red hair", ""])
    drawn = text.encode_prompts(components, ["1girl, red hair", ""])
    assert torch.allclose(rows.embeddings, drawn.embeddings, atol=1e-5)
    assert torch.allclose(rows.pooled, drawn.pooled, atol=1e-5)


@pytest.mark.parametrize("original", [(64, 64), (80, 64), (100, 300), (63, 40)])
def test_what_was_cut_away_is_told(original: tuple[int, int]) -> None:
    """Original height and width, crop from the top and the left, target height and width; the crop is that of `fit`."""
    height, width, top, left, *target = region(original, (64, 32))
    assert (width, height) == original
    assert target == [32, 64]
    picture = Image.linear_gradient("L").resize(original).convert("RGB")
    scale = max(64 / width, 32 / height)
    scaled = picture.resize((max(64, round(width * scale)), max(32, round(height * scale))), Image.Resampling.LANCZOS)
    cut = picture if original == (64, 32) else scaled.crop((left, top, left + 64, top + 32))
    assert cut.tobytes() == fit(picture, 64, 32).tobytes()


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, value in {"STUDIO_HOME": str(tmp_path), "STUDIO_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


@pytest.mark.parametrize("objective", ["dmd", pytest.param("lcm", marks=pytest.mark.slow)])
def test_a_distillation(home: Path, own_home: Path, objective: str) -> None:
    run = run_of(
        own_home / "runs" / objective, model=str(home / "model"), objective=objective, epochs=2, latents=8,
        exact_target_share=0.3, dmd_share=0.6, curve_pictures=1,
    )  # fmt: skip
    distill.main(run.path)
    status = run.status()
    assert status["state"] == "done", run.tail()
    keys = load_file(status["adapter"]).keys()
    assert all(key.startswith("lora_unet_") for key in keys)
    components = Engine(Settings(home=own_home, device="cpu", offline=True)).components(str(home / "model"))
    adapters.read(Path(status["adapter"]), components)
