"""How well prompts are hardened: words restored by attack, clean prompts left alone, time, and two other correctors.

The attacked prompts are made of a third of the lexicon's phrases that no rule or threshold was tuned on (`HELD_OUT`);
`--tuning` measures on the other two thirds. The other correctors get the same prompts in the same run, each the way
its documentation shows. `python -m benchmarks.prompting --quick` prints the table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from studio.prompting.attacks import KINDS, Attacked, attack, perturb
from studio.prompting.copied import danbooru_tags
from studio.prompting.harden import harden
from studio.prompting.lexicon import Lexicon

CLEAN = Path(__file__).with_name("clean_prompts.txt")
POSTED = Path(__file__).with_name("posted_prompts.txt")
SHARES = (0.1, 0.2)
SENTENCES = (
    "a portrait of a girl with {0} and {1}, {2}, {3}",
    "an anime character, {0}, wearing {1}, with {2} in the background",
    "{0} and {1}, a young woman looking at the camera, {2}",
    "a boy standing near the window, {0}, {1}, {2}, {3}, masterpiece",
)
TOKEN = re.compile(r"[^\s,]+")
COLORS = ("blue", "red", "green", "brown", "black", "white", "pink", "purple", "grey", "yellow", "orange", "silver")
ANIMALS = ("cat", "dog", "fox", "wolf", "rabbit", "bunny", "bear", "horse", "mouse", "tiger")


def held_out(phrase: str) -> bool:
    """A third of all phrases, chosen by their own text: stable when the lexicon grows."""
    return hashlib.sha256(phrase.encode()).digest()[0] % 3 == 0


def lexicon_prompts(count: int, tuning: bool = False, seed: int = 0) -> list[str]:
    """Prompts of four to eight phrases of one side of the split, a third of them as sentences."""
    rng = random.Random(f"prompts-{seed}-{tuning}")
    pool = sorted(p for p in Lexicon.load().phrases if held_out(p) != tuning and p.isascii())
    found = []
    for index in range(count):
        phrases = rng.sample(pool, 8)
        if index % 3 == 2:
            found.append(rng.choice(SENTENCES).format(*phrases))
        else:
            found.append(", ".join(phrases[: rng.randint(4, 8)]))
    return found


@lru_cache(maxsize=2)
def _sections(path: Path = CLEAN) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1], [])
        elif line and not line.startswith("# "):
            current.append(line)
    return sections


def declared() -> tuple[str, ...]:
    """Trigger words in the clean prompts that a page would pass as protected, for they look like mistakes."""
    return tuple(_sections()["declared"])


def clean_prompts(count: int = 1000) -> list[str]:
    """Correct prompts with names, trigger words, other scripts and ordinary English."""
    sections = _sections()
    found = list(sections["prompts"])
    rng = random.Random("clean")
    while len(found) < count:
        name, other, lower, otherlower = rng.sample(sections["names"], 4)
        line = rng.choice(sections["templates"]).format(
            name=name,
            other=other,
            lower=lower.lower(),
            otherlower=otherlower.lower(),
            trigger=rng.choice(sections["triggers"]),
            declared=rng.choice(sections["declared"]),
        )
        if line not in found:
            found.append(line)
    return found[:count]


def posted_prompts(count: int = 500) -> list[str]:
    """Prompts as people post them: quality heads, names and series in several spellings, LoRAs, weights, BREAK."""
    sections = _sections(POSTED)
    found = list(sections["prompts"])
    rng = random.Random("posted")
    while len(found) < count:
        name, other = rng.sample(sections["who is"], 2)
        series = rng.choice(sections["series"])
        parts = [rng.choice(sections[part]) for part in ("heads", "who", "tails")]
        line = ", ".join(parts if rng.random() < 0.8 else parts[1:]).format(
            name=name,
            other=other,
            series=series,
            Name=name.title(),
            Series=series.title(),
            name_=name.replace(" ", "_"),
            series_=series.replace(" ", "_"),
            look=rng.choice(sections["look"]),
            place=rng.choice(sections["place"]),
            lora=rng.choice(sections["loras"]),
            weight=rng.choice(("0.5", "0.8", "1", "0.65")),
        )
        if line not in found:
            found.append(line)
    return found[:count]


def danbooru_forms() -> list[str]:
    """The most used tags of Danbooru as copied, as typed and as they stand in a prompt."""
    spaced = [tag.replace("_", " ") for tag in danbooru_tags()]
    escaped = [re.sub(r"([()])", r"\\\1", tag) for tag in spaced if "(" in tag]
    return [*danbooru_tags(), *spaced, *escaped]


def misspelt_tags(kind: str, count: int = 300) -> list[tuple[str, str]]:
    """(as typed, as meant): "counts" of people, "colours" of hair and eyes and animals' ears, "width" of characters."""
    rng = random.Random(f"tags-{kind}")
    found: list[tuple[str, str]] = []
    while len(found) < count:
        how = rng.choice(KINDS)
        if kind == "width":
            meant = lexicon_prompts(1, seed=len(found))[0]
            attacked = attack(meant, "typo", 0.2, len(found)).text if rng.random() < 0.5 else meant
            wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else "\u3000" if c == " " else c for c in attacked)
            found.append((wide, harden(attacked).text))
            continue
        if kind == "counts":
            number = rng.choice("123456")
            word, before, after = rng.choice(("girl", "girl", "boy", "other")), number, ""
            word += "" if number == "1" else "s"
        else:
            noun = rng.choice(("hair", "eyes", "ears"))
            word, before, after = rng.choice(ANIMALS if noun == "ears" else COLORS), "", f" {noun}"
        spelled = perturb(word, how, rng, real_words=True)
        if spelled is not None and spelled not in COLORS:
            form = rng.choice(("1girl, {}, smile", "{}", "masterpiece, solo, {}, upper body, night"))
            found.append((form.format(before + spelled + after), form.format(before + word + after)))
    return found


