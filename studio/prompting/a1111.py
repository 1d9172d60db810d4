"""A1111's prompt syntax beside weights: what of it can be drawn, and what is left out with a remark.

`<lora:name:0.8>` becomes a LoRA. `BREAK` stays: the text encoder begins a new chunk there. What changes in the middle
of a drawing (`[a:b:0.5]`, `[a|b]`) and prompts that are drawn apart and added (`a AND b`) can't be drawn; the words
that would stand for most of the steps are. Choices (`{a|b}`, `__wildcard__`) are made before, see `dynamic`. Weights of
InvokeAI (`smile++`) and NovelAI (`1.3::smile::`) become A1111's, signs in full width ASCII's. Finds no LoRA file and
knows no model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# No two repetitions that can share a run of blanks or digits stand side by side: a prompt may be thousands of them.
LORA = re.compile(r"<\s*(lora|lyco|lycoris|hypernet)\s*:([^<>:\n]{1,200})(?::([^<>\n]{0,60}))?>", re.IGNORECASE)
EMBEDDING = re.compile(r"(?<![\w:])embedding:([\w.-]*\w)(?::-?[\d.]{1,6})?", re.IGNORECASE)
TAG = re.compile(r"<\s*[a-z]\w{1,30}(?:\[[^\[\]<>\n]{0,60}\])?\s*:[^<>\n]{0,200}>", re.IGNORECASE)
STEPS = 20  # of a drawing whose number isn't known: for `[a:b:8]`, which counts steps
WEIGHTS = (-2.0, 2.0)
_BLANKS = " \t\r\n,"
_OWN = dict.fromkeys((0, 1, 2))  # signs that stand for something here while a prompt is taken apart
_AND = re.compile(r"\bAND\b")
_INNERMOST = re.compile(r"(?<!\\)\[([^\[\]]*)(?<!\\)\]")
_NUMBER = re.compile(r"-?(?:\d*\.)?\d+")
_WEIGHT = re.compile(rf":\s*{_NUMBER.pattern}$")
_WIDE = str.maketrans("（）［］｛｝＜＞｜，：", "()[]{}<>|,:")
_NOVELAI = re.compile(rf"(?<![\w.:])({_NUMBER.pattern})::([^:\n]{{1,400}})::")
_COMPEL = re.compile(
    r"(?<![\w(])([^\W\d_][\w']{0,40})(\+{2,4}|-{2,4})(?=[\s,)]|$)|(\([^()\n]{1,400}\))(\+{1,4}|-{1,4})(?=[\s,)]|$)"
)
_METHOD = re.compile(r"(?<=\))\.(?:and|blend)\([^()\n]{0,60}\)|\.swap\([^()\n]{0,100}\)")
_EMPTY = re.compile(rf"\(\s*\x00[\x00\s,]*(?::\s*{_NUMBER.pattern}\s*)?\)")


@dataclass(frozen=True, slots=True)
class LoraTag:
    """`<lora:name:weight>`; without a weight the file's own counts."""

    name: str
    weight: float | None


@dataclass(frozen=True, slots=True)
class Plain:
    """A prompt without A1111's syntax (but weights and BREAK), the LoRAs that it named, and what was left out."""

    text: str
    loras: tuple[LoraTag, ...] = ()
    remarks: tuple[str, ...] = ()


def plain(prompt: str, steps: int = STEPS) -> Plain:
    """Take `prompt` apart. Equal to the prompt where it holds nothing of A1111's."""
    remarks: list[str] = []
    loras: list[LoraTag] = []

    def lora(match: re.Match[str]) -> str:
        name = match[2].strip()
        if match[1].lower() == "hypernet":
            remarks.append(f"The hypernetwork {name!r} can't be used and was left out")
        elif name:
            loras.append(LoraTag(name, _weight(name, match[3], remarks)))
        return "\x00"

    def left_out(match: re.Match[str]) -> str:
        remarks.append(f"{match.group()[:60]!r} can't be used here and was left out")
        return "\x00"

    text = LORA.sub(lora, ascii_signs(prompt.translate(_OWN)))
    text = TAG.sub(left_out, text)
    text = EMBEDDING.sub(lambda match: _embedding(match, remarks), text)
    text = _METHOD.sub(lambda match: left_out(match)[1:], text)
    text = _NOVELAI.sub(_emphasis, _COMPEL.sub(_emphasis_of_compel, text))
    if "[" in text:
        text = _unscheduled(text, steps, remarks)
    if _AND.search(text):
        text = _joined(_AND.split(text))
        remarks.append("Prompts joined by AND aren't drawn apart; their words stand in one prompt")
    if text == prompt:
        return Plain(prompt)
    said = "; ".join(dict.fromkeys(remarks))
    return Plain(tidy(text), tuple(loras), (f"{said}.",) if said else ())


