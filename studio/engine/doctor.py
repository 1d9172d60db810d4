"""A machine examined: what there is, what is chosen for it and why, what will not work, and what mends that.

Asks torch, the card, the disk and the hub; loads no model.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import torch

from studio.core.errors import StudioError
from studio.core.settings import Settings
from studio.core.views import Choice, Diagnosis, Finding, Trouble
from studio.engine import devices, memory, optimizations
from studio.engine.models import hub
from studio.engine.models.catalogue import resolve
from studio.engine.models.families import FAMILIES, Family

HUB_SECONDS = 5.0
ROOM = 10_000_000_000  # bytes: a model with its ControlNets, and a training run's checkpoints


def examine(settings: Settings) -> Diagnosis:
    """Everything that is found. Raises nothing: what can't be found out is a trouble."""
    findings: list[Finding] = []
    troubles = devices.troubles(settings)
    architectures = _architectures()
    troubles += [each for each in devices.card_troubles(settings, architectures) if each not in troubles]
    findings += _device(settings, architectures)
    choices: tuple[Choice, ...] = ()
    try:
        there = optimizations.machine(settings)
        name, weights = _weights(settings)
        plan = optimizations.plan(settings, weights, on=there)
    except StudioError as error:
        if not any(str(trouble) in str(error) for trouble in troubles):
            troubles.append(Trouble(what=str(error)))
    else:
        choices = plan.choices
        by_name = {choice.name: choice for choice in choices}
        precision = str(plan.dtype).removeprefix("torch.")
        attention = "xformers" if plan.xformers else "SDPA attention"
        findings += [
            Finding(name="Precision", value=f"{precision} ({name})", reason=by_name["Half precision"].reason),
            Finding(name="Attention", value=attention.split()[0], reason=by_name[attention].reason),
        ]
        findings += [_expected(family, settings, there) for family in FAMILIES.values()]
        if there.kind == "cuda":
            value = f"{there.free / 1e9:.1f} of {there.total / 1e9:.1f} GB free"
            findings.append(Finding(name="Card's memory", value=value, reason=by_name["CPU offload"].reason))
            if (broken := _broken()) is not None and not troubles:
                troubles.append(broken)
    processor = torch.device("cpu")
    value = f"{memory.free(processor) / 1e9:.1f} of {memory.total(processor) / 1e9:.1f} GB free"
    findings.append(Finding(name="Main memory", value=value))
    findings += _disk(settings, troubles)
    findings.append(_hub(settings, troubles))
    return Diagnosis(findings=tuple(findings), choices=choices, troubles=tuple(troubles))


def _architectures() -> list[str]:
    return list(torch.cuda.get_arch_list()) if torch.cuda.is_available() else []


def _device(settings: Settings, architectures: list[str]) -> list[Finding]:
    kind = optimizations.kind_of(settings)
    if kind == "cuda" and torch.cuda.is_available():
        value = f"CUDA: {torch.cuda.get_device_name()}"
    elif kind == "mps":
        value = "MPS: Apple GPU"
    else:
        value = f"{kind.upper()}: {platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    cards = devices.cards()
    driver = ", ".join(dict.fromkeys(card.driver for card in cards)) or "none"
    there = devices.wheel()
    torch_value = f"{torch.__version__}, {there.build}" if there is not None else torch.__version__
    kernels = f"It has kernels for {', '.join(architectures)}." if architectures else ""
    return [
        Finding(name="Device", value=value, reason="" if settings.device == "auto" else "STUDIO_DEVICE asks for it."),
        Finding(
            name="NVIDIA driver", value=driver,
            reason=", ".join(f"{card.name} with {card.memory / 2**30:.0f} GB" for card in cards),
        ),
        Finding(name="torch", value=torch_value, reason=kernels),
    ]  # fmt: skip


def _expected(family: Family, settings: Settings, there: optimizations.Machine) -> Finding:
    """How a model of the usual size of a family will be drawn with here."""
    weights, unet = 4 * family.parameters, 4 * family.unet_parameters
    plan = optimizations.plan(settings, weights, on=there, unet_bytes=unet)
    need = family.parameters * plan.dtype.itemsize
    if there.kind != "cuda":
        fits = need + optimizations.RESERVE < there.free
        value = f"{need / 1e9:.1f} GB" + ("" if fits else f", and {there.free / 1e9:.1f} GB are free: too little")
        return Finding(name=family.title, value=value)
    how = "block by block" if plan.streamed else "parts take turns" if plan.offload else "all of it on the card"
    reason = next(choice.reason for choice in plan.choices if choice.name == "CPU offload")
    return Finding(name=family.title, value=f"{need / 1e9:.1f} GB, {how}", reason=reason)


def _weights(settings: Settings) -> tuple[str, int]:
    """Title of the model that pages start with, and the bytes of its weights in 32 bits."""
    info = resolve(settings.model, settings, with_hash=False)
    return info.title, 4 * (info.parameters or info.family.parameters)


def _broken() -> Trouble | None:
    """Why the card can't compute, tried with the smallest of sums; None where it can."""
    try:
        torch.ones(1, device="cuda").add(1).item()
    except Exception as error:  # CUDA's own errors have many classes
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return Trouble(what=f"The card can't compute ({first[:160]}): restart, or set STUDIO_DEVICE to cpu.")
    return None


def _disk(settings: Settings, troubles: list[Trouble]) -> list[Finding]:
    findings = []
    for name, folder in (("Disk of the studio", settings.home), ("Disk of the models", hub.cache())):
        place = folder.resolve()
        folder_there = next(parent for parent in (place, *place.parents) if parent.is_dir())
        free = shutil.disk_usage(folder_there).free
        findings.append(Finding(name=name, value=f"{free / 1e9:.1f} GB free", reason=str(place)))
        if free < ROOM:
            what = (
                f"{folder_there} has {free / 1e9:.1f} GB left; a model with what belongs to it and a run take about 10."
            )
            troubles.append(Trouble(what=what))
    if (refused := _refused(settings.home)) is not None:
        troubles.append(Trouble(what=f"{settings.home} can't be written to ({refused}); set STUDIO_HOME."))
    return findings


def _refused(home: Path) -> str | None:
    """Why nothing can be written there, or None."""
    place = next(parent for parent in (home.resolve(), *home.resolve().parents) if parent.is_dir())
    try:
        with tempfile.TemporaryFile(dir=place):
            return None
    except OSError as error:
        return error.strerror or type(error).__name__


def _hub(settings: Settings, troubles: list[Trouble]) -> Finding:
    from huggingface_hub.constants import ENDPOINT

    address = settings.hf_endpoint or ENDPOINT
    if settings.offline:
        return Finding(name="Model hub", value="not asked", reason="STUDIO_OFFLINE is on.")
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=HUB_SECONDS).close()
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        troubles.append(
            Trouble(
                what=f"{address} can't be reached: models that aren't on this machine can't be downloaded. The "
                "embedded model and files in models/ work."
            )
        )
        return Finding(name="Model hub", value="not reachable", reason=f"{reason}"[:160])
    return Finding(name="Model hub", value="reachable", reason=address)