@dataclass(frozen=True)
class Corrector:
    """A name and a function from text to corrected text."""

    name: str
    correct: Callable[[str], str]


def correctors(others: bool = True) -> list[Corrector]:
    """The studio's hardening, and the development dependencies that are compared with it."""
    triggers = declared()
    found = [Corrector("studio", lambda text: harden(text, triggers).text)]
    if others:
        from autocorrect import Speller
        from spellchecker import SpellChecker

        found.append(Corrector("autocorrect", Speller("en")))
        checker = SpellChecker()

        def by_word(text: str) -> str:
            def one(match: re.Match[str]) -> str:
                word = match.group()
                return word if not checker.unknown([word]) else (checker.correction(word) or word)

            return re.sub(r"[^\W_]+(?:'[^\W_]+)?", one, text)

        found.append(Corrector("pyspellchecker", by_word))
    return found


def restored(attacked: Attacked, original: str, corrected: str) -> int:
    """How many of the attacked words stand in `corrected` as in `original`; case doesn't count."""
    before, after = TOKEN.findall(original.lower()), TOKEN.findall(corrected.lower())
    if len(before) != len(after):
        return 0
    starts = [m.start() for m in TOKEN.finditer(original)]
    right = 0
    for swap in attacked.swaps:
        place = sum(start <= swap.start for start in starts) - 1
        right += before[place] == after[place] or _part(before[place], after[place], swap.source.lower())
    return right


def _part(before: str, after: str, word: str) -> bool:
    """The attacked word is whole again though another part of its token ("knee-high") isn't."""
    return word in re.split(r"[^a-z']+", after) and word in re.split(r"[^a-z']+", before)


def measure(corrector: Corrector, prompts: Sequence[str], kind: str, share: float, real_words: bool) -> dict[str, Any]:
    """Words attacked and restored, and milliseconds of processor time a prompt."""
    words = right = 0
    seconds = 0.0
    for index, prompt in enumerate(prompts):
        attacked = attack(prompt, kind, share, seed=index, real_words=real_words)  # type: ignore[arg-type]
        begun = time.thread_time()
        corrected = corrector.correct(attacked.text)
        seconds += time.thread_time() - begun
        words += len(attacked.swaps)
        right += restored(attacked, prompt, corrected)
    return {
        "corrector": corrector.name,
        "attack": kind + (" (real words too)" if real_words else ""),
        "share": share,
        "words": words,
        "restored": round(right / max(1, words), 4),
        "ms": round(1000 * seconds / len(prompts), 3),
    }


def tag_row(corrector: Corrector, kind: str, count: int) -> dict[str, Any]:
    """How many misspelt tags (see `misspelt_tags`) are put right."""
    pairs = misspelt_tags(kind, count)
    right = [corrector.correct(typed) == meant for typed, meant in pairs]
    return {"kind": kind, "tags": len(right), "restored": round(sum(right) / len(right), 4)}


def clean_row(corrector: Corrector, prompts: Sequence[str]) -> dict[str, Any]:
    """How many correct prompts a corrector changes."""
    begun = time.thread_time()
    changed = [prompt for prompt in prompts if corrector.correct(prompt) != prompt]
    return {
        "corrector": corrector.name,
        "prompts": len(prompts),
        "changed": len(changed),
        "ms": round(1000 * (time.thread_time() - begun) / len(prompts), 3),
        "examples": changed[:5],
    }


def run(quick: bool = False, tuning: bool = False, others: bool = True) -> dict[str, Any]:
    """All figures: {"hardening": rows, "clean": rows}. Quick: 200 prompts an attack instead of 900, and fewer for the
    other correctors, which take tens of milliseconds each.
    """
    prompts = lexicon_prompts(200 if quick else 900, tuning)
    harden(prompts[0] + " wrogn")  # loads the word lists
    found = correctors(others)
    rows = [
        measure(c, prompts if c.name == "studio" else prompts[: 20 if quick else 150], kind, share, False)
        for kind in KINDS
        for share in SHARES
        for c in found
    ]
    rows += [measure(found[0], prompts, kind, 0.2, True) for kind in ("typo", "phonetic")]
    clean = clean_prompts()
    studio = found[0]
    return {
        "hardening": rows,
        "tags": [tag_row(studio, kind, 300 if quick else 900) for kind in ("counts", "colours", "width")],
        "clean": [
            *(clean_row(c, clean if c.name == "studio" or not quick else clean[::20]) for c in found),
            clean_row(studio, posted_prompts()) | {"corrector": "posted"},
            clean_row(studio, danbooru_forms()) | {"corrector": "danbooru tags"},
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tuning", action="store_true", help="measure on the two thirds that rules were tuned on")
    parser.add_argument("--alone", action="store_true", help="without the other correctors")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = run(options.quick, options.tuning, not options.alone)
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
        return
    for row in found["hardening"]:
        print(
            f"{row['attack']:28} {row['share']:4.0%} {row['corrector']:15} {row['restored']:7.1%} "
            f"of {row['words']:5} words {row['ms']:8.2f} ms a prompt"
        )
    for row in found["tags"]:
        print(f"{'misspelt ' + row['kind']:28}      {'studio':15} {row['restored']:7.1%} of {row['tags']:5} tags")
    for row in found["clean"]:
        print(f"{'clean':28}      {row['corrector']:15} {row['changed']:5} of {row['prompts']} prompts changed")


if __name__ == "__main__":
    main()