def ascii_signs(prompt: str) -> str:
    """Brackets, commas, bars and colons in full width, as East Asian keyboards give them, as what they stand for."""
    return prompt.translate(_WIDE)


def _emphasis(match: re.Match[str]) -> str:
    """NovelAI's `1.3::smile::` in A1111's form."""
    return f"({match[2].strip()}:{match[1]})"


def _emphasis_of_compel(match: re.Match[str]) -> str:
    """`smile++` and `(red hat)-`: 1.1 or 0.9 times for each sign (compel, docs/syntax)."""
    words, signs = (match[1], match[2]) if match[1] else (match[3][1:-1], match[4])
    return f"({words}:{(1.1 if signs[0] == '+' else 0.9) ** len(signs):.3g})"


def _weight(name: str, said: str | None, remarks: list[str]) -> float | None:
    """The first number of `0.8`, `0.8:0.5` (UNet, text encoder) or `te=0.5:unet=0.8`, within bounds."""
    if said is None:
        return None
    named = re.search(rf"unet\s*=\s*({_NUMBER.pattern})", said)
    numbers = [named[1]] if named else _NUMBER.findall(said)
    if not numbers:
        return None
    if len({float(number) for number in numbers[:2]}) > 1 and "=" not in said:
        remarks.append(f"The LoRA {name!r} has one weight here: the first, {numbers[0]}, counts for all of it")
    weight = min(WEIGHTS[1], max(WEIGHTS[0], float(numbers[0])))
    if weight != float(numbers[0]):
        remarks.append(f"The weight {numbers[0]} of the LoRA {name!r} is more than can be used; {weight:g} is")
    return weight


def _embedding(match: re.Match[str], remarks: list[str]) -> str:
    remarks.append(f"The embedding {match[1]!r} can't be used and was left out")
    return "\x00"


def _unscheduled(text: str, steps: int, remarks: list[str]) -> str:
    """Without `[a:b:0.5]`, `[a:0.5]`, `[a::0.5]` and `[a|b]`, innermost first; `[a]` is a weight and stays."""
    kept: list[str] = []  # weights in square brackets, put away while what is around them is read

    def one(match: re.Match[str]) -> str:
        parts = _apart(match[1], ":")
        if 2 <= len(parts) <= 3 and _NUMBER.fullmatch(parts[-1].strip()):
            number = float(parts[-1])
            when = number if number < 1 or ("." in parts[-1] and number <= 1) else number / steps
            before, after = (parts[0], parts[1]) if len(parts) == 3 else ("", parts[0])
            chosen = (before if when > 0.5 else after).strip()
            drawn = f"{_shown(chosen, kept)!r} is drawn" if chosen else "it is left out"
            remarks.append(f"'[{_shown(match[1], kept)}]' can't change halfway through a drawing: {drawn}")
            return chosen or "\x00"
        options = _apart(match[1], "|")
        if len(options) > 1:
            remarks.append(
                f"'[{_shown(match[1], kept)}]' can't alternate from step to step: all of it is drawn at once"
            )
            return ", ".join(option.strip() for option in options if option.strip())
        kept.append(match.group())
        return f"\x01{len(kept) - 1}\x02"

    for _ in range(50):
        text, count = _INNERMOST.subn(one, text)
        if not count:
            break
    return _restored(text, kept)


def _restored(text: str, kept: list[str]) -> str:
    while "\x01" in text:
        text = re.sub("\x01(\\d+)\x02", lambda match: kept[int(match[1])], text)
    return text


def _shown(text: str, kept: list[str]) -> str:
    shown = " ".join(_restored(text, kept).replace("\x00", "").split())
    return shown if len(shown) <= 40 else shown[:39] + "…"


def _apart(text: str, mark: str) -> list[str]:
    """Split at `mark` outside of round brackets."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        if letter in "()" and (index == 0 or text[index - 1] != "\\"):
            depth += 1 if letter == "(" else -1
        elif letter == mark and depth <= 0:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]


def _joined(prompts: list[str]) -> str:
    """Prompts that stood around ANDs as one, without their weights (`a :1.2 AND b`)."""
    *before, last = (prompt.strip(_BLANKS) for prompt in prompts)
    return ", ".join([*(_WEIGHT.sub("", prompt).rstrip(_BLANKS) for prompt in before), last])


def tidy(text: str) -> str:
    """Without the commas and blanks around what was taken out (NUL in its place)."""
    parts = re.sub(r"\x00[\x00\s]*", "\x00", _EMPTY.sub("\x00", text)).split("\x00")
    for index, after in enumerate(parts[1:]):
        if after and after[0] != ",":
            parts[index] += " "
        else:
            parts[index] = parts[index].rstrip().removesuffix(",").rstrip()
    return re.sub(r"[ \t]{2,}", " ", "".join(parts)).strip(" ,")
