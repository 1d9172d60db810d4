"""Our LoRA step against diffusers' example: `python -m benchmarks.lora --script train_text_to_image_lora.py`.

The script is Hugging Face's `examples/text_to_image/train_text_to_image_lora.py`, given by path, run unchanged. Both
get the same random Stable Diffusion 1.5 (full size), picture, caption, batch and precision, one after the other, in
a process each whose optimiser steps are timed and whose peak memory is read at its end. `datasets` and
`torchvision`, of which the script uses little, are stood in for where they aren't installed.

The two draw their random numbers differently, so both are given the same ones: initial weights, noise and timesteps are
functions of the step's number, and the VAE's mean is taken. Then the two loss curves have to agree.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import runpy
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]
RANK = 32
RATE = 1e-4
SAME = 0.01  # relative difference of the losses that rounding may make


def write_data(folder: Path, side: int) -> None:
    """One captioned picture, in a form that both read. One, because the two show several in different orders."""
    folder.mkdir(parents=True)
    blocks = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((side, side)).save(folder / "a.png")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "1girl, red hair"}))


# --- the two children ------------------------------------------------------------------------------------------------


def watch_steps() -> list[float]:
    """The times at which AdamW finished a step in this process."""
    import torch

    times: list[float] = []
    real = torch.optim.AdamW.step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        done = real(self, *args, **kwargs)
        times.append(time.monotonic())
        return done

    torch.optim.AdamW.step = step
    return times


def numbers(step: int, shape: Any) -> tuple[Any, Any]:
    """Noise of `shape` (batch first) and timesteps of one step."""
    import torch

    g = torch.Generator().manual_seed(step)
    return torch.randn(shape, generator=g), torch.randint(1000, (shape[0],), generator=g)


def same_start() -> None:
    """LoRA's A matrices from a generator of their own, in the order in which they are made."""
    import torch

    real, counter = torch.nn.init.normal_, itertools.count()

    def normal(tensor: Any, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Any:
        if std == 1 / RANK and tensor.shape[0] == RANK:
            generator = torch.Generator().manual_seed(next(counter))
        return real(tensor, mean, std, generator)

    torch.nn.init.normal_ = normal


def stand_ins() -> None:
    """`datasets` and `torchvision`, as far as the script uses them, where they aren't installed."""
    try:
        import datasets  # noqa: F401
        import torchvision  # noqa: F401
    except ImportError:
        pass
    else:
        return
    import enum

    import torch

    class Pictures:
        column_names = ("image", "text")

        def __init__(self, folder: Path, transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> None:
            self.folder, self.transform = folder, transform
            # repeated, so that a batch can be larger than the set
            self.rows = [
                json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
            ] * 64

        def with_transform(self, transform: Callable[[dict[str, Any]], dict[str, Any]]) -> Pictures:
            return Pictures(self.folder, transform)

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> dict[str, Any]:
            row = self.rows[index]
            found = {"image": [Image.open(self.folder / row["file_name"])], "text": [row["text"]]}
            return {key: values[0] for key, values in (self.transform or dict)(found).items()}

    def load_dataset(kind: str, data_files: dict[str, str], **_: Any) -> dict[str, Pictures]:
        return {"train": Pictures(Path(data_files["train"]).parent)}

    def module(name: str, **contents: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        made.__dict__.update(contents)
        made.__spec__ = None
        sys.modules[name] = made
        return made

    class InterpolationMode(enum.Enum):
        LANCZOS = "lanczos"

    def to_tensor(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255

    def compose(parts: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
        def run(value: Any) -> Any:
            for part in parts:
                value = part(value)
            return value

        return run

    same: Callable[..., Callable[[Any], Any]] = lambda *a, **k: lambda value: value  # noqa: E731 - already that size
    quiet = types.SimpleNamespace(set_verbosity_warning=lambda: None, set_verbosity_error=lambda: None)
    module("datasets", load_dataset=load_dataset, utils=types.SimpleNamespace(logging=quiet))
    transforms = module(
        "torchvision.transforms",
        InterpolationMode=InterpolationMode,
        Compose=compose,
        Resize=same,
        CenterCrop=same,
        RandomCrop=same,
        RandomHorizontalFlip=same,
        Lambda=lambda function: function,
        ToTensor=lambda: to_tensor,
        Normalize=lambda mean, std: lambda x: (x - mean[0]) / std[0],
    )
    module("torchvision", transforms=transforms)


def theirs(options: argparse.Namespace) -> list[float]:
    import torch
    from accelerate import Accelerator
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    stand_ins()
    losses: list[float] = []
    steps, drawn = itertools.count(), {}

    def noise(latents: Any) -> Any:
        drawn["noise"], drawn["t"] = numbers(next(steps), latents.shape)
        return drawn["noise"]

    Accelerator.log = lambda self, values, **_: losses.append(values["train_loss"])
    DiagonalGaussianDistribution.sample = lambda self, generator=None: self.mean
    torch.randn_like = noise
    real = torch.randint
    torch.randint = lambda *a, **k: drawn["t"] if a[:2] == (0, 1000) else real(*a, **k)
    sys.argv = [
        str(options.script), "--pretrained_model_name_or_path", str(options.model), "--train_data_dir",
        str(options.data), "--output_dir", str(options.out), "--resolution", str(options.side), "--train_batch_size",
        str(options.batch), "--max_train_steps", str(options.steps), "--learning_rate", str(RATE), "--rank", str(RANK),
        "--seed", "0", "--lr_scheduler", "constant", "--snr_gamma", "5.0", "--checkpointing_steps", "1000000",
        "--dataloader_num_workers", "0", "--center_crop",
    ]  # fmt: skip
    if options.checkpointing:
        sys.argv.append("--gradient_checkpointing")
    runpy.run_path(str(options.script), run_name="__main__")
    return losses


def ours(options: argparse.Namespace) -> list[float]:
    import torch

    from studio.core.specs import LoraSpec
    from studio.runs.rundir import RunDir
    from studio.training.lora import dataset, train
    from studio.training.runtime import steps

    def draw(
        picture: int, latents: Any, variants: int, spec: Any, scaling: float, total: int, step: int, k: int
    ) -> Any:
        noise, t = numbers(step, torch.Size([options.batch, *latents.mean.shape]))
        return dataset.StepNoise(picture, 0, False, int(t[k]), latents.mean * scaling, noise[k])

    dataset.step_noise = draw  # type: ignore[assignment]
    steps.learning_rate = lambda step, total, peak, warmup: peak  # constant, as the script's default
    run = RunDir(Path(options.out))
    run.path.mkdir(parents=True)
    run.write_spec(
        LoraSpec(
            data=str(options.data),
            model=str(options.model),
            resolution=options.side,
            batch_size=options.batch,
            epochs=1,
            repeats=options.steps * options.batch,
            rank=RANK,
            alpha=RANK,
            learning_rate=RATE,
            warmup=0,
            buckets=False,
            caption_dropout=0.0,
            checkpoint_epochs=100,
            samples=False,  # the script draws none either
            gradient_checkpointing=options.checkpointing,
        )
    )
    train.main(run.path)
    return [line["loss"] for line in run.metrics()]


def child(options: argparse.Namespace) -> None:
    times = watch_steps()
    same_start()
    losses = {"theirs": theirs, "ours": ours}[options.child](options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kilobytes
    seconds = median(b - a for a, b in itertools.pairwise(times))
    Path(options.answer).write_text(json.dumps({"seconds": seconds, "peak": peak, "losses": losses}), encoding="utf-8")


# --- the comparison --------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--script", type=Path, required=True, help="diffusers' train_text_to_image_lora.py")
    parser.add_argument("--model", type=Path, help="a diffusers folder; blank: a random one of full size")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing in both")
    for hidden in ("--child", "--data", "--out", "--answer"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        if options.model is None:
            from support.checkpoints import full_sd15

            options.model = full_sd15(home / "model")
        write_data(home / "data", options.side)
        found = {}
        for name in ("theirs", "ours"):
            command = [sys.executable, __file__, "--child", name, "--script", str(options.script.resolve())]
            command += ["--model", str(options.model.resolve()), "--side", str(options.side)]
            command += ["--batch", str(options.batch), "--steps", str(options.steps), "--data", str(home / "data")]
            command += ["--out", str(home / "runs" / name), "--answer", str(home / f"{name}.json")]
            command += ["--checkpointing"] * options.checkpointing
            environment = os.environ | {"STUDIO_DEVICE": "cpu", "STUDIO_HOME": str(home), "ACCELERATE_USE_CPU": "1"}
            subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
            found[name] = json.loads((home / f"{name}.json").read_text(encoding="utf-8"))
    pairs = zip(found["theirs"]["losses"], found["ours"]["losses"], strict=True)
    figures = {
        "steps_per_second": {name: 1 / one["seconds"] for name, one in found.items()},
        "peak_gb": {name: one["peak"] / 1e9 for name, one in found.items()},
        "speed": found["theirs"]["seconds"] / found["ours"]["seconds"],
        "memory": found["ours"]["peak"] / found["theirs"]["peak"],
        "losses": {name: one["losses"] for name, one in found.items()},
        "loss_difference": max(abs(a - b) / a for a, b in pairs),
    }
    print(json.dumps(figures))
    if figures["loss_difference"] > SAME:
        sys.exit(f"The losses differ by {figures['loss_difference']:.1%}: the two didn't train the same.")


if __name__ == "__main__":
    main()
