"""Who is in front of the page: the same for everybody at one computer, or a signed cookie, and the key that signs it.

Without a password whoever can open the pages sits at this computer, and is one person in every browser. Behind one, a
cookie keeps a random id per browser, which says nothing about a person, or the name that somebody has chosen to find
their things again in any browser. Knows nothing of passwords (that is `gate`) and nothing of pages.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
import unicodedata
import uuid
from pathlib import Path
from urllib.parse import quote, unquote

import streamlit as st
from itsdangerous import BadSignature, TimestampSigner

from studio.core.owners import LOCAL
from studio.core.settings import settings

OWNER_DAYS = 400  # the longest that browsers keep a cookie
NAMED = "name-"  # how owners begin that have chosen a name
LONGEST_NAME = 40  # characters


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


def new_owner() -> str:
    """The id of a browser that was never here."""
    return uuid.uuid4().hex


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


def named(name: str) -> str:
    """The owner that a name stands for, however it is written: letter case and blanks don't count; "" for no name."""
    plain = " ".join(unicodedata.normalize("NFKC", name).split())[:LONGEST_NAME]
    return NAMED + quote(plain.casefold(), safe="") if plain else ""


def name_of(owner: str) -> str:
    """The name that this owner has chosen; "" for a browser without one."""
    return unquote(owner.removeprefix(NAMED)) if owner.startswith(NAMED) else ""


def with_name(value: str | None, name: str) -> str:
    """What the cookie of a browser says once a name was chosen: who it is from now on, and who it was without one."""
    before = (value or "").partition("~")
    earlier = before[2] if before[0].startswith(NAMED) else before[0]
    return f"{named(name)}~{earlier}" if earlier else named(name)


@st.cache_resource(show_spinner=False)
def _key(home: Path) -> bytes:
    return signing_key(home)


def owner() -> str:
    """The owner id of whoever this script run belongs to.

    Behind a password and without a cookie (a test, a client that keeps none) it is new for each session.
    """
    if "owner" not in st.session_state:
        of_browser, _, nameless = (_cookie() or "").partition("~")
        together = settings().password is None and settings().one_gallery
        st.session_state["owner"] = LOCAL if together else of_browser or uuid.uuid4().hex
        # Whose things are this browser's own, from when there was one gallery a browser, or it had no name yet.
        st.session_state["owner_before"] = of_browser if together else nameless
    return str(st.session_state["owner"])


def before() -> str:
    """Who this browser was before it was `owner`; "" where it was nobody."""
    owner()
    return str(st.session_state.get("owner_before", ""))


def _cookie() -> str | None:
    key = _key(settings().home)
    return read_owner(st.context.cookies.get(cookie_name("owner", key)), key)
