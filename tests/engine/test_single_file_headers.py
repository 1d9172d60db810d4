"""What a checkpoint in one file lacks, or predicts, is known from its header and what lies beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from studio.core.errors import BadInput
from studio.core.settings import Settings
from studio.engine.models import catalogue, hub
from studio.engine.models.families import SD15, SDXL
from studio.engine.models.single_files import scheduler_changes
from studio.engine.models.weights import read_header

ONE = np.zeros((1, 4, 1, 1), np.float16)
LABELS = "model.diffusion_model.label_emb.0.0.weight"
UNET = {SD15.single_file_key: ONE}
TEXT = {"cond_stage_model.transformer.text_model.x": ONE}
VAE = {"first_stage_model.decoder.x": ONE}


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (UNET | TEXT, r"has no VAE.* mix\.vae\.safetensors.*stable-diffusion-v1-5"),
        (UNET | VAE, "has no text encoder"),
        (UNET, "has no text encoder"),
        (UNET | VAE | {"cond_stage_model.model.x": ONE}, "is a Stable Diffusion 2 model"),
    ],
)
def test_a_missing_part_is_named_before_anything_is_loaded(tmp_path: Path, tensors: dict, sentence: str) -> None:
    save_file(tensors, tmp_path / "mix.safetensors")
    with pytest.raises(BadInput, match=rf"mix\.safetensors {sentence}"):
        catalogue.resolve(str(tmp_path / "mix.safetensors"), Settings(home=tmp_path))


@pytest.mark.parametrize("door", [catalogue.resolve, catalogue.find_lora])
@pytest.mark.parametrize(
    ("tensors", "kind"),
    [
        ({"conditioner.embedders.0.model.x": ONE} | UNET, "the refiner of SDXL"),
        ({LABELS: np.zeros((1, 2560), np.float16)} | UNET, "the refiner of SDXL"),
        ({"add_embedding.linear_1.weight": ONE, "conv_in.weight": ONE}, "the UNet of an SDXL model in diffusers"),
        ({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": ONE}, "a Stable Diffusion 3 model"),
        ({"double_blocks.0.img_attn.qkv.weight": ONE}, "a Flux model"),
        ({"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": ONE}, "a Flux model"),
        ({"blocks.0.self_attn.q.weight": ONE, "blocks.0.ffn.0.weight": ONE}, "another kind of diffusion model"),
        (TEXT | VAE | {SD15.single_file_key: np.zeros((1, 5, 1, 1), np.float16)}, "another picture beside the words"),
        (TEXT | VAE | {SD15.single_file_key: np.zeros((1, 5, 1, 1), np.float16)}, "a model that needs another picture"),
        ({"decoder.conv_in.weight": ONE, "encoder.conv_in.weight": ONE}, "a VAE"),
        ({"first_stage_model.decoder.conv_in.weight": ONE}, "a VAE"),
        ({"emb_params": np.zeros((4, 768), np.float32)}, "a textual inversion"),
        ({"<my-token>": np.zeros((768,), np.float32)}, "a textual inversion"),
        ({"clip_g": np.zeros((2, 1280), np.float32), "clip_l": np.zeros((2, 768), np.float32)}, "a textual inversion"),
        ({"control_model.input_hint_block.0.weight": ONE}, "a ControlNet"),
        ({"controlnet_cond_embedding.conv_in.weight": ONE, "conv_in.weight": ONE}, "a ControlNet"),
        ({"image_proj.norm.weight": ONE, "ip_adapter.1.to_k_ip.weight": ONE}, "an IP-Adapter"),
        ({"down_blocks.0.motion_modules.0.x": ONE}, "a motion module"),
        ({"text_model.encoder.layers.0.mlp.fc1.weight": ONE}, "a text encoder"),
        ({"conv_in.weight": ONE, "down_blocks.0.resnets.0.conv1.weight": ONE}, "the UNet of a model in diffusers"),
        ({"unet.conv_in.weight": ONE, "unet.down_blocks.0.x": ONE}, "the UNet of a model in diffusers"),
        ({"input_blocks.0.0.weight": ONE, "out.0.weight": ONE}, "the UNet of a model alone"),
        (
            {"diffusion_model.input_blocks.0.0.weight": ONE, "first_stage_model.decoder.conv_in.weight": ONE} | TEXT,
            "a model whose layers have other names",
        ),
    ],
)
def test_a_file_of_another_kind_is_called_by_its_name(tmp_path: Path, tensors: dict, kind: str, door) -> None:
    save_file(tensors, tmp_path / "mix.safetensors")
    with pytest.raises(BadInput, match=rf"mix\.safetensors is .*{kind}"):
        door(str(tmp_path / "mix.safetensors"), Settings(home=tmp_path))


XL = UNET | {LABELS: np.zeros((1, 2816), np.float16)}
XL_TEXT = {"conditioner.embedders.0.transformer.x": ONE, "conditioner.embedders.1.model.x": ONE}


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (XL, "has no text encoder: only a part of a model.*Illustrious"),
        (XL | VAE | {"conditioner.embedders.0.transformer.x": ONE}, "has another text encoder than SDXL"),
        (XL | XL_TEXT, "has no VAE.*noobai"),
        (XL | XL_TEXT | VAE, ""),
        (XL | XL_TEXT | VAE | {SD15.single_file_key: np.zeros((1, 9, 1, 1), np.float16)}, ""),
        (XL | XL_TEXT | {SD15.single_file_key: np.zeros((1, 8, 1, 1), np.float16)}, "another picture beside the words"),
    ],
)
def test_a_file_of_sdxl_is_told_from_its_header(tmp_path: Path, tensors: dict, sentence: str) -> None:
    save_file(tensors, tmp_path / "xl.safetensors")
    if sentence:
        with pytest.raises(BadInput, match=sentence):
            catalogue.resolve(str(tmp_path / "xl.safetensors"), Settings(home=tmp_path))
    else:
        info = catalogue.resolve(str(tmp_path / "xl.safetensors"), Settings(home=tmp_path))
        assert (info.family, info.native_size) == (SDXL, 1024)
        assert info.inpainting == (tensors[SD15.single_file_key].shape[1] == 9)
    with pytest.raises(BadInput, match="not a LoRA: it is"):
        catalogue.find_lora(str(tmp_path / "xl.safetensors"), Settings(home=tmp_path))


def test_a_model_is_no_lora_and_a_lora_no_model(tmp_path: Path) -> None:
    save_file(UNET | TEXT | VAE, tmp_path / "mix.safetensors")
    with pytest.raises(BadInput, match="not a LoRA: it is a whole model"):
        catalogue.find_lora(str(tmp_path / "mix.safetensors"), Settings(home=tmp_path))
    save_file({"lora_unet_x.lokr_w1": ONE}, tmp_path / "ink.safetensors")
    with pytest.raises(BadInput, match="is a LoRA, not a model"):
        catalogue.resolve(str(tmp_path / "ink.safetensors"), Settings(home=tmp_path))


def test_a_vae_beside_a_file_without_one_is_used_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path)
    settings.models_dir.mkdir()
    path = settings.models_dir / "mix.safetensors"
    save_file(UNET | TEXT, path)
    plain = catalogue.fingerprint(path)
    vae = settings.models_dir / "mix.vae.safetensors"
    for shift in (0, 1):
        save_file({"decoder.conv_in.weight": ONE + shift}, vae)
        info = catalogue.resolve("mix", settings)
        assert info.vae == vae
        assert "It has no VAE; mix.vae.safetensors is used." in info.note
        assert info.hash != plain, "another VAE gives other pixels"
        plain = info.hash
    assert [one.reference for one in catalogue.catalogue(settings) if one.kind == "file"] == ["mix.safetensors"]
    assert not any("vae" in one.reference for one in catalogue.catalogue(settings))
    save_file({"decoder.conv_in.weight": np.zeros((1, 16, 1, 1), np.float16)}, vae)  # Stable Diffusion 3's
    with pytest.raises(BadInput, match=r"mix\.vae\.safetensors is not the VAE of a Stable Diffusion 1.5 model"):
        catalogue.resolve("mix", settings)
    vae.unlink()
    own = tmp_path / "hub" / f"models--{SD15.default_model.replace('/', '--')}" / "snapshots" / "1" / "vae"
    own.mkdir(parents=True)
    (own / "config.json").write_text("{}")
    save_file({"decoder.conv_in.weight": ONE}, own / "diffusion_pytorch_model.safetensors")
    monkeypatch.setattr(hub, "cache", lambda: tmp_path / "hub")
    info = catalogue.resolve("mix", settings)
    assert (info.vae, f"that of {SD15.default_model} is used" in info.note) == (own, True)


@pytest.mark.parametrize(
    ("extra", "metadata", "yaml", "v"),
    [
        ({}, {}, None, False),
        ({"v_pred": np.zeros(0, np.float16)}, {}, None, True),
        ({}, {"modelspec.prediction_type": "v"}, None, True),
        ({}, {"modelspec.prediction_type": "epsilon"}, None, False),
        ({}, {}, b'model:\n  params:\n    parameterization: "v"\n', True),
        ({}, {}, b"\xef\xbb\xbfmodel:\r\n  params:\r\n    parameterization: v  # velocity\r\n", True),
        ({}, {}, b"model:\n  params:\n    parameterization: eps\n", False),
        ({}, {}, b"# parameterization: v\n", False),
        ({}, {}, b"# of old, parameterization: v\n", False),
        ({}, {}, b'model: {params: {parameterization: "v", linear_start: 0.1}}\n', True),
        ({}, {}, b'{"model": {"params": {"parameterization": "v"}}}', True),
        ({}, {}, b"model: {params: {parameterization: eps, v: 1}}\n", False),
        ({}, {}, b"\xff\xfe\x00", False),
    ],
)
def test_a_model_that_predicts_v_is_told(tmp_path: Path, extra, metadata, yaml: bytes | None, v: bool) -> None:
    path = tmp_path / "mix.safetensors"
    save_file(UNET | TEXT | VAE | extra, path, metadata)
    if yaml is not None:
        path.with_suffix(".yaml").write_bytes(yaml)
    assert scheduler_changes(path, read_header(path)) == ({"prediction_type": "v_prediction"} if v else {})
    assert ("predicts v" in catalogue.resolve(str(path), Settings(home=tmp_path)).note) == v


@pytest.mark.parametrize(
    ("extra", "metadata", "yaml"),
    [
        ({"ztsnr": np.zeros(0, np.float16)}, {}, ""),
        ({}, {"ss_zero_terminal_snr": "True"}, ""),
        ({}, {}, "model:\n  params:\n    zsnr: true\n"),
        ({}, {}, "model:\n  params:\n    use_zero_terminal_snr: True # as NoobAI\n"),
    ],
)
@pytest.mark.parametrize("xl", [False, True])
def test_zero_terminal_snr_is_told(tmp_path: Path, extra, metadata, yaml: str, xl: bool) -> None:
    path = tmp_path / "mix.safetensors"
    save_file((XL | XL_TEXT if xl else UNET | TEXT) | VAE | extra, path, metadata)
    beside = path.with_suffix(".YAML" if xl else ".yaml")
    beside.write_text(yaml)
    assert scheduler_changes(path, read_header(path))["rescale_betas_zero_snr"] is True
    beside.write_text("target: sgm.modules.diffusionmodules.denoiser_scaling.VScaling\n")
    assert scheduler_changes(path, read_header(path))["prediction_type"] == "v_prediction"
