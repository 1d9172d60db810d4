"""Who is in front of the page: a signed cookie with a random id per browser, and the key that signs it.

The id says nothing about a person; it only keeps one browser's pictures apart from another's. Knows nothing of
passwords (that is `gate`) and nothing of pages.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
import uuid
from pathlib import Path

import streamlit as st
from itsdangerous import BadSignature, TimestampSigner

from studio.core.settings import settings

OWNER_DAYS = 400  # the longest that browsers keep a cookie


def signing_key(home: Path) -> bytes:
    """The studio's own random key, 32 bytes in `home/secret.key`, made on first use and readable by its user only.

    Raises OSError when `home` can't be written, and ValueError when the file is not a key.
    """
    path = home / "secret.key"
    home.mkdir(parents=True, exist_ok=True)
    # Written aside and linked into place: of two servers that start together one wins, and nobody reads half a key.
    if not path.exists():
        draft = path.with_name(f"secret.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass  # the other server was first, and its key serves both
        except OSError:  # a file system without hard links
            os.replace(draft, path)
        draft.unlink(missing_ok=True)
    key = path.read_bytes()
    if len(key) != 32:
        raise ValueError(f"{path} is damaged: delete it and start the studio again (everybody has to log in anew).")
    return key


def cookie_name(purpose: str, key: bytes) -> str:
    """A name per studio: cookies don't know ports, and two studios on one computer mustn't overwrite each other's."""
    return f"studio_{purpose}_{hashlib.sha256(key).hexdigest()[:8]}"


def signer(purpose: str, key: bytes, context: str = "") -> TimestampSigner:
    """Signs for one purpose and context only: a cookie of one kind is never good for another."""
    return TimestampSigner(key, salt=f"studio.{purpose}.{context}", digest_method=hashlib.sha256)


def new_owner(key: bytes) -> str:
    """The signed cookie value of a browser that was never here."""
    return signer("owner", key).sign(uuid.uuid4().hex).decode()


def read_owner(cookie: str | None, key: bytes) -> str | None:
    """The id in a cookie, or None where there is none or it wasn't signed here."""
    if not cookie:
        return None
    try:
        return signer("owner", key).unsign(cookie, max_age=OWNER_DAYS * 86400).decode()
    except BadSignature:
        return None


def cookie_age(cookie: str, key: bytes) -> float:
    """Seconds since a (valid) owner cookie was signed, so that it can be renewed before it ends."""
    _, signed = signer("owner", key).unsign(cookie, return_timestamp=True)
    return time.time() - signed.timestamp()


@st.cache_resource(show_spinner=False)
def _key(home: Path) -> bytes:
    return signing_key(home)


def owner() -> str:
    """The owner id of the browser that this script run belongs to.

    Without a cookie (a test, a client that keeps none) it is new for each session.
    """
    if "owner" not in st.session_state:
        key = _key(settings().home)
        cookie = st.context.cookies.get(cookie_name("owner", key))
        st.session_state["owner"] = read_owner(cookie, key) or uuid.uuid4().hex
    return str(st.session_state["owner"])
