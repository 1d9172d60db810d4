"""The A/B experiment on prompts: which pairs to draw, how to compare them, and the report that is kept.

Both sides of a pair share the seed, so that only the prompt differs and the test can be paired. Nothing here draws or
looks at a picture: the worker draws both sides, the judge says what it sees, and `Outcome` carries that back.

Statistics: Wilson's interval for one share (Wilson 1927, eq. in JASA 22), McNemar's exact test for two shares on the
same seeds (McNemar 1947; exact form: a binomial test of the discordant pairs).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from studio.core.errors import BadInput, NotFound
from studio.core.specs import STYLES, Emotion, Style
from studio.features.experiment.spec import ExperimentSpec
from studio.prompting.attacks import AttackKind, SearchResult, attack, most_prompts, search
from studio.prompting.harden import Hardened, harden
from studio.prompting.lexicon import layer_words
from studio.prompting.writers import OfflineWriter, PromptRequest, PromptResult, fixed_template

Z = 1.959964  # 95 %
Write = Callable[[PromptRequest], PromptResult]
Harden = Callable[..., Hardened]  # (text, protected words)
Verdict = Literal["left", "right", "neither"]
# The search for the worst spelling judges each one by these many pictures of at most so many steps, and tries at most
# so many prompts: 80 small drawings.
SEARCH_SEEDS, SEARCH_STEPS, SEARCH_PROMPTS = 2, 6, 40
# What the sides are called, left first.
SIDES: dict[str, tuple[str, ...]] = {
    "template_engine": ("Fixed template", "Prompt engine"),
    "plain_hardened": ("As typed", "Hardened"),
    "clean_attacked": ("Clean", "Attacked"),
    "clean_worst": ("Clean", "Worst case", "Hardened"),
}


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Side(_Data):
    """One prompt to draw."""

    prompt: str
    negative: str


class Pair(_Data):
    """Two prompts that ask for the same emotion and style, and the seed that both are drawn from."""

    seed: int
    emotion: Emotion
    style: Style
    left: Side
    right: Side
    cured: Side | None = None  # the right side after hardening, where that is drawn too

    @property
    def sides(self) -> tuple[Side, ...]:
        """All that is drawn, in the order of `SIDES`."""
        return (self.left, self.right) if self.cured is None else (self.left, self.right, self.cured)


class Seen(_Data):
    """What the judge saw in one picture, and the picture's id in the store."""

    emotion: str
    style: str
    probability: float = Field(0.0, ge=0, le=1)  # of the emotion that was asked for
    picture: str | None = None


class Outcome(_Data):
    """A pair that was drawn and judged."""

    pair: Pair
    left: Seen
    right: Seen
    cured: Seen | None = None

    @property
    def sides(self) -> tuple[Seen, ...]:
        return (self.left, self.right) if self.cured is None else (self.left, self.right, self.cured)


class Share(_Data):
    """How many of `n` pictures show what was asked for, with its 95 % interval."""

    right: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.right / self.n if self.n else 0.0


class Comparison(_Data):
    """One factor (emotion or style) on both sides. `p` is McNemar's exact two-sided p-value."""

    factor: str
    left: Share
    right: Share
    only_left: int  # seeds on which only the left side is right
    only_right: int
    p: float

    @property
    def better(self) -> Verdict:
        """The side that is better at the 5 % level."""
        if self.p >= 0.05:
            return "neither"
        return "left" if self.only_left > self.only_right else "right"


class Worst(_Data):
    """What the search for the worst spelling did: prompts tried, and words with what they became."""

    tried: int
    changes: tuple[tuple[str, str], ...] = ()


