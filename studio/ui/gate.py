"""The front door: an ASGI middleware before everything that Streamlit serves (pages, WebSocket, uploads, media).

Without a password the studio answers this computer only: by the address it is bound to (checked at start), by the
address a connection came in on, and by the name the browser asked for (so a tunnel, or a foreign web page that points
its own name at 127.0.0.1, finds the door shut). With one, nothing but the login page, its fonts and the health check
is given out before the password was typed. Gives each browser its owner cookie. Knows nothing of the pages.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import sys
import time
from collections import deque
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote

from itsdangerous import BadSignature
from pydantic import ValidationError
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import config

from studio.settings import Settings, settings
from studio.ui.identity import OWNER_DAYS, cookie_age, cookie_name, new_owner, read_owner, signer, signing_key

LOGIN, LOGOUT = "/studio-login", "/studio-logout"
HEALTH = "/_stcore/health"
HOME = "/generate"  # the first page: Streamlit gives it the address "/" and doesn't know it by its name
LOGIN_DAYS = 30
MAX_BODY = 4096  # bytes of a login form
WINDOW = 60.0  # seconds
WRONG_TRIES, WRONG_TRIES_ALL = 5, 60  # per window: of one address, and of all together

TEXT = {
    "beyond": (
        "The studio is set to listen on {address}, which others can reach, but STUDIO_PASSWORD is not set: "
        "set a password, or listen on 127.0.0.1."
    ),
    "empty": "STUDIO_PASSWORD is set but empty: give it a value, or remove it to use the studio on this computer only.",
    "settings": "The settings are not usable: {problem}.",
    "home": "The studio can't write to {home} ({problem}): set STUDIO_HOME to a folder that it may write to.",
    "closed": (
        "This studio answers only on its own computer, because it has no password. "
        "Set STUDIO_PASSWORD and start it again to open it at this address."
    ),
    "wrong": "That is not the password.",
    "wait": "Too many wrong passwords. Try again in {seconds} seconds.",
    "locked": "Log in first.",
}


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address means this computer. An empty one means every address, and so does not."""
    if not host:
        return False
    name = host.strip("[]").lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost") or name.startswith("unix://"):
        return True
    try:
        return ipaddress.ip_address(name.split("%")[0]).is_loopback
    except ValueError:
        return False


def front_door() -> Middleware:
    """The gate for `st.App`, by the settings of this process. Ends it with a sentence where it can't be safe."""
    try:
        current = settings()
        check(current, config.get_option("server.address"))
        key = signing_key(current.home)
    except ValidationError as error:
        first = error.errors()[0]
        name = "STUDIO_" + "_".join(str(part) for part in first["loc"]).upper()
        raise _refuse(TEXT["settings"].format(problem=f"{name}: {first['msg']}")) from None
    except OSError as error:
        raise _refuse(TEXT["home"].format(home=current.home, problem=error.strerror)) from None
    except ValueError as error:
        raise _refuse(str(error)) from None
    return Middleware(Gate, key=key, password=current.password.get_secret_value() if current.password else None)


def check(current: Settings, address: str | None) -> None:
    """Raise ValueError with one sentence when the studio would be open to people who don't know a password."""
    if current.password is not None and not current.password.get_secret_value().strip():
        raise ValueError(TEXT["empty"])
    if current.password is None and not is_loopback(address):
        raise ValueError(TEXT["beyond"].format(address=address or "every address"))


def _refuse(sentence: str) -> SystemExit:
    print(sentence, file=sys.stderr, flush=True)
    return SystemExit(2)


class Attempts:
    """Wrong passwords in the last minute, per address and all together."""

    def __init__(self) -> None:
        self._wrong: dict[str, deque[float]] = {}

    def wait(self, address: str, now: float) -> int:
        """Seconds until this address may try again; 0: now."""
        recent = {who: [moment for moment in tries if moment > now - WINDOW] for who, tries in self._wrong.items()}
        self._wrong = {who: deque(tries, WRONG_TRIES) for who, tries in recent.items() if tries}
        own = self._wrong.get(address, deque())
        everybody = sorted(moment for tries in self._wrong.values() for moment in tries)
        left = 0.0
        if len(own) >= WRONG_TRIES:
            left = own[-WRONG_TRIES] + WINDOW - now
        if len(everybody) >= WRONG_TRIES_ALL:
            left = max(left, everybody[-WRONG_TRIES_ALL] + WINDOW - now)
        return math.ceil(max(0.0, left))

    def failed(self, address: str, now: float) -> None:
        self._wrong.setdefault(address, deque(maxlen=WRONG_TRIES)).append(now)


