"""A field of an event or of a view that is not marked as a fact is hidden from viewers, and erased."""

import asyncio
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from pydantic import BaseModel

from meshwright.core.access import Role
from meshwright.core.encoding import Struct, encode
from meshwright.core.events import Event
from meshwright.core.ids import new_id
from meshwright.core.messages import Fault, Outcome
from meshwright.core.parts import event_types
from meshwright.core.payloads import Payload, fact_fields, redacted
from meshwright.core.topics import MESH, MODEL_DELTA
from meshwright.edges.broker.connection import BrokerConnection, Publication
from meshwright.edges.broker.topics import Topics
from meshwright.edges.mqtt.outgoing_messages import Notices, Views
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.status import MeshStatus, WaitSummary
from meshwright.engine.events.tasks import TaskPage, TaskSummary
from meshwright.engine.work.protocol import Wait
from meshwright.engine.work.record import Attempt, TaskView
from meshwright.mesh.identity.rules import event_facts
from tests.support.event_logs import event
from tests.support.http_mesh import http_mesh
from tests.support.tenants import finished_task, holder

SECRET = "the-secret-of-a-field"
NAMES = frozenset(("agent_id", "attempt", "fence", "step", "task_id", "tenant_id", "thread_id", "version"))
"""The fields that name what an event is about."""
KEPT: dict[str, set[str]] = {
    "task.accepted": {"after", "variants"},
    "task.started": {"code"},
    "task.resumed": {"code"},
    "model.called": {"error", "reason", "tool_calls", "failed_at", "failed_with", "passed_over", "path"},
    "contents.erased": {"ranges"},
}
"""Events that erasure keeps, with their fields that are no facts: they hold no contents."""
HIDDEN: dict[type[Struct] | type[BaseModel], set[str]] = {
    TaskView: {"payload", "shape", "title"},
    Outcome: {"result", "files"},
    Fault: {"message"},
    Attempt: set(),
    Wait: {"reason", "subject", "answer_schema"},
    TaskSummary: {"match", "reason", "title"},
    TaskPage: set(),
    WaitSummary: {"reason"},
    MeshStatus: set(),
}


def secret_fields(kind: type[Payload]) -> dict[str, Any]:
    """A payload with a secret in each field that a viewer may not see."""
    hidden = {*kind.__struct_fields__} - fact_fields(kind) - NAMES
    return {name: {"type": "Away", "message": SECRET} if name == "error" else SECRET for name in hidden}


def secret_events(**fields: Any) -> list[Event]:
    kinds = {name.replace("*", "other"): kind for name, kind in event_types().items()}
    return [
        event(0, name, id=new_id(), topic=MESH, payload={**secret_fields(kind), "later": SECRET}, **fields)
        for name, kind in kinds.items()
    ]


def test_no_field_of_an_event_but_its_facts_is_shown() -> None:
    events = secret_events()
    assert len(events) > 140
    for shown in events:
        facts = event_facts(shown, event_types())
        assert (facts is None) == (shown.event_type == MODEL_DELTA)
        assert facts is None or SECRET not in encode(facts).decode(), shown.event_type


class Broker:
    """Takes every publication."""

    def __init__(self) -> None:
        self.publications: list[Publication] = []

    def put(self, publication: Publication) -> bool:
        self.publications.append(publication)
        return True

    async def written(self) -> None:
        """All are."""


async def test_the_broker_gets_facts_of_every_event_beside_the_event() -> None:
    views, broker = Views(Topics("mesh", "replies"), Notices(lambda *_: None), event_types()), Broker()
    for one in secret_events():
        views.add(one)
    showing = asyncio.create_task(views.show(cast(BrokerConnection, broker)))
    await views.idle.wait()
    showing.cancel()
    facts = [publication for publication in broker.publications if "/facts/" in publication.topic]
    assert len(facts) > 140
    assert SECRET not in "".join(bytes(publication.payload).decode() for publication in facts)


@pytest.mark.parametrize("kind", HIDDEN)
def test_a_new_field_of_a_view_is_hidden_until_it_is_marked(kind: type[Any]) -> None:
    fields = kind.__struct_fields__ if issubclass(kind, Struct) else kind.model_fields
    assert {*fields} - fact_fields(kind) == HIDDEN[kind]


def test_records_within_a_view_are_redacted() -> None:
    wait = Wait(wait_id="w", reason=SECRET, subject={"text": SECRET}, answer_schema={"title": SECRET})
    outcome = msgspec.convert(
        {"task_id": "t", "agent_id": "a", "status": "failed", "success": False, "result": {"text": SECRET}}
        | {"error": {"type": "Away", "message": SECRET}, "completed_at": "2030-01-01T00:00:00Z"},
        Outcome,
    )
    assert redacted(wait) == Wait(wait_id="w")
    assert redacted(outcome).error == Fault(type="Away", message="")
    assert SECRET not in redacted(outcome).model_dump_json()
    status = MeshStatus(waits=(WaitSummary(kind="money", count=1, oldest=event(0).time, reason=SECRET),))
    assert SECRET not in redacted(status).model_dump_json()


async def test_a_viewer_reads_no_secret_and_erasure_leaves_none(tmp_path: Path) -> None:
    async with http_mesh(tmp_path) as api:
        admin = await holder(api, "default", Role.ADMIN)
        viewer = await holder(api, "default", Role.VIEWER)
        task_id = await finished_task(api, admin, "echo", SECRET)
        for path in (f"/tasks/{task_id}", "/tasks", "/status"):
            assert SECRET not in str(await api.call("GET", path, headers=viewer))
        await api.mesh.log.append(secret_events(task_id=task_id))
        status, page = await api.call("GET", f"/events?task_id={task_id}&limit=1000", headers=viewer)
        assert status == 200 and len(page["items"]) > 140
        assert SECRET not in str(page)
        status, erased = await api.call("POST", "/erase", json={"task_id": task_id}, headers=admin)
        assert status == 200, erased
        async for left in api.mesh.log.replay(EventFilter(task_id=task_id)):
            fields = {name for name, field in left.fields.items() if SECRET in str(field)}
            assert fields <= KEPT.get(left.event_type, set()) | {"later"}, left.event_type
            assert not fields or left.event_type in KEPT
