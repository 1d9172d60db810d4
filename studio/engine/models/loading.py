"""From files on disk to networks in memory: diffusers folders and single files. Knows no device choice and no cache."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from studio.core.errors import BadInput
from studio.core.settings import ASSETS
from studio.engine.light_imports import dynamo_deferred
from studio.engine.models.catalogue import INPAINTING, ModelInfo, component_weights
from studio.engine.models.single_files import scheduler_changes
from studio.engine.models.weights import read_header

_TEXT_PREFIX = "cond_stage_model.transformer."
_TURN = threading.RLock()
P = ParamSpec("P")
T = TypeVar("T")


def in_turn(load: Callable[P, T]) -> Callable[P, T]:
    """`load`, but in one thread at a time.

    diffusers and transformers replace functions of torch while they make a network without weights. Two threads in
    there put each other's replacements back, and every network made in the process afterwards would have no weights.
    """

    @wraps(load)
    def loading(*args: P.args, **kwargs: P.kwargs) -> T:
        with _TURN:
            return load(*args, **kwargs)

    return loading


@in_turn
def load_parts(info: ModelInfo, dtype: torch.dtype) -> dict[str, Any]:
    """unet, vae, text_encoder, tokenizer and scheduler_config of a model that is on this machine, on the CPU.

    Raises BadInput, naming the part, when something is missing, damaged or of another shape than its configuration.
    """
    folder = info.path
    if folder is None:
        raise BadInput(f"{info.reference} is not on this machine.")
    if folder.is_file():
        return _from_file(folder, info, dtype)
    return {
        "unet": _part(info, "unet", lambda: _pretrained(UNet2DConditionModel, folder, "unet", dtype)),
        "vae": _part(info, "vae", lambda: _pretrained(AutoencoderKL, folder, "vae", dtype)),
        "text_encoder": _part(info, "text_encoder", lambda: _text_encoder(folder, dtype)),
        "tokenizer": _part(info, "tokenizer", lambda: load_tokenizer(folder / "tokenizer")),
        "scheduler_config": _part(info, "scheduler", lambda: _scheduler_config(folder)),
    }


@in_turn
def load_vae(info: ModelInfo, dtype: torch.dtype) -> AutoencoderKL:
    """The autoencoder of a model alone, on the CPU, for a trainer that had freed it. Raises BadInput as above."""
    folder = info.path
    assert folder is not None
    if folder.is_file():
        with quiet(), _sentences(info.title, "vae"):
            return _file_vae(folder, info, dtype)
    return _part(info, "vae", lambda: _pretrained(AutoencoderKL, folder, "vae", dtype))


def _file_vae(path: Path, info: ModelInfo, dtype: torch.dtype) -> AutoencoderKL:
    """The autoencoder in a single file, or the one that is used where it has none."""
    place = info.vae or path
    if place.is_dir():
        return _pretrained(AutoencoderKL, place.parent, place.name, dtype)
    read_header(place)  # refuses pickles, which diffusers would open
    config = str(_config(info.family.single_file_config))
    return AutoencoderKL.from_single_file(
        str(place), config=config, subfolder="vae", torch_dtype=dtype, local_files_only=True
    )


@in_turn
def load_controlnet(path: Path, dtype: torch.dtype) -> ControlNetModel:
    """A ControlNet from a diffusers folder or a single file, on the CPU.

    Raises BadInput, also for a pickle under any name: diffusers would hand one to `torch.load`.
    """
    if path.is_file():
        read_header(path)
    with quiet(), _sentences(path.name, "ControlNet"):
        if path.is_file():
            return ControlNetModel.from_single_file(
                str(path),
                config=str(_config("sd15-config")),
                subfolder="controlnet",
                torch_dtype=dtype,
                local_files_only=True,
            )
        return _pretrained(ControlNetModel, path.parent, path.name, dtype)


def _part(info: ModelInfo, name: str, build: Callable[[], Any]) -> Any:
    with quiet(), _sentences(info.title, name):
        return build()


@contextmanager
def _sentences(title: str, name: str) -> Any:
    """What a library says about a damaged part, as one sentence."""
    try:
        yield
    except MemoryError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BadInput(f"The {name} of {title} can't be loaded ({first[:160]}); get the model again.") from error


@contextmanager
def quiet() -> Any:
    """Without the libraries' own progress bars and remarks about what we check ourselves."""
    levels = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(levels[0])
        transformers_logging.set_verbosity(levels[1])


