"""The events of evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshwright.component import Fact, Payload
from meshwright.kit import Document, declared, dollars


class EvaluationStarted(Payload, type="evaluation.started"):
    evaluation_id: Fact[str]
    items: Fact[int]
    requested_by: Fact[str]

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"{self.evaluation_id}: {self.items} items by {self.requested_by}",)


class EvaluationEnded(Payload, type="evaluation.ended"):
    evaluation_id: Fact[str]
    items: Fact[int]
    failed: Fact[int]
    cost_usd: Fact[Any]

    def event_line(self, event: Document) -> Sequence[object]:
        failed = self.failed and f"{self.failed} failed"
        return f"{self.evaluation_id} is done: {self.items} items", failed, dollars(self.cost_usd)


EVENTS = declared(__name__)
