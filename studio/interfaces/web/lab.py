"""Putting a prompt to the test on the Generate page: drawn clean and misspelt side by side, and the A/B experiment.

The service perturbs, draws and judges; this only asks for it and lays the pictures out, here and where a report is
opened again.
"""

from __future__ import annotations

import random
from typing import Any

import streamlit as st

from studio.core.errors import StudioError
from studio.core.fields import describe
from studio.core.i18n import texts
from studio.core.specs import MAX_SEED, BatchRow, GenerateSpec
from studio.core.views import JobView, Picture
from studio.features.experiment.spec import ExperimentSpec
from studio.features.sheets.spec import BatchSpec
from studio.interfaces.web import inputs, text, widgets
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio

PAGE = "generate"
KINDS = ("typo", "glyph", "phonetic")
KIND_NAMES = describe(ExperimentSpec, "attack").about.names
COMPARED = ("template_engine", "plain_hardened", "clean_attacked")  # the worst case is a test of its own here
WORST_SEEDS = 2  # pictures of each side of a worst case
STRESS_NAMES = {"random": "By chance", "worst": "Worst case"}
STRESS_NAMES = texts(STRESS_NAMES)
STRESS_LEADS = {
    "random": "Draws it from one seed as it is, and with some of its words misspelt in three ways.",
    "worst": "Searches for the misspelling in which the judge sees the emotion least, with up to 80 small pictures, "
    "and draws the prompt as it is, at its worst, and corrected. Takes a few minutes and a model with a judge.",
}
STRESS_LEADS = texts(STRESS_LEADS)
TEXT = {
    "button": "Test",
    "stress": "Stress this prompt",
    "stress_how": "Misspelt",
    "share": "Words misspelt",
    "stress_draw": "Draw side by side",
    "ab": "A/B experiment",
    "ab_lead": "Draws both sides from the same seeds and measures which keeps the emotion. Both are written from the "
    "words in the form; a prompt edited by hand is not compared.",
    "ab_draw": "Start the experiment",
    "clean": "As it is",
    "result": "Result",
    "share_said": "{percent} of {n} ({low} to {high})",
    "gone": "Deleted since",
    "chance": "p = {p}, could be chance",
    "clear": "p = {p}, more than chance",
    "pairs": "The pictures, seed by seed",
}
TEXT = texts(TEXT)
FACTORS = {"emotion": "Emotion kept", "style": "Style kept"}
FACTORS = texts(FACTORS)


def tests(base: GenerateSpec, positive: str, protected: tuple[str, ...]) -> None:
    """The popover with both tests. `base`: the request as the form has it. Raises StudioError."""
    with st.popover(TEXT["button"], icon=":material/science:", key="gen_tests"):
        st.markdown(f"**{TEXT['stress']}**")
        how = st.segmented_control(
            TEXT["stress_how"], list(STRESS_NAMES), default="random", required=True,
            format_func=STRESS_NAMES.__getitem__, key="gen_stress_how",
        )  # fmt: skip
        st.caption(STRESS_LEADS[how or "random"])
        share = st.select_slider(
            TEXT["share"], (0.1, 0.2, 0.3, 0.5), 0.2, format_func="{:.0%}".format, key="gen_stress",
            disabled=how == "worst",
        )  # fmt: skip
        if st.button(TEXT["stress_draw"], key="gen_stress_draw", icon=":material/compare:", disabled=not positive):
            if how == "worst":
                _worst(base, positive)
            else:
                _stress(base, positive, protected, share)
        st.divider()
        st.markdown(f"**{TEXT['ab']}**")
        st.caption(TEXT["ab_lead"])
        compare = inputs.choice(ExperimentSpec, "compare", "gen_ab_compare", choices=COMPARED)
        with st.container(horizontal=True):
            seeds = inputs.number(ExperimentSpec, "seeds", "gen_ab_seeds", width=130)
            attack = inputs.choice(
                ExperimentSpec, "attack", "gen_ab_attack", choices=("mixed", *KINDS),
                disabled=compare == "template_engine",
            )  # fmt: skip
        if st.button(TEXT["ab_draw"], key="gen_ab_draw", icon=":material/balance:"):
            plain = base.model_copy(update={"prompt": None, "negative": None, "count": 1})
            spec = ExperimentSpec(base=plain, compare=compare, seeds=seeds, attack=attack, share=share)
            widgets.start(spec, PAGE)
            st.rerun()


def _stress(base: GenerateSpec, positive: str, protected: tuple[str, ...], share: float) -> None:
    seed = base.seed if base.seed is not None else random.randint(0, MAX_SEED)
    prompts = [positive, *(studio().prompts.attack(positive, kind, share, seed, protected) for kind in KINDS)]
    rows = tuple(BatchRow(prompt=prompt, seed=seed) for prompt in prompts)
    widgets.start(BatchSpec(base=base.model_copy(update={"count": 1}), rows=rows), PAGE)
    st.session_state["gen_stressed"] = st.session_state[f"job:{PAGE}"]
    st.rerun()


def _worst(base: GenerateSpec, positive: str) -> None:
    one = base.model_copy(update={"prompt": positive, "count": 1})
    widgets.start(ExperimentSpec(base=one, compare="clean_worst", emotions=(), seeds=WORST_SEEDS), PAGE, of_form=False)
    st.rerun()


def captions(job: JobView) -> list[str] | None:
    """What stands under the pictures of a stress test, or None for any other job."""
    if st.session_state.get("gen_stressed") != job.id:
        return None
    return [TEXT["clean"], *(KIND_NAMES[kind] for kind in KINDS)]


def report(job: JobView) -> None:
    """The result of an A/B experiment or a search for the worst case; nothing where none was reached."""
    if job.result:
        _told(job.result, job.id)


def saved(picture: Picture) -> bool:
    """The result that is kept with the picture of a report. False where it can't be opened, which is said."""
    try:
        result = studio().report(picture)
    except StudioError as problem:
        st.caption(text.say(problem))
        return False
    _told(result, picture.id)
    return True


def _told(result: dict[str, Any], key: str) -> None:
    """A sentence, both shares with their intervals and what chance has to do with it, the pictures of every seed."""
    st.subheader(TEXT["result"], anchor=False)
    st.markdown(text.escape(result.get("sentence", "")))
    names = result.get("names", ("", ""))
    for comparison in result.get("comparisons", ()):
        st.caption(FACTORS[comparison["factor"]])
        left, right = st.columns(2)
        for column, name, side in ((left, names[0], comparison["left"]), (right, names[1], comparison["right"])):
            said = TEXT["share_said"].format(
                percent=f"{side['right'] / max(1, side['n']):.0%}",
                n=side["n"],
                low=f"{side['low']:.0%}",
                high=f"{side['high']:.0%}",
            )
            column.progress(side["right"] / max(1, side["n"]), text=f"{text.escape(name)}: {said}")
        p = comparison["p"]
        st.caption(TEXT["chance" if p >= 0.05 else "clear"].format(p=f"{p:.2g}"))
    with st.expander(TEXT["pairs"], icon=":material/compare:", expanded=True):
        grid = st.grid(len(names), gap="small")
        for number, pair in enumerate(result.get("pairs", ())):
            for name, picture_id in zip(names, pair, strict=False):
                with grid.cell():
                    try:
                        picture = studio().picture(picture_id, owner())
                    except StudioError:
                        st.caption(TEXT["gone"])
                    else:
                        widgets.picture_card(picture, f"{key}_{number}_{name}", text.escape(name))
