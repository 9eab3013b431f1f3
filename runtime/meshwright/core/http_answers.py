"""Answers of other HTTP servers, as all clients of the mesh read them: bounded, and with their pauses."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

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