class Report(_Data):
    """Everything about one experiment: what was asked, every pair with its pictures, and what follows from them."""

    version: Literal[1] = 1
    spec: ExperimentSpec
    model: str
    created: float  # seconds since 1970
    outcomes: tuple[Outcome, ...]
    complete: bool = True  # False when it was cancelled
    worst: Worst | None = None  # where one was looked for

    @property
    def names(self) -> tuple[str, ...]:
        """What the sides are called, left first."""
        return SIDES[self.spec.compare]

    @property
    def title(self) -> str:
        """A name for a list."""
        count = len(self.outcomes)
        return f"{' / '.join(self.names)}: {count} {'seed' if count == 1 else 'seeds'}"

    @property
    def comparisons(self) -> tuple[Comparison, Comparison]:
        """Emotion and style."""
        return compare(self.outcomes, "emotion"), compare(self.outcomes, "style")

    def sentence(self) -> str:
        """The result in words that claim no more than the numbers."""
        if not self.outcomes:
            return "No pair was drawn."
        stopped = "" if self.complete else f"Stopped after {len(self.outcomes)} of {self.spec.seeds} seeds. "
        return stopped + (self._compared() if self.worst is None else self._worst(self.worst))

    def _compared(self) -> str:
        emotion = self.comparisons[0]
        left, right = self.names[:2]
        shares = (
            f"{left}: {emotion.left.value:.0%} of {emotion.left.n} pictures show the emotion "
            f"({emotion.left.low:.0%} to {emotion.left.high:.0%}); {right}: {emotion.right.value:.0%} "
            f"({emotion.right.low:.0%} to {emotion.right.high:.0%})."
        )
        if emotion.better == "neither":
            return f"{shares} The difference could be chance (p = {emotion.p:.2g})."
        winner = left if emotion.better == "left" else right
        return f"{shares} '{winner}' keeps the emotion better (p = {emotion.p:.2g})."

    def _worst(self, worst: Worst) -> str:
        """No p-value: the spelling was picked because it is bad, so a test would only find that again."""
        if not worst.changes:
            return f"None of {worst.tried} prompts that were tried keeps the emotion worse than this one."
        wrong = ", ".join(f"'{old}' as '{new}'" for old, new in worst.changes)
        sides = zip(*(outcome.sides for outcome in self.outcomes), strict=True)
        means = [sum(seen.probability for seen in side) / len(side) for side in sides]
        shown = "; ".join(f"{name}: {mean:.0%}" for name, mean in zip(self.names, means, strict=False))
        pair = self.outcomes[0].pair
        back = " Hardening gives the clean prompt back." if pair.cured == pair.left else ""
        return (
            f"The worst of {worst.tried} prompts that were tried writes {wrong}. How sure the judge is of "
            f"'{pair.emotion}', mean of {len(self.outcomes)} seeds: {shown}.{back}"
        )

    def summary(self) -> dict[str, Any]:
        """What a page shows of it, as plain data: sentence, names, comparisons, the pictures of each seed."""
        return {
            "sentence": self.sentence(),
            "names": list(self.names),
            "comparisons": [] if self.worst else [comparison.model_dump() for comparison in self.comparisons],
            "pairs": [[seen.picture for seen in outcome.sides] for outcome in self.outcomes],
        }

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(path.suffix + ".tmp")
        temporary.write_text(self.model_dump_json(indent=1), encoding="utf-8")
        temporary.replace(path)


def load(path: Path) -> Report:
    """Open a saved report. Raises NotFound or BadInput."""
    try:
        return Report.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(f"There is no report at {path}.") from None
    except (ValidationError, UnicodeDecodeError):
        raise BadInput(f"{path.name} isn't a report of a prompt experiment.") from None


def opened(data: object) -> Report:
    """A report from what was kept with its picture. Raises BadInput."""
    try:
        return Report.model_validate(data)
    except ValidationError:
        raise BadInput("This report can't be opened: another version of the studio wrote it.") from None


