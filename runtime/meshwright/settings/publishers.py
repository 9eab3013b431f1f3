"""[dapr.publishers]: the programs that may publish tasks, each on a topic of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from meshwright.core.messages import Identifier
from meshwright.settings.forms import Table
from meshwright.settings.references import Secret

_Topic = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)*$", max_length=200)]


class Publisher(Table):
    """One of [dapr.publishers.NAME]: who may publish on its topic makes tasks, `requested_by` bus:NAME."""

    topic: _Topic = "tasks"
    """The topic on which it publishes tasks as CloudEvents. Whoever may publish there counts as this one."""
    receipts: _Topic = "task-receipts"
    """The topic on which receipts and refusals are published."""
    results: _Topic = "task-results"
    """The topic on which the outcomes of its tasks are published."""
    tenant: Identifier = "default"
    """The tenant that its tasks belong to."""
    password: Secret | None = None
    """The password of its user NAME at the broker that `mesh up --store dapr` starts; that user may publish
    on `topic`, read `receipts` and `results`, and do nothing else."""


def _apart(publishers: Mapping[str, Publisher]) -> Mapping[str, Publisher]:
    taken: set[str] = set()
    for name, publisher in publishers.items():
        if name in ("anonymous", "edge", "mesh"):
            raise ValueError(f"{name} is no publisher's name: the mesh uses it itself")
        if publisher.topic in taken:
            raise ValueError(f"{name} has the topic {publisher.topic!r}, which another one has")
        taken.add(publisher.topic)
    for name, publisher in publishers.items():
        for topic in (publisher.topic, publisher.receipts, publisher.results):
            if topic.startswith(("bus/", "bus.")):
                raise ValueError(f"{name} has the topic {topic!r}, which is of the mesh itself")
        if {publisher.receipts, publisher.results} & taken:
            raise ValueError(f"{name} is answered on a topic on which tasks are published")
    return publishers


Publishers = Annotated[Mapping[Identifier, Publisher], AfterValidator(_apart)]
"""Programs that publish tasks by Dapr, by name."""
