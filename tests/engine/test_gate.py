"""The gate: which latents are drawn again, with which seeds, and which ones are kept."""

from dataclasses import replace

import pytest
import torch

from studio.core.settings import Settings
from studio.core.specs import MAX_SEED, GenerateSpec, Recipe
from studio.engine import gate
from studio.engine.engine import Engine
from studio.engine.models.catalogue import resolve
from studio.evaluation.quality import Quality, QualityNetwork


class Mean:
    """A head whose score is the mean of the latents."""

    threshold = 0.5

    def __call__(self, z: torch.Tensor) -> list[float]:
        return [float(row.mean()) for row in z]


def flat(*scores: float) -> torch.Tensor:
    return torch.tensor(scores).view(-1, 1, 1, 1).expand(-1, 4, 2, 2).clone()


def test_only_bad_ones_are_drawn_again_until_they_pass_and_the_best_is_kept() -> None:
    asked: list[tuple[list[int], list[int]]] = []
    answers = [flat(0.1, 0.9), flat(0.3)]

    def draw(rows: list[int], seeds: list[int]) -> torch.Tensor:
        asked.append((rows, seeds))
        return answers[len(asked) - 1]

    shown, attempts = gate.passed(Mean(), flat(0.8, 0.2, 0.4), [5, 6, 7], draw)
    assert [rows for rows, _ in asked] == [[1, 2], [1]]
    assert asked[0][1] == [gate.later_seed(6, 1), gate.later_seed(7, 1)]
    assert asked[1][1] == [gate.later_seed(6, 2)]
    assert [round(s, 1) for s in Mean()(shown)] == [0.8, 0.3, 0.9]  # 0.2, 0.1, 0.3 of the second
    assert attempts == [1, 3, 2]


def test_a_good_first_picture_costs_nothing() -> None:
    def draw(rows: list[int], seeds: list[int]) -> torch.Tensor:
        raise AssertionError

    first = flat(0.5, 0.7)
    shown, attempts = gate.passed(Mean(), first, [1, 2], draw)
    assert torch.equal(shown, first)
    assert attempts == [1, 1]


def test_what_is_not_a_number_never_replaces_a_picture() -> None:
    shown, attempts = gate.passed(Mean(), flat(0.2), [1], lambda rows, seeds: flat(float("nan")))
    assert torch.equal(shown, flat(0.2))
    assert attempts == [3]


def test_later_seeds_are_seeds_and_no_neighbour_s() -> None:
    assert gate.later_seed(41, 0) == 41
    assert 0 <= gate.later_seed(MAX_SEED, 2) <= MAX_SEED
    later = {gate.later_seed(seed, attempt) for seed in range(16) for attempt in (1, 2)}
    assert len(later) == 32
    assert not later & set(range(16))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Settings())


def recipe(engine: Engine, seed: int, redraw: bool) -> Recipe:
    info = resolve("embedded", engine.settings)
    assert info.fast is not None
    return Recipe(
        model="embedded", model_hash=info.hash, prompt="1girl, happy", seed=seed, steps=2, guidance=1, sampler="lcm",
        width=256, height=256, fast=True, redraw=redraw,
    )  # fmt: skip


def gated(engine: Engine, folder, threshold: float) -> None:
    """Give the loaded model a head with random weights and this threshold."""
    torch.manual_seed(1)
    network = QualityNetwork(16)
    network.score.weight.data *= 20  # scores that differ
    Quality(network, threshold).save(folder)
    gate.head.cache_clear()
    components = engine.components("embedded")
    components.info = replace(components.info, quality=folder)


def test_of_all_drawings_of_a_picture_the_one_with_the_best_score_is_shown(
    engine: Engine, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = [gate.later_seed(5, attempt) for attempt in range(3)]
    plain = [image.tobytes() for _, image in engine.draw([recipe(engine, seed, False) for seed in seeds])]
    gated(engine, tmp_path, 1.1)  # nothing is good enough
    _, image = next(engine.draw([recipe(engine, 5, True)]))
    assert image.info["attempts"] == "3"
    assert image.tobytes() in plain
    _, again = next(engine.draw([recipe(engine, 5, True)]))
    assert again.tobytes() == image.tobytes()
    scores: list[float] = []
    score = Quality.__call__

    def scored(quality: Quality, z: torch.Tensor) -> list[float]:
        scores.extend(score(quality, z))
        return scores[-len(z) :]

    monkeypatch.setattr(Quality, "__call__", scored)
    next(engine.draw([recipe(engine, 5, True)]))
    assert len(set(scores)) == 3
    assert plain.index(image.tobytes()) == scores.index(max(scores))


def test_who_turns_the_gate_off_gets_every_picture_as_it_comes(engine: Engine, tmp_path) -> None:
    plain = [image.tobytes() for _, image in engine.draw([recipe(engine, 5, False)])]
    gated(engine, tmp_path, 1.1)
    _, image = next(engine.draw([recipe(engine, 5, False)]))
    assert "attempts" not in image.info
    assert image.tobytes() == plain[0]
    gated(engine, tmp_path, -0.1)  # everything is good
    _, image = next(engine.draw([recipe(engine, 5, True)]))
    assert "attempts" not in image.info
    assert image.tobytes() == plain[0]


def test_pictures_from_before_keep_their_keys() -> None:
    old = {"model": "m", "model_hash": "h", "prompt": "p", "seed": 1, "steps": 4, "guidance": 1, "sampler": "lcm",
           "width": 256, "height": 256}  # fmt: skip
    assert Recipe.model_validate(old).redraw is False
    assert Recipe.model_validate(old).key == Recipe.model_validate({**old, "redraw": False}).key
    assert Recipe.model_validate(old).key != Recipe.model_validate({**old, "redraw": True}).key
    assert GenerateSpec().redraw
