"""The calls of the shop that all sides make, by the standard library alone."""

from __future__ import annotations

import asyncio
import os
import urllib.request

TASK = "Refund order 4471 to its customer, and notify her."
INSTRUCTIONS = "You refund orders. If a refund fails, see to it that the customer gets it."


def call_shop(path: str, method: str = "POST") -> str:
    """Call the shop. Raises OSError where no answer comes."""
    request = urllib.request.Request(f"{os.environ['SHOP_URL']}/{path}", method=method, data=b"")
    with urllib.request.urlopen(request, timeout=600) as response:
        return response.read().decode()


async def perform(name: str, key: str = "") -> str:
    """Do something at the shop. Raises OSError where no answer comes."""
    try:
        return await asyncio.to_thread(call_shop, f"{name}?key={key}")
    except OSError as error:
        raise OSError(f"{name} failed: {error or 'the connection was lost'}") from error


async def act(name: str, key: str = "") -> str:
    """Do something at the shop; a failure is reported as one."""
    try:
        return await perform(name, key)
    except OSError as error:
        return str(error)


async def has_happened(key: str) -> bool:
    """Whether the shop has done what was asked with this key."""
    return await asyncio.to_thread(call_shop, f"keys/{key}", "GET") == "True"
