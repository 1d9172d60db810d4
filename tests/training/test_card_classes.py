"""docs/gpu.md says of cards what the code that decides says."""

from __future__ import annotations

import pytest
import torch

from studio.core.settings import REPOSITORY
from studio.engine.models.families import FAMILIES, Family
from studio.interfaces.cli.doctor import markdown
from studio.training import classes

DOCUMENT = (REPOSITORY / "docs" / "gpu.md").read_text(encoding="utf-8").splitlines()


def documented(first: str) -> list[str]:
    """The table whose first line this is."""
    start = DOCUMENT.index(first)
    end = next(i for i in range(start, len(DOCUMENT)) if not DOCUMENT[i].startswith("|"))
    return DOCUMENT[start:end]


def test_the_generations_stand_in_the_document() -> None:
    lines = markdown(classes.kinds())
    assert documented(lines[0]) == lines


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
@pytest.mark.parametrize("size", classes.SIZES)
def test_how_each_size_draws_stands_in_the_document(size: int, family: Family) -> None:
    row = classes.drawing(size, family)
    first = next(line for line in DOCUMENT if line.startswith(" | ".join(["| " + next(iter(row)), *list(row)[1:]])))
    [said] = [line for line in documented(first) if line.startswith(f"| {size} GB |")]
    assert said.split(" | ")[: len(row)] == markdown([row])[2].removesuffix(" |").split(" | ")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_what_can_be_trained_stands_in_the_document(family: Family) -> None:
    lines = markdown(classes.sizes(family))
    assert documented(lines[0]) == lines


def test_what_autograd_keeps_is_counted() -> None:
    first, second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
    x = torch.ones(2, 8, requires_grad=True)
    whole, largest = classes.kept(lambda: second(first(x)), [first, second], [first, second])
    assert whole == 2 * x.numel()  # what each of them was given
    assert largest == x.numel()
