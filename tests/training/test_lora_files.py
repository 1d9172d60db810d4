"""LoRA files: the exact size on Stable Diffusion 1.5, three formats with alpha != rank, precision, optimiser state."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from support.checkpoints import SD15_CONFIG, SD15_UNET_PARAMETERS, tiny_sd
from transformers import CLIPTextModel

from studio.core.settings import Settings
from studio.core.specs import LoraSpec
from studio.engine.models.families import SD15
from studio.engine.models.weights import read_header
from studio.training.export import adapter_files
from studio.training.runtime import checkpoints
from studio.training.runtime.optimizers import make_optimizer
from studio.training.runtime.resume import diff, resume_fingerprint

RANK, ALPHA = 4, 1.0
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")  # diffusers finds kohya's text layers by the last of them


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("files") / "model")


def with_lora(model: Path, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=dtype)
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(SD15.lora_targets)))
    return randomised(unet)


def randomised(module: Any) -> Any:
    """With an adapter that does something: it starts as nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.eval()


@torch.no_grad()
def output(unet: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 16, 4, 4, generator=generator)
    text = torch.randn(1, 77, 32, generator=generator)
    return unet(x, torch.tensor([500]), encoder_hidden_states=text).sample  # type: ignore[no-any-return]


def test_stable_diffusion_has_exactly_so_many_trainable_parameters() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(SD15_CONFIG / "unet"))
        unet.requires_grad_(False)
        unet.add_adapter(LoraConfig(r=32, lora_alpha=16, target_modules=list(SD15.lora_targets)))
    trainable = sum(p.numel() for p in unet.parameters() if p.requires_grad)
    assert trainable == 6_377_472
    assert sum(p.numel() for p in unet.parameters()) == SD15_UNET_PARAMETERS + trainable


def test_to_out_has_to_be_named_with_its_layer(model: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    with pytest.raises(ValueError, match="is not supported"):
        unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_out"]))


@torch.no_grad()
def reads(text_encoder: torch.nn.Module) -> torch.Tensor:
    return text_encoder(torch.arange(77)[None])[0]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Exported:
    path: Path
    output: torch.Tensor  # of the trained UNet
    text: torch.Tensor  # of the trained text encoder


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """An export with alpha a quarter of the rank, and what the trained networks say."""
    unet = with_lora(model)
    encoder = CLIPTextModel.from_pretrained(model / "text_encoder").requires_grad_(False)
    encoder.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TEXT_TARGETS)))
    randomised(encoder)
    layers, text_layers = get_peft_model_state_dict(unet), get_peft_model_state_dict(encoder)
    adapter = adapter_files.Adapter(layers, RANK, ALPHA, SD15.lora_targets, text_layers, TEXT_TARGETS)
    card = adapter_files.Card(
        title="My style",
        base="tiny",
        hub_id="someone/tiny",
        trigger_words=("style_1", "style_2"),
        license="CC-BY-4.0",
        settings={"learning_rate": 2e-4, "epochs": 20},
        data={"pictures": 12, "digest": "abc", "tags": {"smile": 3}},
        losses=[(k, 1 / k) for k in range(1, 50)],
    )
    path = adapter_files.write(tmp_path_factory.mktemp("export") / "adapter", adapter, card)
    base = UNet2DConditionModel.from_pretrained(model / "unet").eval()
    expected = output(unet)
    assert float((expected - output(base)).abs().max()) > 1e-2  # the adapter does something, or all would be equal
    read = reads(encoder)
    plain = CLIPTextModel.from_pretrained(model / "text_encoder").eval()
    assert float((read - reads(plain)).abs().max()) > 1e-2
    return Exported(path, expected, read)


@pytest.mark.filterwarnings("ignore:The configuration file of this scheduler")  # as old as Stable Diffusion's own
@pytest.mark.parametrize("file", ["My style.safetensors", "diffusers/pytorch_lora_weights.safetensors"])
def test_diffusers_loads_it_to_the_same_output(model: Path, exported: Exported, file: str) -> None:
    path, expected = exported.path, exported.output
    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipeline.load_lora_weights(path.parent / Path(file).parent, weight_name=Path(file).name)
    assert float((output(pipeline.unet) - expected).abs().max()) <= 1e-5
    assert float((reads(pipeline.text_encoder) - exported.text).abs().max()) <= 1e-5


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks a transformer
def test_peft_loads_it_to_the_same_output(model: Path, exported: Exported) -> None:
    path, expected = exported.path, exported.output
    base = UNet2DConditionModel.from_pretrained(model / "unet").eval()
    loaded = PeftModel.from_pretrained(base, str(path.parent / "peft" / "unet"))
    assert float((output(loaded) - expected).abs().max()) <= 1e-5
    base = CLIPTextModel.from_pretrained(model / "text_encoder").eval()
    loaded = PeftModel.from_pretrained(base, str(path.parent / "peft" / "text_encoder"))
    assert float((reads(loaded) - exported.text).abs().max()) <= 1e-5


