"""How much memory a distillation takes: the estimate against what autograd really keeps, and against real processes."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from support.checkpoints import SD15_CONFIG, full_sd15, tiny_sd

from studio.core.specs import LcmSpec
from studio.engine.models.families import SD15
from studio.runs.rundir import RunDir
from studio.training.distill.memory import estimate
from studio.training.distill.student import LoraStudent

REPOSITORY = Path(__file__).resolve().parents[2]
# What has to be there: anonymous memory, and those pages of the model's files that the second and third step read.
# (Weights that were copied into another layout leave pages behind, which count as resident until somebody needs them.)
PEAK = """
import json, sys, threading
from pathlib import Path
from studio.training.distill import train

me, run, over, peak = Path("/proc/self"), Path(sys.argv[1]), threading.Event(), 0

def kilobytes(text, field):
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(field + ":"))

def watch():
    global peak
    cleared = False
    while not over.wait(0.05):
        peak = max(peak, kilobytes((me / "status").read_text(), "RssAnon"))
        if not cleared and (run / "metrics.jsonl").exists():
            cleared = (me / "clear_refs").write_text("1") > 0

watcher = threading.Thread(target=watch)
watcher.start()
try:
    train.main(run)
finally:
    over.set()
    watcher.join()
maps = (me / "smaps").read_text()
read = sum(kilobytes(part, "Referenced") for part in maps.split("VmFlags:") if ".safetensors" in part)
print(json.dumps(1024 * (peak + read)))
"""


def test_activations_are_what_autograd_keeps(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "tiny")
    spec = LcmSpec(rank=4, batch_size=3)
    said = estimate(spec, UNet2DConditionModel.load_config(folder / "unet"), 4, 77, SD15.lcm_lora_targets, 0)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    base = sum(p.numel() for p in unet.parameters())
    student = LoraStudent(unet, SD15.lcm_lora_targets, spec.rank)
    weights = {p.untyped_storage().data_ptr() for p in unet.parameters()}
    kept: dict[int, int] = {}
    held = []  # alive, so that no address is used twice

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        student.student(torch.randn(3, 16, 4, 4), torch.zeros(3).long(), torch.randn(3, 77, 32), torch.zeros(3))
    assert said.activations == pytest.approx(sum(kept.values()), rel=0.2)
    assert said.weights == 4 * base
    assert said.parameters == sum(p.numel() for p in student.trainable.values())


def test_a_larger_batch_and_a_whole_model_need_more() -> None:
    config = UNet2DConditionModel.load_config(SD15_CONFIG / "unet")

    @functools.cache
    def of(side: int = 32, **changes: object) -> float:
        spec = LcmSpec(**{"batch_size": 1, **changes})  # type: ignore[arg-type]
        return estimate(spec, config, side, 77, SD15.lcm_lora_targets, 830_000_000).total / 1e9

    assert of() < of(batch_size=2) < of(batch_size=4)
    assert of() < of(side=64)
    assert of(form="full") < 24
    assert of(form="full") > 2 * of()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["lora", "full"])
def test_three_steps_of_full_size_stable_diffusion(tmp_path: Path, form: str) -> None:
    """Both forms fit 24 GB, and the estimate is within a fifth of what the process took."""
    model = full_sd15(tmp_path / "sd15")
    (model / "studio.json").write_text(json.dumps({"title": "Random SD 1.5", "native_size": 256}))
    data = tmp_path / "data"
    data.mkdir()
    for k in range(2):
        Image.effect_noise((256, 256), 60 + k).convert("RGB").save(data / f"{k}.png")
        (data / f"{k}.txt").write_text("1girl")
    run = RunDir(tmp_path / "runs" / form)
    run.path.mkdir(parents=True)
    spec = LcmSpec(
        model=str(model), form=form, data=str(data), epochs=1, steps_per_epoch=3, batch_size=1, checkpoint_epochs=1,
        curve_pictures=0,
    )  # type: ignore[arg-type] # fmt: skip
    run.write_spec(spec)
    environment = os.environ | {"STUDIO_HOME": str(tmp_path), "STUDIO_DEVICE": "cpu", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(run.path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    peak = float(done.stdout.splitlines()[-1])
    assert [m["step"] for m in run.metrics()] == [1, 2, 3]
    if form == "lora":
        assert "67,252,224 trainable parameters" in done.stdout
    others = sum(f.stat().st_size for part in ("vae", "text_encoder") for f in (model / part).glob("*.safetensors"))
    said = estimate(spec, UNet2DConditionModel.load_config(model / "unet"), 32, 77, SD15.lcm_lora_targets, others).total
    assert peak < 24e9
    assert said == pytest.approx(peak, rel=0.2)
