"""The gate: which latents are drawn again, with which seeds, and which ones are kept."""

import torch

from studio.core.specs import MAX_SEED
from studio.engine import gate


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

    shown, attempts = gate.passed(Mean(), flat(0.8, 0.2, 0.4), [5, 6, 7], 2, draw)
    assert [rows for rows, _ in asked] == [[1, 2], [1]]
    assert asked[0][1] == [gate.later_seed(6, 1), gate.later_seed(7, 1)]
    assert asked[1][1] == [gate.later_seed(6, 2)]
    assert [round(s, 1) for s in Mean()(shown)] == [0.8, 0.3, 0.9]  # 0.2, 0.1, 0.3 of the second
    assert attempts == [1, 3, 2]


def test_a_good_first_picture_costs_nothing() -> None:
    def draw(rows: list[int], seeds: list[int]) -> torch.Tensor:
        raise AssertionError

    first = flat(0.5, 0.7)
    shown, attempts = gate.passed(Mean(), first, [1, 2], 2, draw)
    assert torch.equal(shown, first)
    assert attempts == [1, 1]


def test_what_is_not_a_number_never_replaces_a_picture() -> None:
    shown, attempts = gate.passed(Mean(), flat(0.2), [1], 1, lambda rows, seeds: flat(float("nan")))
    assert torch.equal(shown, flat(0.2))
    assert attempts == [2]


def test_later_seeds_are_seeds_and_no_neighbour_s() -> None:
    assert gate.later_seed(41, 0) == 41
    assert 0 <= gate.later_seed(MAX_SEED, 2) <= MAX_SEED
    later = {gate.later_seed(seed, attempt) for seed in range(16) for attempt in (1, 2)}
    assert len(later) == 32
    assert not later & set(range(16))