@pytest.mark.parametrize("file", ["My style.safetensors", "diffusers/pytorch_lora_weights.safetensors",
                                  "peft/unet/adapter_model.safetensors"])  # fmt: skip
def test_the_engine_applies_it_to_the_same_output(model: Path, exported: Exported, file: str, tmp_path: Path) -> None:
    from studio.engine.engine import load
    from studio.engine.models.adapters import attached
    from studio.engine.models.catalogue import resolve

    path, expected = exported.path, exported.output
    settings = Settings(home=tmp_path, device="cpu")
    components = load(resolve(str(model), settings), settings)
    with attached(components, [(path.parent / file, 1.0)]):
        assert float((output(components.unet) - expected).abs().max()) <= 1e-5
        if "unet" not in file:  # that one has it in a file of its own
            assert float((reads(components.text_encoder) - exported.text).abs().max()) <= 1e-5


def test_kohya_keeps_the_true_alpha_and_says_what_it_is(exported: Exported) -> None:
    path = exported.path
    tensors = load_file(path)
    alphas = {float(value) for key, value in tensors.items() if key.endswith(".alpha")}
    assert alphas == {ALPHA}  # not the rank
    assert any(
        key.startswith("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0.") for key in tensors
    )
    assert any(key.startswith("lora_te_text_model_encoder_layers_0_self_attn_q_proj.") for key in tensors)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_dim"] == "4"
    assert metadata["ss_network_alpha"] == "1.0"
    assert metadata["ss_base_model_version"] == "sd_v1"
    assert metadata["ss_dataset_hash"] == "abc"
    assert json.loads(metadata["ss_tag_frequency"]) == {"My style": {"smile": 3}}
    assert metadata["modelspec.trigger_phrase"] == "style_1, style_2"
    assert metadata["modelspec.license"] == "CC-BY-4.0"


def test_the_hash_is_of_the_tensors_alone(exported: Exported) -> None:
    data = exported.path.read_bytes()
    tensors = data[8 + int.from_bytes(data[:8], "little") :]
    assert read_header(exported.path).metadata["sshs_model_hash"] == hashlib.sha256(tensors).hexdigest()


def test_the_base_version_is_stable_diffusions_only_where_it_is_one(model: Path) -> None:
    sd15 = json.loads((SD15_CONFIG / "unet" / "config.json").read_text())
    own = json.loads((model / "unet" / "config.json").read_text())
    assert (adapter_files.base_version("x", sd15), adapter_files.base_version("Tiny", own)) == ("sd_v1", "Tiny")


def test_a_run_from_before_an_option_was_there_is_resumed() -> None:
    spec = LoraSpec(data="x")

    def facts(**changes: Any) -> dict[str, Any]:
        return resume_fingerprint(spec.model_copy(update=changes), "model", "data", 3, torch.device("cpu"), "fp32", 1)

    before, now = facts(), facts()
    del before["spec"]["ema"], before["spec"]["buckets"], before["processes"], before["versions"]["pillow"]
    assert diff(before, now) == []
    assert diff({**before, "precision": "bf16"}, now) == ["Precision: bf16 before, fp32 now; the last bits may differ."]
    now = facts(ema=True)
    assert "Changed since the checkpoint: ema was False, is True." in diff(before, now)


def test_the_studios_own_list_shows_it(exported: Exported) -> None:
    from studio.engine.models.catalogue import find_lora

    path = exported.path
    info = find_lora(str(path), Settings(home=path.parent))
    assert (info.title, info.trigger_words, info.weight, info.base) == ("My style", ("style_1", "style_2"), 1.0, "tiny")


def test_a_file_is_the_same_every_time(exported: Exported) -> None:
    path = exported.path
    metadata = dict(read_header(path).metadata)
    shuffled = dict(reversed(list(metadata.items())))
    assert adapter_files.with_metadata(load_file(path), shuffled) == path.read_bytes()


def test_the_card_says_what_matters(exported: Exported) -> None:
    card = (exported.path.parent / "README.md").read_text()
    for words in (
        'base_model: "someone/tiny"',
        "`style_1`, `style_2`",
        "CC-BY-4.0",
        "rank 4, alpha 1",
        "| 49 | 0.0204 |",
    ):
        assert words in card


