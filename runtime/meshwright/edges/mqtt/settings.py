"""[mqtt]: the broker at which MQTT clients find the mesh, and what they may do there."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from meshwright.core.access import Role
from meshwright.core.ids import ID_PATTERN
from meshwright.core.settings.forms import MqttUrl, Secret, Table, Topic

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
    """The broker, as mqtt://127.0.0.1:1883, or mqtts:// for TLS."""
    username: str | None = None
    """The mesh's user there."""
    password: Secret | None = None
    """Its password."""
    ca_file: Path | None = None
    """PEM file of the broker's authority. Unset: the system's."""
    cert_file: Path | None = None
    """PEM file of the mesh's certificate."""
    key_file: Path | None = None
    """PEM file of its key, without a password."""
    prefix: Topic = "mesh"
    """First part of all topics."""
    reply_prefix: Topic = "replies"
    """First part of topics for clients without a name."""
    clients: tuple[MqttClient, ...] = ()
    """Users of the broker that may use the mesh. None: all, as submitters of `default`."""

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
