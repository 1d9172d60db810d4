"""The front door: an ASGI middleware before everything that Streamlit serves (pages, WebSocket, uploads, media).

Without a password the studio answers this computer only: by the address it is bound to (checked at start), by the
address a connection came in on, by the name the browser asked for (so a foreign web page that points its own name at
127.0.0.1 finds the door shut), and by no header that tunnels and proxies add (so does a tunnel that rewrites the name).
With one, nothing but the login page, its fonts and the health check is given out before the password was typed. Gives
each browser its owner cookie. Knows nothing of the pages.

Guesses at the password are slowed down and nobody is locked out: see `Line`. Addresses don't count, because behind a
tunnel or a proxy everybody has the same one, and the header that names another can be made up.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import secrets
import sys
import time
from html import escape
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from itsdangerous import BadSignature
from pydantic import ValidationError
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import config

from studio.core.i18n import texts
from studio.core.net import is_loopback, passed_on
from studio.core.settings import Settings, settings
from studio.interfaces.web.identity import (
    OWNER_DAYS,
    cookie_age,
    cookie_name,
    name_of,
    named,
    new_owner,
    read_owner,
    signer,
    signing_key,
    with_name,
)
from studio.interfaces.web.logins import EndedLogins

LOGIN, LOGOUT, NAME = "/studio-login", "/studio-logout", "/studio-name"
HEALTH = "/_stcore/health"
HOME = "/generate"  # the first page: Streamlit gives it the address "/" and doesn't know it by its name
LOGIN_DAYS, KNOWN_DAYS = 30, 365
MAX_BODY = 4096  # bytes of a login form
PAUSE = 2.0  # seconds between two answers to guesses: 43,200 a day, from everybody together
FREE_TRIES = 5  # that are answered at once after a quiet time
LONGEST_WAIT = 20.0  # seconds that a try waits for its turn; one that would wait longer is sent away

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
    "wait": "Many passwords are being tried just now. Try again in {seconds} seconds.",
    "locked": "Log in first.",
    "login": "Log in",
    "private": "This studio is private.",
    "come_in": "Come in",
    "your_name": "Your name",
    "name_lead": "With a name you find your pictures again in every browser: by the password and this name.",
    "name_save": "Use this name",
    "no_name": "Type a name.",
    "elsewhere": "Choose your name on this studio's own page.",
}
TEXT = texts(TEXT)
PASSWORD_FIELDS = """<label for="password">Password</label>
    <input id="password" name="password" type="password" autocomplete="current-password" required autofocus>
    <label for="name">Your name (optional)</label>
    <input id="name" name="name" maxlength="40" autocomplete="nickname">
    <small>With a name you find your pictures again in every browser.</small>"""
NAME_FIELDS = """<label for="name">Your name</label>
    <input id="name" name="name" maxlength="40" autocomplete="nickname" required autofocus value="{name}">"""


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
    password = current.password.get_secret_value() if current.password else None
    return Middleware(Gate, key=key, password=password, home=current.home)


def check(current: Settings, address: str | None) -> None:
    """Raise ValueError with one sentence when the studio would be open to people who don't know a password."""
    if current.password is not None and not current.password.get_secret_value().strip():
        raise ValueError(TEXT["empty"])
    if current.password is None and not is_loopback(address):
        raise ValueError(TEXT["beyond"].format(address=address or "every address"))


def _refuse(sentence: str) -> SystemExit:
    print(sentence, file=sys.stderr, flush=True)
    return SystemExit(2)


class LoginThrottle:
    """Tries at the password wait for their turn: the first few none, then one each `PAUSE` seconds.

    Taking a place is what counts a try, before its answer is known and right ones too, so that tries which come at the
    same moment don't share one place. Strangers share a line. A browser that knew the password once has a line of its
    own (OWASP's device cookies), so that however many strangers guess, they don't keep the owner out.
    """

    def __init__(self) -> None:
        self._free = 0.0  # when everybody who is in the line has had their turn

    def join(self, now: float) -> float | None:
        """Seconds until this try's turn; None when the line is too long, and then no place is taken."""
        wait = self.wait(now)
        if wait > LONGEST_WAIT:
            return None
        self._free = max(self._free, now) + PAUSE
        return wait

    def wait(self, now: float) -> float:
        """Seconds that a try would wait which came now."""
        return max(0.0, self._free - now - (FREE_TRIES - 1) * PAUSE)


