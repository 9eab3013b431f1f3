"""Events: things that happened in a mesh, as the bus carries and the log keeps them.

They travel as the other plain data of the mesh does, see `core.messages`.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, Self

from msgspec import UNSET, UnsetType, convert, field
from msgspec.structs import force_setattr, replace
from pydantic import BaseModel
from pydantic_core import from_json, to_json

from meshwright.core.encoding import Json, Struct, as_json, decode, encode, write_struct
from meshwright.core.topics import APPLICATION, type_on


class Event(Struct, kw_only=True):
    """Something that happened, in the past tense (`task.accepted`), on a topic of the bus.

    Callers publish on topics that begin with `app.`, and the types of such events begin so too. An event of
    any other type was made by the mesh.
    """

    id: str
    """`{actor}/{n}`, where n counts the events of that actor: a consumer can drop a repeat."""
    event_type: str
    """The kind of event, such as `task.accepted`."""
    event_version: int = 1
    """The version of the payload's form."""
    topic: str
    """The topic of the bus that the event is published on."""
    time: datetime
    """When it happened, by the clock of the process that published it."""
    tenant_id: str = "default"
    """The tenant that the event belongs to."""
    task_id: str | None = None
    """The task that it is about. None for an event of no task."""
    agent_id: str | None = None
    """The agent that it is about. None for an event of no agent."""
    trace_id: str | None = None
    """The id of the trace that it belongs to, 32 hexadecimal digits. None without one."""
    traceparent: str | None = None
    """The W3C traceparent of the span that it happened in. None without one."""
    aggregate_id: str = ""
    """The actor whose history the event belongs to."""
    idempotency_key: str | None = None
    """The publisher's key: publishing again with it adds no second event. None without one."""
    payload: Any = field(default_factory=dict)
    """The data of the event: plain data, a `Payload`, or JSON."""
    seq: int | None = None
    """The number of the event in the log. None until the log has it."""
    unknown: dict[str, Any] | UnsetType = UNSET
    """Fields of a newer version, which are passed on."""

    def __post_init__(self) -> None:
        if type(self.time) is not datetime:
            force_setattr(self, "time", convert(self.time, datetime))
        if self.topic[:4] == APPLICATION:
            force_setattr(self, "event_type", type_on(self.topic, self.event_type))

    @classmethod
    def model_validate(cls, value: Any) -> Self:
        """Read plain data. Raises ValueError where it does not fit."""
        event = super().model_validate(value)
        if isinstance(value, dict) and not value.keys() <= _EVENT_FIELDS:
            unknown = {name: field for name, field in value.items() if name not in _EVENT_FIELDS}
            return event.model_copy(update={"unknown": unknown})
        return event

    @classmethod
    def model_validate_json(cls, data: bytes | str) -> Self:
        """Read JSON. Raises ValueError where it is none, or does not fit."""
        return cls.model_validate(from_json(data))

    @property
    def size(self) -> int:
        """About how many bytes it has as JSON, its payload being JSON already."""
        payload = self.payload
        size = len(self.id) + len(self.topic) + len(self.idempotency_key or "")
        size += len(payload) if isinstance(payload, bytes) else 0
        return size + len(encode(self.unknown)) if self.unknown else size

    @property
    def title(self) -> str:
        """Its name in a refusal."""
        return f"the event {self.event_type!r}"

    @property
    def fields(self) -> dict[str, Any]:
        """The payload as plain data; empty where it is no object."""
        payload = self.payload
        if isinstance(payload, (Json, BaseModel, Struct)):
            try:
                payload = decode(encode(payload))
            except ValueError:  # of a row that was altered
                return {}
        return payload if isinstance(payload, dict) else {}

    def encode(self) -> bytes:
        """The event as JSON, as it is stored and sent. Raises ValueError where it cannot be JSON."""
        event = self if type(self.payload) is Json else self._with(as_json(self.id, self.payload))
        if not self.unknown:
            return write_struct(event)
        return to_json({**from_json(write_struct(replace(event, unknown=UNSET))), **self.unknown})

    def model_dump(self, *, mode: Literal["json", "python"] = "python") -> dict[str, Any]:
        """Its fields as plain data, for `json` as JSON has them."""
        if mode == "json":
            return from_json(self.encode())
        fields = super().model_dump()
        return {**fields, **fields.pop("unknown", {})}

    def model_dump_json(self) -> str:
        """It as JSON."""
        return self.encode().decode()

    def sealed(self, *, mend: bool = False) -> Event:
        """This event, its payload made JSON now.

        Raises InvalidInput where it cannot be JSON; to `mend` it replaces that by something that says so.
        """
        if type(self.payload) is Json:
            return self
        return self._with(Json(encode(self.payload)) if mend else as_json(self.id, self.payload))

    def plain(self) -> Event:
        """A copy whose payload is plain data of its own."""
        return self._with(decode(encode(self.payload)))

    def _with(self, payload: Any) -> Event:
        return replace(self, payload=payload)


_EVENT_FIELDS = frozenset(Event.__struct_fields__)


@lru_cache(maxsize=512)
def parse_trace_id(traceparent: str | None) -> str | None:
    """The trace id inside a W3C traceparent, if there is one."""
    parts = traceparent.split("-") if traceparent else []
    return parts[1] if len(parts) == 4 else None
