"""The events of retention."""

from __future__ import annotations

from meshwright.core.payloads import Fact, Payload, declared


class TasksPruned(Payload, type="tasks.pruned records.pruned"):
    count: Fact[int]
    tasks: list[str]


EVENTS = declared(__name__)
