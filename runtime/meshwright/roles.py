"""Which apps of a mesh a process runs, and what lives as long as it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

EVERYWHERE = "*"
"""The place of actors that live in each process of the mesh."""
ORCHESTRATION = "orchestrator"
"""The app in which tasks are orchestrated, and what the whole mesh asks lives."""
FRONT = "event-logger"
"""The app that keeps the event log and serves clients."""


class Lifecycle(Protocol):
    """Something that lives as long as the mesh: started after the runtime, stopped before it."""

    async def start(self) -> None:
        """Begin."""
        ...

    async def stop(self) -> None:
        """End. Idempotent, and called also where the start failed."""
        ...


class Member(Lifecycle, Protocol):
    """A component, as the mesh knows it."""

    async def begin(self) -> None:
        """Run open work, and send waiting messages; the mesh has started."""
        ...

    async def drain(self, seconds: float) -> None:
        """Take nothing new, and let what runs end; after that time leave the rest for the next start."""
        ...


@dataclass(frozen=True, slots=True)
class ProcessRole:
    """Which apps of the mesh this process runs, None for all of them, and whether it is the front."""

    apps: frozenset[str] | None = None
    is_front: bool = True

    def runs(self, app: str) -> bool:
        """Whether what lives in an app lives in this process."""
        if app == FRONT:
            return self.is_front
        return app == EVERYWHERE or self.apps is None or app in self.apps
