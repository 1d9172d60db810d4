"""Who asks: keys, and the owners that they stand for."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from studio.core.errors import BadInput
from studio.core.owners import KEY, LOCAL
from studio.core.settings import Settings
from studio.service import Studio, owner_of

MINUTE = 60.0
GUESSES = 1000  # wrong keys a minute, of all strangers together, before new ones have to wait; they are random and long
GUESSED = "There were too many wrong keys in the last minute; try again in a moment."
OFTEN = "This key may send {limit} requests a minute; try again in a moment."
bearer = HTTPBearer(auto_error=False)


@dataclass(frozen=True)
class Caller:
    """Who sent a request. `owner` is whose jobs, pictures and runs they see; `keyed`: a key said so."""

    owner: str = LOCAL
    keyed: bool = False
    per_minute: int = 0  # requests that are answered; 0: any number


class TooOften(Exception):
    """The sentence, and in how many seconds it can be tried again."""

    def __init__(self, said: str, wait: float) -> None:
        super().__init__(said)
        self.wait = wait


class Rates:
    """How often something was done in the last minute, by whom (a sliding window). Thread-safe; of this process."""

    def __init__(self) -> None:
        self._moments: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def wait(self, who: str, limit: int) -> float:
        """Seconds until it may be done again when `limit` times a minute are allowed; 0 for now."""
        with self._lock:
            moments, now = self._moments.get(who, deque()), time.monotonic()
            while moments and moments[0] <= now - MINUTE:
                moments.popleft()
            return moments[-limit] + MINUTE - now if len(moments) >= limit else 0.0

    def count(self, who: str) -> None:
        with self._lock:
            self._moments.setdefault(who, deque()).append(time.monotonic())


class Access:
    """Which key is whose. Raises `BadInput` for keys in the settings that can be guessed."""

    def __init__(self, settings: Settings, studio: Studio) -> None:
        self._keys = api_keys(settings)
        self._named = studio.keys  # `python -m studio keys add`
        self._per_minute = settings.key_requests
        self._known: set[str] = set()  # digests of keys that were good: they don't wait behind guesses
        self._guesses = Rates()
        self._rates = Rates()

    @property
    def open(self) -> bool:
        """Whether nobody is asked for a key: then this machine alone is answered."""
        return not self._keys and not self._named.any()

    def caller(self, authorization: str, basic: bool = False) -> Caller | None:
        """Whose key an `Authorization` header brings; None for no valid one. Every key is compared in constant time.

        Raises `TooOften` for an unknown one after many wrong ones.

        `basic`: also as the password of a login, as programs for A1111's web UI send it.
        """
        if self.open:
            return Caller()
        scheme, _, offered = authorization.partition(" ")
        if basic and scheme.lower() == "basic":
            offered = _password(offered)
        elif scheme.lower() != "bearer":
            return None
        given = offered.strip().encode(errors="surrogateescape")
        digest = hashlib.sha256(given).hexdigest()
        if given and digest not in self._known and (wait := self._guesses.wait("", GUESSES)):
            raise TooOften(GUESSED, wait)
        found = [key for key in self._keys if hmac.compare_digest(key.encode(), given)]
        named = self._named.find(offered.strip()) if not found else None
        if not found and named is None:
            self._known.discard(digest)
            self._guesses.count("")
            return None
        self._known.add(digest)
        if named is None:
            return Caller(KEY + hashlib.sha256(found[0].encode()).hexdigest()[:24], True, self._per_minute)
        limit = self._per_minute if named.per_minute is None else named.per_minute
        return Caller(owner_of(named.name), True, limit)

    def admit(self, caller: Caller) -> None:
        """Count a request. Raises `TooOften` for more than this caller may send."""
        if caller.per_minute:
            if wait := self._rates.wait(caller.owner, caller.per_minute):
                raise TooOften(OFTEN.format(limit=caller.per_minute), wait)
            self._rates.count(caller.owner)


def _password(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def api_keys(settings: Settings) -> tuple[str, ...]:
    """The keys that are accepted; none: this machine only. Raises `BadInput` for keys that can be guessed."""
    if settings.api_key is None:
        return ()
    keys = tuple(key.strip() for key in settings.api_key.get_secret_value().split(",") if key.strip())
    if not keys or any(len(key) < 16 for key in keys):
        raise BadInput("STUDIO_API_KEY needs at least 16 characters for each key; `openssl rand -hex 24` makes one.")
    return keys


def _caller(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> Caller:
    caller: Caller = request.state.caller  # `middleware.KeyFirst` has looked at the key; `given` is for the OpenAPI
    return caller


def _owner(caller: Annotated[Caller, Depends(_caller)]) -> str:
    return caller.owner


def _run_owner(caller: Annotated[Caller, Depends(_caller)]) -> str | None:
    """Whose training runs are meant: the key's, or all where there is no key, and so nobody but this machine."""
    return caller.owner if caller.keyed else None


def _studio(request: Request) -> Studio:
    studio: Studio = request.app.state.studio
    return studio


def _once(
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            description="Your own name for this request: sent again under it, it is the same job.",
        ),
    ] = None,
) -> str:
    return key or ""


Owner = Annotated[str, Depends(_owner)]
Once = Annotated[str, Depends(_once)]
RunOwner = Annotated[str | None, Depends(_run_owner)]
TheStudio = Annotated[Studio, Depends(_studio)]
