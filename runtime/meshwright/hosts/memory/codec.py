"""To bytes and back: nothing is kept or handed over in memory as the object it was."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from meshwright.encoding import as_json, encode
from meshwright.envelope import Record
from meshwright.hosts.memory.store import Stream


def encode_record(record: Record) -> tuple[Stream, int, bytes]:
    """A record as its stream, number and JSON."""
    return (record.ref, record.stream), record.n, encode(record.value)


def through_json(reply: Any) -> Any:
    """A reply as it would come from another process. Raises InvalidInput where it cannot be JSON."""
    if reply is None:
        return None
    return TypeAdapter(type(reply)).validate_json(as_json("a reply", reply))
