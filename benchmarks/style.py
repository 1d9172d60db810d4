"""What a LoRA learns of a look in twenty epochs: the example set of the studio, on the embedded model.

Trained as the page's preset does it. The look: Frechet distance, in the judge's features, from pictures of the set's
own captions to the set, without and with the LoRA (same prompts, same seeds). Obedience: emotions that the writer asks
for, without and with it. `python -m benchmarks.style --out DIR` leaves a sheet: above without, below with.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.embedded import accuracies, characters, draw, prompt, sheet
from studio.engine.models import find_lora
from studio.engine.pipelines import Engine
from studio.evaluation.judge import Judge
from studio.evaluation.metrics import frechet_distance
from studio.runs.rundir import RunDir
from studio.settings import ASSETS, EMBEDDED_MODEL, Settings
from studio.specs import LoraRef, LoraSpec
from studio.training import lora
from studio.ui.train_form import PRESETS

SET = ASSETS / "examples" / "style_1"


def train(home: Path, epochs: int) -> tuple[Path, dict[str, Any]]:
    """The LoRA's file, and what its training took."""
    run = RunDir(home / "runs" / "style")
    run.path.mkdir(parents=True)
    preset = PRESETS["Laptop, embedded model"] | {"epochs": epochs}
    run.write_spec(LoraSpec(data=str(SET), name="look", **preset))
    started = time.perf_counter()
    lora.main(run.path)
    seconds = time.perf_counter() - started
    status = run.status()
    if status["state"] != "done":
        raise RuntimeError(status["error"])
    losses = [line["loss"] for line in run.metrics()]
    tenth = max(1, len(losses) // 10)
    return Path(status["adapter"]), {
        "minutes": seconds / 60, "steps": len(losses), "loss_first_tenth": sum(losses[:tenth]) / tenth,
        "loss_last_tenth": sum(losses[-tenth:]) / tenth,
    }  # fmt: skip


def run(quick: bool = True, out: Path | None = None) -> dict[str, Any]:
    """20 epochs and 100 obedience pictures (quick: 5 and 20)."""
    home = Path(tempfile.mkdtemp())
    try:
        file, found = train(home, 5 if quick else 20)
        judge, engine = Judge.load(EMBEDDED_MODEL / "judge"), Engine(Settings(preview_every=0))
        texts = sorted(SET.glob("*.txt"))
        captions = [(path.read_text(encoding="utf-8").strip(), "") for path in texts]
        trigger = captions[0][0].split(",")[0]
        look = judge([Image.open(next(SET.glob(f"{path.stem}.[jp]*g"))).convert("RGB") for path in texts]).features
        asked = characters(20 if quick else 100)
        prompts = [(f"{trigger}, {positive}", negative) for positive, negative in map(prompt, asked)]
        digest = find_lora(str(file), engine.settings).hash
        for name, loras in (("without", ()), ("with", ((LoraRef(path=str(file)), digest),))):
            shown, _ = draw(engine, captions, loras=loras)
            obeyed, _ = draw(engine, prompts, loras=loras)
            found[name] = {
                "frechet_to_set": frechet_distance(judge(shown).features, look),
                "emotion": accuracies(judge, obeyed, asked)["factors"]["emotion"]["accuracy"],
            }
            if out:
                out.mkdir(parents=True, exist_ok=True)
                sheet(shown[:16] + obeyed[:8], 8, 160).save(out / f"style-{name}.png")
    finally:
        shutil.rmtree(home, ignore_errors=True)
    found["frechet_ratio"] = found["with"]["frechet_to_set"] / found["without"]["frechet_to_set"]
    found["emotion_lost"] = found["without"]["emotion"] - found["with"]["emotion"]
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    print(json.dumps(run(args.quick, args.out), indent=1))
