"""What misspelt prompts cost in pictures: the same characters and seeds, clean, attacked, layered and hardened.

Gao et al. (2306.13103) show that a wrong letter changes what Stable Diffusion draws. Here a share of the words of each
prompt is attacked (typing errors, look-alike letters, sound-alikes, mixed), and the embedded model's judge says whether
the picture still shows what was asked. Emotions and styles take turns, so every arm gets the same of both.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.embedded import draw
from studio.core.settings import EMBEDDED_MODEL, Settings
from studio.core.specs import EMOTIONS, STYLES, Emotion, Style
from studio.engine.engine import Engine
from studio.evaluation.judge import Judge
from studio.evaluation.metrics import wilson_interval
from studio.features.experiment.report import arms
from studio.prompting.writers import PromptRequest

SHARES = (0.1, 0.2)
STEPS = 10  # half of the usual ones: what is compared are prompts, and there are 1,600 pictures
HAIR = ("black", "brown", "blonde", "red", "pink", "purple", "blue", "green", "white")
EYES = ("blue", "green", "red", "brown", "purple", "yellow")


def asked(index: int) -> PromptRequest:
    """Character `index`, as somebody types it."""
    emotion: Emotion = EMOTIONS[index % len(EMOTIONS)]
    style: Style = STYLES[index // len(EMOTIONS) % len(STYLES)]
    words = f"{('1girl', '1girl', '1boy')[index % 3]}, {HAIR[index % len(HAIR)]} hair, {EYES[index % len(EYES)]} eyes"
    return PromptRequest(emotion=emotion, style=style, text=words)


def run(quick: bool = False) -> dict[str, Any]:
    """{share: {arm: {"emotion", "style", "emotion_interval", "emotion_of_clean"}}} over 200 seeds (quick: 40)."""
    count = 40 if quick else 200
    engine, judge = Engine(Settings(preview_every=0)), Judge.load(EMBEDDED_MODEL / "judge")
    known: dict[str, dict[str, Any]] = {}  # clean arms are the same at every share
    table: dict[str, Any] = {"seeds": count}
    for share in SHARES:
        requests = [asked(index) for index in range(count)]
        sides = [arms(request, "mixed", share, index) for index, request in enumerate(requests)]
        rows: dict[str, dict[str, Any]] = {}
        for arm in sides[0]:
            if arm in known:
                rows[arm] = known[arm]
                continue
            seen = judge(draw(engine, [(s[arm].prompt, s[arm].negative) for s in sides], steps=STEPS)[0]).labels
            right = sum(a == r.emotion for a, r in zip(seen["emotion"], requests, strict=True))
            styled = sum(a == r.style for a, r in zip(seen["style"], requests, strict=True))
            rows[arm] = {"emotion": right / count, "emotion_interval": wilson_interval(right, count),
                         "style": styled / count}  # fmt: skip
            if arm in ("clean", "layered"):
                known[arm] = rows[arm]
        for row in rows.values():
            row["emotion_of_clean"] = row["emotion"] / max(rows["clean"]["emotion"], 1e-9)
        table[f"{share:.0%}"] = rows
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    text = json.dumps(run(args.quick), indent=1)
    if args.out:
        args.out.write_text(text + "\n")
    print(text)
