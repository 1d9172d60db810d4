"""A distilled UNet with everything else of its model, as a diffusers folder that opens anywhere and in the studio.

`DiffusionPipeline.from_pretrained(folder)` finds a pipeline that reads the guidance embedding's size
(`time_cond_proj_dim`) from the UNet's configuration, and the scheduler that the student is drawn with. Knows the layout
of such folders, not how a UNet was trained.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
from diffusers import UNet2DConditionModel

from studio.engine.diffusion.schedulers import make_scheduler
from studio.engine.models.components import Components
from studio.training.export.folder import fresh_folder, replace_folder


def write(
    folder: Path, components: Components, unet: UNet2DConditionModel, title: str, sampler: str, guidance: float,
    steps: int = 4,
) -> Path:  # fmt: skip
    """Write the model with `unet` in place of its own into `folder`, whole or not at all, and return it.

    `sampler` is the one that the student is drawn with, `guidance` what `studio.json` recommends as guidance_scale.
    Raises OSError when the disk is full.
    """
    info = components.info
    fresh = fresh_folder(folder)
    unet.save_pretrained(fresh / "unet", safe_serialization=True)
    components.vae.save_pretrained(fresh / "vae", safe_serialization=True)
    family = components.family
    texts = {name: getattr(components, name) for name in (*family.text_encoders, *family.tokenizers)}
    for name, part in texts.items():
        part.save_pretrained(fresh / name)
    scheduler = make_scheduler(sampler, components.scheduler_config)
    scheduler.save_pretrained(fresh / "scheduler")
    index = {
        "_class_name": _pipeline(components, sampler),
        "_diffusers_version": diffusers.__version__,
        "vae": ["diffusers", type(components.vae).__name__],
        "unet": ["diffusers", "UNet2DConditionModel"],
        **{name: ["transformers", type(part).__name__] for name, part in texts.items()},
        "scheduler": ["diffusers", type(scheduler).__name__],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
    }
    facts = {
        "title": title,
        "family": components.family.name,
        "native_size": info.native_size,
        "steps": steps,
        "guidance": guidance,
        "sampler": sampler,
        "license": info.license,
        "tags": list(info.tags),
    }
    if info.face is not None:
        facts["face"] = {"box": list(info.face)}
    if info.judge is not None:
        shutil.copytree(info.judge, fresh / "judge")
        facts["judge"] = "judge"
    (fresh / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    (fresh / "studio.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    replace_folder(folder, fresh)
    return folder


def _pipeline(components: Components, sampler: str) -> str:
    """The pipeline that draws with it. LCM's own takes LCM's scheduler only, and there is none for SDXL; the others
    take any, and tell the UNet the guidance as well.
    """
    if components.text_encoder_2 is not None:
        return "StableDiffusionXLPipeline"
    return "LatentConsistencyModelPipeline" if sampler == "lcm" else "StableDiffusionPipeline"
