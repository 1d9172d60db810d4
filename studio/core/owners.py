"""Whose things are: an owner is an opaque string, and what it begins with says what kind of owner it is."""

from __future__ import annotations

LOCAL = "local"  # whoever sits before this computer, while no password and no key tells people apart
KEY = "api-"  # keys of the HTTP API
OF_KEYS = ".keys"  # below the folder of data sets: those that keys sent, a folder for each owner


def private(owner: str) -> bool:
    """Whether this owner shares nothing with others, not even that both asked for the same picture: a key."""
    return owner.startswith(KEY)
