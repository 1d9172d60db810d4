"""Look-alike characters: which ASCII letters a character can be taken for, and which characters are invisible.

After the idea of Unicode's confusables (UTS #39), with a table of our own: accents fall by NFKD, styled letters by
NFKC, the rest is listed. A character in no list that stands among Latin letters counts as "any letter" (`UNKNOWN`).
"""

from __future__ import annotations

import itertools
import unicodedata
from functools import lru_cache

UNKNOWN = "\ufffd"
MAX_READINGS = 48

# Look-alikes of each letter from other scripts, phonetic alphabets, symbols and digits.
_LOOKALIKES = {
    "a": "аαɑɐᴀꭺ4@ąạⱥäåªᎪΑАΔλᗩ",
    "b": "ьƅЬᏏвᴃßвʙɓƀ8бЪБᗷВΒ6",
    "c": "сϲᴄⅽçćčⲥꮯɔ¢ℂСϹᏟᑕ",
    "d": "ԁɗđᏧᑯⅾժďᗪᎠ",
    "e": "еєҽɛεэəⅇ3ęẹℯⲉЕΕᎬ€ℰΣ",
    "f": "ƒſẝꞙϝғꬵᖴ",
    "g": "ɡցģğǥ9ɢᶃԍᏀ6",
    "h": "һհɦʜћħнᏂⱨҺНΗᎻᕼ",
    "i": "іιıɩɪ1!¡íìïîĭīⅰꙇӏΙІ|ᎥаІ".replace("а", ""),
    "j": "јʝϳյⅉĵᴊЈᎫ",
    "k": "кκĸᴋƙķⲕКΚᏦkҡқ",
    "l": "ӏⅼ1|ιłļľĺɭʟǀI!ℓІΙᏞ",
    "m": "мᴍɱⅿꮇʍмМΜᎷᗰ",
    "n": "пηոռńñňņɴŋиὴИΝᑎՈ",
    "o": "оοօσ০੦๐0ӧöòóôõøōŏőᴏⲟОΟՕ°ⵔ",
    "p": "рρϸᴘƿþⲣРΡᏢ",
    "q": "ԛզգɋʠԚ9",
    "r": "гᴦꭇꮁɾʀŕřяꮢг",
    "s": "ѕꜱśşšșʂ5$ƽꮪЅᏚ§",
    "t": "тτŧţťțᴛ7+†ⲧТΤᎢ",
    "u": "υսцᴜʊūüùúûůűųµμʋՍᑌ",
    "v": "νѵᴠⅴνⱱ∨ѴᏙ",
    "w": "ԝωѡшŵᴡɯщաԜᎳ",
    "x": "хχⅹ×ҳᕁХΧ",
    "y": "уγүýÿŷʏɣყΥҮ¥ч",
    "z": "ᴢʐżžźƶꮓ2ʒΖᏃ",
}  # fmt: skip
# Two letters that look like one, and single letters that look like another.
_SEQUENCES = (("rn", "m"), ("vv", "w"), ("cl", "d"), ("I", "l"), ("I", "i"))
SIMILAR = frozenset(frozenset(pair) for pair in ("il", "uv"))

INVISIBLE = frozenset(
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u200b\u200c\u200d\u200e\u200f\u202a\u202b"
    "\u202c\u202d\u202e\u2060\u2061\u2062\u2063\u2064\u2065\u2066\u2067\u2068\u2069\u206a\u206b\u206c\u206d\u206e\u206f"
    "\u3164\ufeff\uffa0\ufff9\ufffa\ufffb"
) | {chr(c) for c in (*range(0xFE00, 0xFE10), *range(0xE0000, 0xE0080), *range(0xE0100, 0xE01F0))}
# Wanted by Arabic, Indic and emoji sequences between characters that aren't Latin.
JOINERS = frozenset("\u200c\u200d\ufe0e\ufe0f")


@lru_cache(maxsize=1)
def _table() -> dict[str, str]:
    table: dict[str, str] = {}
    for letter, others in _LOOKALIKES.items():
        for other in others:
            table[other] = table.get(other, "") + letter
            for cased in (other.lower(), other.upper()):
                if len(cased) == 1 and not cased.isascii():
                    table.setdefault(cased, letter)
    return table


@lru_cache(maxsize=8192)
def readings(char: str) -> str:
    """Lower-case letters that `char` can be read as, most likely first; `UNKNOWN` when it is a letter of another
    script that looks like nothing listed; itself when it is ASCII and stands for itself.
    """
    if char.isascii() and char.isalpha():
        return char.lower()
    letters = _table().get(char, "")
    plain = unicodedata.normalize("NFKD", char)
    base = "".join(c for c in plain if not unicodedata.combining(c)).lower()
    if len(base) == 1 and base.isascii() and base.isalpha() and base not in letters:
        letters = base + letters if not char.isascii() else letters + base
    if len(base) == 1 and base != char:
        letters += "".join(c for c in _table().get(base, "") if c not in letters)
    if not letters:
        name = unicodedata.name(char, "")
        for marker in ("SMALL CAPITAL ", "SMALL LETTER ", "CAPITAL LETTER ", "REGIONAL INDICATOR SYMBOL LETTER "):
            tail = name.partition(marker)[2].split(" ")[0]
            if len(tail) == 1 and tail.isascii():
                letters = tail.lower()
        if "SQUARED LATIN" in name or "CIRCLED LATIN" in name:
            tail = name.split(" ")[-1]
            letters = tail.lower() if len(tail) == 1 else ""
    if letters or char.isascii():
        return letters
    return UNKNOWN if char.isalpha() else ""


def unmarked(word: str) -> str:
    """Without invisible characters and marks that combine with Latin letters; "s\u0336mile" becomes "smile"."""
    kept: list[str] = []
    for char in unicodedata.normalize("NFC", word):
        if char in INVISIBLE:
            continue
        if unicodedata.combining(char) and kept and kept[-1].isascii():
            continue
        kept.append(char)
    return "".join(kept)


def expand(word: str, shapes: int = 2) -> list[str]:
    """What `word` can be read as, in lower-case ASCII letters and `UNKNOWN`, at most `MAX_READINGS`; the plainest
    first. Up to `shapes` pairs are read as one letter. Empty when a character of it looks like no letter.
    """
    options = [readings(char) for char in word]
    if not all(options):
        return []
    while _product(options) > MAX_READINGS:
        longest = max(range(len(options)), key=lambda i: len(options[i]))
        options[longest] = options[longest][:-1]
    spellings = ["".join(parts) for parts in itertools.product(*options)]
    for shape, letter in _SEQUENCES if shapes else ():
        if shape in word:
            spellings += expand(word.replace(shape, letter, 1), shapes - 1)
    if any(not c.isascii() for c in word) or not word.isalpha():
        spellings += [w[:i] + "i" + w[i + 1 :] for w in spellings for i, c in enumerate(w) if c == "l"]
    return list(dict.fromkeys(spellings))[: 4 * MAX_READINGS]


def _product(options: list[str]) -> int:
    total = 1
    for option in options:
        total *= len(option)
    return total
