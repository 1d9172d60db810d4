"""What a LoRA learns of a look in twenty epochs: the example set of the studio, on the embedded model.

Trained as the page's preset does it. The look: Frechet distance, in the judge's features, from pictures of the set's
own captions to the set, without and with the LoRA (same prompts, same seeds). Obedience: emotions that the writer asks
for, without and with it; beside it, how many emotions the judge reads in the set itself.
`python -m benchmarks.style --out DIR` leaves a sheet for each weight.
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
from studio.core.presets import EMBEDDED, LORA
from studio.core.settings import ASSETS, EMBEDDED_MODEL, Settings
from studio.core.specs import LoraRef, LoraSpec
from studio.engine.engine import Engine
from studio.engine.models.catalogue import find_lora
from studio.evaluation.judge import Judge
from studio.evaluation.metrics import frechet_distance
from studio.runs.rundir import RunDir
from studio.training.lora import train as lora

WEIGHTS = (0.8, 1.0)  # at which Generate starts, and all of it
SET = ASSETS / "examples" / "style_1"


def train(home: Path, epochs: int) -> tuple[Path, dict[str, Any]]:
    """The LoRA's file, and what its training took."""
    run = RunDir(home / "runs" / "style")
    run.path.mkdir(parents=True)
    preset = LORA[EMBEDDED] | {"epochs": epochs}
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
    """20 epochs and 100 obedience pictures (quick: 5 and 20), at each of `WEIGHTS`."""
    home = Path(tempfile.mkdtemp())
    try:
        file, found = train(home, 5 if quick else 20)
        judge, engine = Judge.load(EMBEDDED_MODEL / "judge"), Engine(Settings(preview_every=0))
        texts = sorted(SET.glob("*.txt"))
        captions = [(path.read_text(encoding="utf-8").strip(), "") for path in texts]
        trigger = captions[0][0].split(",")[0]
        seen = judge([Image.open(next(SET.glob(f"{path.stem}.[jp]*g"))).convert("RGB") for path in texts])
        # The judge never saw this look: what it reads in the set itself is the most that it can read in pictures of it.
        said = [{tag.strip() for tag in words.split(",")} for words, _ in captions]
        right = [label in tags for label, tags in zip(seen.labels["emotion"], said, strict=True)]
        found["emotion_read_in_the_set"] = sum(right) / len(right)
        asked = characters(20 if quick else 100)
        prompts = [(f"{trigger}, {positive}", negative) for positive, negative in map(prompt, asked)]
        digest = find_lora(str(file), engine.settings).hash
        for weight in (0.0, *WEIGHTS):
            loras = ((LoraRef(path=str(file), weight=weight), digest),) if weight else ()
            shown, _ = draw(engine, captions, loras=loras)
            obeyed, _ = draw(engine, prompts, loras=loras)
            found[f"weight_{weight:g}"] = {
                "frechet_to_set": frechet_distance(judge(shown).features, seen.features),
                "emotion": accuracies(judge, obeyed, asked)["factors"]["emotion"]["accuracy"],
            }
            if out:
                out.mkdir(parents=True, exist_ok=True)
                sheet(shown[:16] + obeyed[:8], 8, 160).save(out / f"style-{weight:g}.png")
    finally:
        shutil.rmtree(home, ignore_errors=True)
    before = found["weight_0"]
    for weight in WEIGHTS:
        row = found[f"weight_{weight:g}"]
        row["frechet_ratio"] = row["frechet_to_set"] / before["frechet_to_set"]
        row["emotion_lost"] = before["emotion"] - row["emotion"]
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    print(json.dumps(run(args.quick, args.out), indent=1))
