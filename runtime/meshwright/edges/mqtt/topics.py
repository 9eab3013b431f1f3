"""The edge's topics: what clients publish to, and what they subscribe to. docs/mqtt.md lists them."""

from __future__ import annotations

import re

from meshwright.errors import InvalidInput, NotFound
from meshwright.messages import ID_PATTERN, Caller, Event

ANONYMOUS = Caller().requested_by
"""The client of a topic that names none."""
_MAX_LEVEL_CHARS = 128
_NOT_OF_A_LEVEL = re.compile(r"[^!-~]|[#+/]")


class ForeignTenant(InvalidInput):
    """A message to the topics of a tenant that the client may not act for."""

    status = 403


class Topics:
    """The topics below a prefix, and those below `replies` at which clients are answered."""

    def __init__(self, prefix: str, replies: str) -> None:
        self.prefix = prefix
        self._replies = replies
        self.everything = f"{prefix}/#"
        self._base = f"{prefix}/{Caller().tenant_id}"  # the mesh's own
        self.status = f"{self._base}/status"
        self.errors = f"{self._base}/errors"

    def client_of(self, topic: str) -> str:
        """The client that a message came from: the broker lets nobody else publish below its name.

        None is called ANONYMOUS: whoever logged in by that name would act on every task.
        """
        match topic.removeprefix(f"{self.prefix}/").split("/"):
            case [_, "clients", client, _, *_] if client != ANONYMOUS and re.fullmatch(ID_PATTERN, client):
                return client
        return ANONYMOUS

    def replies_to(self, client: str) -> str:
        """The topic below which a client is answered: no one else may name a topic there."""
        return f"{self._replies}/{client}/"

    def of_task(self, tenant_id: str, task_id: str, what: str) -> str:
        """Where the progress or the outcome of a task goes: below its tenant."""
        return f"{self.prefix}/{_level(tenant_id)}/tasks/{_level(task_id)}/{what}"

    def event(self, event: Event) -> str:
        """Where an event of the bus goes: below its tenant."""
        levels = "/".join(map(_level, (*event.topic.split("."), event.event_type)))
        return f"{self.prefix}/{_level(event.tenant_id)}/events/{levels}"

    def agent(self, agent_id: str) -> str:
        """Where an agent's presence is kept."""
        return f"{self._base}/agents/{_level(agent_id)}"

    def parse(self, topic: str, tenant_id: str) -> tuple[str, str]:
        """What a caller of a tenant asks for at a topic: the verb, and of which task; none where it is new.

        Raises ForeignTenant, or NotFound for no command.
        """
        base = f"{self.prefix}/{tenant_id}"
        shown = topic if len(topic) <= _MAX_LEVEL_CHARS else f"{topic[:_MAX_LEVEL_CHARS]}…"
        tenant, *rest = topic.removeprefix(f"{self.prefix}/").split("/")
        if tenant != tenant_id:
            raise ForeignTenant(
                f"{shown!r} is not of a tenant of yours", remedy=f"Publish below {base}/", field="topic"
            )
        if self.client_of(topic) != ANONYMOUS:
            del rest[:2]
        match rest:
            case ["submit"]:
                return "submit", ""
            case ["tasks", task_id, ("cancel" | "answer") as verb] if re.fullmatch(ID_PATTERN, task_id):
                return verb, task_id
        raise NotFound(
            f"Nothing can be asked for at {shown!r}",
            remedy=f"Publish to {base}/submit, or to cancel or answer of {base}/tasks/TASK_ID/",
            field="topic",
        )


def _level(name: str) -> str:
    """A name as one level of a topic: no wildcard, no separator, never empty."""
    return _NOT_OF_A_LEVEL.sub("_", name[:_MAX_LEVEL_CHARS]) or "_"
