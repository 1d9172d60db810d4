"""Every kind of training run, listed once; requests, views, processes, pages and command line read it here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import TypeAdapter, ValidationError

from studio.core import presets
from studio.core.errors import BadInput, explain
from studio.core.specs.base import by_kind
from studio.core.specs.training import ControlRunSpec, LcmSpec, LoraSpec, RunSpec

_TOO_LARGE = "The device has not enough memory even for single pictures: "


@dataclass(frozen=True)
class RunKind:
    """One kind of training run.

    `trainer` is the module that is run as `python -m MODULE DIR`; `estimate` one that says what a run will take, read
    from a file with its request ("" where there is none). `verb` and `help` are its command, `defaults` what a run on a
    model begins with where nothing else was said (it is given the model, the fields that were, and the kind of machine,
    as `presets.distill_defaults` names it). `learns` is what the model learns, in a few words; `too_large` what to do
    where memory runs out even for single pictures.
    `makes_lora`: its result is a LoRA, which any checkpoint holds whole (unless the request says `form: full`).
    """

    spec: type[RunSpec]
    title: str
    learns: str
    trainer: str
    verb: str
    help: str
    too_large: str
    defaults: Callable[[str, Mapping[str, Any], str], dict[str, Any]] = lambda model, given, machine: {"model": model}
    estimate: str = ""
    makes_lora: bool = False


RUN_KINDS: dict[str, RunKind] = {
    "lora": RunKind(
        LoraSpec,
        title="LoRA",
        learns="A style or a character (LoRA)",
        trainer="studio.training.lora.train",
        verb="train-lora",
        help="Teach a model a style.",
        too_large=f"{_TOO_LARGE}choose a lower resolution or turn on gradient checkpointing, then resume.",
        defaults=lambda model, given, machine: presets.lora_defaults(model),
        estimate="studio.training.lora.estimate",
        makes_lora=True,
    ),
    "lcm": RunKind(
        LcmSpec,
        title="Distillation",
        learns="To draw in few steps",
        trainer="studio.training.distill.train",
        verb="distill",
        help="Make a model fast: latent consistency distillation to four steps.",
        too_large=f"{_TOO_LARGE}start a new run with gradient checkpointing, that makes a LoRA and not a whole model, "
        "or on a smaller model.",
        defaults=lambda model, given, machine: presets.distill_defaults(model, given.get("form", "lora"), machine),
        estimate="studio.training.distill.memory",
        makes_lora=True,
    ),
    "control": RunKind(
        ControlRunSpec,
        title="ControlNet",
        learns="How to follow lines (ControlNet)",
        trainer="studio.training.controlnet.train",
        verb="train-control",
        help="Teach a model to follow your kind of lines: a ControlNet.",
        too_large=f"{_TOO_LARGE}start a new run with gradient checkpointing, or on a smaller model.",
    ),
}
if TYPE_CHECKING:
    AnyRun: TypeAlias = RunSpec
    RunKindName: TypeAlias = str
else:
    AnyRun = by_kind("training run", [kind.spec for kind in RUN_KINDS.values()])
    RunKindName = Literal[tuple(RUN_KINDS)]
_RUN: TypeAdapter[RunSpec] = TypeAdapter(AnyRun)


def parse_run(fields: dict[str, Any]) -> RunSpec:
    """A training request from JSON; `kind` says which, default "lora".

    Raises `BadInput` with one sentence about the first mistake.
    """
    try:
        return _RUN.validate_python(fields)
    except ValidationError as error:
        raise BadInput(explain(error)) from error


def makes_lora(kind: str, spec: Mapping[str, Any]) -> bool:
    """Whether a run with these fields makes a LoRA, and not a whole network."""
    return RUN_KINDS[kind].makes_lora and spec.get("form", "lora") == "lora"
