"""Which addresses are this machine's alone, and under which names a page may reach the server.

A page from elsewhere cannot read what this server answers, unless its author lets the name of that page point to 127.0.0.1 after
it has been loaded (DNS rebinding). The Host header then still has that name, and is refused.
"""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def allowed_hosts(host: str) -> frozenset[str] | None:
    """Return the names by which a server bound to ``host`` may be called; None: any.

    A server for others may have any name in their network; what keeps strangers out there is the token, which is always needed.
    """
    if not is_loopback(host):
        return None
    return frozenset({"localhost", "127.0.0.1", "::1", host.lower()})


def host_name(header: str) -> str:
    """Return the name in a Host header, without port; empty where there is none."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].rstrip(".")