class Gate:
    """Lets through who may come in, and hands each browser its owner cookie."""

    def __init__(self, app: ASGIApp, key: bytes, password: str | None) -> None:
        self.app = app
        self.key = key
        self.password = password
        self.attempts = Attempts()
        self.owner_cookie = cookie_name("owner", key)
        self.login_cookie = cookie_name("login", key)
        # A new password ends every login that was made with the old one.
        context = hashlib.sha256((password or "").encode()).hexdigest()
        self.login_signer = signer("login", key, context)
        self.page = (Path(__file__).parent / "login.html").read_text(encoding="utf-8")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        path = scope["path"]
        if self.password is None:
            if not self._is_local(connection):
                await self._answer(PlainTextResponse(TEXT["closed"], 403), scope, receive, send)
                return
        elif path == LOGIN and scope["type"] == "http":
            await (await self._login(Request(scope, receive)))(scope, receive, send)
            return
        elif path == LOGOUT and scope["type"] == "http":
            response = RedirectResponse(LOGIN, 303)
            response.delete_cookie(self.login_cookie)
            await response(scope, receive, send)
            return
        elif path != HEALTH and not path.startswith("/app/static/") and not self._logged_in(connection):
            if _is_document(connection):
                query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
                target = LOGIN + "?next=" + quote(path + query, safe="")
                await RedirectResponse(target, 303)(scope, receive, send)
            else:
                await self._answer(PlainTextResponse(TEXT["locked"], 401), scope, receive, send)
            return
        if scope["type"] == "http" and _is_document(connection):
            if path == HOME:
                query = connection.url.query
                await RedirectResponse(f"/?{query}" if query else "/", 307)(scope, receive, send)
                return
            send = self._with_owner(connection, send)
        await self.app(scope, receive, send)

    async def _answer(self, response: Response, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 4403})  # before accept: the browser sees a plain 403
        else:
            await response(scope, receive, send)

    def _is_local(self, connection: HTTPConnection) -> bool:
        arrived = connection.scope.get("server")
        if arrived and arrived[1] is not None and not is_loopback(arrived[0]):
            return False
        return is_loopback(connection.url.hostname)

    def _logged_in(self, connection: HTTPConnection) -> bool:
        try:
            self.login_signer.unsign(connection.cookies.get(self.login_cookie, ""), max_age=LOGIN_DAYS * 86400)
        except BadSignature:
            return False
        return True

    async def _login(self, request: Request) -> Response:
        target = _local_target(request.query_params.get("next", "/"))
        if request.method != "POST":
            return self._form(target)
        address, now = request.client.host if request.client else "", time.monotonic()
        wait = self.attempts.wait(address, now)
        if wait:
            return self._form(target, TEXT["wait"].format(seconds=wait), 429, {"Retry-After": str(wait)})
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                return self._form(target, TEXT["wrong"], 413)
        typed = parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0]
        if not hmac.compare_digest(typed.encode(), (self.password or "").encode()):
            self.attempts.failed(address, now)
            return self._form(target, TEXT["wrong"], 401)
        response = RedirectResponse(target, 303)
        value = self.login_signer.sign("in").decode()
        response.set_cookie(
            self.login_cookie, value, LOGIN_DAYS * 86400, httponly=True, samesite="lax", secure=_is_https(request)
        )
        return response

    def _form(
        self, target: str, problem: str = "", status: int = 200, headers: dict[str, str] | None = None
    ) -> Response:
        page = self.page.replace("{{action}}", f"{LOGIN}?next={quote(target, safe='')}")
        page = page.replace("{{problem}}", f'<p class="problem" role="alert">{problem}</p>' if problem else "")
        # No cache may show the form, or a problem with it, a second time.
        return HTMLResponse(page, status, {"Cache-Control": "no-store", "X-Frame-Options": "DENY"} | (headers or {}))

    def _with_owner(self, connection: HTTPConnection, send: Send) -> Send:
        present = connection.cookies.get(self.owner_cookie)
        owner = read_owner(present, self.key)
        if present and owner and cookie_age(present, self.key) < OWNER_DAYS * 86400 / 4:
            return send
        value = signer("owner", self.key).sign(owner).decode() if owner else new_owner(self.key)
        carrier = Response()
        carrier.set_cookie(
            self.owner_cookie, value, OWNER_DAYS * 86400, httponly=True, samesite="lax", secure=_is_https(connection)
        )
        cookies = [pair for pair in carrier.raw_headers if pair[0] == b"set-cookie"]

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *cookies]}
            await send(message)

        return send_with_cookie


def _is_document(connection: HTTPConnection) -> bool:
    # Only the page itself: its many parts are fetched together, and each would bring a different new id.
    return connection.scope.get("method") == "GET" and "text/html" in connection.headers.get("accept", "")


def _is_https(connection: HTTPConnection) -> bool:
    # Behind a tunnel the last hop is plain http; the header can only make the cookie stricter, never looser.
    return connection.url.scheme == "https" or connection.headers.get("x-forwarded-proto", "") == "https"


def _local_target(value: str) -> str:
    """A path of this studio to go on to; anything that a browser might read as another site becomes "/"."""
    plain = unquote(value)
    if not plain.startswith("/") or plain[1:2] in ("/", "\\") or any(ord(letter) < 32 for letter in plain):
        return "/"
    return "/" if plain.startswith((LOGIN, LOGOUT)) else value
