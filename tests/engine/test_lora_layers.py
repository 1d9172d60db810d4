"""LoRAs under every name of their layers, and every kind of adapter, give what the library that defines them gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from support.checkpoints import tiny_sd, unet_key
from transformers import CLIPTextModel

from studio.core.errors import BadInput
from studio.core.settings import Settings
from studio.engine.engine import Engine
from studio.engine.models import adapters, catalogue
from studio.engine.models.components import Components
from studio.engine.models.lora_layers import layer_names

TARGETS = ["to_q", "to_out.0", "conv1", "time_emb_proj", "proj_in"]


@pytest.fixture(scope="module")
def components(tmp_path_factory: pytest.TempPathFactory) -> Components:
    home = tmp_path_factory.mktemp("layers")
    tiny_sd(home / "models" / "tiny")
    return Engine(Settings(home=home, device="cpu")).components("tiny")


@torch.no_grad()
def output(unet: UNet2DConditionModel) -> torch.Tensor:
    draw = torch.Generator().manual_seed(3)
    sample, states = torch.randn(2, 16, 4, 4, generator=draw), torch.randn(2, 77, 32, generator=draw)
    return unet(sample, torch.tensor(400), states)[0]


def attached(components: Components, path: Path, weight: float = 1.0) -> torch.Tensor:
    with adapters.attached(components, [(path, weight)]):
        return output(components.unet)


@pytest.mark.parametrize(
    "config",
    [
        LoHaConfig(r=2, alpha=3, init_weights=False, target_modules=TARGETS),
        LoHaConfig(r=2, alpha=3, init_weights=False, target_modules=TARGETS, use_effective_conv2d=True),
        LoKrConfig(r=2, alpha=3, init_weights=False, target_modules=TARGETS),
        LoKrConfig(r=2, alpha=3, init_weights=False, target_modules=TARGETS, decompose_both=True, decompose_factor=4),
        LoKrConfig(r=2, alpha=3, init_weights=False, target_modules=TARGETS, use_effective_conv2d=True),
        LoKrConfig(r=64, alpha=32, init_weights=False, target_modules=TARGETS),  # both sides whole
        LoraConfig(r=2, lora_alpha=3, init_lora_weights=False, target_modules=TARGETS, use_dora=True),
    ],
    ids=["loha", "loha-tucker", "lokr", "lokr-both", "lokr-tucker", "lokr-whole", "dora"],
)
def test_every_kind_of_adapter_gives_what_peft_gives(components: Components, tmp_path: Path, config) -> None:
    unet = UNet2DConditionModel.from_pretrained(components.info.path / "unet").eval()
    torch.manual_seed(0)
    inject_adapter_in_model(config, unet)
    for name, parameter in unet.named_parameters():
        if "magnitude" in name:
            parameter.data *= 1 + torch.rand_like(parameter)
    layers = get_peft_model_state_dict(unet, adapter_name="default")
    path = tmp_path / "adapter_model.safetensors"
    save_file({f"base_model.model.{key}": value.contiguous() for key, value in layers.items()}, path)
    said = {key: value for key, value in config.to_dict().items() if key in ("r", "alpha", "lora_alpha")}
    (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    assert not catalogue.find_lora(str(path), Settings(home=tmp_path)).note
    expected, plain = output(unet), output(components.unet)
    assert torch.allclose(attached(components, path), expected, atol=1e-3)
    assert (expected - plain).abs().max() > 1e-2, "the adapter of this test does something"
    assert torch.equal(output(components.unet), plain)


def straightforward(own: dict[str, torch.Tensor], weight: torch.Tensor, alpha: float) -> torch.Tensor:
    """The weight with one of LyCORIS' adapters, as its papers write it (2106.09685, 2309.14859, 2402.09353)."""
    if "lora_mid.weight" in own:
        up, mid, down = (own[f"lora_{name}.weight"] for name in ("up", "mid", "down"))
        rank = down.shape[0]
        product = torch.zeros_like(weight)
        for i in range(rank):
            for j in range(rank):
                product += up[:, i, 0, 0][:, None, None, None] * mid[i, j] * down[j, :, 0, 0][None, :, None, None]
    elif "lokr_w1" in own:
        small, rank = own["lokr_w1"], own["lokr_w2_b"].shape[0]
        large = (own["lokr_w2_a"] @ own["lokr_w2_b"]).reshape(
            weight.shape[0] // small.shape[0], weight.shape[1] // small.shape[1], *weight.shape[2:]
        )
        rows = [torch.cat([number * large for number in row], dim=1) for row in small]
        product = torch.cat(rows, dim=0)
    else:
        down, rank = own["lora_down.weight"], own["lora_down.weight"].shape[0]
        product = (own["lora_up.weight"].flatten(1) @ down.flatten(1)).reshape(weight.shape)
    merged = weight + alpha / rank * product
    scale = own.get("dora_scale")
    if scale is None:
        return merged
    if scale.shape[0] == 1:  # a length for each column
        return torch.stack([merged[:, i] / merged[:, i].norm() * scale[0, i] for i in range(merged.shape[1])], dim=1)
    return torch.stack([row / row.norm() * length for row, length in zip(merged, scale, strict=True)])


