"""How sure a written prompt is with one model, and what becomes of it where it isn't: the one place that decides.

Goes by the confidence that a prompt brings along; knows no writer, and not why one doubts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from studio.core.errors import BadInput
from studio.core.specs import MAX_SEED, LowConfidence
from studio.prompting.harden import harden
from studio.prompting.knowledge import Knowledge, known_share, sentence, unknown_words
from studio.prompting.leaving_out import leave_out
from studio.prompting.lexicon import Lexicon
from studio.prompting.writers import PromptRequest, PromptResult, assemble, fixed_template

RETRIES = 2  # each may be a call that costs money
LOST = 0.6  # of the confidence, when the model knows nothing of what was typed


def judged(
    result: PromptResult, text: str, knowledge: Knowledge, lexicon: Lexicon | None = None, protected: Sequence[str] = ()
) -> PromptResult:
    """`result` with the words of the person's `text` that do little, a note about them, and a confidence to match.

    `text`: as it is drawn, with its choices made.
    """
    words = unknown_words(text, knowledge, lexicon, protected)
    if not words:
        return result
    missing = 1 - known_share(text, knowledge, lexicon, protected)
    return result.model_copy(
        update={
            "confidence": round(result.confidence * (1 - LOST * missing), 2),
            "unknown_words": words,
            "notes": (*result.notes, sentence(words)),
        }
    )


def without_unknown(
    result: PromptResult, knowledge: Knowledge, lexicon: Lexicon, protected: Sequence[str] = ()
) -> PromptResult:
    """`result` without its `unknown_words` where one knows what the model was taught; a note says which they are.

    A word that looks misspelt stays: its writer may mean one that the model knows.
    """
    if not knowledge.tags or not result.unknown_words:
        return result
    misspelt = {change.source.lower() for change in harden(result.layers.text, protected, lexicon).changes}
    unknown = [one for one in result.unknown_words if misspelt.isdisjoint(one.word.lower().split())]
    text, left = leave_out(result.layers.text, unknown, knowledge, lexicon, protected)
    if not left:
        return result
    layers = result.layers.model_copy(update={"text": text})
    notes = [note for note in result.notes if note != sentence(result.unknown_words)]
    if kept := [one for one in result.unknown_words if one.word not in left]:
        notes.append(sentence(kept))
    told = [one for one in result.unknown_words if one.word in left]
    notes.append(sentence(told, "These words are left out, because this model can't draw them"))
    changes = {"layers": layers, "positive_prompt": assemble(layers), "left_out": left, "notes": tuple(notes)}
    return result.model_copy(update=changes)


def apply_policy(
    write: Callable[[PromptRequest], PromptResult],
    request: PromptRequest,
    policy: LowConfidence = "run",
    template: Callable[[PromptRequest], PromptResult] = fixed_template,
) -> PromptResult:
    """The prompt that is to be drawn, by `policy` where what `write` gives is doubtful (see `PromptResult.doubtful`).

    run: as it is. fixed: the fixed `template` instead, with a note that says why. retry: written up to twice more, with
    the seeds that follow, and the surest is taken; if that is doubtful too, the template. fail: raises `BadInput`
    with the sentence of `doubt`. Tokens and cost are those of all calls together.
    """
    tries = [write(request)]
    while policy == "retry" and tries[-1].doubtful and len(tries) <= RETRIES:
        seed = (request.seed + len(tries)) % (MAX_SEED + 1)  # another seed: other words, and not the cached answer
        tries.append(write(request.model_copy(update={"seed": seed})))
    best = max(tries, key=lambda result: result.confidence)
    if best.doubtful and policy == "fail":
        raise BadInput(doubt(request, best))
    if best.doubtful and policy != "run":
        fixed = template(request)
        best = fixed.model_copy(update={"notes": (*fixed.notes, doubt(request, best))})
    return best.model_copy(
        update={name: sum(getattr(one, name) for one in tries) for name in ("tokens_in", "tokens_out", "cost_usd")}
    )


def doubt(request: PromptRequest, result: PromptResult) -> str:
    """One sentence: which prompt, how sure its writer is of it, and why not more."""
    text = " ".join(request.text.split())
    text = f" with {text if len(text) <= 60 else text[:59] + '…'!r}" if text else ""
    reasons = "; ".join(note.rstrip(".") for note in result.notes) or "its writer doesn't say why"
    return (
        f"The prompt for {request.emotion}, {request.style}{text} is only {result.confidence:.0%} sure to show "
        f"what was asked for: {reasons}."
    )
