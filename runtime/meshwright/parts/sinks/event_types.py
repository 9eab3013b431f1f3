"""The events of sinks."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.component import Fact, Payload
from meshwright.kit import Document, declared, short


class SinkDelayed(Payload, type="sink.delayed sink.refused", word="sink"):
    """It gets that later, or never."""

    sink: Fact[str]
    seq: Fact[int | None]
    reason: str

    def event_line(self, event: Document) -> Sequence[object]:
        if event["event_type"] == "sink.delayed":
            return f"{self.sink} gets nothing now, and all of it later", short(self.reason)
        return f"{self.sink} does not take event {self.seq}", short(self.reason)


EVENTS = declared(__name__)
