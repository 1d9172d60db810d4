"""What the API writes about its work: a line for each request and for whatever else is said, JSON or plain.

Every line knows the request that it belongs to (`request`, also told to the client as `X-Request-ID`). Prompts, queries
and bodies are in none, and what looks like a secret is taken out of all, tracebacks too.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Iterable
from contextvars import ContextVar

from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.core.settings import Settings

HEADER = "X-Request-ID"
SECRET = "[secret]"
OURS = re.compile(r"[A-Za-z0-9._-]{1,64}")  # ids of others that are taken over: a proxy has given the request one
_PATTERNS = re.compile(
    r"(?i:(?<=bearer )|(?<=basic ))[A-Za-z0-9._~+/=-]{6,}"  # Authorization, as it may stand in a traceback
    r"|studio_[A-Za-z0-9_-]{20,}|sk-ant-[A-Za-z0-9_-]{10,}|hf_[A-Za-z0-9]{20,}"
)
QUIET = ("/health", "/ready", "/v1/health", "/v1/ready")  # asked every few seconds by whoever watches the server

log = logging.getLogger("studio.api")
request_id: ContextVar[str] = ContextVar("request_id", default="")


def secrets_of(settings: Settings) -> list[str]:
    """Every secret of the settings, the longest first."""
    said = [value.get_secret_value() for _, value in settings if isinstance(value, SecretStr)]
    apart = {part.strip() for value in said for part in (value, *value.split(","))}
    return sorted((part for part in apart if len(part) >= 6), key=len, reverse=True)


class Lines(logging.Formatter):
    """One line for each record: JSON, or words with the same facts behind them."""

    def __init__(self, secrets: Iterable[str] = (), as_json: bool = True) -> None:
        super().__init__()
        self._json = as_json
        known = "|".join(re.escape(secret) for secret in secrets)
        self._secret = re.compile(f"{known}|{_PATTERNS.pattern}" if known else _PATTERNS.pattern)

    def format(self, record: logging.LogRecord) -> str:
        facts = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **({"request": request_id.get()} if request_id.get() else {}),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        clean = {name: self._secret.sub(SECRET, value) if isinstance(value, str) else value
                 for name, value in facts.items()}  # fmt: skip
        if self._json:
            return json.dumps(clean)  # ASCII: no control characters, no line but this one
        head = " ".join(str(clean.pop(name)) for name in ("time", "level", "message"))
        traceback = clean.pop("traceback", "")
        said = " ".join(f"{name}={json.dumps(value)}" for name, value in clean.items() if name != "logger")
        return "\n".join(filter(None, (f"{_printable(head)} {said}".rstrip(), traceback)))


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def begin(settings: Settings) -> None:
    """Send everything that this process says to standard error, as `Settings.log_format` has it."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(secrets_of(settings), as_json))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # `Requests` says more
    logging.getLogger("httpx").setLevel(logging.WARNING)


class Requests:
    """Gives every request its id, and says how it ended: method, path without its query, status, milliseconds."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        offered = Headers(scope=scope).get(HEADER, "")
        id = offered if OURS.fullmatch(offered) else uuid.uuid4().hex[:16]
        request_id.set(id)  # of this task and the threads that work for it
        started, status = time.monotonic(), 500

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = id
            await send(message)

        try:
            await self.app(scope, receive, told)
        finally:
            caller = scope.get("state", {}).get("caller")
            facts = {
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status,
                "ms": round((time.monotonic() - started) * 1000, 1),
                **({"owner": caller.owner} if caller is not None else {}),
            }
            level = logging.DEBUG if scope["path"] in QUIET and status < 400 else logging.INFO
            log.log(level, "%s %s %s", facts["method"], facts["path"], status, extra={"facts": facts})
