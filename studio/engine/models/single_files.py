"""What the header of a checkpoint in one file, and what lies beside it, say before anything of it is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from studio.core.errors import BadInput
from studio.core.files import open_regular
from studio.engine.models import hub
from studio.engine.models.families import Family
from studio.engine.models.file_kinds import is_vae
from studio.engine.models.weights import Header, read_header

VAE_ENDING = ".vae.safetensors"
# What to do with some kinds of files that no picture can be drawn with
TOLD = {
    "the refiner of SDXL": "it goes over pictures that another model has drawn and draws none itself: choose an SDXL "
    "base model.",
    "the UNet of an SDXL model in diffusers' layout": "it has no text encoders and no VAE: choose a file of the whole "
    "model, or its folder with model_index.json.",
}
_TRUE = r"""["']?(?:true|yes|on|1)["']?\s*$"""
# In Stability's configurations: that of Stable Diffusion 2, and the newer one's scaling
_V = re.compile(
    r"""^\s*(?:parameterization["']?\s*:\s*["']?v|target["']?\s*:.*\bdenoiser_scaling\.VScaling)["']?\s*$""",
    re.MULTILINE,
)
_ZERO = re.compile(
    rf"""^\s*(?:use_)?(?:zero_terminal_snr|rescale_betas_zero_snr|ztsnr|zsnr)["']?\s*:\s*{_TRUE}""", re.M | re.I
)


def require_parts(name: str, header: Header, family: Family) -> None:
    """Raise BadInput, saying which part, when a file of this family lacks one of its text encoders."""
    names = header.tensors
    if any(key.startswith("cond_stage_model.model.") for key in names):
        raise BadInput(
            f"{name} is a Stable Diffusion 2 model: it has another text encoder than {family.title}; "
            f"choose a {family.title} model."
        )
    if all(any(key.startswith(prefix) for key in names) for prefix in family.single_file_text.values()):
        return
    if any(key.startswith(("cond_stage_model.", "conditioner.embedders.")) for key in names):
        raise BadInput(f"{name} has another text encoder than {family.title}; choose a {family.title} model.")
    raise BadInput(
        f"{name} has no text encoder: only a part of a model was saved in it; choose a file of the whole "
        f"model, or {family.default_model}."
    )


def other_vae(path: Path, header: Header, family: Family) -> Path | None:
    """The VAE of a file that has none: `NAME.vae.safetensors` beside it (A1111's custom), else the family's own.

    A file, or a folder of diffusers; None where the file has its VAE. The family's own is that of its default model,
    where that is on this machine. Raises BadInput, saying what to do, where there is none of them.
    """
    if any(name.startswith("first_stage_model.") for name in header.tensors):
        return None
    beside = path.with_name(f"{path.stem}{VAE_ENDING}")
    if beside.is_file():
        if not is_vae(read_header(beside).tensors):
            raise BadInput(f"{beside.name} is not the VAE of a {family.title} model; choose another one.")
        return beside
    reference = family.vae_model or family.default_model
    own = hub.snapshot(reference, ("vae",))
    if own is None:
        raise BadInput(
            f"{path.name} has no VAE, the part that turns what is drawn into pixels; choose a version of it with the "
            f"VAE in it, put one beside it as {beside.name}, or use {reference} once: its VAE, the family's "
            "own, is taken from then on."
        )
    return own / "vae"


def scheduler_changes(path: Path, header: Header) -> dict[str, Any]:
    """What has to differ in the scheduler's configuration: empty for a model that predicts noise.

    A model that predicts v (2202.00512, section 4) says so with an empty tensor `v_pred` in it, in its metadata, or in
    a `.yaml` of the same name beside it, as Stability's configurations do. `ztsnr` is the empty tensor of models that
    were trained with zero terminal SNR (2305.08891, section 3); kohya's trainer writes it into the metadata.
    """
    changes: dict[str, Any] = {}
    said, beside = header.metadata.get("modelspec.prediction_type", "").lower(), _yaml(path)
    if "v_pred" in header.tensors or said in ("v", "v_prediction") or _V.search(beside):
        changes["prediction_type"] = "v_prediction"
    zero = header.metadata.get("ss_zero_terminal_snr") == "True"
    if "ztsnr" in header.tensors or zero or _ZERO.search(beside):
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return changes


def _yaml(path: Path) -> str:
    """What stands in the configuration beside a checkpoint, an entry a line, without comments; "" without one."""
    for suffix in (".yaml", ".yml", ".YAML", ".YML"):
        try:
            with open_regular(path.with_suffix(suffix)) as file:
                text = file.read(1_000_000)
        except (OSError, ValueError):
            continue
        for encoding in ("utf-8-sig", "utf-16"):
            try:
                said = re.sub(r"(?:^|\s)#.*", "", text.decode(encoding), flags=re.MULTILINE)
                return re.sub(r"""[{},]\s*["']?""", "\n", said)  # {a: b, "c": d} is two entries
            except UnicodeDecodeError:
                continue
    return ""
