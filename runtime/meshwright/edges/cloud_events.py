"""Tasks as CloudEvents 1.0: a program publishes one, and gets its receipt and its outcome as others.

They come over MQTT, or on a mesh on Dapr from the bus, at the topics of [dapr.publishers].

    {"specversion": "1.0", "id": "42", "source": "/orders", "type": "...", "data": {the body of POST /tasks}}

The event's `source` and `id` are the idempotency key. Answers name them as `requestsource` and `requestid`.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import from_json

from meshwright.core.encoding import encode
from meshwright.core.errors import InvalidInput, MeshError
from meshwright.core.ids import derived_id
from meshwright.core.messages import TaskRequest
from meshwright.core.settings import Settings
from meshwright.core.tracing import valid_trace
from meshwright.edges.bodies import PROBLEM_TYPE, InvalidFields, describe_problem, read_json, read_model
from meshwright.edges.replies.courier import Address, Courier
from meshwright.engine.work.protocol import TaskKey
from meshwright.mesh.identity.operations import Operations

_logger = logging.getLogger("meshwright.edges.bus")
CONTENT_TYPE = "application/cloudevents+json"
_ACCEPTED, _REFUSED, _ENDED = "meshwright.task.accepted", "meshwright.task.refused", "meshwright.task.ended"
_MAX_CHARS = 256
_MAX_SEARCHED_BYTES = 1024 * 1024  # of a refused event, for its id
Attempt = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Asks the runtime until it can answer."""


class _CloudEvent(BaseModel):
    specversion: Literal["1.0"]
    id: str = Field(min_length=1, max_length=_MAX_CHARS)
    source: str = Field(min_length=1, max_length=_MAX_CHARS)
    type: str = Field(min_length=1, max_length=_MAX_CHARS)
    data: Any = None
    data_base64: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """A task that a CloudEvent asks for; the same `key` is the same task."""

    event_id: str
    source: str
    task: TaskRequest
    traceparent: str | None = None

    @classmethod
    def read(cls, body: bytes, settings: Settings) -> TaskEvent:
        """Read an event in structured mode. Raises MalformedJson, TooLarge, or InvalidFields.

        `data` is the request as an object, as its text, or in base64.
        """
        document = read_json(body, settings)
        try:
            event = _CloudEvent.model_validate(document)
            data = (
                event.data
                if event.data_base64 is None
                else base64.b64decode(event.data_base64, validate=True)
            )
        except ValidationError as error:
            problem = InvalidFields.from_problems(error.errors(include_url=False, include_input=False))
            problem.remedy = "Publish a CloudEvent 1.0 as JSON, with the task as its data"
            raise problem from None
        except ValueError:
            remedy = "Encode the request, or send it as data"
            raise InvalidInput("data_base64 is no base64", remedy=remedy, field="data_base64") from None
        text = data if isinstance(data, bytes) else data.encode() if isinstance(data, str) else encode(data)
        task = read_model(text, TaskRequest, settings)
        return cls(event.id, event.source, task, valid_trace(event.traceparent))

    @property
    def key(self) -> str:
        """The idempotency key."""
        return f"cloudevent:{derived_id(self.source, self.event_id)}"


class EventAddress(Address, kw_only=True):
    """A topic to which an outcome goes as a CloudEvent with these attributes."""

    topic: str
    attributes: dict[str, str]


async def accept(
    operations: Operations,
    event: TaskEvent,
    scheme: str,
    outcome_to: Callable[..., Address],
    attempt: Attempt,
) -> bytes:
    """Make the task of an event, and return its receipt as a CloudEvent; both are durable then.

    `outcome_to` gets the attributes of the outcome, and returns its address. An event that comes again is
    the same task: its outcome is sent again where it has ended. Raises what `Operations.submit` raises.
    """
    receipt = await attempt(
        lambda: operations.submit(event.task, idempotency_key=event.key, traceparent=event.traceparent)
    )
    await attempt(lambda: operations.outcome(receipt.task_id))  # Forbidden, where the task is another's
    task = TaskKey(operations.caller.tenant_id, receipt.task_id)
    origin = {"requestid": event.event_id, "requestsource": event.source}
    address = outcome_to(attributes=_attributes(_ENDED, task, origin))
    await attempt(lambda: operations.mesh.get(Courier).ask(scheme, task, address, may_have_ended=True))
    return envelope(_attributes(_ACCEPTED, task, origin), encode(receipt))


def refusal(body: bytes, error: MeshError, tenant_id: str) -> bytes:
    """The problem document for an event as a CloudEvent, for its sender."""
    problem = describe_problem(error)
    attributes = {
        "specversion": "1.0",
        "id": f"refused/{hashlib.sha256(body).hexdigest()[:32]}/{problem.code}",
        "source": f"/meshwright/{tenant_id}",
        "type": _REFUSED,
        "datacontenttype": PROBLEM_TYPE,
        **_origin(body),
    }
    return envelope(attributes, encode(problem.model_dump(mode="json", exclude_none=True)))


def envelope(attributes: Mapping[str, str], data: bytes) -> bytes:
    """A CloudEvent of JSON data."""
    return b'%b,"data":%b}' % (encode(attributes)[:-1], data)


def _attributes(kind: str, task: TaskKey, origin: Mapping[str, str]) -> dict[str, str]:
    return {
        "specversion": "1.0",
        "id": f"{task.task_id}/{kind.rpartition('.')[2]}",
        "source": f"/meshwright/{task.tenant_id}",
        "type": kind,
        "subject": task.task_id,
        "datacontenttype": "application/json",
        **origin,
    }


def _origin(body: bytes) -> dict[str, str]:
    """The id and source of an event that may be none."""
    if len(body) > _MAX_SEARCHED_BYTES:
        return {}
    try:
        match from_json(body):
            case {"id": str(event_id), "source": str(source)}:
                return {"requestid": event_id[:_MAX_CHARS], "requestsource": source[:_MAX_CHARS]}
    except ValueError:
        pass
    return {}
