"""Put the trained parts together as `assets/models/embedded`: a diffusers folder in fp16 and its facts.

The result opens with plain `StableDiffusionPipeline.from_pretrained`. Parts that aren't there (a fast
adapter that wasn't worth shipping) are left out of `studio.json`, and everything in the studio that needs them says so.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from studio.pretraining.captions import neutral, synonyms
from studio.pretraining.unet import SCHEDULE

FACE = (0.25, 0.33, 0.75, 0.78)  # left, top, right, bottom of a centred face, as shares of the picture
# Often missing from what it draws, garments in any colour: see the model's card, and `benchmarks.words`, which saw each
# of those that it can tell in less than three of four pictures.
UNRELIABLE = frozenset((
    "bandaid on face", "cat ears", "choker", "circle background", "clenched teeth", "closed eyes", "earrings",
    "freckles", "frills", "glasses", "gradient hair", "hair flower", "hair ribbon", "hairclip", "half-closed eyes",
    "halo", "hat", "headphones", "horns", "light smile", "mole under eye", "necktie", "petals", "streaming tears",
    "tears",
    "bow", "dress", "hoodie", "jacket", "scarf", "sweater", "t-shirt", "vest",
))  # fmt: skip

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "EulerAncestralDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
# A ControlNet that has not been trained to its end adds too little: with the squared error it dares half a step where
# it is half sure. So guidance amplifies it, and without guidance it weighs more; how much, `benchmarks.sketch` found.
CONTROL = {"guided": 0.85, "unguided": 2.0, "unconditional": 0.0}


def facts(folder: Path, tags: list[str]) -> dict[str, object]:
    """`studio.json`: how this model wants to be used, as far as its folder holds the parts."""
    found: dict[str, object] = {
        "title": "Embedded anime characters",
        "family": "sd15",
        "native_size": 256,
        "steps": 20,
        "guidance": 3.0,
        "sampler": "euler_a",  # new noise in every step mends what a small network does wrong in the one before
        "license": "CC0-1.0",
        "judge": "judge",
        "distill": {"w_min": 2.4, "w_max": 2.8},  # measured: at 3.5 the solver draws best, at 3 and at 4 worse
        "face": {"box": FACE},
        "tags": tags,
        "synonyms": synonyms(),
        "neutral": neutral(),
        "unreliable": [tag for tag in tags if {tag, tag.partition(" ")[2]} & UNRELIABLE],
    }
    if (folder / "lcm_lora").is_dir():
        found["fast"] = {
            "adapter": "lcm_lora",
            **json.loads((folder / "lcm_lora" / "distilled.json").read_text(encoding="utf-8"))["fast"],
        }
    if (folder / "controlnet").is_dir():
        found["controlnet"] = {"lines": "controlnet", "canny": "controlnet"}
        found["control"] = CONTROL
    return found


def main(args: argparse.Namespace) -> None:
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    if args.vae is not None:
        AutoencoderKL.from_pretrained(args.vae).to(torch.float16).save_pretrained(out / "vae")
    if args.unet is not None:  # without any part only `studio.json` is made anew
        UNet2DConditionModel.from_pretrained(args.unet).to(torch.float16).save_pretrained(out / "unet")
        CLIPTextModel.from_pretrained(args.text_encoder).to(torch.float16).save_pretrained(out / "text_encoder")
        CLIPTokenizer.from_pretrained(args.tokenizer).save_pretrained(out / "tokenizer")
        EulerAncestralDiscreteScheduler(
            **SCHEDULE, prediction_type="v_prediction", timestep_spacing="linspace"
        ).save_pretrained(out / "scheduler")
        (out / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")
    for name, source in (("judge", args.judge), ("lcm_lora", args.lcm_lora), ("controlnet", args.controlnet)):
        if source is not None:
            shutil.rmtree(out / name, ignore_errors=True)
            if name == "judge" or source.is_dir():
                shutil.copytree(source, out / name)
            else:
                print(f"{name}: there is none in {source}")
    for path in (p for p in out.glob("*/config.json") if p.parent.name != "judge"):
        config = json.loads(path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # where it lay on the machine that trained it
        if path.parent.name == "text_encoder":
            config["dtype"] = "float32"  # transformers goes by it, diffusers loads in fp32
        path.write_text(json.dumps(config, indent=2) + "\n")
    tags = sorted(
        {
            t
            for path in args.data.glob("m*.json")
            for m in json.loads(path.read_text(encoding="utf-8"))
            for t in m["tags"]
        }
    )
    (out / "studio.json").write_text(json.dumps(facts(out, tags), indent=1) + "\n")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.1f} MB")


def cli() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of painted shards: their tags")
    parser.add_argument("--out", type=Path, required=True)
    for name in ("unet", "text-encoder", "tokenizer", "vae", "judge", "lcm-lora", "controlnet"):
        parser.add_argument(f"--{name}", type=Path)
    main(parser.parse_args())


if __name__ == "__main__":
    cli()
