"""Calls of other HTTP servers: the addresses that they may go to, and answers, bounded and with their pauses.

Addresses are looked at where a connection is opened: no name can lead elsewhere.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any

from meshwright.core.clock import MAX_ASKED_SECONDS

if TYPE_CHECKING:
    from aiohttp import ClientResponse

_CHUNK_BYTES = 65_536


async def read_bounded(response: ClientResponse, max_bytes: int) -> tuple[bytes, bool]:
    """Read a body, unpacked, up to a size. Returns it, and whether that is all of it."""
    length = response.content_length
    # The length of an encoded body says nothing of its size once it is unpacked.
    if length is not None and length <= max_bytes and "Content-Encoding" not in response.headers:
        return await response.read(), True
    data = bytearray()
    while chunk := await response.content.read(_CHUNK_BYTES):
        data += chunk
        if len(data) > max_bytes:
            return bytes(data[:max_bytes]), False
    return bytes(data), True


def retry_after(
    headers: Mapping[str, str], *, dates: bool = False, maximum: float = MAX_ASKED_SECONDS
) -> float | None:
    """The seconds that a server asks to wait, at most `maximum`; None if it does not say.

    With `dates` an HTTP date counts too, as our clock has it.
    """
    text = (headers.get("Retry-After") or headers.get("retry-after") or "").strip()
    try:
        seconds = float(text)
    except ValueError:
        return _seconds_until(text, maximum) if dates else None
    return min(seconds, maximum) if 0 <= seconds < float("inf") else None


def _seconds_until(date: str, maximum: float) -> float | None:
    """The seconds until an HTTP date, 0 if it has passed; None for any other text."""
    try:
        when = parsedate_to_datetime(date)
    except ValueError:
        return None
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return min(max(0.0, (aware - datetime.now(UTC)).total_seconds()), maximum)


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