def _variant(folder: Path, name: str) -> str | None:
    files = component_weights(folder, name)
    return "fp16" if all(".fp16." in file.name for file in files) else None


def _pretrained(cls: Any, folder: Path, name: str, dtype: torch.dtype) -> Any:
    model, report = cls.from_pretrained(
        folder / name,
        torch_dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        variant=_variant(folder, name),
        output_loading_info=True,
    )
    _complete(report)
    return model


def _text_encoder(folder: Path, dtype: torch.dtype) -> CLIPTextModel:
    with dynamo_deferred():  # layers without numbers are made by functions that ask for it
        model, report = CLIPTextModel.from_pretrained(
            folder / "text_encoder",
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            variant=_variant(folder, "text_encoder"),
            output_loading_info=True,
        )
    _complete(report)
    return model


def _complete(report: dict[str, Any]) -> None:
    # the libraries fill what is missing with random numbers and go on
    missing = sorted(key for key in report.get("missing_keys", ()) if not key.endswith("position_ids"))
    if missing or report.get("mismatched_keys"):
        raise ValueError(f"{len(missing) or 'some'} layers are missing or of another shape")


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.model_max_length > 10_000:  # what transformers says when the folder doesn't
        tokenizer.model_max_length = 77
    return tokenizer


def _scheduler_config(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8")))


def _config(name: str) -> Path:
    return ASSETS / "models" / name


def _from_file(path: Path, info: ModelInfo, dtype: torch.dtype) -> dict[str, Any]:
    """The parts of one file in the original layout; its configurations and tokenizer are those that ship with us."""
    header = read_header(path)  # refuses pickles, which diffusers would open
    config = _config(info.family.single_file_config)
    channels = {"in_channels": INPAINTING} if info.inpainting else {}
    arguments = {"config": str(config), "torch_dtype": dtype, "local_files_only": True}
    with quiet(), _sentences(path.name, "weights"):
        unet = UNet2DConditionModel.from_single_file(str(path), subfolder="unet", **arguments, **channels)
        vae = _file_vae(path, info, dtype)
        with torch.device("meta"):
            text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(config / "text_encoder"))
        wanted = text_encoder.state_dict()
        weights = {}
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                if key.startswith(_TEXT_PREFIX) and not key.endswith("position_ids"):
                    # files have `text_model.` or not, and so have versions of transformers
                    name = key.removeprefix(_TEXT_PREFIX).removeprefix("text_model.")
                    weights[name if name in wanted else "text_model." + name] = file.get_tensor(key).to(dtype)
        text_encoder = text_encoder.to_empty(device="cpu").to(dtype)
        missing = [
            key
            for key in text_encoder.load_state_dict(weights, strict=False).missing_keys
            if not key.endswith("position_ids")
        ]
        for module in text_encoder.modules():
            ids = getattr(module, "position_ids", None)
            if ids is not None:
                ids.copy_(torch.arange(ids.shape[-1]).expand_as(ids))
        empty = [name for part in (unet, vae) for name, value in part.named_parameters() if value.is_meta]
        if missing or empty:
            raise ValueError(f"{len(missing) + len(empty)} layers are missing")
        return {
            "unet": unet,
            "vae": vae,
            "text_encoder": text_encoder,
            "tokenizer": load_tokenizer(config / "tokenizer"),
            "scheduler_config": _scheduler_config(config) | scheduler_changes(path, header),
        }
