"""Build the embedded model's CLIPTokenizer: whole tags as single tokens, known words whole, bytes for all the rest."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path

from transformers import AddedToken, CLIPTokenizer

from studio.pretraining.captions import words

POSITIONS = 77  # as CLIP, so that long prompts are chunked as everywhere else


def _byte_symbols() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in printable}
    extra = 0
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + extra)
            extra += 1
    return [table[b] for b in printable] + [table[b] for b in range(256) if b not in printable]


def build(tags: Iterable[str], extra_words: Iterable[str], folder: Path) -> CLIPTokenizer:
    """Make and save the tokenizer. `tags`, their words and `extra_words` become single tokens.

    Text outside the vocabulary falls back to bytes: any string encodes, and equal strings encode equally. There are no
    merges: with few of them, those of one word (a + p of "apron") would break another ("happy").
    """
    phrases = set(tags)
    vocabulary = _byte_symbols()
    vocabulary += [symbol + "</w>" for symbol in vocabulary]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={symbol: i for i, symbol in enumerate(vocabulary)}, merges=[], model_max_length=POSITIONS
    )
    singles = {w for p in [*phrases, *extra_words] for w in re.findall(r"[a-z]{2,}", p.lower())}
    tokenizer.add_tokens([AddedToken(p, single_word=True, normalized=True) for p in sorted(phrases | singles)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def cli() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of painted shards: their tags are the vocabulary"
    )
    parser.add_argument("--words", type=Path, nargs="*", default=[], help="further word lists, one a line")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    tags = {
        t for path in args.data.glob("m*.json") for m in json.loads(path.read_text(encoding="utf-8")) for t in m["tags"]
    }
    colours = {t.removesuffix(" hair") for t in tags if t.endswith(" hair")}
    plain = {
        t.split(" ", 1)[1] for t in tags if t.split(" ", 1)[0] in colours and " " in t
    }  # garments without a colour
    extra = {line.strip() for path in args.words for line in path.read_text(encoding="utf-8").splitlines()}
    tokenizer = build(tags | plain | words(), extra, args.out)
    print(f"{len(tokenizer)} tokens, {len(tags)} tags; {tokenizer.tokenize('1girl, blue eyes, happy, nekomimi')}")


if __name__ == "__main__":
    cli()
