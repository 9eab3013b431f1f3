"""Which addresses connections may go to, looked at where each is opened: no name can lead elsewhere."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_SPECIAL = (
    ip_network("168.63.129.16/32"),  # Azure's metadata and its like, on a public address
    ip_network("192.0.0.0/24"),  # protocol assignments, Oracle's metadata among them
    ip_network("192.88.99.0/24"),  # relays into 6to4
)
_METADATA = (
    *(ip_network("169.254.0.0/16"), ip_network("fe80::/10"), ip_network("fd00:ec2::/32")),
    *(ip_network("fd20:ce::254/128"), ip_network("fd00:c1::a9fe:a9fe/128")),
    *(ip_network("100.100.100.200/32"), *_SPECIAL[:2]),
)


def is_public(address: str) -> bool:
    """Whether a text is a public IP address in its usual form."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv4Address):
        return parsed.is_global and not parsed.is_multicast and not any(parsed in net for net in _SPECIAL)
    inner = _embedded(parsed)
    if inner is not None:
        return is_public(str(inner))
    return parsed.is_global and parsed in _GLOBAL_UNICAST


def is_metadata(address: str) -> bool:
    """Whether an address is where clouds have their metadata services: the link-local ones, and some more."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    inner = _embedded(parsed) if isinstance(parsed, IPv6Address) else None
    return any((inner or parsed) in network for network in _METADATA)


def open_public_socket(
    address_info: tuple[Any, ...], *, allowed: Callable[[str], bool] | None = None
) -> socket.socket:
    """Make the socket for a connection, if it goes to a public address: aiohttp's `socket_factory`.

    `allowed` tests the address in place of `is_public`. Raises PermissionError (EACCES) for a refused one.
    """
    family, kind, protocol, _, address = address_info
    if not (allowed or is_public)(str(address[0])):
        raise PermissionError(errno.EACCES, f"{address[0]} is not a public address")
    return socket.socket(family, kind, protocol)


def open_model_socket(address_info: tuple[Any, ...]) -> socket.socket:
    """Make the socket for a connection to a model, which may be anywhere but at a cloud's metadata service.

    Raises PermissionError (EACCES).
    """
    return open_public_socket(address_info, allowed=lambda address: not is_metadata(address))


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for, or is a tunnel to."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