@pytest.mark.parametrize("kind", ["pair", "three", "kron"])
@pytest.mark.parametrize("axis", ["none", "rows", "columns"])
@pytest.mark.parametrize("layer", ["down_blocks.0.resnets.0.conv1", "mid_block.attentions.0.proj_in"])
def test_factors_and_lengths_of_lycoris(components: Components, tmp_path: Path, kind: str, axis: str, layer) -> None:
    module = components.unet.get_submodule(layer)
    weight, before = module.weight.detach().clone(), output(components.unet)
    outputs, inputs, *kernel = weight.shape
    if kind == "three" and not kernel:
        pytest.skip("the form of convolutions")
    draw = torch.Generator().manual_seed(5)

    def random(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(*shape, generator=draw)

    ones = [1] * len(kernel)
    if kind == "kron":
        own = {"lokr_w1": random(4, 2), "lokr_w2_a": random(outputs // 4, 3)}
        own["lokr_w2_b"] = random(3, inputs // 2 * weight[0, 0].numel())
    elif kind == "three":
        own = {"lora_up.weight": random(outputs, 2, 1, 1), "lora_mid.weight": random(2, 2, *kernel)}
        own["lora_down.weight"] = random(2, inputs, 1, 1)
    else:
        own = {"lora_up.weight": random(outputs, 2, *ones), "lora_down.weight": random(2, inputs, *kernel)}
    if axis != "none":
        shape = (outputs, 1, *ones) if axis == "rows" else (1, inputs, *ones)
        own["dora_scale"] = 1 + torch.rand(shape, generator=draw)
    expected = straightforward(own, weight, alpha=1.5)
    name = "lora_unet_" + layer.replace(".", "_")
    path = tmp_path / "adapter.safetensors"
    save_file({f"{name}.{key}": value for key, value in own.items()} | {f"{name}.alpha": torch.tensor(1.5)}, path)
    assert not catalogue.find_lora(str(path), Settings(home=tmp_path)).note
    with adapters.attached(components, [(path, 1.0)]):
        assert torch.allclose(module.weight, expected, atol=1e-5)
        assert not torch.equal(output(components.unet), before)
    with adapters.attached(components, [(path, 0.5)]):
        assert torch.allclose(module.weight, (weight + expected) / 2, atol=1e-5), "the way from the model to it"
    assert torch.equal(output(components.unet), before)


@pytest.mark.parametrize(
    "shapes",
    [
        {"lokr_w1": (5, 2), "lokr_w2": (8, 16)},
        {"lokr_w1": (2, 4), "lokr_w2_a": (1, 3), "lokr_w2_b": (3, 1)},
        {"lokr_w1_a": (40_000, 1), "lokr_w1_b": (1, 40_000), "lokr_w2": (1, 1)},  # a product of 6 GB
        {"lora_down.weight": (2, 32), "lora_up.weight": (32, 2), "dora_scale": (7, 1)},
        {"hada_w1_a": (40_000, 1), "hada_w1_b": (1, 40_000), "hada_w2_a": (1, 1), "hada_w2_b": (1, 1)},
    ],
)
def test_factors_of_another_shape_are_refused_before_they_are_multiplied(components, tmp_path: Path, shapes) -> None:
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    path = tmp_path / "other.safetensors"
    save_file({f"{name}.{key}": torch.ones(shape) for key, shape in shapes.items()}, path)
    with pytest.raises(BadInput, match="another kind of model"):
        adapters.read(path, components)


def test_the_layers_of_the_original_layout_are_all_found(components: Components) -> None:
    names = layer_names(components.unet)
    config = components.unet.config
    for key in components.unet.state_dict():
        if key.endswith(".weight") and not key.startswith("add_embedding"):
            original = unet_key(key, config.layers_per_block, ["Attn" in kind for kind in config.up_block_types])
            assert names[original.removesuffix(".weight").replace(".", "_")] == key.removesuffix(".weight")


@pytest.mark.parametrize(
    ("prefix", "original", "dots", "halves"),
    [
        ("lora_unet_", True, False, ("lora_down", "lora_up")),  # kohya in the original layout
        ("diffusion_model.", True, True, ("lora_down", "lora_up")),  # ComfyUI
        ("diffusion_model.", True, True, ("lora_A", "lora_B")),
        ("model.diffusion_model.", True, True, ("lora_down", "lora_up")),
        ("lora_unet.", False, True, ("lora_down", "lora_up")),  # OneTrainer
        ("lycoris_", False, False, ("lora_down", "lora_up")),  # LyCORIS over diffusers
        ("unet.base_model.model.", False, True, ("lora_A", "lora_B")),
        ("base_model.model.unet.", False, True, ("lora_A.default", "lora_B.default")),
    ],
)
def test_one_lora_under_every_name_is_the_same(components, tmp_path: Path, prefix, original, dots, halves) -> None:
    torch.manual_seed(2)
    config, kohya, other = components.unet.config, {}, {}
    for key, value in components.unet.state_dict().items():
        if not key.endswith(("to_q.weight", "conv1.weight", "proj_out.weight", "downsamplers.0.conv.weight")):
            continue
        down, up = torch.randn(2, *value.shape[1:]) * 0.1, torch.randn(value.shape[0], 2, *[1] * (value.ndim - 2)) * 0.1
        ours = key.removesuffix(".weight")
        place = (
            unet_key(key, config.layers_per_block, ["Attn" in kind for kind in config.up_block_types])
            if original
            else key
        )
        place = prefix + (place if dots else place.replace(".", "_")).removesuffix("_weight").removesuffix(".weight")
        for half, name, tensor in zip(("lora_down", "lora_up"), halves, (down, up), strict=True):
            kohya[f"lora_unet_{ours.replace('.', '_')}.{half}.weight"] = tensor
            other[f"{place}.{name}.weight"] = tensor
    save_file(kohya, tmp_path / "kohya.safetensors")
    save_file(other, tmp_path / "other.safetensors")
    expected = attached(components, tmp_path / "kohya.safetensors")
    assert torch.equal(attached(components, tmp_path / "other.safetensors"), expected)
    assert not torch.equal(expected, output(components.unet))


def test_a_lora_that_fits_but_for_a_layer_is_not_called_another_kind(components: Components, tmp_path: Path) -> None:
    out, *into = components.unet.conv_in.weight.shape
    halves = {"lora_down": torch.ones(1, *into), "lora_up": torch.ones(out, 1, 1, 1)}
    names = ("conv_in", "extra_in")
    norms = [name for name, layer in components.unet.named_modules() if isinstance(layer, torch.nn.GroupNorm)]
    tensors = {f"lora_unet_{name}.{half}.weight": tensor.clone() for name in names for half, tensor in halves.items()}
    for name in norms:
        ones = torch.ones_like(components.unet.get_submodule(name).weight)
        tensors[f"lora_unet_{name.replace('.', '_')}.w_norm"] = ones
    save_file(tensors, tmp_path / "ink.safetensors")
    with pytest.raises(BadInput, match=r"but for 1 of its layers \(such as lora_unet_extra_in\)"):
        adapters.read(tmp_path / "ink.safetensors", components)
    save_file({key: value for key, value in tensors.items() if "extra" in key}, tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match="another kind of model"):
        adapters.read(tmp_path / "other.safetensors", components)


def test_peft_s_file_for_a_text_encoder_has_its_alpha(components: Components, tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = inject_adapter_in_model(
        LoraConfig(r=2, lora_alpha=8, init_lora_weights=False, target_modules=["q_proj"]),
        CLIPTextModel(components.text_encoder.config),
    )
    state = get_peft_model_state_dict(model)
    named = {  # as files have it that older versions of transformers wrote
        "base_model.model.text_model." + key.removeprefix("text_model."): value for key, value in state.items()
    }
    save_file(named, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 8}))
    read = adapters.read(tmp_path / "adapter_model.safetensors", components)
    assert (len(read.unet), len(read.text_encoder)) == (0, len(named) // 2)
    assert {change.scale for change in read.text_encoder.values()} == {4.0}


def test_norms_change_weight_and_bias_and_come_off_again(components: Components, tmp_path: Path) -> None:
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.norm1"
    norm = components.unet.get_submodule(layer)
    before, bias, plain = norm.weight.clone(), norm.bias.clone(), output(components.unet)
    name = "lora_unet_" + layer.replace(".", "_")
    change = torch.full_like(before, 0.5)
    save_file({f"{name}.w_norm": change, f"{name}.b_norm": 2 * change}, tmp_path / "norm.safetensors")
    with adapters.attached(components, [(tmp_path / "norm.safetensors", 0.5)]):
        assert torch.allclose(norm.weight, before + 0.25)
        assert torch.allclose(norm.bias, bias + 0.5)
        assert not torch.equal(output(components.unet), plain)
    assert torch.equal(norm.weight, before)
    assert torch.equal(norm.bias, bias)
    assert torch.equal(output(components.unet), plain)


def test_tensors_that_are_not_applied_are_counted_and_named(components: Components, tmp_path: Path) -> None:
    layer = "lora_unet_conv_in"
    shape = components.unet.conv_in.weight.shape
    tensors = {f"{layer}.diff": torch.ones(shape), f"{layer}.lora_up.bias": torch.ones(1)}
    save_file(tensors, tmp_path / "odd.safetensors")
    note = catalogue.find_lora(str(tmp_path / "odd.safetensors"), Settings(home=tmp_path)).note
    assert note.startswith("1 of the 2 tensors")
    assert f"{layer}.lora_up.bias" in note
    save_file({f"{layer}.hada_w1_a": torch.ones(1, 1)}, tmp_path / "half.safetensors")
    with pytest.raises(BadInput, match="incomplete"):
        adapters.read(tmp_path / "half.safetensors", components)
