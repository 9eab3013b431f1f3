"""[dapr], with the programs that may publish tasks on its bus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, StringConstraints

from meshwright.component import Secret, Table
from meshwright.core.settings.forms import Address, BrokerUrl, Label
from meshwright.kit import Identifier

_Topic = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)*$", max_length=200)]


class Publisher(Table):
    """One of [dapr.publishers.NAME]: who may publish on its topic makes tasks, `requested_by` bus:NAME."""

    topic: _Topic = "tasks"
    """The topic on which it publishes tasks as CloudEvents. All who may publish there count as this one."""
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
    topics: set[str] = set()
    for name, publisher in publishers.items():
        if name in ("anonymous", "edge", "mesh"):
            raise ValueError(f"{name} is no publisher's name: the mesh uses it itself")
        if publisher.topic in topics:
            raise ValueError(f"{name} has the topic {publisher.topic!r}, which another one has")
        topics.add(publisher.topic)
    for name, publisher in publishers.items():
        for topic in (publisher.topic, publisher.receipts, publisher.results):
            if topic.startswith(("bus/", "bus.")):
                raise ValueError(f"{name} has the topic {topic!r}, which is of the mesh itself")
        if {publisher.receipts, publisher.results} & topics:
            raise ValueError(f"{name} is answered on a topic on which tasks are published")
    return publishers


Publishers = Annotated[Mapping[Identifier, Publisher], AfterValidator(_apart)]
"""Programs that publish tasks by Dapr, by name."""


class DaprSettings(Table):
    """[dapr]: what a mesh on Dapr rests on."""

    variables: ClassVar = {
        "MESH_DAPR_BIN": "bin",
        "MESH_BROKER_URL": "broker_url",
        "MESH_REDIS_HOST": "redis_host",
        "MESH_REDIS_PASSWORD": "redis_password",
        "MESH_PLACEMENT": "placement",
        "MESH_SCHEDULER": "scheduler",
    }
    namespace: Label = "default"
    """The mesh's name on a shared broker and store."""
    channel: Literal["auto", "grpc", "http"] = "auto"
    """`grpc` or `http`; `auto`: `grpc` with daprd 1.18 or newer."""
    bin: Path | None = None
    """Folder of daprd, placement and scheduler."""
    bus: Literal["mqtt", "redis"] = "mqtt"
    """`mqtt`, or `redis` streams."""
    broker_url: BrokerUrl = None
    """The MQTT broker, with user and password. Unset: `mesh up` starts it, as those below."""
    redis_host: Address = None
    """The store, a Redis, as host:port."""
    redis_password: Secret | None = None
    """Its password."""
    placement: Address = None
    """Dapr's placement, as host:port."""
    scheduler: Address = None
    """Dapr's scheduler, as host:port."""
    publishers: Publishers = Field(default_factory=dict)
    """Programs that publish tasks as CloudEvents."""

    def check_others(self, settings: Any) -> None:
        """Publishers and MQTT clients are users of one broker."""
        if both := self.publishers.keys() & {client.user for client in settings.table("mqtt").clients}:
            raise ValueError(f"{min(both)} is one of dapr.publishers and of mqtt.clients: give it two names")
