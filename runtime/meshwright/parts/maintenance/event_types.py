"""The events of maintenance."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.component import Fact, Payload
from meshwright.kit import Document, declared, local_time


class MeshHeld(Payload, type="mesh.held", word="held"):
    made_at: Fact[str] = ""
    open_tasks: Fact[int | None] = None
    last_seq: Fact[int | None] = None

    def event_line(self, event: Document) -> Sequence[object]:
        if not self.made_at:
            return ("no task begins before: mesh release",)
        return (
            f"the store was restored from a backup of {local_time(self.made_at)}: "
            f"its open tasks ({self.open_tasks or 0:,}) and new ones begin with: mesh release",
        )


EVENTS = declared(__name__)
