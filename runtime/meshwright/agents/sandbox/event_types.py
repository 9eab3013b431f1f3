"""The events of the sandbox."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.core.display import Document, short
from meshwright.core.payloads import Fact, Payload, declared


class HostRefused(Payload, type="sandbox.host_refused", word="refused"):
    host: Fact[str]
    port: Fact[int]
    reason: str

    def event_line(self, event: Document) -> Sequence[object]:
        return f"{self.host}:{self.port}", short(self.reason)


EVENTS = declared(__name__)
