"""Event types: a class says which fields an event has, which are facts, and how it reads.

class PagerCalled(Payload, type="pager.called", word="pager"):
    number: Fact[str]
    minutes: Fact[int] = 0
    note: str = ""
    \"\"\"as the caller wrote it\"\"\"

    def event_line(self, event: Document) -> Sequence[object]:
        return self.number, short(self.note)

turn.publish(PagerCalled(number="2"))
if (called := PagerCalled.read(event)) is not None: ...
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import NODEFAULT, StructMeta
from pydantic import BaseModel

from meshwright.core.display import Document
from meshwright.core.encoding import Json, Struct, decode, encode, from_plain, struct_reader
from meshwright.core.events import Event
from meshwright.core.money import ZERO
from meshwright.core.topics import MESH

_EMPTY: Mapping[Any, Any] = {
    **{kind: kind() for kind in (str, int, float, bool, tuple)},
    datetime: datetime.fromtimestamp(0, UTC),
    type(ZERO): ZERO,
}


class _PayloadType(StructMeta):
    """Takes the type of the events of a class, and how they are shown, from its head."""

    def __new__(
        cls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        type: str = "",
        topic: str = "",
        word: str | Mapping[str, str] = "",
        listed: str = "",
        unlisted: str = "",
        **options: Any,
    ) -> Any:
        created: Any = super().__new__(cls, name, bases, namespace, kw_only=True, **options)
        created.event_types = tuple(type.split())
        created.event_type = type if len(created.event_types) == 1 else ""
        created.event_topic = topic or created.event_topic
        created.event_word = word or created.event_word
        created.event_listed = listed
        created.event_unlisted = (*created.event_unlisted, *unlisted.split())
        return created

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args)


class Payload(Struct, omit_defaults=True, metaclass=_PayloadType):
    """Base of the payloads of events. The head of a class names the `type` of its events, or several.

    The JSON of an event leaves out fields that have their defaults, except those of `kept(default=...)`.
    """

    event_type: ClassVar[str] = ""
    """The type of its events; `family.*` stands for the other types of a family."""
    event_types: ClassVar[tuple[str, ...]] = ()
    """All types of its events, where there are several."""
    event_topic: ClassVar[str] = MESH
    """The topic that its events are published on."""
    event_word: ClassVar[str | Mapping[str, str]] = ""
    """The word for what happened in the timeline of a task. Events without one are not in timelines."""
    event_listed: ClassVar[str] = ""
    """The text that the reference has in place of the fields. "": the fields with their docstrings."""
    event_unlisted: ClassVar[tuple[str, ...]] = ()
    """Fields that the reference leaves out."""

    @classmethod
    def read(cls, event: Event) -> Self | None:
        """The payload of an event of this type, None for an event of another type.

        A field that is missing, or has another shape, is as its default, or empty: an event may be older, or
        of another program.
        """
        return cls.from_payload(event.payload) if cls.has_type(event.event_type) else None

    @classmethod
    def has_type(cls, event_type: str) -> bool:
        """Whether it is the payload of events of a type."""
        types = cls.event_types
        return event_type in types or (cls.event_type[-1:] == "*" and event_family(event_type) in types)

    @classmethod
    def from_payload(cls, payload: Any) -> Self:
        """Read the payload of an event, as `read` does."""
        if isinstance(payload, cls):
            return payload
        try:
            if type(payload) is Json:  # as most events are read: it becomes no dictionary on the way
                return struct_reader(cls, strict=True)(payload)
            return from_plain(cls, payload, strict=True)
        except ValueError:
            payload = decode(encode(payload)) if isinstance(payload, bytes | Struct) else payload
            return _mended(cls, payload if isinstance(payload, dict) else {})

    @classmethod
    def timeline_word(cls, event_type: str) -> str:
        """The word for an event of a type in the timeline of its task."""
        word = cls.event_word
        return word if isinstance(word, str) else word.get(event_type, "")

    def event_line(self, event: Document) -> Sequence[object] | None:
        """The parts of the line of an event, empty ones are left out; None prints it field by field."""
        return None


class StepPayload(Payload, unlisted="step path attempt"):
    """Base of the payloads of events of a step. The journal says which step it is."""

    step: int | None = None
    path: str | None = None
    attempt: int | None = None


def declared(module: str) -> tuple[type[Payload], ...]:
    """The event types that a module declares, in the order of its text."""
    kinds = [kind for kind in vars(sys.modules[module]).values() if isinstance(kind, type)]
    payloads = [kind for kind in kinds if issubclass(kind, Payload) and kind.__module__ == module]
    return tuple(kind for kind in payloads if kind.event_types)


def by_type(kinds: Iterable[type[Payload]]) -> dict[str, type[Payload]]:
    """Payloads by the types of their events."""
    return {event_type: kind for kind in kinds for event_type in kind.event_types}


def event_family(event_type: str) -> str:
    """The name that stands for all types of the family of one: `pager.*`."""
    return f"{event_type.partition('.')[0]}.*"


def find_payload(kinds: Mapping[str, type[Payload]], event_type: str) -> type[Payload] | None:
    """The payload of events of a type, as `by_type` has it."""
    return kinds.get(event_type) or kinds.get(event_family(event_type))


ViewT = TypeVar("ViewT", bound=BaseModel | Struct)


def redacted(view: ViewT) -> ViewT:
    """A view as callers without contents see it: each field that is no fact has its default, or is empty.

    A record in a field that is a fact is redacted too, if its class marks fields.
    """
    facts = fact_fields(type(view))
    if not facts:
        return view
    hidden: dict[str, Any]
    if isinstance(view, BaseModel):
        fields = view.__class__.model_fields.items()
        hidden = {
            name: _empty(field.annotation) if field.is_required() else field.get_default()
            for name, field in fields
            if name not in facts
        }
    else:
        hidden = {
            field.name: _value(field, {}) for field in msgspec.structs.fields(view) if field.name not in facts
        }
    return view.model_copy(update={**{name: _redacted(getattr(view, name)) for name in facts}, **hidden})


def _redacted(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_redacted, value))
    return redacted(value) if isinstance(value, BaseModel | Struct) else value


def _mended(kind: type[Any], payload: Mapping[str, Any]) -> Any:
    values = {field.name: _value(field, payload) for field in msgspec.structs.fields(kind)}
    return kind(**values)


def _value(field: Any, payload: Mapping[str, Any]) -> Any:
    if field.encode_name in payload:
        value = payload[field.encode_name]
        try:
            return from_plain(field.type, value, strict=True)
        except ValueError:
            if isinstance(value, dict) and (kind := _struct_in(field.type)) is not None:
                return _mended(kind, value)
    if field.default is not NODEFAULT:
        return field.default
    return _empty(field.type) if field.default_factory is NODEFAULT else field.default_factory()


@lru_cache(maxsize=512)
def _struct_in(kind: Any) -> type[msgspec.Struct] | None:
    """The struct that a type is, or may be."""
    kinds = (kind, *get_args(kind))
    return next((one for one in kinds if isinstance(one, type) and issubclass(one, msgspec.Struct)), None)


def _empty(kind: Any) -> Any:
    """The value of a field of a type that says nothing."""
    origin = get_origin(kind) or kind
    return origin() if origin in (dict, list) else _empty_constant(kind)


@lru_cache(maxsize=512)
def _empty_constant(kind: Any) -> Any:
    origin = get_origin(kind)
    if origin is Annotated:
        return _empty(get_args(kind)[0])
    if origin is Literal:
        return ""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _mended(kind, {})
    return _EMPTY.get(origin or kind)


_FactT = TypeVar("_FactT")
_MARK = object()
Fact = Annotated[_FactT, _MARK]
"""Marks a field as a fact: `key: Fact[str]`."""


@lru_cache(maxsize=1024)
def fact_fields(kind: type[Any]) -> frozenset[str]:
    """The names of the fields of a class that are marked."""
    hints = get_type_hints(kind, include_extras=True)
    return frozenset(name for name, hint in hints.items() if _MARK in getattr(hint, "__metadata__", ()))
