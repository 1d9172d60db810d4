"""Who asks: keys, and the owners that they stand for."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from studio.core.errors import BadInput
from studio.core.owners import KEY, LOCAL
from studio.core.settings import Settings
from studio.service import Studio

bearer = HTTPBearer(auto_error=False)


@dataclass(frozen=True)
class Caller:
    """Who sent a request. `owner` is whose jobs, pictures and runs they see; `keyed`: a key said so."""

    owner: str = LOCAL
    keyed: bool = False


class Access:
    """Which key is whose. Raises `BadInput` for keys in the settings that can be guessed."""

    def __init__(self, settings: Settings, studio: Studio) -> None:
        self._keys = api_keys(settings)
        self._named = studio.keys  # `python -m studio keys add`

    @property
    def open(self) -> bool:
        """Whether nobody is asked for a key: then this machine alone is answered."""
        return not self._keys and not self._named.any()

    def caller(self, authorization: str, basic: bool = False) -> Caller | None:
        """Whose key an `Authorization` header brings; None for no valid one. Every key is compared in constant time.

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
        found = [key for key in self._keys if hmac.compare_digest(key.encode(), given)]
        if found:
            return Caller(KEY + hashlib.sha256(found[0].encode()).hexdigest()[:24], True)
        owner = self._named.owner(offered.strip())
        return None if owner is None else Caller(owner, True)


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


Owner = Annotated[str, Depends(_owner)]
RunOwner = Annotated[str | None, Depends(_run_owner)]
TheStudio = Annotated[Studio, Depends(_studio)]
