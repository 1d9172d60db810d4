"""Hardening, attacks, the benchmark's goals at small size, and the experiment's statistics."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import prompting as benchmark
from studio.core.errors import BadInput, NotFound
from studio.core.specs import GenerateSpec
from studio.features.experiment import report as experiment
from studio.features.experiment.report import Outcome, Report, Seen, mcnemar, pairs, share_of
from studio.features.experiment.spec import ExperimentSpec
from studio.prompting import attacks, glyphs, phonetics
from studio.prompting.attacks import attack, greedy, is_word, perturb, targets
from studio.prompting.harden import apply, harden
from studio.prompting.validation import validate
from studio.prompting.writers import OfflineWriter, PromptRequest

TEXT = st.one_of(
    st.text(max_size=200),
    st.text(alphabet="smlie hapy (:1.3)<>[]{}\"'`,_-аеіｓ0134@$!\u200b\u202e", max_size=80),
    st.text(alphabet="\u200b\u200c\u200d\u2060\ufeff\u202e\u2066\u00ad\x00\x1b", max_size=30),
)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("1girl, bule eyse, smilng, lnog hiar", "1girl, blue eyes, smiling, long hair"),
        ("a beautful grl standng under a chery tree", "a beautiful girl standing under a cherry tree"),
        ("blck hair, whtie shirt", "black hair, white shirt"),
        ("smіle, һарру", "smile, happy"),
        ("ｓｍｉｌｅ", "smile"),
        ("𝓼𝓶𝓲𝓵𝓮, ⓢⓜⓘⓛⓔ, ʜᴀɪʀ ribbon", "smile, smile, hair ribbon"),
        ("h4ppy, sm1le, $mile", "happy, smile, smile"),
        ("srnile, cIoud, vvink", "smile, cloud, wink"),
        ("sm\u200bile, ha\u00adppy\u202e", "smile, happy"),
        ("phlower, skool uniform, bloo eyez", "flower, school uniform, blue eyes"),
        ("soldiеr's uniform", "soldier's uniform"),
        ("SMLIE", "SMLIE"),
        ("half-clsoed eyes", "half-closed eyes"),
        ("long_hiar, watercolor (meduim)", "long_hiar, watercolor (medium)"),
        ("(smlie:1.3), [blue eyess]", "(smile:1.3), [blue eyes]"),
        ("а girl", "a girl"),
        ("red\u00a0hair", "red hair"),
        ("smile\x00", "smile "),
    ],
)
def test_mistakes_are_undone(typed: str, meant: str) -> None:
    found = harden(typed)
    assert found.text == meant
    assert all(typed[change.start : change.end] == change.source for change in found.changes)
    assert apply(typed, found.changes) == found


@pytest.mark.parametrize(
    "text",
    [
        "hatsune miku, rem (re:zero), asuka langley",
        "sks girl, ohwx, mych4r, zxc_v2",
        "<lora:smlie:0.8>, __colros__, https://exmaple.com/smlie",
        'the sign says "welcom hoem" and “luv”',
        "café, naïve, Zoë, Kraków, Nguyễn, Māori",
        "девочка с рыжими волосами, сор",
        "青い髪の女の子、笑顔",
        "سماء الليل, שקט, נערה",
        "👩‍👩‍👧 family, ❤️, 🇯🇵",
        "می‌خواهم",
        "4k, 8k, 1920x1080, f/1.8, v2, 2b",
        ":d, ^_^, >_<, x_x",
        "colour and color, grey and gray",
        "O'Brien's, don't, rock 'n' roll",
        "",
        ", ,",
    ],
)
def test_what_is_right_stays(text: str) -> None:
    assert harden(text).text == text


def test_protected_words_stay() -> None:
    assert harden("smlie, bule eyse").changes
    assert harden("smlie, smlie girl", protected=["smlie"]).text == "smlie, smlie girl"
    assert harden("Smlie Girl, eyse", protected=["smlie girl"]).text == "Smlie Girl, eyes"
    assert harden("すまいる smlie", protected=["すまいる", ""]).text == "すまいる smile"


def test_a_slip_into_another_word_is_left_alone() -> None:
    assert harden("long hail, rad, calm").changes == ()


def test_each_change_says_what_it_is() -> None:
    kinds = {change.source: change.kind for change in harden("smilng, sm\u200bile, hаppy, phlower, blue，red").changes}
    assert kinds == {
        "smilng": "typo", "sm\u200bile": "invisible", "hаppy": "glyph", "phlower": "phonetic", "，": "width",
    }  # fmt: skip
    assert all(0.5 < change.confidence <= 1 for change in harden("smilng, hаppy, phlower").changes)


def test_a_refused_change_is_not_made() -> None:
    found = harden("smlie, bule eyse, hapyp")
    kept = [change for change in found.changes if change.source != "hapyp"]
    assert apply("smlie, bule eyse, hapyp", kept).text.endswith("eyes, hapyp")


@settings(max_examples=200)
@given(TEXT)
def test_any_text_is_hardened_once(text: str) -> None:
    found = harden(text)
    assert not set("\x00\x1b\u202e\u2066\ufeff\u2060") & set(found.text)
    assert apply(text, found.changes).text == found.text
    position = 0
    for change in found.changes:
        assert position <= change.start < change.end
        assert text[change.start : change.end] == change.source != change.target
        position = change.end


def test_ten_thousand_words_take_seconds_not_minutes() -> None:
    rng = random.Random(1)
    words = [rng.choice(("smlie", "happy", "lnog", "hair", "zorvax", "blue,")) for _ in range(10_000)]
    begun = time.perf_counter()
    assert len(harden(" ".join(words)).text.split()) == 10_000
    assert time.perf_counter() - begun < 20


@pytest.mark.parametrize(
    "text",
    ["a" * 50_000, "'" * 50_000 + "a", "rn" * 40 + "I" * 30, "rnvvclIrnvvclIrnvvclI", "а" * 30_000, "(" * 20_000,
     "\u200b" * 50_000, '"' * 20_000, "a@" * 20_000, "ｍ" * 40, "<" * 20_000, ":1" * 10_000],
)  # fmt: skip
def test_no_text_takes_long(text: str) -> None:
    begun = time.thread_time()
    harden(text)
    validate(text)
    assert time.thread_time() - begun < 5


def test_glyph_readings() -> None:
    assert glyphs.readings("а").startswith("a")
    assert glyphs.readings("é")[0] == "e"
    assert glyphs.readings("𝖟")[0] == "z"
    assert glyphs.readings("Ⓚ")[0] == "k"
    assert glyphs.readings("🇸")[0] == "s"
    assert glyphs.readings("漢") == glyphs.UNKNOWN
    assert glyphs.readings(",") == ""
    assert "smile" in glyphs.expand("srnile")
    assert glyphs.unmarked("s\u0336m\u200bile") == "smile"


@pytest.mark.parametrize(
    ("one", "other"),
    [("flower", "phlower"), ("school", "skool"), ("night", "nite"), ("white", "wite"), ("smile", "smyle"),
     ("knight", "nite"), ("uniform", "unifourm"), ("curly", "kurly")],
)  # fmt: skip
def test_words_of_one_sound_share_a_key(one: str, other: str) -> None:
    assert phonetics.keys(one)[0] == phonetics.keys(other)[0]


def test_words_of_different_sound_do_not() -> None:
    assert phonetics.keys("hair")[0] != phonetics.keys("eyes")[0]
    assert phonetics.vowels("mako") != phonetics.vowels("miko")


# --- attacks ----------------------------------------------------------------------------------------------------------

PROMPT = "1girl, long hair, (smiling:1.2), <lora:hairstyle:1>, a quiet girl with blue eyes in the garden"


@pytest.mark.parametrize("kind", ["typo", "glyph", "phonetic", "mixed"])
def test_attacks_are_seeded_and_counted(kind: attacks.AttackKind) -> None:
    words = targets(PROMPT)
    for share in (0.1, 0.2, 0.5):
        found = attack(PROMPT, kind, share, seed=3)
        assert found == attack(PROMPT, kind, share, seed=3)
        assert 1 <= len(found.swaps) <= max(1, round(share * len(words)))
        assert "<lora:hairstyle:1>" in found.text
        assert ":1.2)" in found.text
        for swap in found.swaps:
            assert PROMPT[swap.start : swap.end] == swap.source
            assert not is_word(swap.target)
        undone = found.text
        for swap in found.swaps:
            undone = undone.replace(swap.target, swap.source, 1)
        assert undone == PROMPT
    assert len({attack(PROMPT, kind, 0.2, seed=seed).text for seed in range(12)}) > 4


def test_protected_words_are_not_attacked() -> None:
    for seed in range(20):
        assert "smyle girl" in attack("smyle girl, happy", "mixed", 1.0, seed, protected=("smyle girl",)).text


def test_nothing_to_attack() -> None:
    for text in ("", "1 2 3", "<lora:x:1>", "漢字"):
        assert attack(text, "typo", 0.5, 1).text == text
    assert attack(PROMPT, "typo", 0.0, 1).swaps == ()


def test_real_words_only_when_asked() -> None:
    rng = random.Random(0)
    made = {perturb("hair", "typo", rng, real_words=True) for _ in range(300)}
    assert any(word is not None and is_word(word) for word in made)


def test_greedy_finds_the_word_that_matters() -> None:
    def score(prompt: str) -> float:
        return 0.9 * ("happy" in prompt) + 0.1 * ("garden" in prompt)

    calls: list[tuple[int, int]] = []
    prompt = "1girl, happy, quiet garden, long hair"
    found, steps = greedy(prompt, score, words=2, candidates=4, on_step=lambda done, total: calls.append((done, total)))
    assert [step.swap.source for step in steps] == ["happy", "garden"]
    assert steps[-1].score == 0
    assert "happy" not in found.text
    assert calls[-1][0] <= calls[-1][1]
    assert harden(found.text).text == prompt


def test_greedy_can_be_cancelled() -> None:
    class Stop(Exception):
        pass

    def on_step(done: int, total: int) -> None:
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        greedy(PROMPT, lambda prompt: 1.0, on_step=on_step)


# --- the goals, at a size for every day -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def held_out() -> list[str]:
    return benchmark.lexicon_prompts(120)


def test_the_split_is_a_third_and_never_mixes(held_out: list[str]) -> None:
    from studio.prompting.lexicon import Lexicon

    phrases = list(Lexicon.load().phrases)
    share = sum(map(benchmark.held_out, phrases)) / len(phrases)
    assert 0.3 < share < 0.37
    tuning = benchmark.lexicon_prompts(120, tuning=True)
    for prompt in tuning:
        if prompt.count(",") > 3:
            assert not any(benchmark.held_out(part) for part in prompt.split(", ") if part in phrases)


@pytest.mark.parametrize(("kind", "goal"), [("typo", 0.95), ("glyph", 0.99), ("phonetic", 0.90)])
@pytest.mark.parametrize("share", [0.1, 0.2])
def test_attacked_words_are_restored(held_out: list[str], kind: str, goal: float, share: float) -> None:
    found = benchmark.measure(benchmark.correctors(others=False)[0], held_out, kind, share, real_words=False)
    assert found["words"] >= 100
    assert found["restored"] >= goal


def test_a_thousand_clean_prompts_stay_as_they_are() -> None:
    clean = benchmark.clean_prompts()
    assert len(set(clean)) == 1000
    assert benchmark.clean_row(benchmark.correctors(others=False)[0], clean)["changed"] == 0


@pytest.mark.parametrize("kind", ["counts", "colours", "width"])
def test_misspelt_tags_are_put_right(kind: str) -> None:
    assert benchmark.tag_row(benchmark.correctors(others=False)[0], kind, 300)["restored"] >= 0.95


def test_posted_prompts_stay_as_they_are() -> None:
    posted = benchmark.posted_prompts()
    assert len(set(posted)) == 500
    assert [prompt for prompt in posted if harden(prompt).text != prompt] == []


def test_the_most_used_tags_of_danbooru_stay_as_they_are() -> None:
    tags = benchmark.danbooru_tags()
    assert len(set(tags)) > 10_000
    assert [form for form in benchmark.danbooru_forms() if harden(form).text != form] == []


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("1gril, 2grils, 1by", "1girl, 2girls, 1boy"),
        ("１ｇｉｒｌ，　ｂｌｕｅ　ｅｙｅｓ", "1girl, blue eyes"),
        ("１ｇｒｉｌ, ｌｏｎｇ＿ｈａｉｒ", "1girl, long_hair"),
        ("ｗｉｄｏｗ＇ｓ ｐｅａｋ", "widow's peak"),
        ("青い髪、ＳＭＩＬＥ", "青い髪、SMILE"),
        ("gren eyes, blew hair, kat ears", "green eyes, blue hair, cat ears"),
        ("read hair, sliver hair, hoarse ears", "red hair, silver hair, horse ears"),
        ("a girl with blew hair and gren eyes", "a girl with blue hair and green eyes"),
        ("2boy, 2ｂoуs, 5g\u200birls", "2boys, 2boys, 5girls"),
        ("cat years, blue ayes", "cat ears, blue eyes"),
    ],
)
def test_spellings_that_only_a_tag_explains(typed: str, meant: str) -> None:
    assert harden(typed).text == meant


@pytest.mark.parametrize(
    "text",
    [
        "code_geass, yu-gi-oh!, charlotte_(madoka_magica), final fantasy ix, ranni_the_witch",
        "code geass, charlotte (madoka magica), Ranni of Caria, lnog_hiar",
        r"charlotte \(madoka magica\), (rem \(re:zero\):1.2)",
        "she blew hair out of her face, her ears, bed hair, dead eyes, her hair",
        "2b, 1st place, 3d, 4koma, 1980s city, 6+girls",
        "tied-back hair, bat ears, wild hair, LED eyes",
    ],
)
def test_copied_tags_and_what_is_meant_stay(text: str) -> None:
    assert harden(text).text == text


def test_hardening_is_quick(held_out: list[str]) -> None:
    attacked = [attack(prompt, "typo", 0.2, seed).text for seed, prompt in enumerate(held_out)]
    harden(attacked[0])
    times = []
    for prompt in attacked:
        begun = time.thread_time()
        harden(prompt)
        times.append(time.thread_time() - begun)
    assert sum(times) / len(times) < 0.002


def test_the_other_correctors_are_measured_the_same_way() -> None:
    prompts = benchmark.lexicon_prompts(3)
    for corrector in benchmark.correctors()[1:]:
        row = benchmark.measure(corrector, prompts, "glyph", 0.2, real_words=False)
        assert row["words"] >= 3
        assert 0 <= row["restored"] < 1


def test_restored_counts_words_not_prompts() -> None:
    found = attack("red hair, blue eyes", "typo", 1.0, 1)
    assert benchmark.restored(found, "red hair, blue eyes", "red hair, blue eyes") == len(found.swaps)
    assert benchmark.restored(found, "red hair, blue eyes", found.text) == 0
    assert benchmark.restored(found, "red hair, blue eyes", "one word less") == 0


# --- the experiment ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compare", ["template_engine", "plain_hardened", "clean_attacked"])
def test_pairs_differ_in_the_prompt_alone(compare: str) -> None:
    spec = ExperimentSpec(compare=compare, seeds=40, share=0.3, base=GenerateSpec(text="red hair", seed=7))  # type: ignore[arg-type]
    found = pairs(spec)
    assert found == pairs(spec)
    assert [pair.seed for pair in found] == list(range(7, 47))
    assert {pair.emotion for pair in found} == set(spec.emotions)
    assert len({pair.style for pair in found}) == 4
    assert all(pair.left != pair.right for pair in found)
    if compare == "clean_attacked":
        assert all(pair.emotion in pair.left.prompt for pair in found)
    if compare == "plain_hardened":
        assert sum(pair.emotion in pair.right.prompt for pair in found) >= 39


def test_only_the_base_s_emotion() -> None:
    found = pairs(
        ExperimentSpec(seeds=5, emotions=(), base=GenerateSpec(emotion="calm", style="formal", seed=2**32 - 1))
    )
    assert {(pair.emotion, pair.style) for pair in found} == {("calm", "formal")}
    assert [pair.seed for pair in found] == [2**32 - 1, 0, 1, 2, 3]


def test_the_arms_of_the_robustness_measurement() -> None:
    found = experiment.arms(PromptRequest(emotion="sad"), "mixed", 0.2, seed=5)
    assert set(found) == {"clean", "attacked", "layered", "attacked_layered", "attacked_layered_hardened"}
    assert found["clean"] != found["attacked"]
    assert found["attacked_layered_hardened"] == found["layered"]


def test_the_worst_spelling_is_found_and_cured() -> None:
    prompt = OfflineWriter().write(PromptRequest(emotion="sad")).positive_prompt
    worst = greedy(prompt, lambda text: float("tearful" in text), words=1)[0].text
    assert "tearful" not in worst
    assert harden(worst).text == prompt


def test_statistics_against_known_values() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(10, 2) == pytest.approx(0.03857421875)
    assert mcnemar(2, 10) == mcnemar(10, 2)
    assert mcnemar(5, 5) == 1
    share = share_of(45, 50)
    assert (share.low, share.high) == (pytest.approx(0.7864, abs=1e-4), pytest.approx(0.9565, abs=1e-4))
    assert (share_of(0, 0).low, share_of(0, 0).high) == (0, 1)
    assert share_of(10, 10).high == pytest.approx(1)


def report(left_right: int, right_right: int, n: int = 40) -> Report:
    spec = ExperimentSpec(seeds=n)
    outcomes = []
    for index, pair in enumerate(pairs(spec)):
        wrong = "calm" if pair.emotion != "calm" else "happy"
        left = Seen(emotion=pair.emotion if index < left_right else wrong, style=pair.style, picture=f"l{index}")
        right = Seen(emotion=pair.emotion if index < right_right else wrong, style=pair.style, probability=0.5)
        outcomes.append(Outcome(pair=pair, left=left, right=right))
    return Report(spec=spec, model="embedded", created=1.0, outcomes=tuple(outcomes))


def test_a_report_says_what_the_numbers_say() -> None:
    clear = report(20, 38)
    emotion, style = clear.comparisons
    assert (emotion.left.value, emotion.right.value) == (0.5, 0.95)
    assert (emotion.only_left, emotion.only_right) == (0, 18)
    assert emotion.better == "right"
    assert style.p == 1
    assert "'Prompt engine' keeps the emotion better" in clear.sentence()
    assert "could be chance" in report(20, 21).sentence()
    assert report(20, 0).comparisons[0].better == "left"
    assert Report(spec=ExperimentSpec(), model="m", created=0, outcomes=()).sentence() == "No pair was drawn."


def test_a_report_is_saved_and_opened_again(tmp_path: Path) -> None:
    made = report(3, 4, n=6)
    path = tmp_path / "reports" / "one.json"
    made.save(path)
    assert experiment.load(path) == made
    assert [found.name for found in path.parent.iterdir()] == ["one.json"]
    with pytest.raises(NotFound):
        experiment.load(tmp_path / "none.json")
    path.write_text('{"version": 2}')
    with pytest.raises(BadInput, match="isn't a report"):
        experiment.load(path)
