"""What goes wrong at the edge, told at a bounded rate: as events of the mesh, and to clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from meshwright.edge.mqtt.packets import Publication

Tell = Callable[[str, dict[str, Any]], object]
REFUSED = "edge.refused"
REFUSED_SECONDS = 1.0
DROPPED_SECONDS = 10.0
MAX_CHARS = 256  # of a topic, or of what is said of a problem


class Tally:
    """Tells of what happens again and again: at once, then every so many seconds, with how often it did."""

    def __init__(self, seconds: float, tell: Callable[[dict[str, Any]], object]) -> None:
        self._seconds = seconds
        self._tell = tell
        self._count = 0
        self._last: dict[str, Any] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, **known: Any) -> None:
        """It happened."""
        self._count += 1
        self._last = known
        if self._timer is None:
            self.say()

    def say(self) -> None:
        """Tell what is not told yet."""
        self.close()
        if self._count:
            told = {**self._last, "count": self._count}
            self._count = 0
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self.say)
            self._tell(told)

    def close(self) -> None:
        """Tell nothing more by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Notices:
    """The edge's own events: `edge.connected`, `edge.disconnected`, `edge.refused` and `edge.dropped`."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._refused = {
            answered: Tally(REFUSED_SECONDS, partial(tell, REFUSED)) for answered in (True, False)
        }
        self._dropped = Tally(DROPPED_SECONDS, partial(tell, "edge.dropped"))

    def connected(self, **known: Any) -> None:
        """The broker has let us in."""
        self._tell("edge.connected", known)

    def disconnected(self, **known: Any) -> None:
        """The broker is away."""
        self._tell("edge.disconnected", known)

    def refused(self, problem: dict[str, Any], topic: str, *, answered: bool) -> None:
        """A client's message was refused; `answered` says whether the client can hear of it.

        Of what the client wrote no more than a beginning is told.
        """
        told = {
            name: value[:MAX_CHARS] if isinstance(value, str) else value for name, value in problem.items()
        }
        told.pop("errors", None)
        self._refused[answered].add(topic=topic[:MAX_CHARS], answered=answered, problem=told)

    def dropped(self, **known: Any) -> None:
        """A message of ours will not reach anybody."""
        self._dropped.add(**known)

    def watch(self, publication: Publication, answer: asyncio.Future[str]) -> None:
        """Tell if the broker does not take a publication; not if its connection ends first."""

        def look(answer: asyncio.Future[str]) -> None:
            if not answer.cancelled() and answer.exception() is None and answer.result():
                self.dropped(topic=publication.topic, reason=answer.result())

        answer.add_done_callback(look)

    def close(self) -> None:
        """Tell what is left."""
        for tally in (*self._refused.values(), self._dropped):
            tally.say()
            tally.close()
