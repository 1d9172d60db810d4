"""`make models`: every step in order, each only when something that goes into it has changed.

A step leaves a stamp with a digest of what went into it: its command, the code of its module and of what that imports
from here, and the stamps of the steps before it. A new autoencoder thus re-makes latents, UNet, LCM-LoRA and
ControlNet, and a longer UNet only what follows it. A step that has to be made again begins anew: what it left is
deleted. One that was only interrupted goes on where it was. Knows the order, nothing of what a step does.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from studio.core.settings import ASSETS, EMBEDDED_MODEL

PACKAGE = "studio.pretraining"
CODE = Path(__file__).resolve().parent  # of the package


@dataclass(frozen=True)
class Step:
    """One module with its options; `after` names the steps whose results it reads, `leaves` what it leaves in the state
    folder, as glob patterns."""

    name: str
    module: str
    options: tuple[str, ...]
    after: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()


def steps(state: Path, out: Path, hours: float) -> list[Step]:
    """The whole recipe. `hours` is the UNet's training time; the other steps' times were measured to be enough."""
    data, latents, unet, lcm, control = (state / name for name in ("data", "latents", "unet", "lcm", "controlnet"))
    assembled = ("--data", f"{data}", "--out", f"{out}")
    model = ("--model", f"{out}")
    bent, bent_latents, fresh = state / "bent", state / "latents-bent", state / "fresh"
    painted = ("corpus", "corpus-full")
    return [
        Step("corpus", "corpus", ("--out", f"{data}", "--variety", "small", "--shards", "8", "--first", "0"),
             leaves=("data/[pm]0*",)),
        Step("corpus-full", "corpus", ("--out", f"{data}", "--variety", "full", "--shards", "8", "--first", "100"),
             leaves=("data/[pm]1*",)),
        Step("judge", "judge", ("--data", f"{data}", "--out", f"{state / 'judge'}"), painted, ("judge",)),
        Step("tokenizer", "tokenizer", ("--data", f"{data}", "--out", f"{state / 'tokenizer'}"), painted,
             ("tokenizer",)),
        Step("vae", "vae", ("--data", f"{data}", "--out", f"{state / 'vae'}", "--minutes", "90"), painted, ("vae",)),
        Step("latents", "latents",
             ("--data", f"{data}", "--vae", f"{state / 'vae' / 'vae'}", "--out", f"{latents}"), ("vae",),
             ("latents",)),
        Step("text_tower", "text_tower",
             ("--data", f"{data}", "--tokenizer", f"{state / 'tokenizer'}", "--out", f"{state / 'tower'}"),
             ("tokenizer",), ("tower",)),
        Step("unet", "unet",
             ("--data", f"{data}", "--latents", f"{latents}", "--tokenizer", f"{state / 'tokenizer'}", "--tower",
              f"{state / 'tower'}", "--judge", f"{state / 'judge'}", "--out", f"{unet}", "--minutes", f"{hours * 60}"),
             ("latents", "text_tower", "judge"), ("unet",)),
        # replaces each part in its folder by itself
        Step("assemble", "assemble",
             (*assembled, "--unet", f"{unet / 'unet'}", "--text-encoder", f"{unet / 'text_encoder'}", "--vae",
              f"{latents / 'vae'}", "--tokenizer", f"{state / 'tokenizer'}", "--judge", f"{state / 'judge'}"),
             ("unet",)),
        Step("lcm", "lcm", (*model, "--data", f"{data}", "--out", f"{lcm}"), ("assemble",), ("lcm",)),
        Step("corpus-bent", "corpus", ("--out", f"{bent}", "--variety", "bent", "--shards", "8"), leaves=("bent",)),
        Step("latents-bent", "latents",
             ("--data", f"{bent}", "--folded", f"{latents}", "--out", f"{bent_latents}"), ("latents", "corpus-bent"),
             ("latents-bent",)),
        Step("control-images", "controlnet",
             ("--prepare", "--data", f"{data}", "--latents", f"{latents}", "--out", f"{control}"), ("latents",),
             ("controlnet/drawings/[01]*", "controlnet/drawings/held[01]*")),
        Step("control-images-bent", "controlnet",
             ("--prepare", "--data", f"{bent}", "--latents", f"{bent_latents}", "--out", f"{control}"),
             ("latents-bent",), ("controlnet/drawings/2*", "controlnet/drawings/held2*")),
        Step("controlnet", "controlnet", (*model, "--out", f"{control}", "--rate", "8e-4", "--noise-bias", "2.5"),
             ("control-images", "control-images-bent", "assemble"), ("controlnet/run",)),
        Step("assemble-parts", "assemble",
             (*assembled, "--lcm-lora", f"{lcm / 'lcm_lora'}", "--controlnet",
              f"{control / 'run' / 'adapter' / 'controlnet'}"),
             ("lcm", "controlnet")),
        # last: its latents are the finished model's mistakes, in paintings that nothing was trained on
        Step("corpus-fresh", "corpus",
             ("--out", f"{fresh}", "--variety", "full", "--shards", "4", "--first", "120"), leaves=("fresh",)),
        Step("mistakes", "mistakes", (*model, "--data", f"{fresh}", "--out", f"{state / 'mistakes'}"),
             ("corpus-fresh", "assemble-parts"), ("mistakes",)),
        Step("decoder", "decoder",
             ("--data", f"{fresh}", "--latents", f"{state / 'mistakes'}", "--vae", f"{latents / 'vae'}", "--out",
              f"{state / 'decoder'}"), ("mistakes",), ("decoder",)),
        Step("assemble-decoder", "assemble", (*assembled, "--vae", f"{state / 'decoder' / 'vae'}"), ("decoder",)),
    ]  # fmt: skip


def sources(module: str) -> list[Path]:
    """The files of a module of this package and of everything that it imports from the package, and so on."""
    found: dict[str, Path] = {}

    def follow(name: str) -> None:  # dotted, within the package; "" is the package itself
        place = CODE.joinpath(*name.split(".")) if name else CODE
        path = place.with_suffix(".py") if name and place.with_suffix(".py").is_file() else place / "__init__.py"
        if name in found or not path.is_file():
            return  # a name in a module, not a module
        found[name] = path
        here = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    above = here.split(".")[: len(here.split(".")) - node.level + 1] if here else []
                    base = ".".join([PACKAGE, *above, *([base] if base else [])])
                imported = [base, *(f"{base}.{alias.name}" for alias in node.names)]
            else:
                continue
            for full in imported:
                if f"{full}.".startswith(f"{PACKAGE}."):
                    follow(full[len(PACKAGE) + 1 :])

    follow(module)
    return [found[name] for name in sorted(found)]


def digest(step: Step, stamps: dict[str, str]) -> str:
    """Content key of a step: its command, its code (without comments and layout), the keys of what it hangs on."""
    code = [ast.dump(ast.parse(path.read_text(encoding="utf-8"))) for path in sources(step.module)]
    parts = [step.module, *step.options, *code, *(stamps[name] for name in step.after)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def clear(state: Path, step: Step) -> None:
    """Delete what an earlier run of the step left."""
    for pattern in step.leaves:
        for path in state.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def command(step: Step) -> list[str]:
    """What runs a step."""
    return [sys.executable, "-m", f"{PACKAGE}.{step.module}", *step.options]


def main(args: argparse.Namespace) -> int:
    record = args.state / "stamps.json"
    args.state.mkdir(parents=True, exist_ok=True)
    known = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    begun: dict[str, str] = dict(known.get("begun", {}))
    done: dict[str, str] = dict(known.get("done", {}))
    stamps: dict[str, str] = {}
    for step in steps(args.state, args.out, args.hours):
        stamps[step.name] = digest(step, stamps)
        if done.get(step.name) == stamps[step.name]:
            print(f"{step.name}: up to date", flush=True)
            continue
        how = "goes on" if begun.get(step.name) == stamps[step.name] else "begins anew"
        print(f"{step.name} {how}: {' '.join(command(step)[1:])}", flush=True)
        if args.dry_run:
            continue
        if how == "begins anew":
            done.pop(step.name, None)
            begun.pop(step.name, None)
            record.write_text(json.dumps({"begun": begun, "done": done}, indent=1))
            clear(args.state, step)
            begun[step.name] = stamps[step.name]
            record.write_text(json.dumps({"begun": begun, "done": done}, indent=1))
        if (code := subprocess.run(command(step), cwd=ASSETS.parent).returncode) != 0:
            print(f"{step.name} failed with code {code}; run the same command again to go on from here.")
            return code
        done[step.name] = stamps[step.name]
        record.write_text(json.dumps({"begun": begun, "done": done}, indent=1))
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
