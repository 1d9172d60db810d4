"""SDXL in its real size from one fp16 file: it loads and draws a step within 24 GB."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.sdxl import full_sdxl_file

from studio.engine.models.families import SDXL

# Alone in its process, so that the peak is its own. What is mapped from the file isn't counted: it needn't stay.
ONE_STEP = """
import json, sys, threading, time
from pathlib import Path
from studio.core.settings import settings
from studio.core.specs import Recipe
from studio.engine.engine import Engine

over, peak = threading.Event(), 0

def watch():
    global peak
    while not over.wait(0.05):
        said = Path("/proc/self/status").read_text().split("RssAnon:")[1]
        peak = max(peak, 1024 * int(said.split()[0]))

watching = threading.Thread(target=watch)
watching.start()
started = time.perf_counter()
engine = Engine(settings())
components = engine.components("full")
loaded = time.perf_counter()
recipe = Recipe(
    prompt="1girl, red hair", negative="", seed=1, steps=1, guidance=1.0, sampler="euler_a", model="full",
    model_hash="", width=832, height=1216,
)
marks = []
[(_, picture)] = engine.draw([recipe], lambda step: marks.append(time.perf_counter()))
over.set()
watching.join()
print(json.dumps({
    "parameters": sum(p.numel() for p in components.unet.parameters()), "size": picture.size,
    "varies": min(picture.convert("L").getextrema()) < max(picture.convert("L").getextrema()), "peak": peak,
    "load_s": loaded - started, "step_s": marks[-1] - loaded, "decode_s": time.perf_counter() - marks[-1],
    "dtype": str(components.dtype),
}))
"""


@pytest.mark.slow
def test_a_step_in_the_real_size(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    full_sdxl_file(tmp_path / "models" / "full.safetensors")
    environment = os.environ | {"STUDIO_HOME": str(tmp_path), "STUDIO_DEVICE": "cpu", "STUDIO_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ONE_STEP], env=environment, capture_output=True, text=True, check=False
    )
    (tmp_path / "models" / "full.safetensors").unlink()  # 7 GB
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    print(said)
    assert said["parameters"] == SDXL.unet_parameters
    assert said["size"] == [832, 1216]
    assert said["varies"]
    assert said["peak"] < 24e9
