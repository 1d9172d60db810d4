"""What a checkpoint in one file lacks, or predicts, is known from its header and what lies beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from studio.core.errors import BadInput
from studio.core.settings import Settings
from studio.engine.models import catalogue
from studio.engine.models.families import SD15
from studio.engine.models.single_files import scheduler_changes
from studio.engine.models.weights import read_header

ONE = np.zeros((1, 4, 1, 1), np.float16)
UNET = {SD15.single_file_key: ONE}
TEXT = {"cond_stage_model.transformer.text_model.x": ONE}
VAE = {"first_stage_model.decoder.x": ONE}


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (UNET | TEXT, "has no VAE"),
        (UNET | VAE, "has no text encoder"),
        (UNET, "has no text encoder"),
        (UNET | VAE | {"cond_stage_model.model.x": ONE}, "is a Stable Diffusion 2 model"),
    ],
)
def test_a_missing_part_is_named_before_anything_is_loaded(tmp_path: Path, tensors: dict, sentence: str) -> None:
    save_file(tensors, tmp_path / "mix.safetensors")
    with pytest.raises(BadInput, match=rf"mix\.safetensors {sentence}"):
        catalogue.resolve(str(tmp_path / "mix.safetensors"), Settings(home=tmp_path))


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


def test_zero_terminal_snr_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mix.safetensors"
    save_file(UNET | TEXT | VAE | {"ztsnr": np.zeros(0, np.float16)}, path)
    assert scheduler_changes(path, read_header(path))["rescale_betas_zero_snr"] is True
