"""To bytes and back: nothing is kept or handed over in memory as the object it was."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_json

from meshwright.envelope import Message, Record
from meshwright.hosts.memory.store import Stream
from meshwright.messages import Event
from meshwright.turns import require_json


def encode_message(message: Message) -> bytes:
    """A message as JSON. Raises InvalidInput where its body cannot be JSON."""
    require_json(message.id, message.body)
    return message.encode()


def encode_event(event: Event) -> bytes:
    """An event as JSON. Raises InvalidInput where its payload cannot be JSON."""
    require_json(event.id, event.payload)
    return event.model_dump_json().encode()


def encode_record(record: Record) -> tuple[Stream, int, bytes]:
    """A record as its stream, number and JSON. Raises InvalidInput where its value cannot be JSON."""
    require_json(record.ref, record.value)
    return (record.ref, record.stream), record.n, to_json(record.value)


def through_json(reply: Any) -> Any:
    """A reply as it would come from another process. Raises InvalidInput where it cannot be JSON."""
    if reply is None:
        return None
    require_json("a reply", reply)
    return TypeAdapter(type(reply)).validate_json(to_json(reply))
