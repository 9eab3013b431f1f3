"""Which network addresses a tool may connect to, so that a page cannot send it into the private network.

A name can lead anywhere, and elsewhere the next time it is asked for, and a page can redirect. So it is
the address itself that is checked, at the one place that every connection passes: where its socket is made.
"""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

GLOBAL_UNICAST = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")
SPECIAL = tuple(
    map(
        ip_network,
        (
            "168.63.129.16/32",  # Azure's metadata and its like, on a public address
            "192.0.0.0/24",  # protocol assignments, Oracle's metadata among them
            "192.88.99.0/24",  # relays into 6to4
        ),
    )
)


def is_public(address: str) -> bool:
    """Whether an IP address is a public one; what is not an address in its usual form is none."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv4Address):
        return parsed.is_global and not parsed.is_multicast and not any(parsed in net for net in SPECIAL)
    inner = _embedded(parsed)
    if inner is not None:
        return is_public(str(inner))
    return parsed.is_global and parsed in GLOBAL_UNICAST


def open_public_socket(address_info: tuple[Any, ...]) -> socket.socket:
    """Make the socket for a connection, if it goes to a public address: aiohttp's `socket_factory`.

    Raises PermissionError (EACCES) for any other.
    """
    family, kind, protocol, _, address = address_info
    if not is_public(str(address[0])):
        raise PermissionError(errno.EACCES, f"{address[0]} is not a public address")
    return socket.socket(family, kind, protocol)


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for, or is a tunnel to."""
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
