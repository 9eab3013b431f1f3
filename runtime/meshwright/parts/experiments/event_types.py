"""The events of experiments."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.component import Fact, Payload
from meshwright.kit import Document, declared, short


class ExperimentPayload(Payload, word="experiment"):
    """Base of the payloads of events of an experiment."""

    experiment_id: Fact[str]
    name: Fact[str]
    agent_id: Fact[str]


class ExperimentCreated(ExperimentPayload, type="experiment.created"):
    variants: Fact[list[str]]
    unit: Fact[str]
    metric: Fact[str]

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"{self.name} tries {', '.join(self.variants)} on {self.agent_id}",)


class ExperimentStarted(ExperimentPayload, type="experiment.started"):
    runs_over: Fact[str]

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"{self.name} runs over {self.runs_over}",)


class ExperimentStopped(
    ExperimentPayload,
    type="experiment.stopped",
    listed="experiment_id, name, agent_id, stopped_by, action, variant, metric, reason",
):
    action: Fact[str] = ""
    reason: Fact[str] = ""
    stopped_by: Fact[str]
    variant: Fact[str] = ""
    metric: Fact[str] = ""

    def event_line(self, event: Document) -> Sequence[object]:
        how = "is rolled back" if self.action == "rollback" else "is stopped"
        by = f" by {self.stopped_by}" if self.stopped_by else ""
        return f"{self.name} on {self.agent_id} {how}{by}", short(self.reason)


class ExperimentSeen(ExperimentPayload, type="experiment.seen"):
    seen_by: Fact[str]

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"{self.name} was seen by {self.seen_by}",)


EVENTS = declared(__name__)
