"""Prompts as people type them: is each word seen in the pictures, or named by the page before they are drawn?

Thirty of them are drawn as Generate draws them; `benchmarks.words`' network looks for every word that the page didn't
name, where it can tell that word (sensitivity + specificity above 1.8 on the painter's own drawings).

    python -m benchmarks.typed --tagger tagger.safetensors --out typed.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.words import load, looked, parts, true_share
from studio.core.settings import Settings
from studio.core.specs import GenerateSpec
from studio.prompting.knowledge import RELIABLE, phrases_of
from studio.prompting.lexicon import Lexicon
from studio.service import Studio
from studio.service.knowing import KnowledgeBase

PROMPTS = Path(__file__).with_name("typed_prompts.txt")
TOLD = 1.8  # sensitivity + specificity from which on a word is judged
VERDICTS = ("seen", "named", "missing", "not judged")


def typed(path: Path = PROMPTS) -> Iterator[GenerateSpec]:
    """The requests, in order."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            chosen, _, text = line.partition(": ")
            emotion, style = chosen.split()
            yield GenerateSpec(emotion=emotion, style=style, text=text)


def run(tagger: Path, count: int, out: Path | None = None) -> dict[str, Any]:
    """Draw `count` pictures of each prompt; for each word a verdict and, where it was judged, its share of pictures."""
    known = load(tagger)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as home:
        studio = Studio(Settings(home=Path(home), offline=True, _env_file=None))
        knowledge, lexicon = KnowledgeBase(studio.settings).of(""), Lexicon.load()
        for number, spec in enumerate(typed()):
            named = {one.word: one.instead for one in studio.prompts.unknown_words(spec.text)}
            view = studio.submit(spec.model_copy(update={"count": count, "seed": 1000 * number + 1}), "bench")
            done = studio.wait(view.id, "bench")
            if done.state != "done":
                raise RuntimeError(done.error)
            images = [Image.open(studio.picture_path(id, "bench")) for id in done.pictures]
            seen = looked(known, images)
            words = []
            for phrase in dict.fromkeys(phrase for phrase, _ in phrases_of(spec.text, knowledge, lexicon)):
                row: dict[str, Any] = {"word": phrase, "verdict": "named", "instead": list(named.get(phrase, ()))}
                if phrase not in named:
                    row = {"word": phrase} | _judged(parts(knowledge.tag_of(phrase)), seen, known[2])
                words.append(row)
            rows.append({"text": spec.text, "emotion": spec.emotion, "style": spec.style, "words": words})
            print(spec.text, *(f"{one['word']}: {one.get('share', one['verdict'])}" for one in words), sep="\n  ",
                  flush=True)  # fmt: skip
            if out is not None:
                out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        studio.close()
    counts = Counter(word["verdict"] for row in rows for word in row["words"])
    return {"pictures": count, "verdicts": {name: counts[name] for name in VERDICTS}, "prompts": rows}


def _judged(looked_for: tuple[str, ...], seen: list[set[str]], cuts: dict[str, list[float]]) -> dict[str, Any]:
    """The verdict on a word of these parts: all of them have to be seen."""
    if any(part not in cuts or cuts[part][1] + cuts[part][2] <= TOLD for part in looked_for):
        return {"verdict": "not judged"}
    shares = [true_share(sum(part in one for one in seen) / len(seen), *cuts[part][1:3]) for part in looked_for]
    share = round(min(shares), 2)
    return {"verdict": "seen" if share >= RELIABLE else "missing", "share": share}


def table(result: dict[str, Any]) -> list[str]:
    """The result as a Markdown table."""
    lines = ["| typed | seen | named before drawing | missing | not judged |", "|---|---|---|---|---|"]
    for row in result["prompts"]:
        cells = []
        for verdict in VERDICTS:
            words = [one for one in row["words"] if one["verdict"] == verdict]
            cells.append(
                ", ".join(f"{one['word']} {one['share']:.0%}" if "share" in one else one["word"] for one in words)
            )
        lines.append(f"| {row['text']} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tagger", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int, default=8)
    options = parser.parse_args()
    result = run(options.tagger, options.count, options.out)
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(*table(result), result["verdicts"], sep="\n")


if __name__ == "__main__":
    main()
