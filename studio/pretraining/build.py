"""`make models`: every step in order, each only when its own inputs have changed.

A step leaves a stamp with a digest of what went into it: its command and the stamps of the steps before it. A new
autoencoder thus re-makes latents, UNet, LCM-LoRA and ControlNet, and a longer UNet only what follows it. Training
steps resume by themselves when they were interrupted. Knows the order, nothing of what a step does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from studio.settings import ASSETS, EMBEDDED_MODEL


@dataclass(frozen=True)
class Step:
    """One module with its options; `after` names the steps whose results it reads."""

    name: str
    module: str
    options: tuple[str, ...]
    after: tuple[str, ...] = ()


def steps(state: Path, out: Path, hours: float) -> list[Step]:
    """The whole recipe. `hours` is the UNet's training time; the other steps' times were measured to be enough."""
    data, latents, unet, lcm, control = (state / name for name in ("data", "latents", "unet", "lcm", "controlnet"))
    assembled = ("--data", f"{data}", "--out", f"{out}")
    model = ("--model", f"{out}")
    return [
        Step("corpus", "corpus", ("--out", f"{data}", "--variety", "small", "--shards", "8", "--first", "0")),
        Step("corpus-full", "corpus", ("--out", f"{data}", "--variety", "full", "--shards", "8", "--first", "100")),
        Step("judge", "judge", ("--data", f"{data}", "--out", f"{state / 'judge'}"), ("corpus", "corpus-full")),
        Step("tokenizer", "tokenizer", ("--data", f"{data}", "--out", f"{state / 'tokenizer'}"), ("corpus-full",)),
        Step("vae", "vae", ("--data", f"{data}", "--out", f"{state / 'vae'}", "--minutes", "90"), ("corpus-full",)),
        Step("latents", "latents",
             ("--data", f"{data}", "--vae", f"{state / 'vae' / 'vae'}", "--out", f"{latents}"), ("vae",)),
        Step("text_tower", "text_tower",
             ("--data", f"{data}", "--tokenizer", f"{state / 'tokenizer'}", "--out", f"{state / 'tower'}"),
             ("tokenizer",)),
        Step("unet", "unet",
             ("--data", f"{data}", "--latents", f"{latents}", "--tokenizer", f"{state / 'tokenizer'}", "--tower",
              f"{state / 'tower'}", "--judge", f"{state / 'judge'}", "--out", f"{unet}", "--minutes", f"{hours * 60}"),
             ("latents", "text_tower", "judge")),
        Step("assemble", "assemble",
             (*assembled, "--unet", f"{unet / 'unet'}", "--text-encoder", f"{unet / 'text_encoder'}", "--vae",
              f"{latents / 'vae'}", "--tokenizer", f"{state / 'tokenizer'}", "--judge", f"{state / 'judge'}"),
             ("unet",)),
        Step("lcm", "lcm", (*model, "--data", f"{data}", "--out", f"{lcm}"), ("assemble",)),
        Step("control-images", "controlnet",
             ("--prepare", "--data", f"{data}", "--latents", f"{latents}", "--out", f"{control}"), ("latents",)),
        Step("controlnet", "controlnet", (*model, "--out", f"{control}"), ("control-images", "assemble")),
        Step("assemble-parts", "assemble",
             (*assembled, "--lcm-lora", f"{lcm / 'lcm_lora'}", "--controlnet",
              f"{control / 'run' / 'adapter' / 'controlnet'}"),
             ("lcm", "controlnet")),
    ]  # fmt: skip


def digest(step: Step, stamps: dict[str, str]) -> str:
    """Content key of a step: its command and the keys of what it hangs on."""
    parts = [step.module, *step.options, *(stamps[name] for name in step.after)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def main(args: argparse.Namespace) -> int:
    record = args.state / "stamps.json"
    args.state.mkdir(parents=True, exist_ok=True)
    done: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
    stamps: dict[str, str] = {}
    for step in steps(args.state, args.out, args.hours):
        stamps[step.name] = digest(step, stamps)
        if done.get(step.name) == stamps[step.name]:
            print(f"{step.name}: up to date", flush=True)
            continue
        command = [sys.executable, "-m", f"studio.pretraining.{step.module}", *step.options]
        print(f"{step.name}: {' '.join(command[1:])}", flush=True)
        if args.dry_run:
            continue
        if (code := subprocess.run(command, cwd=ASSETS.parent).returncode) != 0:
            print(f"{step.name} failed with code {code}; run the same command again to go on from here.")
            return code
        done[step.name] = stamps[step.name]
        record.write_text(json.dumps(done, indent=1))
    return 0


def cli() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, default=Path.home() / ".cache" / "anime-character-studio" / "pretraining")
    parser.add_argument("--out", type=Path, default=EMBEDDED_MODEL)
    parser.add_argument("--hours", type=float, default=3, help="training time of the UNet")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    sys.exit(main(parser.parse_args()))


if __name__ == "__main__":
    cli()
