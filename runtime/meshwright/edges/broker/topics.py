"""The topics of a mesh at its broker, which docs/mqtt.md lists."""

from __future__ import annotations

import re

from meshwright.core.errors import NotFound
from meshwright.core.events import Event
from meshwright.core.ids import ID_PATTERN
from meshwright.core.messages import Caller
from meshwright.mesh.identity.auth import Forbidden

ANONYMOUS = Caller().requested_by
"""The client of a topic that names none."""
TASK_VERBS = ("cancel", "answer")
"""The commands for a task that exists."""
_MAX_LEVEL_CHARS = 128
_NOT_OF_A_LEVEL = re.compile(r"[^!-~]|[#+/]")


class ForeignTenant(Forbidden):
    """The client may not act for that tenant."""


class Topics:
    """The topics below a prefix, and those below `replies` at which clients without a name are answered."""

    def __init__(self, prefix: str, replies: str) -> None:
        self.prefix = prefix
        self._replies = replies
        self.everything = f"{prefix}/#"
        names = ("submit", "tasks", *(f"tasks/+/{verb}" for verb in TASK_VERBS))
        self.commands = [f"{prefix}/{sender}/{name}" for sender in ("+", "+/clients/+") for name in names]
        """The filters of what clients may ask for. The mesh publishes to none of these topics itself."""
        self._base = f"{prefix}/{Caller().tenant_id}"  # the mesh's own
        self.submit = f"{self._base}/submit"
        self.status = f"{self._base}/status"
        self.errors = f"{self._base}/errors"
        self.trial = f"{self._base}/trial"

    def client_id(self, name: str) -> str:
        """Returns a client id of the mesh. Rumqttd refuses one with a slash, and prefixes have no dots."""
        return f"{self.prefix.replace('/', '.')}-{name}"

    def topic_client(self, topic: str) -> str:
        """The client that sent a message: the broker lets only that client publish below its name.

        No client may be called ANONYMOUS: a login by that name would act on every task.
        """
        match topic.removeprefix(f"{self.prefix}/").split("/"):
            case [_, "clients", client, _, *_] if client != ANONYMOUS and re.fullmatch(ID_PATTERN, client):
                return client
        return ANONYMOUS

    def topic_tenant(self, topic: str) -> str | None:
        """The tenant that a topic names; None where that can be none."""
        tenant = topic.removeprefix(f"{self.prefix}/").partition("/")[0]
        return tenant if re.fullmatch(ID_PATTERN, tenant) else None

    def replies_to(self, topic: str) -> str:
        """The topic below which the sender of a message is answered: no other client may name one there."""
        client = self.topic_client(topic)
        if client == ANONYMOUS:
            return f"{self._replies}/{ANONYMOUS}/"
        tenant = topic.removeprefix(f"{self.prefix}/").partition("/")[0]
        return f"{self.prefix}/{tenant}/clients/{client}/replies/"

    def takes_events(self, topic: str) -> bool:
        """Whether a topic is one at which tasks are published as CloudEvents."""
        parts = topic.removeprefix(f"{self.prefix}/").split("/")
        return parts[1:] == ["tasks"] or (parts[1:2] == ["clients"] and parts[3:] == ["tasks"])

    def task_topic(self, tenant_id: str, task_id: str, what: str) -> str:
        """Returns the topic of the progress or the outcome of a task."""
        return f"{self.prefix}/{_level(tenant_id)}/tasks/{_level(task_id)}/{what}"

    def event(self, event: Event, what: str = "events") -> str:
        """Returns the topic of an event of the bus, or of its `facts`."""
        levels = "/".join(map(_level, (*event.topic.split("."), event.event_type)))
        return f"{self.prefix}/{_level(event.tenant_id)}/{what}/{levels}"

    def agent(self, agent_id: str) -> str:
        """Returns the topic of an agent's presence."""
        return f"{self._base}/agents/{_level(agent_id)}"

    def inbox(self, tenant_id: str) -> str:
        """Returns the topic of a tenant's inbox."""
        return f"{self.prefix}/{_level(tenant_id)}/inbox"

    def parse(self, topic: str, tenant_id: str) -> tuple[str, str]:
        """Returns the command of a topic for a tenant's caller: the verb, and the task if it is no new one.

        Raises ForeignTenant, or NotFound for no command.
        """
        base = f"{self.prefix}/{tenant_id}"
        short_topic = topic if len(topic) <= _MAX_LEVEL_CHARS else f"{topic[:_MAX_LEVEL_CHARS]}…"
        tenant, *rest = topic.removeprefix(f"{self.prefix}/").split("/")
        if tenant != tenant_id:
            raise ForeignTenant(
                f"{short_topic!r} is not of a tenant of yours", remedy=f"Publish below {base}/", field="topic"
            )
        if self.topic_client(topic) != ANONYMOUS:
            del rest[:2]
        match rest:
            case ["submit" | "tasks" as verb]:
                return verb, ""
            case ["tasks", task_id, verb] if verb in TASK_VERBS and re.fullmatch(ID_PATTERN, task_id):
                return verb, task_id
        raise NotFound(
            f"Nothing can be asked for at {short_topic!r}",
            remedy=f"Publish to {base}/submit, a CloudEvent to {base}/tasks, "
            f"or to cancel or answer of {base}/tasks/TASK_ID/",
            field="topic",
        )


def _level(name: str) -> str:
    """A name as one level of a topic: no wildcard, no separator, never empty."""
    return _NOT_OF_A_LEVEL.sub("_", name[:_MAX_LEVEL_CHARS]) or "_"
