"""Who is at the other end of a connection: this computer, or somebody whom a tunnel or a proxy passed on.

For the pages' door and for the API alike. Knows neither.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

# What tunnels and reverse proxies add to what they pass on; no browser sends any of these by itself.
_PASSED_ON = {
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "x-original-host",
    "x-cluster-client-ip",
}
_PREFIXES = ("x-forwarded-", "cf-", "fly-", "ngrok-", "tailscale-")


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


def passed_on(headers: Iterable[str]) -> bool:
    """Whether any of these header names says that a tunnel or a proxy passed the request on."""
    names = {name.lower() for name in headers}
    return bool(names & _PASSED_ON) or any(name.startswith(_PREFIXES) for name in names)
