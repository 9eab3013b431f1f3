"""A request on its way to the server: its operations, and how its waits and streams end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from meshwright.component import Operations

Ending = Callable[[], AbstractContextManager[Collection[asyncio.Future[Any]]]]
EXCHANGE = "meshwright.mcp"
"""The key of the exchange in the scope of a request."""


class Exchange(NamedTuple):
    """A request of a caller."""

    operations: Operations
    """The operations of its caller."""
    ending: Ending
    """Begins a wait, with futures of which one is done once it need not go on."""
    watched: Ending
    """Begins a stream, with the same futures."""
    is_stopping: Callable[[], bool]
    """Whether the server is stopping: each wait ends at once from then on."""
