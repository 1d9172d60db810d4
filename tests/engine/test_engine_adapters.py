"""LoRAs: three file formats mean the same, another architecture is refused, and afterwards every bit is as before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from support.checkpoints import tiny_sd
from transformers import CLIPTextModel

from studio.core.errors import BadInput, Cancelled
from studio.core.settings import Settings
from studio.engine.diffusion import text
from studio.engine.engine import Engine
from studio.engine.models import adapters
from studio.engine.models.components import Components
from studio.engine.models.families import SD15

RANK, ALPHA = 4, 2.0


@pytest.fixture(scope="module")
def components(tmp_path_factory: pytest.TempPathFactory) -> Components:
    home = tmp_path_factory.mktemp("adapters")
    tiny_sd(home / "models" / "tiny")
    return Engine(Settings(home=home, device="cpu")).components("tiny")


@pytest.fixture(scope="module")
def trained(components: Components) -> UNet2DConditionModel:
    """A UNet of the same weights with a PEFT adapter on every layer that LCM-LoRA trains, random and not zero."""
    unet = UNet2DConditionModel.from_pretrained(components.info.path / "unet").eval()
    torch.manual_seed(0)
    targets = list(SD15.lcm_lora_targets)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, init_lora_weights=False, target_modules=targets))
    return unet


@pytest.fixture(scope="module")
def files(trained: UNet2DConditionModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same adapter as diffusers, PEFT and kohya write it; alpha is not the rank."""
    home = tmp_path_factory.mktemp("lora")
    layers = get_peft_model_state_dict(trained)
    config = trained.peft_config["default"].to_dict()
    StableDiffusionPipeline.save_lora_weights(
        home / "diffusers", unet_lora_layers=layers, unet_lora_adapter_metadata=config
    )
    (home / "peft").mkdir()
    save_file(
        {f"base_model.model.{key}": value for key, value in layers.items()}, home / "peft/adapter_model.safetensors"
    )
    (home / "peft/adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA, "peft_type": "LORA"}))
    kohya = convert_state_dict_to_kohya({f"unet.{key}": value for key, value in layers.items()})
    kohya = {key: torch.tensor(ALPHA) if key.endswith(".alpha") else value for key, value in kohya.items()}
    save_file(kohya, home / "kohya.safetensors")
    old = {
        f"unet.{key.replace('.lora_A.', '.lora.down.').replace('.lora_B.', '.lora.up.')}": value
        for key, value in layers.items()
    }
    save_file({key: value * (0.5 if ".up." in key else 1) for key, value in old.items()}, home / "old.safetensors")
    return {
        "diffusers": home / "diffusers/pytorch_lora_weights.safetensors",
        "peft": home / "peft/adapter_model.safetensors",
        "kohya": home / "kohya.safetensors",
        "old": home / "old.safetensors",  # no alpha anywhere: folded into the weights
    }


@torch.no_grad()
def output(unet: UNet2DConditionModel) -> torch.Tensor:
    draw = torch.Generator().manual_seed(3)
    sample, states = torch.randn(2, 16, 4, 4, generator=draw), torch.randn(2, 77, 32, generator=draw)
    return unet(sample, torch.tensor(400), states)[0]


@pytest.mark.parametrize("form", ["diffusers", "peft", "kohya", "old"])
def test_every_file_format_gives_what_peft_gives(components, trained, files, form: str) -> None:
    plain = output(components.unet)
    with adapters.attached(components, [(files[form], 1.0)]):
        attached = output(components.unet)
    assert torch.allclose(attached, output(trained), atol=1e-4)
    assert (attached - plain).abs().max() > 0.05, "the adapter of this test does something"


def test_afterwards_every_bit_is_as_before(components: Components, files: dict[str, Path]) -> None:
    weights = {key: value.clone() for key, value in components.unet.state_dict().items()}
    places = {key: value.data_ptr() for key, value in components.unet.named_parameters()}
    plain = output(components.unet)
    with adapters.attached(components, [(files["kohya"], 0.7), (files["peft"], -0.3)], fast=files["diffusers"]):
        assert not torch.equal(output(components.unet), plain)
    assert torch.equal(output(components.unet), plain)
    assert all(torch.equal(value, weights[key]) for key, value in components.unet.state_dict().items())
    assert {key: value.data_ptr() for key, value in components.unet.named_parameters()} == places


def test_a_block_that_is_cancelled_leaves_nothing_behind(components: Components, files: dict[str, Path]) -> None:
    plain = output(components.unet)
    with pytest.raises(Cancelled):
        with adapters.attached(components, [(files["kohya"], 1.0)]):
            raise Cancelled
    assert torch.equal(output(components.unet), plain)


def test_what_was_added_up_serves_the_next_pictures_like_these(
    components: Components, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are read and added once for a whole batch job, also where the weights wait in main memory."""
    reads: list[Path] = []
    real = adapters.read
    monkeypatch.setattr(adapters, "read", lambda path, parts: reads.append(path) or real(path, parts))
    plain = output(components.unet)
    wanted = [(files["kohya"], 0.5)]
    whole = adapters.merging_bytes(components, wanted, None)
    with adapters.attached(components, wanted, keep=True):
        first = output(components.unet)
    assert components.merged is not None
    assert components.merged.bytes == whole > 1e5
    assert adapters.merging_bytes(components, wanted, None) == 0
    assert torch.equal(output(components.unet), plain), "between two batches the model is itself"
    with adapters.attached(components, wanted, keep=True):
        assert torch.equal(output(components.unet), first)
    assert len(reads) == 1
    with adapters.attached(components, [(files["kohya"], 0.25)], keep=True):
        assert not torch.equal(output(components.unet), first)
    assert len(reads) == 2
    with adapters.attached(components):
        assert torch.equal(output(components.unet), plain)
    assert components.merged is None, "a plain picture has no use for it"


def test_weights_add_up_and_scale(components: Components, files: dict[str, Path]) -> None:
    parameter = next(iter(adapters.read(files["kohya"], components).unet)) + ".weight"
    before = components.unet.get_parameter(parameter).clone()

    def change(*loras: tuple[Path, float], fast: Path | None = None) -> torch.Tensor:
        with adapters.attached(components, list(loras), fast):
            return components.unet.get_parameter(parameter) - before

    whole = change((files["kohya"], 1.0))
    assert torch.allclose(change((files["kohya"], 0.5)), whole / 2, atol=1e-6)
    assert torch.allclose(change((files["kohya"], -1.0)), -whole, atol=1e-6)
    assert torch.allclose(change((files["kohya"], 0.5), (files["peft"], 0.5)), whole, atol=1e-6)
    assert torch.allclose(change((files["kohya"], 1.0), fast=files["diffusers"]), 2 * whole, atol=1e-6)
    assert not change((files["kohya"], 0.0)).any()


def test_a_lora_on_the_text_encoder_changes_the_encoding_and_only_inside(
    components: Components, tmp_path: Path
) -> None:
    encoder = CLIPTextModel.from_pretrained(components.info.path / "text_encoder").eval()
    torch.manual_seed(1)
    encoder.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["q_proj", "out_proj"]))
    layers = get_peft_model_state_dict(encoder)
    kohya = {}
    for key, value in layers.items():
        name, half = key.removesuffix(".weight").rsplit(".", 1)
        kohya[f"lora_te_text_model_{name.replace('.', '_')}.lora_{'down' if half == 'lora_A' else 'up'}.weight"] = value
    save_file(kohya, tmp_path / "te.safetensors")
    prompt = ["1girl, red hair"]
    plain = text.encode_prompts(components, prompt).embeddings
    with adapters.attached(components, [(tmp_path / "te.safetensors", 1.0)]):
        changed = text.encode_prompts(components, prompt).embeddings
        ids = components.tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
        with torch.no_grad():
            assert torch.allclose(changed, encoder(ids)[0], atol=1e-4)
    with adapters.attached(components, [(tmp_path / "te.safetensors", 0.5)]):
        assert not torch.equal(text.encode_prompts(components, prompt).embeddings, changed), (
            "not from the cache of weight 1"
        )
    assert not torch.equal(changed, plain)
    assert torch.equal(text.encode_prompts(components, prompt).embeddings, plain)


def test_another_architecture_is_refused_in_a_sentence(components: Components, files, tmp_path: Path) -> None:
    plain = output(components.unet)
    kohya = load_file(files["kohya"])
    wide = {
        key: (value.repeat(1, 3, *[1] * (value.ndim - 2)) if "down" in key else value) for key, value in kohya.items()
    }
    foreign = {key.replace("down_blocks_0", "input_blocks_4"): value for key, value in kohya.items()}
    sdxl = kohya | {"lora_te2_x.lora_down.weight": torch.zeros(1, 1), "lora_te2_x.lora_up.weight": torch.zeros(1, 1)}
    for number, (tensors, metadata) in enumerate(
        [(wide, {}), (foreign, {"ss_base_model_version": "sdxl_base_v1-0"}), (sdxl, {})]
    ):
        path = tmp_path / f"{number}.safetensors"
        save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
        with pytest.raises(BadInput, match="another kind of model") as caught:
            with adapters.attached(components, [(files["kohya"], 1.0), (path, 1.0)]):
                raise AssertionError("nothing may be attached")
        assert ("sdxl" in str(caught.value).lower()) == (number > 0)
    assert torch.equal(output(components.unet), plain)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [("x.oft_blocks", "OFT"), ("x.weight", "not a LoRA")],
)
def test_other_kinds_of_files_are_named(components: Components, tmp_path: Path, key: str, sentence: str) -> None:
    save_file({key: torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(BadInput, match=sentence):
        adapters.read(tmp_path / "x.safetensors", components)


def test_half_a_lora_is_refused(components: Components, files: dict[str, Path], tmp_path: Path) -> None:
    tensors = load_file(files["kohya"])
    del tensors[next(key for key in tensors if key.endswith("lora_up.weight"))]
    save_file(tensors, tmp_path / "half.safetensors")
    with pytest.raises(BadInput, match="incomplete"):
        adapters.read(tmp_path / "half.safetensors", components)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_said_at_the_door(
    components: Components, files: dict[str, Path], tmp_path: Path, value: float
) -> None:
    tensors = load_file(files["kohya"])
    tensors[next(key for key in tensors if key.endswith("lora_up.weight"))].view(-1)[0] = value
    save_file(tensors, tmp_path / "diverged.safetensors")
    with pytest.raises(BadInput, match=rf"diverged\.safetensors holds .* in 1 of its {len(tensors)} tensors"):
        adapters.read(tmp_path / "diverged.safetensors", components)