class Gate:
    """Lets through who may come in, and hands each browser its owner cookie."""

    def __init__(self, app: ASGIApp, key: bytes, password: str | None, home: Path | None = None) -> None:
        """`home`: where it is written down that somebody logged out."""
        self.app = app
        self.key = key
        self.password = password
        # One of strangers, and one for each browser that has been in
        self.throttles: dict[str, LoginThrottle] = {"": LoginThrottle()}
        self.owner_cookie = cookie_name("owner", key)
        self.login_cookie = cookie_name("login", key)
        self.known_cookie = cookie_name("known", key)
        # A new password ends every login that was made with the old one.
        context = hashlib.sha256((password or "").encode()).hexdigest()
        self.login_signer = signer("login", key, context)
        self.known_signer = signer("known", key, context)
        self.ended = EndedLogins(None if home is None else home / "ended_logins.json")
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
            self.ended.end(connection.cookies.get(self.login_cookie, ""), LOGIN_DAYS)
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
        elif path == NAME and scope["type"] == "http":
            await (await self._name(Request(scope, receive)))(scope, receive, send)
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
        if passed_on(connection.headers.keys()):
            return False
        arrived = connection.scope.get("server")
        if arrived and arrived[1] is not None and not is_loopback(arrived[0]):
            return False
        return is_loopback(connection.url.hostname)

    def _logged_in(self, connection: HTTPConnection) -> bool:
        cookie = connection.cookies.get(self.login_cookie, "")
        try:
            self.login_signer.unsign(cookie, max_age=LOGIN_DAYS * 86400)
        except BadSignature:
            return False
        return cookie not in self.ended

    async def _login(self, request: Request) -> Response:
        target = _local_target(request.query_params.get("next", "/"))
        if request.method != "POST":
            return self._form(target)
        sent = await _sent(request)
        if sent is None:
            return self._form(target, TEXT["wrong"], 413)
        typed = sent.get("password", [""])[0]
        # Only now, with all of it here: else who holds back the end of many forms had as many tries for one place.
        known = self._known(request)
        throttle = self.throttles.setdefault(known, LoginThrottle())
        turn = throttle.join(time.monotonic())
        if turn is None:
            wait = str(max(1, math.ceil(throttle.wait(time.monotonic()) - LONGEST_WAIT)))
            return self._form(target, TEXT["wait"].format(seconds=wait), 429, {"Retry-After": wait})
        if turn:
            await asyncio.sleep(turn)
        if not hmac.compare_digest(typed.encode(), (self.password or "").encode()):
            return self._form(target, TEXT["wrong"], 401)
        response = RedirectResponse(target, 303)
        for name, value, days in (
            (self.login_cookie, self.login_signer.sign(secrets.token_hex(8)), LOGIN_DAYS),
            (self.known_cookie, self.known_signer.sign(known or secrets.token_hex(8)), KNOWN_DAYS),
        ):
            response.set_cookie(
                name, value.decode(), days * 86400, httponly=True, samesite="lax", secure=_is_https(request)
            )
        if named(name := sent.get("name", [""])[0]):
            self._set_owner(response, request, with_name(self._owner(request), name))
        return response

    async def _name(self, request: Request) -> Response:
        """Where somebody who is in chooses a name, or another one."""
        if request.method != "POST":
            return self._name_form(request)
        origin = request.headers.get("origin")
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin" or (
            origin is not None and urlsplit(origin).netloc != request.headers.get("host")
        ):  # a page from elsewhere could put its own visitor's name here, and see what is made under it
            return PlainTextResponse(TEXT["elsewhere"], 403)
        name = ((await _sent(request)) or {}).get("name", [""])[0]
        if not named(name):
            return self._name_form(request, TEXT["no_name"], 422)
        response = RedirectResponse("/gallery", 303)
        self._set_owner(response, request, with_name(self._owner(request), name))
        return response

    def _name_form(self, request: Request, problem: str = "", status: int = 200) -> Response:
        name = name_of((self._owner(request) or "").partition("~")[0])
        fields = NAME_FIELDS.format(name=escape(name))
        return self._filled(TEXT["your_name"], TEXT["name_lead"], NAME, fields, TEXT["name_save"], problem, status)

    def _owner(self, connection: HTTPConnection) -> str | None:
        return read_owner(connection.cookies.get(self.owner_cookie), self.key)

    def _set_owner(self, response: Response, connection: HTTPConnection, owner: str) -> None:
        value = signer("owner", self.key).sign(owner).decode()
        secure = _is_https(connection)
        response.set_cookie(self.owner_cookie, value, OWNER_DAYS * 86400, httponly=True, samesite="lax", secure=secure)

    def _known(self, request: Request) -> str:
        """The id of a browser that has typed the right password before; "" for everybody else."""
        try:
            signed = request.cookies.get(self.known_cookie, "")
            return self.known_signer.unsign(signed, max_age=KNOWN_DAYS * 86400).decode()
        except BadSignature:
            return ""

    def _form(
        self, target: str, problem: str = "", status: int = 200, headers: dict[str, str] | None = None
    ) -> Response:
        action = f"{LOGIN}?next={quote(target, safe='')}"
        return self._filled(
            TEXT["login"], TEXT["private"], action, PASSWORD_FIELDS, TEXT["come_in"], problem, status, headers
        )

    def _filled(
        self, title: str, lead: str, action: str, fields: str, button: str, problem: str, status: int,
        headers: dict[str, str] | None = None,
    ) -> Response:  # fmt: skip
        said = f'<p class="problem" role="alert">{problem}</p>' if problem else ""
        filled = {"title": title, "lead": lead, "action": action, "fields": fields, "button": button, "problem": said}
        page = self.page
        for name, value in filled.items():
            page = page.replace("{{" + name + "}}", value)
        # No cache may show the form, or a problem with it, a second time.
        return HTMLResponse(page, status, {"Cache-Control": "no-store", "X-Frame-Options": "DENY"} | (headers or {}))

    def _with_owner(self, connection: HTTPConnection, send: Send) -> Send:
        present = connection.cookies.get(self.owner_cookie)
        owner = read_owner(present, self.key)
        if present and owner and cookie_age(present, self.key) < OWNER_DAYS * 86400 / 4:
            return send
        carrier = Response()
        self._set_owner(carrier, connection, owner or new_owner())
        cookies = [pair for pair in carrier.raw_headers if pair[0] == b"set-cookie"]

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *cookies]}
            await send(message)

        return send_with_cookie


async def _sent(request: Request) -> dict[str, list[str]] | None:
    """What a form says; None for one that is longer than any of ours."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            return None
    return parse_qs(body.decode("utf-8", "replace"))


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
    return "/" if plain.startswith((LOGIN, LOGOUT, NAME)) else value
