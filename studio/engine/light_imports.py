"""diffusers and transformers without what drawing has no use for, more than half of their import time.

diffusers imports torch's compiler to mark functions for it, and peft to tell its layers from others. Here both get
stand-ins while diffusers is imported: marks are left out (the compiler traces these functions as well without them), a
layer is compared with peft's when somebody compares. Whoever needs the two (a trainer, STUDIO_COMPILE) imports them as
ever. transformers is told that this torch can't spread a model over several machines: the tensors for that, which bring
sympy, stay away. (Training in several processes is accelerate's, which asks torch itself.) Import this module before
diffusers.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_DYNAMO = "torch._dynamo"
_PEFT = ("peft", "peft.helpers", "peft.tuners", "peft.tuners.tuners_utils")


class _Dynamo(ModuleType):
    """Stands for `torch._dynamo`: its submodules can be imported, and it is loaded when more than a mark is wanted."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("allow_in_graph", "assume_constant_result"):
            return lambda function: function
        if name == "disable":
            return _disable
        sys.modules.pop(_DYNAMO, None)
        return getattr(importlib.import_module(_DYNAMO), name)


def _disable(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    return function if function is not None else _disable


class _Layer(type):
    """A class of peft that is looked up when something is compared with it."""

    def __instancecheck__(cls, instance: object) -> bool:
        # what no module of peft made can't be of its classes, and then it needn't be loaded
        if not any(base.__module__.partition(".")[0] == "peft" for base in type(instance).__mro__):
            return False
        real = getattr(importlib.import_module("peft.tuners.tuners_utils"), cls.__name__)
        return isinstance(instance, real)


def _disable_input_dtype_casting(*arguments: Any, **named: Any) -> Any:
    return importlib.import_module("peft.helpers").disable_input_dtype_casting(*arguments, **named)


@contextmanager
def _standing_in(modules: dict[str, ModuleType]) -> Iterator[None]:
    """These modules for as long as the block lasts, unless the real ones are there."""
    missing = {name: module for name, module in modules.items() if name not in sys.modules}
    if len(missing) < len(modules):
        missing = {}
    sys.modules.update(missing)
    try:
        yield
    finally:
        for name, module in missing.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _peft() -> dict[str, ModuleType]:
    modules = {name: ModuleType(name) for name in _PEFT}
    modules["peft.helpers"].disable_input_dtype_casting = _disable_input_dtype_casting  # type: ignore[attr-defined]
    layer = _Layer("BaseTunerLayer", (), {})
    modules["peft.tuners.tuners_utils"].BaseTunerLayer = layer  # type: ignore[attr-defined]
    for name in ("peft", "peft.tuners"):
        modules[name].__path__ = []
    return modules


@contextmanager
def dynamo_deferred() -> Iterator[None]:
    """torch's compiler isn't loaded only because a function inside the block is to be left alone by it."""
    dynamo = _Dynamo(_DYNAMO)
    dynamo.__path__ = [str(Path(str(torch.__file__)).with_name("_dynamo"))]
    with _standing_in({_DYNAMO: dynamo}):
        yield


def _unless_one(scale: Callable[..., None]) -> Callable[..., None]:
    """A scale of 1 changes nothing: known before peft is imported, as each call of a UNet would."""

    def scaled(model: Any, weight: float | None = None) -> None:
        if weight is not None and weight != 1.0:
            scale(model, weight)

    return scaled


@contextmanager
def _on_one_machine() -> Iterator[None]:
    """What transformers imports inside the block takes torch for one that is built without `torch.distributed`."""
    utils = importlib.import_module("transformers.utils")
    places = (utils, importlib.import_module("transformers.utils.import_utils"))
    asked = utils.is_torch_distributed_available
    for place in places:
        place.is_torch_distributed_available = lambda: False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for place in places:
            place.is_torch_distributed_available = asked  # type: ignore[attr-defined]


def _distributed(name: str) -> Any:
    """`torch.distributed.tensor`, which peft and torch's compiler read without importing it, as somebody always had."""
    if name != "tensor":
        raise AttributeError(f"module 'torch.distributed' has no attribute {name!r}")
    return importlib.import_module("torch.distributed.tensor")


def _load() -> None:
    if not hasattr(torch.distributed, "__getattr__"):
        torch.distributed.__getattr__ = _distributed
    with dynamo_deferred(), _on_one_machine():
        importlib.import_module("studio.engine.optimizations")  # tells diffusers of an xformers that can't be imported
        importlib.import_module("diffusers.utils")  # asks whether peft is installed
        peft_utils = importlib.import_module("diffusers.utils.peft_utils")
        for name in ("scale_lora_layers", "unscale_lora_layers"):
            setattr(peft_utils, name, _unless_one(getattr(peft_utils, name)))
        with _standing_in(_peft()):
            diffusers = importlib.import_module("diffusers")
            for name in ("UNet2DConditionModel", "AutoencoderKL", "ControlNetModel"):
                getattr(diffusers, name)
        transformers = importlib.import_module("transformers")
        for name in ("CLIPTextModel", "CLIPTokenizer"):
            getattr(transformers, name)


_load()
