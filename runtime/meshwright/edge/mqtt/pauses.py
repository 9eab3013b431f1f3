"""How long to wait before the next try: longer each time, and never two of us at the same moment."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from meshwright.edge.mqtt.connection import Connection
from meshwright.edge.mqtt.faults import BrokerAway, BrokerRefuses
from meshwright.errors import HostError

ResultT = TypeVar("ResultT")
FIRST_SECONDS = 0.25
LONGEST_SECONDS = 30.0
FIRST_REFUSED_SECONDS = 4.0  # of a broker that has to be set up otherwise first
LONGEST_REFUSED_SECONDS = 60.0
STEADY_SECONDS = 5.0  # that a connection has to stand to count as a success


class Pauses:
    """The pauses between tries, with full jitter."""

    def __init__(self) -> None:
        self._failures = 0

    def next(self, error: BaseException) -> float:
        """Seconds to wait after one more failure."""
        first, longest = FIRST_SECONDS, LONGEST_SECONDS
        if isinstance(error, BrokerRefuses):
            first, longest = FIRST_REFUSED_SECONDS, LONGEST_REFUSED_SECONDS
        longest = min(longest, first * 2 ** min(self._failures, 10))
        self._failures += 1
        return random.uniform(0, longest)

    def reset(self) -> None:
        """It went well: the next pause is a short one."""
        self._failures = 0


async def patiently(connection: Connection, ask: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """Ask the host until it can answer. Raises BrokerAway when the connection ends meanwhile."""
    pauses = Pauses()
    while True:
        try:
            return await ask()
        except BrokerAway:
            raise
        except HostError as error:  # full, stopping, or its store is away: told by the host itself
            await connection.sleep(pauses.next(error))
