"""The samplers, listed once: what people and other programs call them, and which scheduler of diffusers each is.

Requests, forms, the engine's schedulers and the infotext read this table. Knows no torch: a scheduler is a name here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SamplerInfo:
    """One sampler.

    `scheduler` is a class of diffusers, `options` what it takes besides what the model says. `infotext` is its name in
    A1111's text, which names the `schedule` apart (as A1111 does since 1.9; before, it was the end of the name).
    `others` are further names of it elsewhere, in letters and digits. `few_steps`: draws with a few-step adapter
    only, on the grid of its distillation, so that all of its steps are done at any strength of a source.
    """

    title: str
    infotext: str
    scheduler: str
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "Uniform"
    others: tuple[str, ...] = ()
    few_steps: bool = False


_GRID = {"clip_sample": False, "set_alpha_to_one": False, "original_inference_steps": 50}

SAMPLERS: dict[str, SamplerInfo] = {
    "dpmpp_2m": SamplerInfo(
        "DPM++ 2M", "DPM++ 2M", "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2}, others=("dpm2m",),
    ),
    "dpmpp_2m_karras": SamplerInfo(
        "DPM++ 2M Karras", "DPM++ 2M", "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True}, "Karras", others=("dpm2m",),
    ),
    "euler_a": SamplerInfo("Euler a", "Euler a", "EulerAncestralDiscreteScheduler", others=("eulerancestral",)),
    # "trailing" begins at pure noise, as sampling does (2305.08891, table 2)
    "ddim": SamplerInfo(
        "DDIM", "DDIM", "DDIMScheduler",
        {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "trailing"}, others=("ddimv3",),
    ),
    "unipc": SamplerInfo("UniPC", "UniPC", "UniPCMultistepScheduler", {"solver_order": 2}),
    "lcm": SamplerInfo("LCM", "LCM", "LCMScheduler", _GRID, few_steps=True),
    "tcd": SamplerInfo("TCD", "TCD", "TCDScheduler", _GRID, few_steps=True),
    # LCM's steps at DMD2's noise levels: four of them are 999, 749, 499, 249 (2405.14867)
    "dmd2": SamplerInfo(
        "DMD2", "DMD2", "LCMScheduler", {**_GRID, "original_inference_steps": 20}, few_steps=True,
    ),
}  # fmt: skip
# Of a picture that is taken back to noise by DDIM: with 20 steps, eyes come back in another colour.
INVERSION_SAMPLER, INVERSION_STEPS = "ddim", 32
FEW_STEP_SAMPLERS = tuple(name for name, sampler in SAMPLERS.items() if sampler.few_steps)


def _letters(name: str) -> str:
    """A sampler's name in letters and digits, without the `k_` that some programs put before it."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("++", "pp").removeprefix("k_"))


def sampler_of(name: str, schedule: str = "") -> str | None:
    """Ours of that name and schedule, as any program calls it; None where there is none."""
    for ending in (" Karras", "_karras", " karras", "_k"):
        if name.endswith(ending):
            name, schedule = name.removesuffix(ending), "karras"
    wanted, karras = _letters(name), schedule.lower() == "karras"
    for ours, sampler in SAMPLERS.items():
        if karras == (sampler.schedule == "Karras") and wanted in (_letters(sampler.infotext), *sampler.others):
            return ours
    return None
