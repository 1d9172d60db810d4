"""From files on disk to networks in memory: diffusers folders and single files. Knows no device choice and no cache."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors import safe_open
from torch.overrides import TorchFunctionMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from studio.core.errors import BadInput
from studio.core.settings import ASSETS
from studio.engine.models.catalogue import INPAINTING, ModelInfo
from studio.engine.models.families import SD15, SDXL
from studio.engine.models.single_files import scheduler_changes
from studio.engine.models.weights import component_weights, read_header

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
    """The parts of `Components` of a model that is on this machine, on the CPU: networks, tokenizers, scheduler_config.

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
        **{name: _part(info, name, partial(_text_encoder, folder, name, dtype)) for name in info.family.text_encoders},
        **{name: _part(info, name, partial(load_tokenizer, folder / name)) for name in info.family.tokenizers},
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
    prefix = "first_stage_model."
    weights = _tensors(place, prefix) or _tensors(place, "")  # that of a file of its own has no prefix
    return AutoencoderKL.from_single_file(
        weights, config=config, subfolder="vae", torch_dtype=dtype, local_files_only=True
    )


@in_turn
def load_controlnet(path: Path, dtype: torch.dtype) -> Any:
    """A ControlNet from a diffusers folder or a single file, on the CPU.

    Raises BadInput, also for a pickle under any name: diffusers would hand one to `torch.load`.
    """
    names = read_header(path).tensors if path.is_file() else {}
    with quiet(), _sentences(path.name, "ControlNet"):
        if not names:
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
            if "num_control_type" not in config:
                return _pretrained(ControlNetModel, path.parent, path.name, dtype)
            from diffusers import ControlNetUnionModel  # for several kinds of drawing, of SDXL alone

            return _pretrained(ControlNetUnionModel, path.parent, path.name, dtype)
        if "task_embedding" in names:
            raise ValueError("one for several kinds of drawing needs its folder with config.json")
        xl = any("label_emb." in name or "add_embedding." in name for name in names)
        return ControlNetModel.from_single_file(
            str(path),
            config=str(_config((SDXL if xl else SD15).single_file_config)),
            subfolder="controlnet",
            torch_dtype=dtype,
            local_files_only=True,
        )


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


class _Unfilled(TorchFunctionMode):
    """Weights that will be read aren't filled first: on the device "meta" that takes torch's compiler and sympy.

    Whether all were read is checked (`_complete`). Holds in this thread only.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        given = kwargs or {}
        if func is torch.nn.init.normal_:
            return args[0] if args else given["tensor"]
        if func is torch.empty_like and args[0].is_meta and "device" in given:
            return torch.empty(args[0].shape, **{"dtype": args[0].dtype} | given)
        if func is torch.arange and str(given.get("device")) == "meta":
            return func(*args, **given | {"device": "cpu"}).to("meta")
        return func(*args, **given)


_TEXT_CLASSES = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


def _text_encoder(folder: Path, name: str, dtype: torch.dtype) -> CLIPTextModel | CLIPTextModelWithProjection:
    with _Unfilled():
        model, report = _TEXT_CLASSES[name].from_pretrained(
            folder / name,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            variant=_variant(folder, name),
            output_loading_info=True,
        )
    _complete(report)
    if name != "text_encoder":  # mapped at an odd address of its file the projection would round otherwise
        model.text_projection.weight.data = model.text_projection.weight.data.clone()
    return model


def _complete(report: dict[str, Any]) -> None:
    # the libraries fill what is missing with random numbers and go on
    missing = sorted(key for key in report.get("missing_keys", ()) if not key.endswith("position_ids"))
    if missing or report.get("mismatched_keys"):
        raise ValueError(f"{len(missing) or 'some'} layers are missing or of another shape")


def load_tokenizer(folder: Path, pad: str | None = None) -> CLIPTokenizer:
    """CLIP's tokenizer in `folder`; `pad`: what fills up a short prompt, where it isn't what the folder says."""
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True, **({"pad_token": pad} if pad else {}))
    if tokenizer.model_max_length > 10_000:  # what transformers says when the folder doesn't
        tokenizer.model_max_length = 77
    return tokenizer


def _scheduler_config(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8")))


def _config(name: str) -> Path:
    return ASSETS / "models" / name


def _from_file(path: Path, info: ModelInfo, dtype: torch.dtype) -> dict[str, Any]:
    """The parts of one file in the original layout; its configurations and tokenizers are those that ship with us."""
    header, family = read_header(path), info.family  # refuses pickles, which diffusers would open
    config = _config(family.single_file_config)
    channels = {"in_channels": INPAINTING} if info.inpainting else {}
    with quiet(), _sentences(path.name, "weights"):
        unet = UNet2DConditionModel.from_single_file(
            _tensors(path, "model.diffusion_model."), config=str(config), subfolder="unet", torch_dtype=dtype,
            local_files_only=True, **channels,
        )  # fmt: skip
        vae = _file_vae(path, info, dtype)
        empty = [name for part in (unet, vae) for name, value in part.named_parameters() if value.is_meta]
        if empty:
            raise ValueError(f"{len(empty)} layers are missing")
        texts = {
            name: _file_text_encoder(config / name, _TEXT_CLASSES[name], prefix, _tensors(path, prefix), dtype)
            for name, prefix in family.single_file_text.items()
        }
        tokenizers = {
            name: load_tokenizer(_config(SD15.single_file_config) / "tokenizer", family.pads.get(name))
            for name in family.tokenizers
        }
        scheduler = _scheduler_config(config) | scheduler_changes(path, header)
    return {"unet": unet, "vae": vae, **texts, **tokenizers, "scheduler_config": scheduler}


def _tensors(path: Path, *prefixes: str) -> dict[str, torch.Tensor]:
    """What of a file is below these names: gigabytes that belong to another part needn't be in memory meanwhile."""
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys() if key.startswith(prefixes)}  # noqa: SIM118


def _file_text_encoder(
    folder: Path, cls: Any, prefix: str, tensors: dict[str, torch.Tensor], dtype: torch.dtype
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """A text encoder from its `tensors` in a single file, in transformers' layout or in OpenCLIP's."""
    with torch.device("meta"):
        model = cls(CLIPTextConfig.from_pretrained(folder)).to(dtype)
    wanted = model.state_dict()
    if any(key.startswith(prefix + "transformer.resblocks.") for key in tensors):
        from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint  # much, for few models

        tensors = convert_open_clip_checkpoint(model, tensors, prefix)
        prefix = ""
    weights = {}
    for key, tensor in tensors.items():
        # files have `text_model.` or not, and so have versions of transformers
        name = key.removeprefix(prefix)
        name = next(
            (each for each in (name, name.removeprefix("text_model."), f"text_model.{name}") if each in wanted), ""
        )
        if name and not name.endswith("position_ids"):
            weights[name] = tensor.to(dtype)
    model = model.to_empty(device="cpu")
    missing = [
        key for key in model.load_state_dict(weights, strict=False).missing_keys if not key.endswith("position_ids")
    ]
    if missing:
        raise ValueError(f"{len(missing)} layers are missing")
    for module in model.modules():
        ids = getattr(module, "position_ids", None)
        if ids is not None:
            ids.copy_(torch.arange(ids.shape[-1]).expand_as(ids))
    return model