def pairs(
    spec: ExperimentSpec, write: Write | None = None, harden: Harden = harden, triggers: Sequence[str] = ()
) -> list[Pair]:
    """The pairs of an experiment, `spec.seeds` of them: seeds counted up from the base's, emotions and styles in turn
    (only the base's own where `spec.emotions` is empty).

    - template_engine: the fixed template against the layered engine (`write`, offline by default).
    - plain_hardened: an attacked template as typed, against the same after hardening.
    - clean_attacked: the template against the attacked template.

    `triggers`: trigger words of the base's LoRAs, which are neither attacked nor corrected. `clean_worst` has a search
    before its pairs: `worst_case` and `worst_pairs`.
    """
    write = write or OfflineWriter().write
    emotions = spec.emotions or (spec.base.emotion,)
    styles: Sequence[Style] = STYLES if spec.emotions else (spec.base.style,)
    matched = []
    for index, seed in enumerate(seeds(spec)):
        request = PromptRequest(
            emotion=emotions[index % len(emotions)],
            style=styles[index // len(emotions) % len(styles)],
            quality=spec.base.quality,
            text=spec.base.text,
            trigger_words=tuple(triggers),
        )
        fixed = fixed_template(request)
        plain = _side(fixed)
        if spec.compare == "template_engine":
            left, right = plain, _side(write(request))
        else:
            wrong = attack(fixed.positive_prompt, spec.attack, spec.share, seed, triggers).text
            attacked = Side(prompt=wrong, negative=fixed.negative_prompt)
            if spec.compare == "plain_hardened":
                left, right = attacked, attacked.model_copy(update={"prompt": harden(wrong, tuple(triggers)).text})
            else:
                left, right = plain, attacked
        matched.append(Pair(seed=seed, emotion=request.emotion, style=request.style, left=left, right=right))
    return matched


def seeds(spec: ExperimentSpec) -> list[int]:
    """The seeds of an experiment: counted up from the base's."""
    return [((spec.base.seed or 0) + index) % 2**32 for index in range(spec.seeds)]


def worst_case(
    spec: ExperimentSpec, prompt: str, triggers: Sequence[str] = ()
) -> tuple[int, Generator[list[str], Sequence[float], SearchResult]]:
    """The search for the worst spelling of `prompt` (see `attacks.search`), and how many prompts it tries at most.

    Where there are more words than `SEARCH_PROMPTS` allows, those that say the emotion and the style are tried first.
    """
    ranked = SEARCH_PROMPTS - 1 - spec.words * spec.candidates
    data = layer_words()
    likely = [
        word
        for options in (data["emotion"][spec.base.emotion], data["style"][spec.base.style])
        for word in (*options["first"], *options["more"])
    ]
    steps = search(
        prompt, spec.attack, spec.words, spec.candidates, spec.base.seed or 0, triggers, ranked=ranked, first=likely
    )
    return most_prompts(prompt, spec.words, spec.candidates, triggers, ranked), steps


def worst_pairs(
    spec: ExperimentSpec, clean: Side, worst: str, harden: Harden = harden, triggers: Sequence[str] = ()
) -> list[Pair]:
    """The clean prompt, its worst spelling and that after hardening, on every seed."""
    wrong = clean.model_copy(update={"prompt": worst})
    cured = clean.model_copy(update={"prompt": harden(worst, tuple(triggers)).text})
    base = spec.base
    return [
        Pair(seed=seed, emotion=base.emotion, style=base.style, left=clean, right=wrong, cured=cured)
        for seed in seeds(spec)
    ]


def arms(request: PromptRequest, kind: AttackKind, share: float, seed: int) -> dict[str, Side]:
    """The four arms of the robustness measurement for one request, and the clean engine prompt.

    `clean` and `attacked` are the fixed template; `layered`, `attacked_layered` and `attacked_layered_hardened` the
    engine's prompt. Each attack hits `share` of the words of the prompt it is made on.
    """
    fixed, layered = fixed_template(request), OfflineWriter().write(request)
    kept = request.trigger_words
    wrong = attack(layered.positive_prompt, kind, share, seed, kept).text
    return {
        "clean": _side(fixed),
        "attacked": Side(
            prompt=attack(fixed.positive_prompt, kind, share, seed, kept).text, negative=fixed.negative_prompt
        ),
        "layered": _side(layered),
        "attacked_layered": Side(prompt=wrong, negative=layered.negative_prompt),
        "attacked_layered_hardened": Side(prompt=harden(wrong, kept).text, negative=layered.negative_prompt),
    }


def _side(result: PromptResult) -> Side:
    return Side(prompt=result.positive_prompt, negative=result.negative_prompt)


def compare(outcomes: Sequence[Outcome], factor: Literal["emotion", "style"]) -> Comparison:
    """Both sides of one factor over all pairs."""
    hits = [
        (getattr(o.left, factor) == getattr(o.pair, factor), getattr(o.right, factor) == getattr(o.pair, factor))
        for o in outcomes
    ]
    only_left = sum(left and not right for left, right in hits)
    only_right = sum(right and not left for left, right in hits)
    return Comparison(
        factor=factor,
        left=share_of(sum(left for left, _ in hits), len(hits)),
        right=share_of(sum(right for _, right in hits), len(hits)),
        only_left=only_left,
        only_right=only_right,
        p=mcnemar(only_left, only_right),
    )


def share_of(right: int, n: int) -> Share:
    """A share with Wilson's 95 % interval; (0, 1) when nothing was drawn."""
    if n == 0:
        return Share(right=0, n=0, low=0.0, high=1.0)
    p = right / n
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return Share(right=right, n=n, low=max(0.0, middle - half), high=min(1.0, middle + half))


def mcnemar(only_left: int, only_right: int) -> float:
    """Exact two-sided p-value that the discordant pairs fall on either side alike; 1 when there are none."""
    n = only_left + only_right
    if n == 0:
        return 1.0
    tail: float = sum(math.comb(n, k) for k in range(min(only_left, only_right) + 1)) / 2**n
    return min(1.0, 2 * tail)
