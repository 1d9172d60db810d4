"""The arithmetic of queues, against textbook values and against the simulation."""

from __future__ import annotations

import pytest

from benchmarks.queueing import mean_wait, simulate, waiting_share, workers_for


def test_known_values() -> None:
    assert waiting_share(1, 0.5) == pytest.approx(0.5)  # one worker: the load
    assert waiting_share(2, 1.0) == pytest.approx(1 / 3)
    assert mean_wait(1, 0.8, 1.0, variation=1) == pytest.approx(4.0)  # M/M/1
    assert mean_wait(1, 0.8, 1.0) == pytest.approx(2.0)  # M/D/1: half of it
    assert workers_for(1000, 0.4, 0.1) > 400  # Little's law
    assert mean_wait(workers_for(10, 0.4, 0.05), 10, 0.4) <= 0.05 < mean_wait(workers_for(10, 0.4, 0.05) - 1, 10, 0.4)
    with pytest.raises(ValueError, match="for ever"):
        mean_wait(2, 3, 1)


@pytest.mark.parametrize(("workers", "load"), [(1, 0.5), (1, 0.8), (4, 0.8)])
def test_the_simulation_agrees(workers: int, load: float) -> None:
    rate = load * workers / 0.4
    told, found = mean_wait(workers, rate, 0.4) + 0.4, simulate(workers, rate, 0.4, requests=8000)
    assert found.mean == pytest.approx(told, rel=0.12)
    assert found.rate == pytest.approx(rate, rel=0.05)
    assert 0.4 <= found.p50 <= found.p95 <= found.p99


def test_batches_pay_when_there_is_a_queue_and_a_queue_each_costs() -> None:
    alone, together = (simulate(1, 2.2, 0.4, each=0.1, batch=size, requests=4000) for size in (1, 4))
    assert together.p95 < alone.p95 / 2
    shared, apart = (simulate(4, 8, 0.4, shared=one, requests=8000) for one in (True, False))
    assert shared.p95 < apart.p95 < 3 * shared.p95
