"""The HTTP API from another program: `Client` waits, `AsyncClient` is awaited; both have the same methods.

What starts work carries an idempotency key: it is sent again where its answer was lost, and the work is begun once.
Needs httpx and pydantic, and nothing of the studio but `core`.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel

from studio.core.errors import StudioError
from studio.core.specs import Spec
from studio.core.views import JobView, Picture

T = TypeVar("T")
V = TypeVar("V", bound=BaseModel)
Body = Spec | Mapping[str, Any]  # a request of the studio, or its JSON
TRIES = 4
PAUSE = 0.2  # seconds between looks at a job, and before a second try; each next one waits twice as long


class Refused(StudioError):
    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status  # HTTP's


class _Tries:
    """How often a request is sent: what starts nothing, or has a name of its own, may be sent again."""

    def __init__(self, method: str, options: Mapping[str, Any]) -> None:
        safe = method in ("GET", "PUT", "DELETE") or "Idempotency-Key" in options.get("headers", {})
        self._left = TRIES - 1 if safe else 0
        self._pause = PAUSE

    def after(self, met: httpx.Response | httpx.TransportError) -> float:
        """Seconds until the next try. Raises what was met where there is none: `Refused`, or httpx's error."""
        answer = None if isinstance(met, httpx.TransportError) else met
        if not self._left or (answer is not None and answer.status_code not in (429, 503)):
            raise met if isinstance(met, httpx.TransportError) else refused(met)
        self._left, pause, self._pause = self._left - 1, self._pause, self._pause * 2
        said = "" if answer is None else answer.headers.get("retry-after", "")
        return min(30.0, float(said)) if said.isdigit() else pause


def refused(answer: httpx.Response) -> Refused:
    ours = answer.headers.get("content-type") == "application/problem+json"  # else from something on the way
    return Refused(answer.status_code, answer.json()["detail"] if ours else f"The server says {answer.reason_phrase}.")


def seen(model: type[V], data: Mapping[str, Any]) -> V:
    """An answer as the studio's own view; fields that a newer server has besides are passed over."""
    missing: dict[str, Any] = {"owner": "", "path": "."} if model is Picture else {}
    return model.model_validate(missing | {name: data[name] for name in model.model_fields if name in data})


def one(model: type[V]) -> Callable[[httpx.Response], V]:
    return lambda answer: seen(model, answer.json())


def pictures(answer: httpx.Response) -> list[Picture]:
    return [seen(Picture, each) for each in answer.json()]


def sent(body: Body, once: str) -> dict[str, Any]:
    data = body.model_dump(mode="json") if isinstance(body, Spec) else dict(body)
    return {"json": data, "headers": {"Idempotency-Key": once or uuid.uuid4().hex}}


def event(line: str) -> JobView | None:
    said = json.loads(line[6:]) if line.startswith("data: ") else {}
    return seen(JobView, said) if "id" in said else None


def done(job: JobView) -> tuple[str, ...]:
    """A job's pictures. Raises `Refused` for one that failed or was cancelled."""
    if job.state != "done":
        raise Refused(422 if job.bad_input else 500, job.error or f"The job is {job.state}.")
    return job.pictures


class Client(AbstractContextManager["Client"]):
    """Raises `Refused` with the server's sentence, and httpx's errors where there is no answer.

    `once` is your own name for a request (by default a random one): under it you may send it again yourself.
    """

    def __init__(self, url: str = "", key: str = "", http: httpx.Client | None = None) -> None:
        self._http = http or httpx.Client(base_url=url, timeout=60)
        self._http.headers.update({"Authorization": f"Bearer {key}"} if key else {})

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, method: str, path: str, read: Callable[[httpx.Response], T], **options: Any) -> T:
        tries = _Tries(method, options)
        while True:
            try:
                answer = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                time.sleep(tries.after(error))
                continue
            if answer.is_success:
                return read(answer)
            time.sleep(tries.after(answer))

    def submit(self, request: Body, once: str = "") -> JobView:
        return self.ask("POST", "/v1/jobs", one(JobView), **sent(request, once))

    def job(self, id: str) -> JobView:
        return self.ask("GET", f"/v1/jobs/{id}", one(JobView))

    def cancel(self, id: str) -> JobView:
        return self.ask("POST", f"/v1/jobs/{id}/cancel", one(JobView))

    def wait(self, id: str) -> JobView:
        while (job := self.job(id)).active:
            time.sleep(PAUSE * min(25, 1 + job.position))
        return job

    def events(self, id: str) -> Iterator[JobView]:
        with self._http.stream("GET", f"/v1/jobs/{id}/events") as answer:
            yield from filter(None, map(event, answer.iter_lines()))

    def draw(self, request: Body, once: str = "") -> list[bytes]:
        return [self.image(id) for id in done(self.wait(self.submit(request, once).id))]

    def image(self, id: str) -> bytes:
        return self.ask("GET", f"/v1/images/{id}", lambda answer: answer.content)

    def images(self, **query: Any) -> list[Picture]:
        return self.ask("GET", "/v1/images", pictures, params=query)

    def upload(self, data: bytes, name: str = "picture.png") -> Picture:
        return self.ask("POST", "/v1/images", one(Picture), files={"file": (name, data)})


class AsyncClient(AbstractAsyncContextManager["AsyncClient"]):
    """As `Client`, to be awaited."""

    def __init__(self, url: str = "", key: str = "", http: httpx.AsyncClient | None = None) -> None:
        self._http = http or httpx.AsyncClient(base_url=url, timeout=60)
        self._http.headers.update({"Authorization": f"Bearer {key}"} if key else {})

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def ask(self, method: str, path: str, read: Callable[[httpx.Response], T], **options: Any) -> T:
        tries = _Tries(method, options)
        while True:
            try:
                answer = await self._http.request(method, path, **options)
            except httpx.TransportError as error:
                await asyncio.sleep(tries.after(error))
                continue
            if answer.is_success:
                return read(answer)
            await asyncio.sleep(tries.after(answer))

    async def submit(self, request: Body, once: str = "") -> JobView:
        return await self.ask("POST", "/v1/jobs", one(JobView), **sent(request, once))

    async def job(self, id: str) -> JobView:
        return await self.ask("GET", f"/v1/jobs/{id}", one(JobView))

    async def cancel(self, id: str) -> JobView:
        return await self.ask("POST", f"/v1/jobs/{id}/cancel", one(JobView))

    async def wait(self, id: str) -> JobView:
        while (job := await self.job(id)).active:
            await asyncio.sleep(PAUSE * min(25, 1 + job.position))
        return job

    async def events(self, id: str) -> AsyncIterator[JobView]:
        async with self._http.stream("GET", f"/v1/jobs/{id}/events") as answer:
            async for line in answer.aiter_lines():
                if (job := event(line)) is not None:
                    yield job

    async def draw(self, request: Body, once: str = "") -> list[bytes]:
        return [await self.image(id) for id in done(await self.wait((await self.submit(request, once)).id))]

    async def image(self, id: str) -> bytes:
        return await self.ask("GET", f"/v1/images/{id}", lambda answer: answer.content)

    async def images(self, **query: Any) -> list[Picture]:
        return await self.ask("GET", "/v1/images", pictures, params=query)

    async def upload(self, data: bytes, name: str = "picture.png") -> Picture:
        return await self.ask("POST", "/v1/images", one(Picture), files={"file": (name, data)})
