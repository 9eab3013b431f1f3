"""[http], [watchdog], [mqtt], and [dapr] with the programs that may publish tasks on its bus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from meshwright.core.access import Role
from meshwright.core.messages import ID_PATTERN, Identifier
from meshwright.settings.forms import Address, BrokerUrl, HostName, Label, MqttUrl, Secret, Table, Topic

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
    """The mesh's name among those that share a broker and a store."""
    channel: Literal["auto", "grpc", "http"] = "auto"
    """How daprd calls the workers. `auto`: `grpc` where daprd is 1.18 or newer, else `http`."""
    bin: Path | None = None
    """Folder of daprd, placement and scheduler; where unset they are looked for."""
    bus: Literal["mqtt", "redis"] = "mqtt"
    """The bus between workers: an MQTT broker, or streams of the Redis that is the store."""
    broker_url: BrokerUrl = None
    """The MQTT broker, with user and password. If unset, `mesh up` runs a Mosquitto."""
    redis_host: Address = None
    """The store, as host:port. If unset, `mesh up` runs a Redis."""
    redis_password: Secret | None = None
    """Its password. Better given in the environment than written in a file."""
    placement: Address = None
    """Dapr's placement, as host:port, several by comma. If unset, `mesh up` runs one."""
    scheduler: Address = None
    """Dapr's scheduler, as host:port, several by comma. If unset, `mesh up` runs one."""
    publishers: Publishers = Field(default_factory=dict)
    """Programs that publish tasks as CloudEvents, by name, each on a topic of its own. Off without any."""

    def check_others(self, settings: Any) -> None:
        """Publishers and MQTT clients are users of one broker."""
        if both := self.publishers.keys() & {client.user for client in settings.mqtt.clients}:
            raise ValueError(f"{min(both)} is one of dapr.publishers and of mqtt.clients: give it two names")


class HttpSettings(Table):
    """[http]: where the API listens, and for whom."""

    host: str = "127.0.0.1"
    """Address that the HTTP API listens on. Off loopback keys must be required, or `insecure` be set."""
    port: int = Field(default=8000, ge=0, le=65_535)
    """Port of the HTTP API; 0 takes any free one."""
    allowed_hosts: tuple[HostName, ...] = ()
    """Host names under which clients may call the API, such as that of a proxy in front of it. Off loopback
    IP addresses and this machine's own name are allowed too."""
    insecure: bool = False
    """Whether the API may listen off loopback without TLS, or although it requires no keys: everybody may
    use it then."""
    tls_cert: Path | None = None
    """PEM file of the API's certificate, with those between it and the authority. With `tls_key` the API
    speaks HTTPS. Both are read again within seconds when they change."""
    tls_key: Path | None = None
    """PEM file of its private key, without a password."""
    plain_port: int | None = Field(default=None, ge=1, le=65_535)
    """Port of 127.0.0.1 that answers without TLS, for a sidecar or a probe on this machine, where the API has
    TLS."""
    max_streams: int = Field(default=20, ge=1, le=100_000)
    """Event streams and WebSockets that one caller may have open at a time; `max_streams` of [tenants] is for
    all callers of a tenant. Callers of all tenants have no limit."""

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: set both, or none")
        return self


class WatchdogSettings(Table):
    """[watchdog]: what happens when code holds the event loop."""

    held_seconds: float = Field(default=5.0, ge=0.1)
    """How long code may hold the event loop of a process, until a warning says where."""
    restart_seconds: float = Field(default=30.0, ge=0)
    """How long until the process is started again; 0 never does, as for a debugger."""


_BUS_TOPICS = "bus/"  # what daprd puts before the topics of the bus


class MqttClient(Table):
    """An entry of mqtt.clients: a user of the broker, and what it may do in its tenant."""

    user: str = Field(pattern=ID_PATTERN)
    """Its name at the broker, or the common name of its certificate."""
    tenant: str = Field(default="default", pattern=ID_PATTERN)
    """The tenant of all that it asks for and sees."""
    roles: tuple[Role, ...] = (Role.SUBMITTER, Role.VIEWER)
    """Its roles there."""
    tokens: bool = False
    """Whether each of its messages has to show a key or a token, which says who asks and with which roles:
    several programs share the user. `roles` then say only what it reads."""
    password: Secret | None = None
    """Its password at the broker that `mesh up --store dapr` starts; other brokers keep their own."""


class MqttSettings(Table):
    """[mqtt]: the broker at which MQTT clients find the mesh."""

    url: MqttUrl = None
    """The broker at which MQTT clients find the mesh, like mqtt://127.0.0.1:1883, or mqtts:// for TLS. If
    unset the mesh is not on MQTT, but for `dapr`, which has it on its own broker."""
    username: str | None = None
    """The mesh's user at that broker."""
    password: Secret | None = None
    """Its password. Better given in the environment than written in a file."""
    ca_file: Path | None = None
    """PEM file of the authority that signed the broker's certificate; where unset those of the system."""
    cert_file: Path | None = None
    """PEM file of the mesh's own certificate, where the broker requires one."""
    key_file: Path | None = None
    """PEM file of its key, without a password."""
    prefix: Topic = "mesh"
    """First part of all the topics of a mesh: two meshes on one broker need two."""
    reply_prefix: Topic = "replies"
    """First part of the topics at which requests without a client's name are answered."""
    clients: tuple[MqttClient, ...] = ()
    """The users of the broker that may use the mesh, which then refuses all others. If there are none, a
    client that the broker knows is a submitter of the tenant `default`."""

    @model_validator(mode="after")
    def _names_are_different(self) -> Self:  # of the whole table: the error then quotes no client's password
        users = [client.user for client in self.clients]
        for user in users:
            if user in ("anonymous", "edge", "mesh", self.username):
                raise ValueError(f"clients: {user} is no client's name: the mesh uses it itself")
            if users.count(user) > 1:
                raise ValueError(f"clients: {user} is there twice; a user is of one tenant")
        return self

    @model_validator(mode="after")
    def _certificate_is_whole(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together: a certificate and its key")
        if self.cert_file and self.url and self.url.startswith("mqtt:"):
            raise ValueError("cert_file is for TLS: url has to begin with mqtts://")
        return self

    @model_validator(mode="after")
    def _replies_are_apart(self) -> Self:
        topics, replies = f"{self.prefix}/", f"{self.reply_prefix}/"
        if topics.startswith(replies) or replies.startswith((topics, _BUS_TOPICS)):
            raise ValueError(
                "reply_prefix must lie outside of prefix and of bus, where the mesh listens itself"
            )
        return self
