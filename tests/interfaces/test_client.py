"""`studio.client` against the real app: both clients draw, follow, are refused, and send again what was lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from support.asynchronous import run_async
from support.checkpoints import tiny_sd
from support.pictures import encoded, image

from studio import client as clients
from studio.client import AsyncClient, Client, Refused
from studio.core.settings import Settings
from studio.core.specs import GenerateSpec
from studio.interfaces.api import app as api

KEY = "a-key-that-is-long-enough"
SPEC = GenerateSpec(model="tiny", prompt="red hair", steps=1, seed=3)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    home = tmp_path_factory.mktemp("home")
    tiny_sd(home / "models" / "tiny")
    app = api.create(Settings(home=home, api_key=KEY, _env_file=None))
    yield app
    app.state.studio.close()


@pytest.fixture
def studio(app: Any) -> Iterator[Client]:
    with Client(key=KEY, http=TestClient(app)) as client:
        yield client


def size(png: bytes) -> tuple[int, int]:
    with Image.open(BytesIO(png)) as picture:
        return picture.size


def test_it_draws_and_follows(studio: Client) -> None:
    assert [size(png) for png in studio.draw(SPEC.model_copy(update={"count": 2}))] == [(64, 64)] * 2
    seen = list(studio.events(studio.submit({"model": "tiny", "prompt": "x", "steps": 8}).id))
    assert seen[-1].state == "done"
    assert {picture.recipe.seed for picture in studio.images(query="red") if picture.recipe} == {3, 4}
    sent = studio.upload(encoded(image(size=(48, 48))))
    assert size(studio.image(sent.id)) == (48, 48)
    job = studio.submit({"model": "tiny", "prompt": "long", "steps": 50, "count": 64})
    studio.cancel(job.id)
    assert studio.wait(job.id).state == "cancelled"
    with pytest.raises(Refused, match="cancelled"):
        clients.done(studio.job(job.id))


def test_what_the_server_says_is_raised(app: Any, studio: Client) -> None:
    for request, status, said in (({"steps": 999}, 422, "steps"), ({"model": "nowhere"}, 404, "no model")):
        with pytest.raises(Refused, match=said) as refused:
            studio.submit(request)
        assert refused.value.status == status
    with Client(key="wrong-key-that-is-long", http=TestClient(app)) as stranger, pytest.raises(Refused) as refused:
        stranger.images()
    assert refused.value.status == 401


def test_the_other_one_is_awaited(app: Any) -> None:
    async def work() -> tuple[list[bytes], list[str], int]:
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://studio")
        async with AsyncClient(key=KEY, http=http) as studio:
            job = await studio.submit(SPEC.model_copy(update={"prompt": "awaited", "seed": None}), once="mine")
            assert (
                await studio.submit(SPEC.model_copy(update={"prompt": "awaited", "seed": None}), "mine")
            ).id == job.id
            states = [seen.state async for seen in studio.events(job.id)]
            with pytest.raises(Refused):
                await studio.job("nothing")
            return await studio.draw(SPEC), states, len(await studio.images(limit=1))

    pictures, states, listed = run_async(work())
    assert ([size(png) for png in pictures], states[-1], listed) == ([(64, 64)], "done", 1)


def answering(*answers: Any) -> tuple[list[httpx.Request], Callable[[httpx.Request], httpx.Response]]:
    left, asked = list(answers), []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        found = left.pop(0)
        if isinstance(found, Exception):
            raise found
        return httpx.Response(found, headers={"Retry-After": "0"}, json={"detail": "busy"})

    return asked, answer


def test_what_was_lost_is_sent_again_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "PAUSE", 0.0)

    def asking(*answers: Any) -> tuple[list[httpx.Request], Client]:
        asked, answer = answering(*answers)
        return asked, Client(http=httpx.Client(transport=httpx.MockTransport(answer), base_url="http://studio"))

    asked, client = asking(httpx.ReadError("lost"), 429, 503, 422)
    with pytest.raises(Refused):
        client.submit(SPEC)
    assert len({request.headers["idempotency-key"] for request in asked}) == 1
    assert len(asked) == 4
    asked, client = asking(*[httpx.ConnectError("gone")] * 9)
    with pytest.raises(httpx.ConnectError):
        client.images()
    assert len(asked) == clients.TRIES
    asked, client = asking(httpx.ReadError("lost"))
    with pytest.raises(httpx.ReadError):
        client.cancel("x")  # has no name: it may have been done
    assert len(asked) == 1
