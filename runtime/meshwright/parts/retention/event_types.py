"""The events of retention."""

from __future__ import annotations

from meshwright.component import Fact, Payload
from meshwright.kit import declared


class TasksPruned(Payload, type="tasks.pruned records.pruned"):
    count: Fact[int]
    tasks: list[str]


EVENTS = declared(__name__)