def test_half_precision_base_with_full_precision_lora(model: Path) -> None:
    """ "Attempting to unscale FP16 gradients": what GradScaler says when the trained weights are half-precision too."""
    unet = with_lora(model, torch.float16)
    cast_training_params(unet, dtype=torch.float32)
    trained = [p for p in unet.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    assert unet.conv_in.weight.dtype == torch.float16
    tensors = {str(k): torch.randn_like(p) for k, p in enumerate(trained)}
    with torch.no_grad():  # as the trainer restores a checkpoint: into the parameters, never in their place
        for parameter, value in zip(trained, tensors.values(), strict=True):
            parameter.copy_(value)
    assert {p.dtype for p in trained} == {torch.float32}
    scaler = torch.amp.GradScaler("cpu")
    optimizer = torch.optim.AdamW(trained)
    scaler.scale(sum(p.square().sum() for p in trained)).backward()  # type: ignore[union-attr]
    scaler.unscale_(optimizer)
    torch.testing.assert_close(trained[0].grad, 2 * trained[0].detach())


def test_optimiser_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    from studio.runs.rundir import RunDir

    def one(values: torch.Tensor) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        parameter = torch.nn.Parameter(values.clone())
        return parameter, make_optimizer(LoraSpec(data="x"), {"unet.a": parameter})

    def step(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer, k: int) -> None:
        parameter.grad = torch.sin(torch.arange(6.0) + k)
        optimizer.step()

    first, optimizer = one(torch.ones(6))
    for k in range(3):
        step(first, optimizer, k)
    run = RunDir(tmp_path)
    state, groups = checkpoints.optimizer_state(optimizer)
    checkpoints.save(run, "step-00000003", 3, 0, {"lora": {"a": first}, "optimizer": state}, {"optimizer": groups})
    found, _ = checkpoints.latest_good(run)
    assert found is not None
    second, restored = one(found.groups["lora"]["a"])
    checkpoints.restore_optimizer(restored, found.groups["optimizer"], found.meta["optimizer"])
    assert restored.param_groups[0]["peak"] == 2e-4
    for k in range(3, 6):
        step(first, optimizer, k)
        step(second, restored, k)
    assert torch.equal(first, second)


def test_a_restored_optimiser_keeps_the_rate_that_is_asked_for_now() -> None:
    def one(rate: float) -> torch.optim.Optimizer:
        parameter = torch.nn.Parameter(torch.ones(3))
        optimizer = make_optimizer(LoraSpec(data="x", learning_rate=rate), {"unet.a": parameter})
        parameter.grad = torch.ones(3)
        optimizer.step()
        return optimizer

    tensors, groups = checkpoints.optimizer_state(one(2e-4))
    lower = one(1e-5)
    checkpoints.restore_optimizer(lower, tensors, json.loads(json.dumps(groups)))
    assert (lower.param_groups[0]["peak"], lower.param_groups[0]["lr"]) == (1e-5, 1e-5)
    assert lower.param_groups[0]["betas"] == (0.9, 0.999)


def test_after_the_data_shrinks_the_newest_by_training_comes_first(tmp_path: Path) -> None:
    from studio.runs.rundir import RunDir

    run, value = RunDir(tmp_path), {"lora": {"a": torch.ones(1)}}

    def saved(name: str, step: int, epoch: int) -> str:
        checkpoints.save(run, name, step, epoch, value, {})
        found, notes = checkpoints.latest_good(run)
        assert found is not None
        assert notes == []
        return found.name

    # ten steps an epoch, and five from the fourth epoch on
    saved("epoch-0002", 20, 2)
    assert saved("step-00000035", 35, 3) == "step-00000035"
    assert saved("step-00000018", 18, 3) == "step-00000018"
    assert not (run.checkpoints / "step-00000035").exists()
    assert saved("epoch-0004", 20, 4) == "epoch-0004"
    assert checkpoints.names(run) == ["epoch-0002", "step-00000018", "epoch-0004"]
    assert saved("epoch-0005", 25, 5) == "epoch-0005"


def test_old_checkpoints_are_forgotten_after_the_new_one_is_there(tmp_path: Path) -> None:
    from studio.runs.rundir import RunDir

    run, value = RunDir(tmp_path), {"lora": {"a": torch.ones(1)}}
    for epoch in range(1, 6):
        checkpoints.save(run, f"epoch-{epoch:04d}", epoch * 10, epoch, value, {}, keep=3)
        checkpoints.save(run, f"step-{epoch * 10 + 5:08d}", epoch * 10 + 5, epoch, value, {}, keep=3)
    assert checkpoints.names(run) == ["epoch-0003", "epoch-0004", "epoch-0005", "step-00000055"]
    (run.checkpoints / "step-00000055" / "meta.json").write_text("{")
    found, notes = checkpoints.latest_good(run)
    assert found is not None
    assert found.name == "epoch-0005"
    assert len(notes) == 1
