"""What every request passes before its route: who may ask at all, and how much may be sent."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.core.net import is_loopback, passed_on


class LocalOnly:
    """Where there is no key: answers programs and pages of this machine, and refuses everything else with 403.

    The name that was asked for (a foreign page may point its own at 127.0.0.1), the headers of tunnels and proxies, and
    what browsers say of the page that asks: one from elsewhere could send forms here, though it can't read the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._problem(Headers(scope=scope))):
            await JSONResponse({"error": problem}, 403)(scope, receive, send)
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


class BodySizeLimit:
    """Refuses bodies of more than `limit` bytes, with 413, whatever their length says."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        left = self.limit

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"The request is larger than the {self.limit // 2**20} MB that are accepted.")
            return message

        await self.app(scope, counted if scope["type"] == "http" else receive, send)
