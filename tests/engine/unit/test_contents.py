"""Contents are hidden and erased unless a class marks them as facts: nobody has to list them."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel

from meshwright import Agent, Capability, File, Run, TaskRequest, ToolFailed
from meshwright.core.access import Role
from meshwright.core.encoding import Struct, encode
from meshwright.core.limits import Limits
from meshwright.core.messages import (
    Caller,
    Fault,
    ForkedFrom,
    Outcome,
    Parent,
    ScoreCard,
    Task,
    TaskBudget,
    TaskVariant,
    Usage,
)
from meshwright.core.money import Budget
from meshwright.core.payloads import fact_fields, redacted
from meshwright.engine.events.projections import StalledProjection
from meshwright.engine.events.status import (
    BrokerStatus,
    DeploymentStatus,
    EmptiedStore,
    HeldWorker,
    LeftOutTool,
    MeshStatus,
    MissingAgent,
    NoticedLoss,
    TenantUse,
    WaitSummary,
)
from meshwright.engine.events.tasks import TaskPage, TaskSummary
from meshwright.engine.work.protocol import StepKey, TaskKey, Wait
from meshwright.engine.work.record import Attempt, TaskView
from meshwright.mesh.identity.batches import Batches
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import mesh_for

SECRET = "hunter2-of-ann"
CONTENTS: dict[type[Any], set[str]] = {
    Task: {"payload", "idempotency_key", "sender_context", "shape"},
    TaskVariant: {"params"},
    TaskView: {"payload", "shape", "title"},
    Attempt: set(),
    Outcome: {"result", "files"},
    Fault: {"message"},
    Wait: {"reason", "subject", "answer_schema"},
    TaskPage: set(),
    TaskSummary: {"match", "reason", "title"},
    MeshStatus: set(),
    WaitSummary: {"reason"},
}
"""The fields that are no facts. A new field is one of them until somebody marks it."""
WHOLE = {Budget, Limits, ForkedFrom, Parent, ScoreCard, StepKey, TaskBudget, Usage} | {
    BrokerStatus,
    DeploymentStatus,
    HeldWorker,
    LeftOutTool,
    MissingAgent,
    EmptiedStore,
    NoticedLoss,
    StalledProjection,
    TenantUse,
}
"""Classes of names, numbers and times, which are facts as a whole."""
_PLAIN: dict[Any, Any] = {int: 1, float: 1.0, bool: True, Decimal: Decimal(1), datetime: datetime.now(UTC)}


def filled(hint: Any, text: str = "fact") -> Any:
    """A value of a type: `text` in all that is no fact of a class, the secret in its contents."""
    if get_origin(hint) is Literal:
        return get_args(hint)[0]
    if type(None) in get_args(hint):
        return filled(next(arg for arg in get_args(hint) if arg is not type(None)), text)
    if get_origin(hint) is tuple:
        return (filled(get_args(hint)[0], text),)
    if isinstance(hint, type) and issubclass(hint, Struct | BaseModel):
        facts, hints = fact_fields(hint), get_type_hints(hint)
        names = hint.model_fields if issubclass(hint, BaseModel) else hint.__struct_fields__
        texts = {name: text if name in facts or not facts else SECRET for name in names}
        values = {name: filled(hints[name], texts[name]) for name in names}
        return hint.model_construct(**values) if issubclass(hint, BaseModel) else hint(**values)
    return {"x": text} if get_origin(hint) is dict else _PLAIN.get(hint, text)


@pytest.mark.parametrize("kind", CONTENTS)
def test_only_marked_fields_are_left(kind: type[Any]) -> None:
    names = kind.model_fields if issubclass(kind, BaseModel) else kind.__struct_fields__
    assert {*names} - fact_fields(kind) == CONTENTS[kind]
    value = filled(kind)
    reduced = redacted(value)
    assert SECRET.encode() not in encode(reduced)
    assert encode(reduced).count(b"fact") == encode(value).count(b"fact")


@pytest.mark.parametrize("kind", [TaskView, Task, TaskPage, MeshStatus])
def test_classes_within_a_view_mark_fields_or_are_facts_as_a_whole(kind: type[Any]) -> None:
    def within(hint: Any) -> set[type[Any]]:
        if not (isinstance(hint, type) and issubclass(hint, Struct | BaseModel)):
            return {kind for arg in get_args(hint) for kind in within(arg)}
        hints = get_type_hints(hint)
        inner = {kind for name in fact_fields(hint) for kind in within(hints[name])}
        return {hint} | inner

    assert within(kind) <= CONTENTS.keys() | WHOLE


class Writer(Agent):
    """Says the secret in its answer, a file and an error."""

    agent_id = "writer"
    capabilities = (Capability("writing"),)

    async def run(self, run: Run) -> str:
        await run.attach(File(name=f"{SECRET}.txt", data=SECRET.encode()))
        if run.task.payload.get("fail"):
            raise ToolFailed(f"cannot do {SECRET}")
        return SECRET


@pytest.mark.parametrize("fail", [False, True])
async def test_a_viewer_and_an_erased_record_have_no_contents(fail: bool) -> None:
    viewer = Caller(requested_by="bob", roles=frozenset({Role.VIEWER}), key_id="key")
    async with mesh_for(Writer) as under_test:
        mesh = under_test.mesh
        tasks = mesh.get(Tasks)
        request = TaskRequest(agent_id="writer", text=SECRET, payload={"fail": fail, "more": SECRET})
        receipt = await tasks.submit(request, idempotency_key=SECRET)
        await tasks.outcome(receipt.task_id)
        assert SECRET.encode() in encode(await tasks.task(receipt.task_id))
        assert SECRET.encode() not in encode(await Batches(mesh, viewer).see(receipt.task_id))

        ref = TaskKey("default", receipt.task_id).ref
        await mesh.runtime.call(ref, "erase")
        assert SECRET.encode() not in encode(await mesh.runtime.read(ref))
        view = await tasks.task(receipt.task_id)
        assert view.outcome is not None
        assert (view.outcome.agent_id, view.outcome.success) == ("writer", not fail)
