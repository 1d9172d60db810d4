"""How likely one spelling is a slip of another: edits weighted by keys, looks and sounds.

QWERTY only; the costs are in units of one plain slip (1.0 = neighbours swapped).
"""

from __future__ import annotations

from functools import lru_cache

from rapidfuzz.distance import OSA

from studio.prompting.glyphs import SIMILAR

_ROWS = (("qwertyuiop", 0.0), ("asdfghjkl", 0.25), ("zxcvbnm", 0.75))
_SOUNDS = frozenset(
    frozenset(pair) for pair in ("ck", "cs", "sz", "fv", "kq", "gj", "iy", "td", "xz", "ae", "ei", "ou", "ao", "ea")
)
_VOWELS = frozenset("aeiouy")

SWAP, DOUBLE, NEIGHBOUR, LOOK, SOUND, MISSING, VOWEL, EXTRA, OTHER = 1.0, 0.9, 1.1, 1.1, 1.3, 1.3, 1.6, 1.8, 2.3
FIRST_LETTER = 0.4  # people rarely miss the first letter


@lru_cache(maxsize=1)
def neighbours() -> dict[str, frozenset[str]]:
    """Keys next to each key, also diagonally."""
    positions = {c: (x + shift, y) for y, (row, shift) in enumerate(_ROWS) for x, c in enumerate(row)}
    return {
        c: frozenset(o for o, (ox, oy) in positions.items() if o != c and abs(ox - x) <= 1.0 and abs(oy - y) <= 1)
        for c, (x, y) in positions.items()
    }


def substitution(typed: str, meant: str) -> float:
    """Cost of one letter typed for another."""
    pair = frozenset((typed, meant))
    if meant in neighbours().get(typed, ()):
        return NEIGHBOUR
    if pair in SIMILAR:
        return LOOK
    if pair in _SOUNDS:
        return SOUND
    return VOWEL if pair <= _VOWELS else OTHER


def cost(typed: str, meant: str) -> float:
    """Cost of the slip that turns `meant` into `typed`; exact for one edit, a bound by edit count for more."""
    if typed == meant:
        return 0.0
    start = 0
    limit = min(len(typed), len(meant))
    while start < limit and typed[start] == meant[start]:
        start += 1
    end = 0
    while end < limit - start and typed[-1 - end] == meant[-1 - end]:
        end += 1
    wrong, right = typed[start : len(typed) - end], meant[start : len(meant) - end]
    first = FIRST_LETTER if start == 0 else 0.0
    if len(wrong) == 1 and len(right) == 1:
        return substitution(wrong, right) + first
    if len(wrong) == 2 and wrong == right[::-1]:
        return SWAP + first
    if not wrong and len(right) == 1:  # a letter was left out
        doubled = right in (meant[start - 1 : start], meant[start + 1 : start + 2])
        return (DOUBLE if doubled else MISSING) + first
    if not right and len(wrong) == 1:  # a letter too many
        around = {typed[start - 1 : start], typed[start + 1 : start + 2]} - {""}
        if wrong in around:
            return DOUBLE
        return (NEIGHBOUR if any(wrong in neighbours().get(c, ()) for c in around) else EXTRA) + first
    return 1.5 * OSA.distance(typed, meant) + first
