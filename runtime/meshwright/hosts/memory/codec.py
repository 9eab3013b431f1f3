"""To bytes and back: nothing is kept or handed over in memory as the object it was."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_json

from meshwright.actor import Message, Record
from meshwright.errors import InvalidInput
from meshwright.hosts.memory.store import Stream
from meshwright.messages import Event


def encode_message(message: Message) -> bytes:
    """A message as JSON. Raises InvalidInput where its body cannot be JSON."""
    try:
        return message.encode()
    except ValueError as error:
        raise _unfit(f"the body of message {message.id} to {message.to}.{message.method}", error) from error


def encode_event(event: Event) -> bytes:
    """An event as JSON. Raises InvalidInput where its payload cannot be JSON."""
    try:
        return event.model_dump_json().encode()
    except ValueError as error:
        raise _unfit(f"the payload of event {event.id} ({event.event_type})", error) from error


def encode_record(record: Record) -> tuple[Stream, int, bytes]:
    """A record as its stream, number and JSON. Raises InvalidInput where its value cannot be JSON."""
    try:
        return (record.ref, record.stream), record.n, to_json(record.value)
    except ValueError as error:
        raise _unfit(f"record {record.n} of {record.ref} {record.stream}", error) from error


def through_json(reply: Any) -> Any:
    """A reply as it would come from another process. Raises InvalidInput where it cannot be JSON."""
    if reply is None:
        return None
    try:
        return TypeAdapter(type(reply)).validate_json(to_json(reply))
    except ValueError as error:
        raise _unfit(f"a reply of type {type(reply).__name__}", error) from error


def _unfit(what: str, error: ValueError) -> InvalidInput:
    return InvalidInput(f"{what} cannot be JSON: {error}", remedy="use models and plain data")
