"""One table of samplers: whatever stands in it is everywhere."""

from __future__ import annotations

import subprocess
import sys

import pytest

from studio.core.samplers import SAMPLERS, sampler_of

TOY = """
from studio.core import samplers

samplers.SAMPLERS["heun"] = samplers.SamplerInfo("Heun", "Heun", "HeunDiscreteScheduler", {"use_karras_sigmas": False})

import diffusers

from studio.core.fields import describe
from studio.core.specs import GenerateSpec, Recipe
from studio.engine.diffusion import schedulers
from studio.store import metadata

spec = GenerateSpec(prompt="1girl", sampler="heun", steps=5, guidance=3.0, seed=1)
assert GenerateSpec.model_validate_json(spec.model_dump_json()) == spec
assert "heun" in GenerateSpec.model_json_schema()["properties"]["sampler"]["enum"]
assert describe(GenerateSpec, "sampler").about.names["heun"] == "Heun"
assert isinstance(schedulers.make_scheduler("heun", {}), diffusers.HeunDiscreteScheduler)
recipe = Recipe(
    prompt="1girl", negative="", model="embedded", model_hash="0" * 64, seed=1, steps=5, guidance=3.0, sampler="heun",
    width=256, height=256,
)
assert "Sampler: Heun, Schedule type: Uniform" in metadata.parameters(recipe)
assert samplers.sampler_of("k_heun") == "heun"
"""


def test_a_new_sampler_is_one_entry() -> None:
    done = subprocess.run([sys.executable, "-c", TOY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_written_for_a_sampler_is_read_as_it(name: str) -> None:
    known = SAMPLERS[name]
    assert sampler_of(known.infotext, known.schedule) == name
    assert sampler_of(known.title) == name


@pytest.mark.parametrize(
    ("name", "schedule", "ours"),
    [
        ("DPM++ 2M Karras", "", "dpmpp_2m_karras"),
        ("k_dpmpp_2m", "karras", "dpmpp_2m_karras"),
        ("dpm_2m", "", "dpmpp_2m"),
        ("euler_ancestral", "normal", "euler_a"),
        ("Euler a", "Karras", None),
        ("ddim_v3", "", "ddim"),
        ("Heun", "", None),
    ],
)
def test_other_programs_names_are_known(name: str, schedule: str, ours: str | None) -> None:
    assert sampler_of(name, schedule) == ours


def test_dmd2_asks_at_its_own_noise_levels() -> None:
    from studio.engine.diffusion import schedulers

    made = schedulers.make_scheduler("dmd2", {})
    assert schedulers.set_timesteps(made, 4).tolist() == [999, 749, 499, 249]
    assert len(schedulers.set_timesteps(schedulers.make_scheduler("dmd2", {}), 8)) == 8
