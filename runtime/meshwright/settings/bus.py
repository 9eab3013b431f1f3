"""The settings of the bus: which programs may publish tasks on topics of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import StringConstraints, model_validator

from meshwright.core.messages import Identifier
from meshwright.settings.forms import Table

_Topic = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)*$", max_length=200)]


class BusPublisher(Table):
    """One of [bus.publishers.NAME]: whoever may publish on its topic makes tasks, `requested_by` bus:NAME."""

    topic: _Topic = "tasks"
    """The topic on which it publishes tasks as CloudEvents. Whoever may publish there counts as this one."""
    receipts: _Topic = "task-receipts"
    """The topic on which receipts and refusals are published."""
    results: _Topic = "task-results"
    """The topic on which the outcomes of its tasks are published."""
    tenant: Identifier = "default"
    """The tenant that its tasks belong to."""


class BusSettings(Table):
    """[bus]: programs that publish tasks by Dapr, each on a topic of its own. Off without any."""

    publishers: Mapping[Identifier, BusPublisher] = {}
    """Who may publish tasks, by name."""

    @model_validator(mode="after")
    def _topics_are_their_own(self) -> Self:
        taken: set[str] = set()
        for name, publisher in self.publishers.items():
            if publisher.topic in taken:
                raise ValueError(f"{name} has the topic {publisher.topic!r}, which another one has")
            taken.add(publisher.topic)
        for name, publisher in self.publishers.items():
            for topic in (publisher.topic, publisher.receipts, publisher.results):
                if topic.startswith(("bus/", "bus.")):
                    raise ValueError(f"{name} has the topic {topic!r}, which is of the mesh itself")
            if {publisher.receipts, publisher.results} & taken:
                raise ValueError(f"{name} is answered on a topic on which tasks are published")
        return self
