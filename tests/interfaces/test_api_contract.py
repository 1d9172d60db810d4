"""The OpenAPI and the server agree: whatever the one describes, the other answers as described."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import checks
from support.checkpoints import tiny_sd

from studio.core.errors import BadInput
from studio.core.settings import Settings
from studio.features.registry import WORK
from studio.interfaces.api import access
from studio.interfaces.api import app as api
from studio.runs.supervisor import Supervisor
from studio.service import Studio

KEY = "a-key-that-is-long-enough"
HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    home = tmp_path_factory.mktemp("home")
    tiny_sd(home / "models" / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Supervisor, "_spawn", lambda self, run: None)  # nothing is trained and nothing drawn:
        patch.setattr(Studio, "_make_engine", lambda self: None)  # requests are random, and some of them large
        patch.setattr(access, "GUESSES", 10**9)  # wrong keys are among what is tried
        for kind in WORK:
            patch.setitem(WORK, kind, undrawn)
        app = api.create(Settings(home=home, model="tiny", api_key=KEY, queue_limit=10_000, _env_file=None))
        yield schemathesis.openapi.from_asgi("/openapi.json", app)
        app.state.studio.close()


def undrawn(engine: Any, job: Any, spec: Any) -> None:
    raise BadInput("Nothing is drawn here.")


def agreed(schema: Any, examples: int) -> None:
    """Every operation, `examples` of its requests, good and bad: no 5xx, no answer but those that are described."""
    for found in schema.get_all_operations():
        operation = found.ok()
        if "events" in operation.path:  # a stream that lasts as long as its job
            continue

        @hypothesis.settings(max_examples=examples, deadline=None, database=None, derandomize=True,
                             suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
        @hypothesis.given(case=operation.as_strategy())
        def one(case: Any) -> None:
            # A name that is made up is no name of a model, picture or data set: 404 and 422 are right answers to it.
            case.call_and_validate(headers=HEADERS, timeout=120, excluded_checks=[checks.positive_data_acceptance])

        one()


def test_a_handful_of_requests(schema: Any) -> None:
    agreed(schema, 2)


@pytest.mark.slow
def test_many_requests(schema: Any) -> None:
    agreed(schema, 100)
