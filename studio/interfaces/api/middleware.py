"""What every request passes before its route, in this order: who may ask at all, how much may be sent, and what of it
is worth parsing. Whatever is refused here was neither read to its end nor parsed."""

from __future__ import annotations

import re
from math import ceil

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.core.net import is_loopback, passed_on
from studio.interfaces.api.access import Access, TooOften
from studio.interfaces.api.problems import problem

OPEN = frozenset(("/health", "/ready", "/v1/health", "/v1/ready", "/openapi.json", "/docs", "/redoc"))
OPEN_BELOW = "/static-offline-docs/"  # style and scripts of the documentation
OTHERS = ("/sdapi/", "/queue/")  # asked by programs that send a key as the password of a login
JSON_BYTES = 8 * 2**20  # the largest batch of prompts fits
FORM_ROOM = 2 * 2**20  # bytes of a form beside its file
MAX_ITEMS = 100_000  # values in one JSON text: the largest batch has a tenth of them
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_FEW = 64 * 2**10  # bytes that are counted without another thread


class LocalOnly:
    """Where there is no key: answers programs and pages of this machine, and refuses everything else with 403.

    The name that was asked for (a foreign page may point its own at 127.0.0.1), the headers of tunnels and proxies, and
    what browsers say of the page that asks: one from elsewhere could send forms here, though it can't read the answer.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.access.open and (said := self._problem(Headers(scope=scope))):
            await problem(403, said)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _problem(self, headers: Headers) -> str | None:
        host = headers.get("host", "")
        if passed_on(headers.keys()) or not is_loopback(host.rsplit(":", 1)[0] if not host.endswith("]") else host):
            return "Without STUDIO_API_KEY the API answers its own computer only; set a key to open it to others."
        origin = headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return "A web page from elsewhere may not use this API; set STUDIO_API_KEY and send the key with requests."
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "A web page from elsewhere may not use this API; set STUDIO_API_KEY and send the key with requests."
        return None


class KeyFirst:
    """Asks for the key before a byte of the body is read, and notes in `scope["state"]` whose it is."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or path in OPEN or path.startswith(OPEN_BELOW):
            await self.app(scope, receive, send)
            return
        offered = Headers(scope=scope).get("authorization", "")
        try:
            caller = await run_in_threadpool(self.access.caller, offered, path.startswith(OTHERS))
            if caller is not None:
                self.access.admit(caller)
        except TooOften as error:
            await problem(429, str(error), {"Retry-After": str(ceil(error.wait))})(scope, receive, send)
            return
        if caller is None:
            refused = problem(401, "A valid key is needed: Authorization: Bearer KEY.", {"WWW-Authenticate": "Bearer"})
            await refused(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self.app(scope, receive, send)


class BodyLimit:
    """Refuses what is too large with 413, whatever its length says, and JSON of more values than anything here needs.

    `upload`: bytes that a file may have. A route that takes pictures inside of JSON (base64, a third more) has room for
    two of them.
    """

    def __init__(self, app: ASGIApp, upload: int) -> None:
        self.app, self.upload = app, upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        form = headers.get("content-type", "").lower().startswith("multipart/form-data")
        limit = self.upload + FORM_ROOM if form else JSON_BYTES
        if scope["path"].startswith("/sdapi/"):
            limit = JSON_BYTES + self.upload * 8 // 3
        said = f"The request is larger than the {limit // 2**20} MB that are accepted."
        if headers.get("content-length", "").isdigit() and int(headers["content-length"]) > limit:
            await problem(413, said)(scope, receive, send)
            return
        counted = _counted(receive, limit, said)
        if form or scope["method"] in ("GET", "HEAD", "DELETE", "OPTIONS"):
            await self.app(scope, counted, send)
            return
        try:
            body = await _whole(counted)
        except HTTPException as error:
            await problem(error.status_code, str(error.detail))(scope, receive, send)
            return
        count = items(body) if len(body) <= _FEW else await run_in_threadpool(items, body)
        if count > MAX_ITEMS:
            await problem(413, f"The request has more than the {MAX_ITEMS:,} values that are accepted.")(
                scope, receive, send
            )
            return
        await self.app(scope, _replayed(body, receive), send)


def items(body: bytes) -> int:
    """How many values a JSON text can have at most, told without parsing it: signs outside of its strings."""
    plain = _STRING.sub(b"", body)
    return sum(plain.count(sign) for sign in (b",", b"[", b"{"))


def _counted(receive: Receive, limit: int, said: str) -> Receive:
    left = limit

    async def counted() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413, said)
        return message

    return counted


async def _whole(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":  # the client has gone
            return bytes(body)
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
